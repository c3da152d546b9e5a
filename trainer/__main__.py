"""`python -m trainer`: shard set -> run -> token files. Parses, calls, reports."""

import logging
import sys
from pathlib import Path

import click

from shards.storage import parse_path

DEVICE = click.option(
    "--device", default="auto", show_default=True, metavar="auto|cpu|cuda|mps", help="Where to compute."
)
RUN = click.option(
    "--run", required=True, type=click.Path(path_type=Path, file_okay=False), metavar="FOLDER", help="The run's folder."
)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
def main() -> None:
    """Train small autoregressive models on shard sets, and sample them."""
    logging.basicConfig(format="%(levelname)s: %(message)s")


@main.command()
@click.option(
    "--shards",
    required=True,
    type=parse_path,
    metavar="FOLDER|URL",
    help="A shard set, as `python -m pipeline encode` writes it.",
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
@click.option("--wandb", "project", metavar="PROJECT", help="Show the numbers in Weights & Biases too, if installed.")
@DEVICE
def train(shards: Path, run: Path, preset: str, changes: tuple[str, ...], project: str | None, device: str) -> None:
    """Train a model on a shard set, or go on with a run that was stopped.

    Ctrl-C or SIGTERM writes a checkpoint and ends; the same command goes on from there, exactly. All settings
    are in FOLDER/run.json, the numbers in FOLDER/metrics.jsonl and FOLDER/tensorboard.

    \b
    Examples:
      python -m trainer train --shards shards/demo --run runs/demo
      python -m trainer train --shards shards/demo --run runs/wide --set width=256 --set steps=2000
      torchrun --nproc-per-node 2 -m -- trainer train --shards shards/demo --run runs/demo
    """
    from trainer.config import load_config
    from trainer.train import train as run_training

    outcome = run_training(shards, run, load_config(preset, changes), device, project)
    report = click.echo if outcome.first else (lambda line: None)
    if outcome.stopped_by:
        report(f"Stopped at step {outcome.step} of {outcome.steps}, kept in {outcome.checkpoint}.")
        report("Next: the same command goes on from there.")
        sys.exit(128 + outcome.stopped_by)
    best = f"; the best, {outcome.best['loss']:.4f}, at step {outcome.best['step']}" if outcome.best else ""
    loss = f" Valid loss {outcome.valid['loss']:.4f} a token{best}." if outcome.valid else ""
    report(f"Trained {run} for {outcome.step} steps.{loss} Weights: {outcome.checkpoint}")
    report(f"Next: python -m trainer sample --run {run} --out samples/{run.name} --count 16")


@main.command()
@RUN
@click.option("--out", required=True, type=click.Path(path_type=Path, file_okay=False), help="Folder of token files.")
@click.option("--count", type=click.IntRange(1), help="Samples; 16, or one of each combination of labels asked for.")
@click.option(
    "--temperature", default=0.9, show_default=True, help="Below 1 likelier, above 1 wilder; 0: the likeliest."
)
@click.option("--top-k", default=0, show_default=True, help="Draw from the k likeliest codes only; 0: from all.")
@click.option("--top-p", default=1.0, show_default=True, help="Draw from the likeliest codes that reach p together.")
@click.option("--min-p", default=0.0, show_default=True, help="Leave out codes below this share of the likeliest.")
@click.option(
    "--guidance", default=3.0, show_default=True, help="How far to follow labels; 1: as the model learned to."
)
@click.option("--label", "labels", multiple=True, metavar="NAME=VALUE", help="pitch=60, or a sweep: pitch=40:76:4.")
@click.option(
    "--prompt",
    metavar="SET:KEY|FILE.npy",
    help="Begin as this note does; an audio file becomes one by `python -m pipeline encode`.",
)
@click.option("--prompt-seconds", default=0.5, show_default=True, help="How much of the prompt is kept.")
@click.option("--seed", default=0, show_default=True, type=click.IntRange(0), help="Sample i of a seed stays the same.")
@click.option("--checkpoint", "step", type=int, metavar="STEP", help="Which one; the newest if not said.")
@click.option(
    "--dtype",
    default="auto",
    show_default=True,
    type=click.Choice(["auto", "float32", "bfloat16"]),
    help="What weights and cache are kept in. A CPU computes in float32 either way; auto is bfloat16 if it has units.",
)
@DEVICE
def sample(
    run: Path,
    out: Path,
    count: int | None,
    temperature: float,
    top_k: int,
    top_p: float,
    min_p: float,
    guidance: float,
    labels: tuple[str, ...],
    prompt: str | None,
    prompt_seconds: float,
    seed: int,
    step: int | None,
    dtype: str,
    device: str,
) -> None:
    """Sample token files from a run: KEY.npy with the codes and KEY.json with all that made them.

    Labels that are not asked for are drawn as they go together on the train notes.

    \b
    Examples:
      python -m trainer sample --run runs/demo --out samples/demo --count 16 --temperature 0.9
      python -m trainer sample --run runs/demo --out samples/scale --label pitch=40:76:4 --label velocity=100
      python -m trainer sample --run runs/demo --out samples/same-start --prompt shards/demo:guitar_acoustic_000-060-075
    """
    from trainer.generate import Sampling
    from trainer.sample import Request
    from trainer.sample import sample as run_sampling

    sampling = Sampling(temperature, top_k, top_p, min_p, guidance)
    request = Request(count, seed, sampling, labels, step, dtype, prompt, prompt_seconds)
    made = run_sampling(run, out, request, device)
    click.echo(
        f"Sampled {len(made.files)} notes from step {made.step} of {run} into {out} "
        f"({made.log_likelihood:.3f} nats a token, {made.memory / 1e6:,.0f} MB of memory)."
    )
    click.echo(f"Next: python -m pipeline decode {out} --out {out}")


@main.command()
@click.argument("runs", nargs=-1, required=True, type=click.Path(path_type=Path, file_okay=False), metavar="RUN...")
@click.option("--out", required=True, type=click.Path(path_type=Path, dir_okay=False), help="A .png or .svg file.")
def curves(runs: tuple[Path, ...], out: Path) -> None:
    """Draw the valid loss of runs over the minutes of training.

    \b
    Example:
      python -m trainer curves runs/small runs/tutorial --out curves.png
    """
    from trainer.curves import plot_curves

    plot_curves(list(runs), out)
    click.echo(f"Drew {out}.")


if __name__ == "__main__":
    main(prog_name="python -m trainer")
