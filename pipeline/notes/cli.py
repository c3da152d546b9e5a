"""Commands of this room: `demo-notes` and `download`."""

from pathlib import Path

import click


@click.command("demo-notes")
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--seed", default=0, show_default=True, help="Another seed, other plucks of the same notes.")
@click.option(
    "--velocities",
    type=click.IntRange(1, 5),
    default=2,
    show_default=True,
    help="How many of the five velocities each train instrument plays at each pitch; 5 makes 1,110 notes.",
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

    A physical model of a string (extended Karplus-Strong) on eight guitars, two of them in the valid split only. The
    same options give the same bytes; a run that was interrupted goes on where it stopped.

    \b
    Example:
      python -m pipeline demo-notes demo-notes
      python -m pipeline encode demo-notes --out shards/demo --codec encodec_mini
    """
    from pipeline.notes.demo import Recipe, make_demo_notes, notes_of

    recipe = Recipe(seed, velocities, *pitches)
    made = make_demo_notes(out, recipe)
    click.echo(
        f"{out}: {sum(1 for _ in notes_of(recipe))} notes, {made} of them new. "
        f"Next: python -m pipeline encode {out} --out shards/demo --codec encodec_mini"
    )


@click.command()
@click.option(
    "--out", type=click.Path(path_type=Path), default=Path("data"), show_default=True, help="Folder to put it in."
)
def download(out: Path) -> None:
    """Download NSynth's guitar notes (335 MB), check them and unpack them into OUT.

    A download that breaks off goes on where it stopped when the command is run again.

    \b
    Example:
      python -m pipeline download --out data
      python -m pipeline encode data/NSYNTH_GUITAR_MP3 --out shards/nsynth-guitar --codec encodec_24khz
    """
    from tqdm import tqdm

    from pipeline.notes.download import NSYNTH_GUITAR
    from pipeline.notes.download import download as fetch

    with tqdm(total=NSYNTH_GUITAR.size, unit="B", unit_scale=True, desc="download", leave=False) as bar:
        folder = fetch(NSYNTH_GUITAR, out, bar.update)
    click.echo(f"{folder}: NSynth's guitar notes. Next: make shards AUDIO={folder} NAME=nsynth-guitar")
