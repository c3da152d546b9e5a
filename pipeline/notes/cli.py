"""Commands `demo-notes` and `download`."""

from pathlib import Path

import click

from shards.console import echo


@click.command("demo-notes")
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--seed", default=0, show_default=True, help="Random seed of the plucks.")
@click.option(
    "--velocities",
    type=click.IntRange(1, 5),
    default=2,
    show_default=True,
    help="Velocities of each train instrument at each pitch, of NSynth's five; 5 makes 1,110 notes.",
)
@click.option(
    "--pitches",
    type=(click.IntRange(28, 88), click.IntRange(28, 88)),
    default=(40, 76),
    show_default=True,
    metavar="LOWEST HIGHEST",
    help="MIDI pitches, both included.",
)
def demo_notes(out: Path, seed: int, velocities: int, pitches: tuple[int, int]) -> None:
    """Make a few hundred plucked-string notes as MP3 in the folder OUT, named and laid out as NSynth's.

    A physical model of a string (extended Karplus-Strong) with the sound of eight guitars, two of them in the valid
    split only. The same options give the same bytes; an interrupted run resumes.

    \b
    Example:
      python -m pipeline demo-notes demo-notes
      python -m pipeline encode demo-notes --out shards/demo --codec encodec_mini
    """
    from pipeline.notes.demo import Recipe, make_demo_notes

    for line in make_demo_notes(out, Recipe(seed, velocities, *pitches)).lines():
        echo(line)


@click.command()
@click.option(
    "--out", type=click.Path(path_type=Path), default=Path("data"), show_default=True, help="Folder to unpack into."
)
def download(out: Path) -> None:
    """Download NSynth's guitar notes (335 MB), check them and unpack them into OUT.

    An interrupted download resumes when the command is run again.

    \b
    Example:
      python -m pipeline download --out data
      python -m pipeline encode data/NSYNTH_GUITAR_MP3 --out shards/nsynth-guitar --codec encodec_24khz
    """
    from pipeline.notes.download import download_nsynth

    for line in download_nsynth(out).lines():
        echo(line)
