"""Command of this room: `score`."""

from pathlib import Path

import click

from pipeline.options import DEVICE, WEIGHTS


@click.command()
@click.argument("samples", metavar="SAMPLES...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--shards", type=click.Path(path_type=Path), help="The shard set, if not where the token files say.")
@click.option("--notes", type=click.IntRange(2), default=40, show_default=True, help="Unseen real notes to measure.")
@WEIGHTS
@DEVICE
def score(samples: tuple[Path, ...], shards: Path | None, notes: int, weights: Path | None, device: str) -> None:
    """Measure how good samples are: pitch and loudness as asked, distance to real notes, likeness to train notes.

    Each figure stands beside its floor: what real notes reach, and what is left of that after the codec. Several
    folders are shown side by side. The figures are kept in SAMPLES/scores.json, where `page` finds them.

    \b
    Examples:
      python -m pipeline score samples/demo
      python -m pipeline score samples/small samples/base
    """
    from tqdm import tqdm

    from pipeline.score.measure import score as measure
    from pipeline.score.scores import table

    with tqdm(total=len(samples) * 3, leave=False, bar_format="{desc} {bar} {elapsed}") as bar:

        def stage(words: str) -> None:
            bar.set_description_str(words)
            bar.update()

        found = {str(folder): measure(folder, shards, notes, weights, device, stage) for folder in samples}
    for line in table(found):
        click.echo(line)
    click.echo(f"Next: python -m pipeline page {samples[0]}")
