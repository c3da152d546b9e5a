"""What is in a set: amounts, how well its codebooks are used, its labels, and what was rejected.

Reads every tar once; says nothing of whether they are intact (`shards.verify` does).
"""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from shards.files import atomic_write
from shards.manifest import REJECTED, Manifest, read_manifest
from shards.note import json_object, unflatten
from shards.reader import read_shard
from shards.storage import read_bytes

SECONDS_AN_HOUR = 3600


def summarize(folder: Path) -> dict[str, Any]:
    """Everything `inspect` shows, as plain JSON values.

    Raises:
        ShardError: the set is unfinished, or a shard cannot be read.
    """
    manifest = read_manifest(folder)
    codec = manifest.codec
    uses = np.zeros((codec.codebooks, codec.codebook_size), np.int64)  # (codebook, code)
    labels: dict[str, Counter[Any]] = {}
    for shard in manifest.shards:
        for note in read_shard(folder / shard.name):
            for codebook, codes in enumerate(unflatten(note.tokens, codec.codebooks)):
                uses[codebook] += np.bincount(codes, minlength=codec.codebook_size)
            for label, value in note.labels.items():
                if isinstance(value, str | int):
                    labels.setdefault(label, Counter())[value] += 1
    tokens = sum(shard.tokens for shard in manifest.shards)
    return {
        "codec": codec.to_json(),
        "splits": {split: _amounts(manifest, split) for split in manifest.splits},
        "hours": tokens / codec.tokens_per_second / SECONDS_AN_HOUR,
        "tokens": tokens,
        "bytes": sum(shard.bytes for shard in manifest.shards),
        "codebooks": [
            {"used": int((row > 0).sum()), "perplexity": perplexity(row), "uses": row.tolist()} for row in uses
        ],
        "labels": {label: dict(sorted(counts.items(), key=_by_value)) for label, counts in sorted(labels.items())},
        "ledger": vars(manifest.ledger),
        "rejected": _rejected_by_reason(folder),
        "audio": manifest.audio,
    }


def perplexity(uses: np.ndarray) -> float:
    """exp of the entropy of a codebook's use: as many codes, used equally, would carry as much. (code,) -> codes."""
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


def _rejected_by_reason(folder: Path) -> dict[str, int]:
    path = folder / REJECTED
    try:
        lines = read_bytes(path).splitlines()
    except FileNotFoundError:
        lines = []
    return dict(Counter(str(json_object(line, str(path)).get("reason")) for line in lines).most_common())


def _by_value(item: tuple[Any, int]) -> tuple[bool, Any]:
    return isinstance(item[0], str), item[0]


def plot_usage(summary: dict[str, Any], path: Path) -> None:
    """Draw how often each code is used, most used first, one line a codebook; both axes logarithmic."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4), layout="constrained")
    axes = figure.subplots()
    for index, codebook in enumerate(summary["codebooks"]):
        uses = np.sort(codebook["uses"])[::-1]
        label = f"codebook {index}: {codebook['used']} used, perplexity {codebook['perplexity']:.0f}"
        axes.loglog(np.arange(1, len(uses) + 1), np.maximum(uses, 0.5), label=label)  # 0.5: never used, but on the axis
    axes.set(
        xlabel="code, most used first",
        ylabel="times used",
        title=f"Codebook usage of {summary['ledger']['encoded']} notes",
    )
    axes.legend()
    with atomic_write(path) as file:
        figure.savefig(file, format=path.suffix.lstrip(".") or "png")
