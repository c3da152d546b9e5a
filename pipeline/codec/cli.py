"""Command `score-codec`."""

from pathlib import Path

import click

from pipeline.options import WEIGHTS
from shards.console import echo, echo_json


@click.command("score-codec")
@click.argument("audio", type=click.Path(path_type=Path))
@click.option("--codec", default="encodec_mini", show_default=True, help="As of `encode`.")
@WEIGHTS
@click.option("--count", type=click.IntRange(1), help="Number of notes to score, at even distances.  [default: all]")
@click.option("--json", "as_json", is_flag=True, help="Print the figures as JSON.")
def score_codec(audio: Path, codec: str, weights: Path | None, count: int | None, as_json: bool) -> None:
    """Measure what a codec preserves of the notes in AUDIO, and how much of its codebooks it uses.

    On whole notes at their own levels: the share that keeps its fundamental (YIN, MIDI 40-84), the log-mel distance
    with both codebooks and with one, codes used and perplexity. Use instruments that the codec was not trained on.

    \b
    Example:
      python -m pipeline score-codec demo-notes/nsynth-guitar-valid
      python -m pipeline score-codec demo-notes/nsynth-guitar-valid --weights runs/codec/codec.safetensors
    """
    from pipeline.codec.evaluate import score_folder
    from pipeline.progress import NoteBar

    with NoteBar("score") as bar:
        score = score_folder(audio, codec, weights, count, bar)
    if as_json:
        echo_json(score.to_json())
        return
    for line in score.lines():
        echo(line)
