"""`python -m shards`: look at a shard set, and hold it against its manifest. Parses, calls, reports."""

import json
import sys
from pathlib import Path
from typing import Any

import click

from shards.storage import parse_path

SET = click.argument("folder", metavar="SET", type=parse_path)
MOST_VALUES = 8  # values of a label that are shown in full; more are shown as a count and a range
MB = 1_000_000


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
def main() -> None:
    """Shard sets: folders of notes as EnCodec tokens, written once by `python -m pipeline encode`."""


@main.command()
@SET
@click.option("--json", "as_json", is_flag=True, help="Print everything as one JSON object (with each code's count).")
@click.option("--plot", type=click.Path(path_type=Path), metavar="FILE", help="Draw codebook usage as a PNG or SVG.")
def inspect(folder: Path, as_json: bool, plot: Path | None) -> None:
    """Say what a set holds: notes, hours, tokens, codebook usage, labels, rejected files.

    \b
    Example:
      python -m shards inspect shards/demo --plot usage.png
    """
    from shards.summary import plot_usage, summarize

    summary = summarize(folder)
    if plot is not None:
        plot_usage(summary, plot)
    if as_json:
        click.echo(json.dumps(summary, ensure_ascii=False))
        return
    for line in _report(folder, summary):
        click.echo(line)
    if plot is not None:
        click.echo(f"Drew {plot}.")
    click.echo(f"Next: python -m trainer train --shards {folder} --run runs/{folder.absolute().name}")


@main.command()
@SET
def verify(folder: Path) -> None:
    """Read every byte of a set and name each fault: shards cut, changed, swapped, renamed, missing or extra.

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
        click.echo(fault, err=True)
    if faults:
        click.echo(f"{folder}: {faults} fault{'s' * (faults > 1)} found.", err=True)
        sys.exit(1)
    manifest = read_manifest(folder)
    click.echo(
        f"{folder}: whole. {len(list(manifest.shards))} shards, {manifest.ledger.encoded} notes, every byte as written."
    )


def _report(folder: Path, summary: dict[str, Any]) -> list[str]:
    codec, ledger = summary["codec"], summary["ledger"]
    lines = [
        f"{folder}: {ledger['encoded']} notes, {summary['hours']:.2f} hours, {summary['tokens']:,} tokens, "
        f"{summary['bytes'] / MB:.1f} MB",
        f"  codec     {codec['name']} at {codec['bandwidth']:g} kbps: {codec['codebooks']} codebooks of "
        f"{codec['codebook_size']} codes, {codec['frame_rate']} frames/s, {codec['sample_rate']} Hz, "
        f"weights {codec['weights_sha256'][:12]}",
    ]
    for split, amounts in summary["splits"].items():
        lines.append(
            f"  {split:<9} {amounts['notes']} notes in {amounts['shards']} shards, {amounts['tokens']:,} tokens"
        )
    for index, codebook in enumerate(summary["codebooks"]):
        share = codebook["used"] / codec["codebook_size"]
        lines.append(
            f"  codebook {index}: {codebook['used']} codes used ({share:.0%}), perplexity {codebook['perplexity']:.0f}"
        )
    for label, counts in summary["labels"].items():
        lines.append(f"  {label:<22} {_values(counts)}")
    rejected = ", ".join(f"{count} {reason}" for reason, count in summary["rejected"].items())
    lines.append(
        f"  ledger    {ledger['inputs']} inputs = {ledger['encoded']} encoded + {ledger['rejected']} rejected"
        + (f" ({rejected})" if rejected else "")
    )
    return lines


def _values(counts: dict[Any, int]) -> str:
    if len(counts) <= MOST_VALUES:
        return ", ".join(f"{value} x {count}" for value, count in counts.items())
    first, *_, last = counts
    return f"{len(counts)} values, {first} to {last}, {min(counts.values())} to {max(counts.values())} notes each"


if __name__ == "__main__":
    main(prog_name="python -m shards")
