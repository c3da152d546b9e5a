"""Commands of this room: `page` and `listen`."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pipeline.options import DEVICE, WEIGHTS
from shards.console import echo

if TYPE_CHECKING:
    from pipeline.page.listen import ListenOutcome
    from pipeline.page.page import PageOutcome

OPTIONS = (
    click.argument("samples", type=click.Path(path_type=Path)),
    click.option(
        "--run", type=click.Path(path_type=Path), help="The run's folder, if not the path in the token files."
    ),
    click.option(
        "--shards", type=click.Path(path_type=Path), help="The shard set, if not the path in the token files."
    ),
    click.option("--real", type=click.IntRange(0), default=4, show_default=True, help="Real notes on the page."),
    click.option("--beside", type=click.Path(path_type=Path), metavar="SAMPLES", help="Samples to compare with."),
    WEIGHTS,
    DEVICE,
)


def page_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options of a page: the arguments of `write_page`."""
    for option in reversed(OPTIONS):
        command = option(command)
    return command


def _print(outcome: "PageOutcome | ListenOutcome") -> None:
    for fault in outcome.faults:
        echo(fault, err=True)
    for line in outcome.lines():
        echo(line)


@click.command()
@page_options
def page(samples: Path, **options: Any) -> None:
    """Write SAMPLES/index.html: a page to listen to the notes in the folder SAMPLES.

    SAMPLES holds NAME.wav for each token file in SAMPLES/tokens. The page and its files are in one folder and need no
    server. The notes that the run has sampled at its evaluations are on it, and are added to the run's TensorBoard, and
    to Weights & Biases if it was trained with it, each step once.

    \b
    Examples:
      python -m trainer sample --run runs/demo --out samples/demo/tokens --count 16
      python -m pipeline decode samples/demo/tokens --out samples/demo
      python -m pipeline score samples/demo
      python -m pipeline page samples/demo
      python -m pipeline page samples/demo --beside samples/longer
    """
    from pipeline.page.page import write_page

    _print(write_page(samples, **options))


@click.command()
@page_options
@click.option("--notes", type=click.IntRange(2), default=40, show_default=True, help="Unseen real notes to measure.")
def listen(samples: Path, **options: Any) -> None:
    """Decode, score and show samples: `decode`, `score` and `page` in one process, which loads the codec once.

    Decodes the token files in SAMPLES/tokens into SAMPLES, and writes SAMPLES/scores.json and SAMPLES/index.html.

    \b
    Examples:
      python -m trainer sample --run runs/demo --out samples/demo/tokens --count 16
      python -m pipeline listen samples/demo
    """
    from pipeline.page.listen import listen as decode_score_and_show
    from pipeline.progress import NoteBar, StageBar

    with StageBar() as stages, NoteBar("notes") as bar:
        outcome = decode_score_and_show(samples, bar, on_stage=stages.start, **options)
    _print(outcome)
