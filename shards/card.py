"""Dataset card: a set's README.md for the Hugging Face Hub, whose `datasets` finds the splits and types by it."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from shards.console import counted, quote
from shards.errors import UserError
from shards.files import atomic_write
from shards.manifest import Manifest, read_manifest
from shards.storage import is_remote, path_text

CARD = "README.md"
TAG = "library_name: note-tokens"  # a line of every card that this program writes
SPLITS = {"valid": "validation"}  # names of the Hub, where they differ from ours
SECONDS_AN_HOUR = 3600


@dataclass(frozen=True)
class Outcome:
    """A written card."""

    path: Path

    def lines(self) -> list[str]:
        return [
            f"{self.path}: the dataset card.",
            f"Next: hf upload USER/{quote(self.path.parent.absolute().name)} {quote(self.path.parent)} "
            "--repo-type dataset",
        ]


def write_card(folder: Path, license_id: str | None = None) -> Outcome:
    """Write the card of a set into its folder. license_id: the Hub's name of a licence, such as cc-by-4.0.

    Raises:
        UserError: no finished set, a set under a URL, or a README.md of another hand.
    """
    manifest = read_manifest(folder)
    if is_remote(folder):
        raise UserError(f"{folder}: a card is written into a folder of this machine; make it before you upload the set")
    path = folder / CARD
    if path.exists() and TAG not in path.read_text(errors="replace").splitlines():
        raise UserError(f"{path}: was not written by this program; rename it")
    with atomic_write(path) as file:
        file.write(("\n".join(_lines(folder.absolute().name, manifest, license_id)) + "\n").encode())
    return Outcome(path)


def _lines(name: str, manifest: Manifest, license_id: str | None) -> Iterator[str]:
    codec, ledger = manifest.codec, manifest.ledger
    name = path_text(name)
    tokens = sum(shard.tokens for shard in manifest.shards)
    yield "---"
    yield TAG
    if license_id:
        yield f"license: {json.dumps(license_id)}"
    yield "tags: [audio, music, encodec, webdataset]"
    yield "configs:"
    yield "- config_name: default"
    yield "  data_files:"
    for split, shards in manifest.splits.items():
        if shards:
            yield f"  - split: {SPLITS.get(split, split)}"
            yield f"    path: {split}-*.tar"
    yield "---"
    yield f"# {name}"
    yield ""
    yield (
        f"{counted(ledger.notes, 'note')}, {tokens / codec.tokens_per_second / SECONDS_AN_HOUR:.2f} hours, "
        f"as {tokens:,} codes of {codec.name}: {codec.sample_rate} Hz, {codec.frame_rate:g} frames/s, "
        f"{codec.codebooks} codebooks of {codec.codebook_size} codes; sha256 of its weights {codec.weights_sha256}."
    )
    if not license_id:
        yield "No licence is stated."
    yield ""
    yield "| split | notes | shards |"
    yield "| --- | --- | --- |"
    for split, shards in manifest.splits.items():
        yield f"| {SPLITS.get(split, split)} | {manifest.notes(split)} | {len(shards)} |"
    yield ""
    yield (
        "A note is `npy`, int16 codes frame by frame (`[frame 0 codebook 0, frame 0 codebook 1, frame 1 codebook 0, "
        f"...]`), and `json`, its labels: {', '.join(manifest.labels) or 'none'}."
    )
    yield ""
    yield "```python"
    yield "from datasets import load_dataset"
    yield ""
    yield f"notes = load_dataset({json.dumps(name)})"
    yield "```"
