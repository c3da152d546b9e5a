"""`python -m trainer`: train, sample, export and curves. Parses options, calls one function, prints its lines."""

import logging
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import click

from shards.console import echo
from shards.device import DEVICE_HELP
from shards.program import Program
from shards.storage import parse_path

LARGEST_SEED = 2**64 - 1  # that a token file holds
MOST_SAMPLES = 1_000_000
MOST_CANDIDATES = 10_000
GUIDANCE, CANDIDATE_GUIDANCE = 3.5, 3.0  # more: more samples have their pitch, fewer are within 10 cents of it
DEVICE = click.option("--device", default="auto", show_default=True, metavar="NAME", help=DEVICE_HELP)
RUN = click.option(
    "--run", required=True, type=click.Path(path_type=Path, file_okay=False), metavar="FOLDER", help="The run's folder."
)


@click.group(cls=Program, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
def main() -> None:
    """Train small autoregressive models on shard sets, and sample them."""
    logging.basicConfig(format="%(levelname)s: %(message)s")


@main.command()
@click.option(
    "--shards",
    required=True,
    multiple=True,
    type=parse_path,
    metavar="FOLDER|URL",
    help="A shard set, as `python -m pipeline encode` writes it; can be repeated, for a run of several sets.",
)
@click.option(
    "--weight",
    "weights",
    multiple=True,
    metavar="NAME=N",
    help="Of several sets: an epoch has each note of the set NAME (the last part of its path) N times; default: once.",
)
@RUN
@click.option(
    "--preset",
    default="small",
    show_default=True,
    metavar="NAME|FILE",
    help="tutorial (the reference recipe), small (a CPU, minutes), base (one GPU, an hour), or a TOML file.",
)
@click.option("--set", "changes", multiple=True, metavar="KEY=VALUE", help="Change a setting; can be repeated.")
@click.option(
    "--start",
    metavar="RUN[:STEP]",
    help="Fine-tune: begin with the weights of another run, at its last step, or at STEP, or at `best`.",
)
@click.option(
    "--wandb",
    "project",
    metavar="PROJECT",
    help="Send the metrics to Weights & Biases too, if installed; the page adds the sounds.",
)
@DEVICE
def train(
    shards: tuple[Path, ...],
    weights: tuple[str, ...],
    run: Path,
    preset: str,
    changes: tuple[str, ...],
    start: str | None,
    project: str | None,
    device: str,
) -> None:
    """Train a model on a shard set or several, or go on with a run that was stopped.

    Ctrl-C or SIGTERM writes a checkpoint and ends; the same command goes on from there, exactly. All settings
    are in FOLDER/run.json, the metrics in FOLDER/metrics.jsonl and FOLDER/tensorboard.

    --start takes the weights of another run of the same codec, width and depth, on whatever notes and with whatever
    labels: values that it does not know begin as their label's "none". A lower train.lr forgets less of it.

    Several sets need the same codec and different names. Their notes have a label `set`, which presets learn, so that
    `sample --label set=NAME` samples notes like those of one set. The valid loss counts each note once, whatever the
    weights; the metrics have that of each set too.

    \b
    Examples:
      python -m trainer train --shards shards/demo --run runs/demo
      python -m trainer train --shards shards/demo --run runs/wide --set width=256 --set steps=2000
      python -m trainer train --shards shards/mine --run runs/mine --start runs/demo --set minutes=1 --set lr=1e-3
      python -m trainer train --shards shards/plucked --shards shards/bowed --weight bowed=3 --run runs/strings
      torchrun --nproc-per-node 2 -m -- trainer train --shards shards/demo --run runs/demo
    """
    from trainer.config import load_config
    from trainer.train import train as run_training

    outcome = run_training(shards, run, load_config(preset, changes), device, project, start, weights)
    _print(outcome.lines())
    if outcome.signal:
        sys.exit(128 + outcome.signal)


@main.command()
@RUN
@click.option("--out", required=True, type=click.Path(path_type=Path, file_okay=False), help="Folder of token files.")
@click.option(
    "--count",
    type=click.IntRange(1, MOST_SAMPLES),
    help="Samples; default: 16, or one of each combination of the --label values.",
)
@click.option(
    "--temperature", default=0.9, show_default=True, help="Below 1: likelier codes; above 1: wilder; 0: the likeliest."
)
@click.option("--top-k", default=0, show_default=True, help="Sample from the k likeliest codes only; 0: from all.")
@click.option("--top-p", default=1.0, show_default=True, help="Sample from the likeliest codes that reach p together.")
@click.option("--min-p", default=0.0, show_default=True, help="Leave out codes below this share of the likeliest.")
@click.option(
    "--guidance",
    type=float,
    help="Classifier-free guidance by the labels; 1: none; more: stronger.  "
    f"[default: {GUIDANCE:g}; of candidates, whose best are chosen: {CANDIDATE_GUIDANCE:g}]",
)
@click.option(
    "--candidates",
    type=click.IntRange(1, MOST_CANDIDATES),
    metavar="N",
    help="For an instrument: N samples of each key and velocity (by default all that the run has learned, at three "
    "velocities), all of one instrument.",
)
@click.option(
    "--wanted",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="More candidates of the keys and velocities in this file, which `pipeline instrument` writes.",
)
@click.option("--label", "labels", multiple=True, metavar="NAME=VALUE", help="pitch=60, or a sweep: pitch=40:76:4.")
@click.option(
    "--prompt",
    metavar="SET:KEY|FILE.npy",
    help="Begin with this note; `python -m pipeline encode` makes one of an audio file.",
)
@click.option("--prompt-seconds", default=0.5, show_default=True, help="Length of the prompt.")
@click.option(
    "--seconds",
    type=float,
    metavar="S",
    help="Length of every sample, also beyond the longest train notes. Without it, samples of a run whose notes have "
    "several lengths end by themselves; --label seconds=S asks them for a length.",
)
@click.option(
    "--longest",
    type=float,
    metavar="S",
    help="Cut samples that have not ended by themselves.  [default: the length that the model sees, its window]",
)
@click.option(
    "--seed",
    default=0,
    show_default="0",
    type=click.IntRange(0, LARGEST_SEED),
    metavar="N",
    help="Sample i of a seed stays the same.",
)
@click.option(
    "--checkpoint",
    default="last",
    show_default=True,
    metavar="last|best|STEP",
    help="last: of the newest step, whose notes follow their labels best; best: of the lowest valid loss.",
)
@click.option(
    "--dtype",
    default="auto",
    show_default=True,
    type=click.Choice(["auto", "float32", "bfloat16"]),
    help="Of weights, cache and products; sums are float32. auto: bfloat16 if the hardware has units for it.",
)
@DEVICE
def sample(
    run: Path,
    out: Path,
    device: str,
    candidates: int | None,
    wanted: Path | None,
    seconds: float | None,
    longest: float | None,
    **settings: Any,
) -> None:
    """Sample token files from a run: KEY.npy with the codes, KEY.json with the labels and settings that made them.

    Labels without a --label are sampled from the train notes that have the other ones. OUT/samples.list.json lists
    the files of the last call: decode, score and page leave those of earlier calls out, and say so.

    \b
    Examples:
      python -m trainer sample --run runs/demo --out samples/demo/tokens --count 16 --temperature 0.9
      python -m trainer sample --run runs/demo --out samples/scale/tokens --label pitch=40:76:4 --label velocity=100
      python -m trainer sample --run runs/demo --out samples/a/tokens --prompt shards/demo:guitar_acoustic_001-060-100
      python -m trainer sample --run runs/demo --out samples/long/tokens --seconds 30
      python -m trainer sample --run runs/demo --out instruments/demo/candidates --candidates 4 --label pitch=40:76
    """
    from trainer.candidates import CandidateRequest
    from trainer.conditioning import LengthRequest
    from trainer.sample import SampleRequest
    from trainer.sample import sample as run_sampling
    from trainer.sampling import Sampling

    request = CandidateRequest(candidates, wanted) if candidates or wanted else None
    if settings["guidance"] is None:
        settings["guidance"] = CANDIDATE_GUIDANCE if request else GUIDANCE
    sampling = Sampling(**{field.name: settings.pop(field.name) for field in fields(Sampling)})
    length = LengthRequest(seconds, longest)
    settings |= {"sampling": sampling, "candidates": request, "length": length}
    _print(run_sampling(run, out, SampleRequest(**settings), device).lines())


@main.command()
@RUN
@click.option(
    "--out", required=True, type=click.Path(path_type=Path, file_okay=False), metavar="FOLDER", help="A new folder."
)
@click.option(
    "--checkpoint", default="last", show_default=True, metavar="last|best|STEP", help="Whose weights, as of `sample`."
)
@click.option(
    "--scores",
    "samples",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="SAMPLES",
    help="Samples that `python -m pipeline score` has measured; the card gets their figures.",
)
@click.option("--license", "license_id", metavar="ID", help="Licence for the card, as the Hub names it: cc-by-4.0.")
def export(run: Path, out: Path, checkpoint: str, samples: Path | None, license_id: str | None) -> None:
    """Write a checkpoint's weights as a folder for the Hugging Face Hub: model.safetensors, config.json, README.md.

    `sample --run`, `train --start` and, in Python, trainer.export.from_pretrained take the folder.

    \b
    Examples:
      python -m trainer export --run runs/demo --out exports/demo --scores samples/demo --license cc-by-4.0
      hf upload USER/demo exports/demo
    """
    from trainer.export import export as run_export

    _print(run_export(run, out, checkpoint, samples, license_id).lines())


@main.command()
@click.argument("runs", nargs=-1, required=True, type=click.Path(path_type=Path, file_okay=False), metavar="RUN...")
@click.option("--out", required=True, type=click.Path(path_type=Path, dir_okay=False), help="A .png or .svg file.")
def curves(runs: tuple[Path, ...], out: Path) -> None:
    """Draw the valid loss of runs over the minutes of training.

    \b
    Example:
      python -m trainer curves runs/small runs/tutorial --out curves.png
    """
    from shards.curve import plot_runs

    plot_runs(runs, out)
    echo(f"Drew {out}.")


def _print(lines: list[str]) -> None:
    for line in lines:
        echo(line)


if __name__ == "__main__":
    main(prog_name="python -m trainer")
