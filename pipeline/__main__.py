"""Command group `python -m pipeline`; each room defines its own commands."""

import click

from pipeline.codec.cli import score_codec
from pipeline.codec.training.cli import train_codec_command
from pipeline.decode.cli import decode
from pipeline.encode.cli import encode, plan, relabel, verify
from pipeline.instrument.cli import choose, instrument
from pipeline.notes.cli import demo_notes, download
from pipeline.page.cli import listen, page
from pipeline.score.cli import score
from shards.program import Program

COMMANDS = (
    *(demo_notes, download, encode, plan, relabel, verify, decode, score, page, listen, choose, instrument),
    *(train_codec_command, score_codec),
)


@click.group(cls=Program, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
def main() -> None:
    """Encode a folder of notes to a shard set of EnCodec tokens; decode, score and show sampled tokens; play them."""


for command in COMMANDS:
    main.add_command(command)


if __name__ == "__main__":
    main(prog_name="python -m pipeline")
