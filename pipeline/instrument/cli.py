"""Commands of this room: `instrument` and `choose`."""

from pathlib import Path
from typing import Any

import click

from pipeline.options import DEVICE, WEIGHTS
from shards.console import echo
from shards.wanted import MOST


@click.command()
@click.argument("candidates", type=click.Path(path_type=Path))
@click.option("--out", required=True, type=click.Path(path_type=Path, file_okay=False), help="The instrument's folder.")
@click.option("--shards", type=click.Path(path_type=Path), help="The shard set, if not the path in the token files.")
@click.option("--like", metavar="SET:KEY", help="Prefer candidates of a timbre like this real note's.")
@click.option("--complete", metavar="SET:INSTRUMENT", help="Keep an instrument's real notes; fill in what it lacks.")
@click.option("--draw", type=click.IntRange(1, MOST), default=4, show_default=True, help="More candidates to ask for.")
@click.option("--most", type=click.IntRange(1), default=16, show_default=True, help="Candidates of a pair at most.")
@WEIGHTS
@DEVICE
def instrument(**options: Any) -> None:
    """Make a playable instrument of sampled notes: the best candidate of each key and velocity, all of one timbre.

    CANDIDATES is a folder of token files, several for each key and velocity. OUT gets an SFZ file and its sounds in
    tune, a ZIP archive of them, a preset for DecentSampler, a keyboard to play in the browser (index.html), and
    instrument.json with all that made it. Pairs of key and velocity without a candidate that is
    close to its key, and of the instrument that was asked for, are listed in OUT/wanted.json, and the last line says
    the command that draws more for them.

    \b
    Examples:
      python -m trainer sample --run runs/demo --out instruments/demo/candidates --candidates 4
      python -m pipeline instrument instruments/demo/candidates --out instruments/demo
      python -m trainer sample --run runs/demo --out instruments/demo/candidates --wanted instruments/demo/wanted.json
    """
    from pipeline.instrument.build import BuildRequest, build_instrument
    from pipeline.progress import NoteBar, StageBar

    with StageBar() as stages, NoteBar("candidates") as bar:
        outcome = build_instrument(BuildRequest(**options), bar, stages.start)
    for line in outcome.lines():
        echo(line)


@click.command()
@click.argument("tokens", type=click.Path(path_type=Path))
@click.option("--out", required=True, type=click.Path(path_type=Path, file_okay=False), help="Folder of token files.")
@click.option("--count", type=click.IntRange(1), default=16, show_default=True, help="Samples to keep.")
@WEIGHTS
@DEVICE
def choose(tokens: Path, **options: Any) -> None:
    """Keep the best of many samples: in tune, of the level of their velocity, likely, not clipped.

    TOKENS is a folder of token files of notes with pitch and velocity. The best are written into OUT; TOKENS stays.

    \b
    Examples:
      python -m trainer sample --run runs/demo --out samples/many/tokens --count 64
      python -m pipeline choose samples/many/tokens --out samples/best/tokens --count 8
      python -m pipeline listen samples/best
    """
    from pipeline.instrument.best import choose_best
    from pipeline.progress import NoteBar

    with NoteBar("samples") as bar:
        outcome = choose_best(tokens, progress=bar, **options)
    for line in outcome.lines():
        echo(line)
