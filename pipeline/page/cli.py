"""Commands of this room: `page` and `listen`."""

from pathlib import Path

import click

from pipeline.options import DEVICE, WEIGHTS

SAMPLES = click.argument("samples", metavar="SAMPLES", type=click.Path(path_type=Path))
RUN = click.option(
    "--run", type=click.Path(path_type=Path), help="The run's folder, if not the path in the token files."
)
SHARDS = click.option(
    "--shards", type=click.Path(path_type=Path), help="The shard set, if not the path in the token files."
)
REAL = click.option("--real", type=click.IntRange(0), default=4, show_default=True, help="Real notes on the page.")
BESIDE = click.option("--beside", type=click.Path(path_type=Path), metavar="SAMPLES", help="Samples to compare with.")


@click.command()
@SAMPLES
@RUN
@SHARDS
@REAL
@BESIDE
@WEIGHTS
@DEVICE
def page(
    samples: Path,
    run: Path | None,
    shards: Path | None,
    real: int,
    beside: Path | None,
    weights: Path | None,
    device: str,
) -> None:
    """Write SAMPLES/index.html: a page to listen to the notes in the folder SAMPLES.

    SAMPLES holds NAME.wav for each token file in SAMPLES/tokens. The page and its files are in one folder and need no
    server.

    \b
    Examples:
      python -m trainer sample --run runs/demo --out samples/demo/tokens --count 16
      python -m pipeline decode samples/demo/tokens --out samples/demo
      python -m pipeline score samples/demo
      python -m pipeline page samples/demo
      python -m pipeline page samples/demo --beside samples/longer
    """
    from pipeline.page.page import write_page

    outcome = write_page(samples, run, shards, real, beside, weights, device)
    for fault in outcome.faults:
        click.echo(fault, err=True)
    for line in outcome.lines():
        click.echo(line)


@click.command()
@SAMPLES
@RUN
@SHARDS
@click.option("--notes", type=click.IntRange(2), default=40, show_default=True, help="Unseen real notes to measure.")
@REAL
@BESIDE
@WEIGHTS
@DEVICE
def listen(
    samples: Path,
    run: Path | None,
    shards: Path | None,
    notes: int,
    real: int,
    beside: Path | None,
    weights: Path | None,
    device: str,
) -> None:
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
        outcome = decode_score_and_show(samples, bar, run, shards, notes, real, beside, weights, device, stages.start)
    for fault in outcome.page.faults:
        click.echo(fault, err=True)
    for line in outcome.lines():
        click.echo(line)
