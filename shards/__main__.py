"""`python -m shards`: the commands inspect, verify and card. Parses options, calls one function, prints its lines."""

import sys
from pathlib import Path

import click

from shards.console import counted, echo, echo_json
from shards.program import Program
from shards.storage import parse_path

SET = click.argument("folder", metavar="SET", type=parse_path)


@click.group(cls=Program, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
def main() -> None:
    """Shard sets: folders of notes as EnCodec tokens, written once by `python -m pipeline encode`."""


@main.command()
@SET
@click.option("--json", "as_json", is_flag=True, help="Print everything as one JSON object (with each code's count).")
@click.option("--plot", type=click.Path(path_type=Path), metavar="FILE", help="Draw codebook usage as a PNG or SVG.")
def inspect(folder: Path, as_json: bool, plot: Path | None) -> None:
    """Print the content of a set: notes, hours, tokens, codebook usage, labels, rejected files.

    \b
    Example:
      python -m shards inspect shards/demo --plot usage.png
    """
    from shards.summary import plot_usage, summarize, summary_lines

    summary = summarize(folder)
    if plot is not None:
        plot_usage(summary, plot)
    if as_json:
        echo_json(summary)
        return
    for line in [f"Drew {plot}."] * (plot is not None) + summary_lines(folder, summary):
        echo(line)


@main.command()
@SET
def verify(folder: Path) -> None:
    """Compare every byte of a set with its manifest; name shards that are cut, changed, swapped, missing or extra.

    Exits with 0 if the set is whole, 1 if it has faults, 2 if there is no finished set to verify.

    \b
    Example:
      python -m shards verify shards/demo
    """
    from shards.manifest import read_manifest
    from shards.verify import find_faults

    faults = 0
    for fault in find_faults(folder):
        faults += 1
        echo(fault, err=True)
    if faults:
        echo(f"{folder}: {counted(faults, 'fault')} found.", err=True)
        sys.exit(1)
    manifest = read_manifest(folder)
    shards, notes = counted(len(list(manifest.shards)), "shard"), counted(manifest.ledger.notes, "note")
    echo(f"{folder}: whole. {shards}, {notes}, every byte as written.")


@main.command()
@SET
@click.option("--license", "license_id", metavar="ID", help="Licence of the notes, as the Hub names it: cc-by-4.0.")
def card(folder: Path, license_id: str | None) -> None:
    """Write SET/README.md, the dataset card, by which Hugging Face's `load_dataset` finds splits and types.

    \b
    Examples:
      python -m shards card shards/demo --license cc-by-4.0
      hf upload USER/demo shards/demo --repo-type dataset
    """
    from shards.card import write_card

    for line in write_card(folder, license_id).lines():
        echo(line)


if __name__ == "__main__":
    main(prog_name="python -m shards")
