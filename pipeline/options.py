"""Command-line options that several rooms share."""

from pathlib import Path

import click

WEIGHTS = click.option(
    "--weights",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="The codec's weights, .th or .safetensors.  [default: encodec_mini's own; EnCodec's, downloaded]",
)
DEVICE = click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or mps.")
