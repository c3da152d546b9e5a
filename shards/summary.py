"""Summary of a shard set: its amounts, the use of its codebooks, its labels, and the rejected inputs.

Every tar is read once. Damage is not looked for, that is the part of `shards.verify`.
"""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from shards.console import counted, quote
from shards.curve import save_figure
from shards.manifest import Manifest, read_manifest
from shards.note import SECONDS, check_tokens, unflatten
from shards.reader import read_shard
from shards.record import read_rejections, with_length

SECONDS_AN_HOUR = 3600
MOST_VALUES = 8  # values of a label that are printed one by one; more are printed as a number and a range
MOST_WORDS = 24  # words of a label of lists that are printed
LONGEST_VALUE = 40  # characters of a value that are printed
MB = 1_000_000  # bytes


def summarize(folder: Path) -> dict[str, Any]:
    """Count everything that `inspect` prints, as plain JSON values.

    Raises:
        ShardError: the set is unfinished, a shard cannot be read, or it holds codes that its codec cannot have made.
    """
    manifest = read_manifest(folder)
    codec = manifest.codec
    uses = np.zeros((codec.codebooks, codec.codebook_size), np.int64)  # (codebook, code)
    labels: dict[str, Counter[Any]] = {}
    words: dict[str, Counter[str]] = {}
    for shard in manifest.shards:
        for note in read_shard(folder / shard.name):
            check_tokens(note.tokens, codec, f"{folder / shard.name}: {note.key}")
            for codebook, codes in enumerate(unflatten(note.tokens, codec.codebooks)):
                uses[codebook] += np.bincount(codes, minlength=codec.codebook_size)
            for label, value in with_length(note, codec).labels.items():
                if isinstance(value, str | int | float):
                    labels.setdefault(label, Counter())[value] += 1
                elif isinstance(value, list) and all(isinstance(word, str) for word in value):
                    words.setdefault(label, Counter()).update({*value})
    if len(labels.get(SECONDS, ())) == 1:  # a label of notes of several lengths
        del labels[SECONDS]
    tokens = sum(shard.tokens for shard in manifest.shards)
    return {
        "codec": {**codec.to_json(), "frame_rate": codec.frame_rate, "kbps": codec.kbps},
        "splits": {split: _amounts(manifest, split) for split in manifest.splits},
        "hours": tokens / codec.tokens_per_second / SECONDS_AN_HOUR,
        "tokens": tokens,
        "bytes": sum(shard.bytes for shard in manifest.shards),
        "codebooks": [
            {"used": int((row > 0).sum()), "perplexity": perplexity(row), "uses": row.tolist()} for row in uses
        ],
        "labels": {label: dict(sorted(counts.items(), key=_by_value)) for label, counts in sorted(labels.items())},
        "words": {label: dict(counts.most_common()) for label, counts in sorted(words.items())},
        "ledger": manifest.ledger.to_json(),
        "rejected": dict(Counter(rejection.reason for rejection in read_rejections(folder)).most_common()),
        "audio": manifest.audio,
    }


def perplexity(uses: np.ndarray) -> float:
    """exp of the entropy of a codebook's uses, (code,): the number of codes that, used equally, would carry as much."""
    total = uses.sum()
    if total == 0:
        return 0.0
    share = uses[uses > 0] / total
    return float(np.exp(-(share * np.log(share)).sum()))


def _amounts(manifest: Manifest, split: str) -> dict[str, int]:
    shards = manifest.splits[split]
    return {
        "shards": len(shards),
        "notes": manifest.notes(split),
        "tokens": sum(shard.tokens for shard in shards),
        "bytes": sum(shard.bytes for shard in shards),
    }


def _by_value(item: tuple[Any, int]) -> tuple[bool, Any]:
    return isinstance(item[0], str), item[0]


def summary_lines(folder: Path, summary: dict[str, Any]) -> list[str]:
    """The summary as text, and the next command."""
    codec, ledger = summary["codec"], summary["ledger"]
    lines = [
        f"{folder}: {counted(_count_notes(summary), 'note')}, {summary['hours']:.2f} hours, "
        f"{summary['tokens']:,} tokens, {summary['bytes'] / MB:.1f} MB",
        f"  codec     {codec['name']} at {codec['kbps']:.3g} kbps: {codec['codebooks']} codebooks of "
        f"{codec['codebook_size']} codes, {codec['frame_rate']:g} frames/s, {codec['sample_rate']} Hz, "
        f"weights {codec['weights_sha256'][:12]}",
    ]
    for split, amounts in summary["splits"].items():
        lines.append(
            f"  {split:<9} {counted(amounts['notes'], 'note')} in {counted(amounts['shards'], 'shard')}, "
            f"{amounts['tokens']:,} tokens"
        )
    for index, codebook in enumerate(summary["codebooks"]):
        share = codebook["used"] / codec["codebook_size"]
        lines.append(
            f"  codebook {index}: {codebook['used']} codes used ({share:.0%}), perplexity {codebook['perplexity']:.0f}"
        )
    lines += [f"  {label:<22} {_describe_values(counts)}" for label, counts in summary["labels"].items()]
    lines += [f"  {label:<22} {_describe_words(label, counts)}" for label, counts in summary["words"].items()]
    rejected = ", ".join(f"{count} {reason}" for reason, count in summary["rejected"].items())
    lines.append(
        f"  ledger    {ledger['inputs']} inputs = {ledger['encoded']} encoded + {ledger['rejected']} rejected"
        + (f" ({rejected})" if rejected else "")
    )
    if "segments" in ledger:
        lines.append(
            f"  segments  {ledger['segments']} = {counted(_count_notes(summary), 'note')} + {ledger['silent']} silent"
        )
    run = Path("runs", folder.absolute().name)
    return [*lines, f"Next: python -m trainer train --shards {quote(folder)} --run {quote(run)}"]


def plot_usage(summary: dict[str, Any], path: Path) -> None:
    """Draw the uses of each code, most used first, one line a codebook, on two logarithmic axes, as PNG or SVG.

    Raises:
        UserError: a file whose name does not end in .png or .svg.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4), layout="constrained")
    axes = figure.subplots()
    for index, codebook in enumerate(summary["codebooks"]):
        uses = np.sort(codebook["uses"])[::-1]
        label = f"codebook {index}: {codebook['used']} used, perplexity {codebook['perplexity']:.0f}"
        axes.loglog(np.arange(1, len(uses) + 1), np.maximum(uses, 0.5), label=label)  # 0.5: unused, but on the axis
    axes.set(
        xlabel="code, most used first",
        ylabel="times used",
        title=f"Codebook usage of {counted(_count_notes(summary), 'note')}",
    )
    axes.legend()
    save_figure(figure, path)


def _count_notes(summary: dict[str, Any]) -> int:
    return sum(amounts["notes"] for amounts in summary["splits"].values())


def _describe_values(counts: dict[Any, int]) -> str:
    if len(counts) <= MOST_VALUES:
        return ", ".join(f"{_short(value)} x {count}" for value, count in counts.items())
    first, *_, last = map(_short, counts)
    most = counted(max(counts.values()), "note")
    return f"{len(counts)} values, {first} to {last}, each of {min(counts.values())} to {most}"


def _describe_words(label: str, counts: dict[str, int]) -> str:
    """The words of a label of lists, most frequent first; each is a label of a training."""
    if not counts:
        return "lists without words"
    shown = ", ".join(f"{_short(word)} x {counts[word]}" for word in [*counts][:MOST_WORDS])
    more = f", {counted(len(counts) - MOST_WORDS, 'more word')}" if len(counts) > MOST_WORDS else ""
    return f"words: {shown}{more} (to train on: {label}.{_short(next(iter(counts)))})"


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= LONGEST_VALUE else f"{text[:LONGEST_VALUE]}..."
