"""Command `train-codec`."""

from pathlib import Path

import click

from pipeline.options import DEVICE
from shards.console import echo


@click.command("train-codec")
@click.argument("audio", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--out", required=True, metavar="FILE", type=click.Path(path_type=Path), help="The weights: .safetensors."
)
@click.option(
    "--start", metavar="CODEC", help="Start from encodec_mini, or from a file of its form.  [default: random weights]"
)
@click.option("--minutes", default=95.0, show_default=True, help="Training time.")
@click.option("--steps", type=click.IntRange(1), help="Number of steps, in place of a time.")
@click.option("--seed", default=0, show_default=True, help="Of the first weights and of the random crops.")
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

    From random weights, that takes hours. From a trained codec (--start), minutes show a result.

    A folder in AUDIO gives crops as often as the square root of its number of notes.

    Notes in folders named *-valid are for validation, those in *-test are left out, all others are trained on.
    An interrupted training resumes; its checkpoint, and events for TensorBoard, are in the folder beside FILE that
    ends in .training. On a CPU that others use too, set OMP_NUM_THREADS=1.

    \b
    Example:
      python -m pipeline train-codec demo-notes --start encodec_mini --out runs/codec/mine.safetensors --minutes 20
      python -m pipeline score-codec demo-notes/nsynth-guitar-valid --weights runs/codec/mine.safetensors
    """
    from pipeline.codec.training.run import Length, train_codec
    from pipeline.codec.training.trainer import Recipe

    outcome = train_codec(list(audio), out, Recipe(seed=seed), Length(minutes, steps), device, start)
    for line in outcome.lines():
        echo(line)
