"""Command of this room: `page`."""

from pathlib import Path

import click

from pipeline.options import DEVICE, WEIGHTS


@click.command()
@click.argument("samples", metavar="SAMPLES", type=click.Path(path_type=Path))
@click.option("--run", type=click.Path(path_type=Path), help="The run's folder, if not where the token files say.")
@click.option("--shards", type=click.Path(path_type=Path), help="The shard set, if not where the token files say.")
@click.option("--real", type=click.IntRange(0), default=4, show_default=True, help="How many real notes to show.")
@click.option("--beside", type=click.Path(path_type=Path), metavar="SAMPLES", help="Samples to compare with.")
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

    SAMPLES holds NAME.wav for each token file in SAMPLES/tokens. The page stands in one folder and needs no server.

    \b
    Examples:
      python -m trainer sample --run runs/demo --out samples/demo/tokens --count 16
      python -m pipeline decode samples/demo/tokens --out samples/demo
      python -m pipeline score samples/demo
      python -m pipeline page samples/demo
      python -m pipeline page samples/demo --beside samples/longer
    """
    from pipeline.page.page import write_page

    written = write_page(samples, run, shards, real, beside, weights, device)
    for fault in written.faults:
        click.echo(fault, err=True)
    click.echo(f"{written.path}: {written.samples} samples. Next: open it in a browser, it ends with how to make more.")
