"""Command-line options that several commands share."""

from pathlib import Path

import click

from shards.device import DEVICE_HELP

WEIGHTS = click.option(
    "--weights",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Weights of the codec, .th or .safetensors, or the folder of an hf: codec.  [default: the package's own, or "
    "downloaded]",
)
DEVICE = click.option("--device", default="auto", show_default=True, help=DEVICE_HELP)
