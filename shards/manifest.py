"""The manifest of a finished set: its codec, its shards with their checksums, and the ledger of its inputs.

`manifest.json` is written last, so a folder without one is an unfinished set. Knows nothing of the content of a tar.
"""

import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from shards.errors import ShardError
from shards.files import write_json
from shards.note import Codec, Count, upgrade_codec
from shards.parse import read_object, to_dataclass
from shards.storage import is_remote

FORMAT = "codec-token-shards"
VERSION = 2
READABLE = (1, 2)  # versions; in the first, codec blocks have a frame rate in place of the hop
MANIFEST = "manifest.json"
REJECTED = "rejected.jsonl"  # one JSON object a line for each input without codes: file, reason, detail
SHARD_NAME = re.compile(r"(?P<split>[a-z][a-z0-9]*)-(?P<index>[0-9]{5,})\.tar")


@dataclass(frozen=True)
class Shard:
    """One tar of the set: its size and digest when it was written."""

    name: str  # train-00000.tar: its split, its index
    notes: Count
    tokens: Count
    bytes: Count
    sha256: str

    def __post_init__(self) -> None:
        if not self.notes <= self.tokens <= self.bytes // 2:  # a note has a token, which takes two bytes
            raise ValueError(f"notes: {self.notes}, tokens: {self.tokens}, bytes: {self.bytes}")

    @property
    def record_name(self) -> str:
        """The name of the record beside the tar (`shards.record`)."""
        return self.name.removesuffix(".tar") + ".json"


@dataclass(frozen=True)
class Ledger:
    """Count of all inputs, which are files: inputs = encoded + rejected; segments = notes + silent."""

    inputs: Count
    encoded: Count
    rejected: Count
    segments: Count | None = None  # of all encoded files; None: each is a note
    silent: Count = 0  # segments that are no notes because they are silent

    def __post_init__(self) -> None:
        if self.silent > (self.segments or 0):
            raise ValueError(f"segments: {self.segments or 0}, of them silent: {self.silent}")

    @property
    def notes(self) -> int:
        return self.encoded if self.segments is None else self.segments - self.silent

    def to_json(self) -> dict[str, int]:
        """The counts; without those of segments where each file is a note."""
        counts = {"inputs": self.inputs, "encoded": self.encoded, "rejected": self.rejected}
        return counts if self.segments is None else counts | {"segments": self.segments, "silent": self.silent}


@dataclass(frozen=True)
class Manifest:
    """Everything that a reader needs before it opens a tar."""

    codec: Codec
    audio: dict[str, Any]  # how audio was prepared, and its folder
    plan: dict[str, Any]  # how notes were assigned to shards, and the sha256 of the list of inputs
    fingerprint: str  # sha256 of all of the above that decides the bytes of the shards
    splits: dict[str, tuple[Shard, ...]]
    labels: tuple[str, ...]  # the label names that notes of this set have
    ledger: Ledger
    versions: dict[str, str]  # of the packages that made it
    labels_sha256: str | None = None  # of the labels that a metadata file gives; None: there was none

    @property
    def shards(self) -> Iterator[Shard]:
        for shards in self.splits.values():
            yield from shards

    def notes(self, split: str) -> int:
        return sum(shard.notes for shard in self.splits.get(split, ()))


def write_manifest(folder: Path, manifest: Manifest, writer: str = "") -> None:
    """Finish the set in `folder`. `writer`: as in `atomic_write`."""
    assert manifest.ledger.inputs == manifest.ledger.encoded + manifest.ledger.rejected
    blocks = {"codec": manifest.codec.to_json(), "ledger": manifest.ledger.to_json()}
    value = {"format": FORMAT, "version": VERSION, **asdict(manifest), **blocks}
    if manifest.labels_sha256 is None:
        del value["labels_sha256"]
    write_json(folder / MANIFEST, value, writer)


def read_manifest(folder: Path) -> Manifest:
    """Undo `write_manifest`.

    Raises:
        ShardError: no folder, an unfinished set, another format or version, or fields that do not make sense.
    """
    path = folder / MANIFEST
    try:
        value = read_object(path, "encode again")
    except (FileNotFoundError, NotADirectoryError) as error:
        if not is_remote(folder) and not folder.is_dir():
            raise ShardError(f"{folder}: no such shard set; `make shards` makes one") from error
        raise ShardError(
            f"{path}: missing, so this set is unfinished; run the same `make shards` or encode command again"
        ) from error
    if value.get("format") != FORMAT or value.get("version") not in READABLE:
        raise ShardError(
            f"{path}: format {value.get('format')!r} version {value.get('version')!r}, but this program reads "
            f"{FORMAT!r} versions 1 to {VERSION}; encode again"
        )
    value["codec"] = upgrade_codec(value.get("codec"))
    manifest = to_dataclass(Manifest, value, f"{path}:", "encode again")
    for split, shards in manifest.splits.items():
        for shard in shards:  # a plain file name of its split is never a path, a URL or a command
            match = SHARD_NAME.fullmatch(shard.name)
            if match is None or match["split"] != split:
                raise ShardError(f"{path}: is damaged ({shard.name!r} is no name of a {split} shard); encode again")
    if manifest.ledger.inputs != manifest.ledger.encoded + manifest.ledger.rejected:
        raise ShardError(f"{path}: its ledger does not add up ({manifest.ledger}); encode again")
    return manifest
