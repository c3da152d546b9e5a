"""Command of this room: `train-codec`."""

from pathlib import Path

import click

from pipeline.options import DEVICE
from shards.errors import UserError


@click.command("train-codec")
@click.argument("audio", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--out", required=True, metavar="FILE", type=click.Path(path_type=Path), help="The weights: .safetensors."
)
@click.option(
    "--start", metavar="CODEC", help="Go on from encodec_mini, or from a file of its form.  [default: from nothing]"
)
@click.option("--minutes", default=95.0, show_default=True, help="How long to train.")
@click.option("--steps", type=click.IntRange(1), help="Train so many steps instead, however long they take.")
@click.option("--seed", default=0, show_default=True, help="Of the first weights and of everything drawn.")
@DEVICE
def train_codec_command(
    audio: tuple[Path, ...],
    out: Path,
    start: str | None,
    minutes: float,
    steps: int | None,
    seed: int,
    device: str,
) -> None:
    """Train a codec of encodec_mini's form on your own notes.

    From nothing, that takes hours. From a codec that is trained already (--start), minutes show what it will be.

    Each folder in AUDIO is drawn from as often as the square root of its number of notes.

    Notes in folders named *-valid are held out and measured on, those in *-test are left alone; the rest is trained on.
    A training that was interrupted goes on where it stopped; what it needs for that, and what TensorBoard shows, is in
    the folder beside FILE that ends in .training. On a CPU that others use too, set OMP_NUM_THREADS=1.

    \b
    Example:
      python -m pipeline train-codec demo-notes --start encodec_mini --out runs/codec/mine.safetensors --minutes 20
      python -m pipeline score-codec demo-notes/nsynth-guitar-valid --weights runs/codec/mine.safetensors
    """
    from pipeline.codec.model import load_codec
    from pipeline.codec.training.run import Length, train_codec
    from pipeline.codec.training.trainer import Recipe

    if out.suffix != ".safetensors":
        raise UserError(f"{out}: weights are written as .safetensors; name the file so")
    first = None
    if start is not None:
        first = load_codec("encodec_mini", weights=None if start == "encodec_mini" else Path(start))
    trained = train_codec(list(audio), out, Recipe(seed=seed), Length(minutes, steps), device, first)
    click.echo(
        f"{out}: {trained.steps} steps in {trained.minutes:.1f} minutes, log-mel distance {trained.distance:.3f} on "
        f"notes held out. Next: python -m pipeline score-codec FOLDER --weights {out}"
    )
