"""Command of this room: `score`."""

from pathlib import Path

import click

from pipeline.options import DEVICE, WEIGHTS
from shards.console import echo


@click.command()
@click.argument("samples", metavar="SAMPLES...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--shards", type=click.Path(path_type=Path), help="The shard set, if not the path in the token files.")
@click.option("--notes", type=click.IntRange(2), default=40, show_default=True, help="Unseen real notes to measure.")
@WEIGHTS
@DEVICE
def score(samples: tuple[Path, ...], shards: Path | None, notes: int, weights: Path | None, device: str) -> None:
    """Measure how good samples are: pitch and loudness against the labels, distance to real notes, copies of train
    notes.

    Each figure is shown with its floor: the figure of real notes, and of real notes after the codec. Several folders
    are shown side by side. The figures are written to SAMPLES/scores.json, where `page` reads them.

    \b
    Examples:
      python -m pipeline score samples/demo
      python -m pipeline score samples/small samples/base
    """
    from pipeline.progress import StageBar
    from pipeline.score.run import score_folders

    with StageBar() as bar:
        report = score_folders(samples, shards, notes, weights, device, bar.start)
    for line in report.lines():
        echo(line)
