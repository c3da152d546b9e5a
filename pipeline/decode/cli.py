"""Command of this room: `decode`."""

from pathlib import Path

import click

from pipeline.options import DEVICE, WEIGHTS
from shards.console import echo


@click.command()
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), required=True, metavar="DIR", help="Folder of the audio files.")
@click.option(
    "--format", "form", type=click.Choice(["wav", "flac"]), default="wav", show_default=True, help="Both with 16 bits."
)
@click.option("--ecdc", is_flag=True, help="Write EnCodec's own compressed files too (encodec_24khz only).")
@WEIGHTS
@DEVICE
def decode(folder: Path, out: Path, form: str, ecdc: bool, weights: Path | None, device: str) -> None:
    """Turn token files, or the notes of a shard set, into WAV or FLAC files.

    The codec block beside the codes names the codec that decodes them. Nothing is clipped: a note that peaks above
    full scale is scaled down as a whole, and named. Files that were decoded from the same codes before are left alone.

    \b
    Examples:
      python -m trainer sample --run runs/demo --out samples/demo/tokens --count 8
      python -m pipeline decode samples/demo/tokens --out samples/demo
      python -m pipeline decode shards/demo --out decoded --format flac
    """
    from pipeline.decode.run import decode_folder
    from pipeline.progress import NoteBar

    with NoteBar("decode") as bar:
        decoded = decode_folder(folder, out, bar, weights, device, form, ecdc)
    for line in decoded.lines():
        echo(line)
