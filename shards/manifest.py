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
from shards.note import Codec, json_object
from shards.storage import is_remote, read_bytes

FORMAT = "codec-token-shards"
VERSION = 1
MANIFEST = "manifest.json"
REJECTED = "rejected.jsonl"  # one JSON object a line for each input without codes: file, reason, detail
SHARD_NAME = re.compile(r"(?P<split>[a-z][a-z0-9]*)-(?P<index>[0-9]{5,})\.tar")


@dataclass(frozen=True)
class Shard:
    """One tar of the set: its size and digest when it was written."""

    name: str  # train-00000.tar: its split, its index
    notes: int
    tokens: int
    bytes: int
    sha256: str

    @property
    def record_name(self) -> str:
        """The name of the record beside the tar (`shards.record`)."""
        return self.name.removesuffix(".tar") + ".json"


@dataclass(frozen=True)
class Ledger:
    """Count of all inputs: inputs = encoded + rejected."""

    inputs: int
    encoded: int
    rejected: int


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

    @property
    def shards(self) -> Iterator[Shard]:
        for shards in self.splits.values():
            yield from shards

    def notes(self, split: str) -> int:
        return sum(shard.notes for shard in self.splits.get(split, ()))


def write_manifest(folder: Path, manifest: Manifest, writer: str = "") -> None:
    """Finish the set in `folder`. `writer`: as in `atomic_write`."""
    assert manifest.ledger.inputs == manifest.ledger.encoded + manifest.ledger.rejected
    write_json(folder / MANIFEST, {"format": FORMAT, "version": VERSION, **asdict(manifest)}, writer)


def read_manifest(folder: Path) -> Manifest:
    """Undo `write_manifest`.

    Raises:
        ShardError: no folder, an unfinished set, another format or version, or fields that do not make sense.
    """
    path = folder / MANIFEST
    try:
        data = read_bytes(path)
    except (FileNotFoundError, NotADirectoryError) as error:
        if not is_remote(folder) and not folder.is_dir():
            raise ShardError(f"{folder}: no such shard set; `make shards` makes one") from error
        raise ShardError(
            f"{path}: missing, so this set is unfinished; run the same `make shards` or encode command again"
        ) from error
    value = json_object(data, str(path))
    if (value.get("format"), value.get("version")) != (FORMAT, VERSION):
        raise ShardError(
            f"{path}: format {value.get('format')!r} version {value.get('version')!r}, but this program reads "
            f"{FORMAT!r} version {VERSION}; encode again"
        )
    codec = Codec.from_json(value.get("codec"), str(path))
    try:
        manifest = Manifest(
            codec=codec,
            audio=dict(value["audio"]),
            plan=dict(value["plan"]),
            fingerprint=str(value["fingerprint"]),
            splits={
                split: tuple(_shard(shard, split) for shard in shards)
                for split, shards in dict(value["splits"]).items()
            },
            labels=tuple(map(str, value["labels"])),
            ledger=Ledger(**{key: int(count) for key, count in value["ledger"].items()}),
            versions=dict(value["versions"]),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ShardError(f"{path}: is damaged ({type(error).__name__}: {error}); encode again") from error
    if manifest.ledger.inputs != manifest.ledger.encoded + manifest.ledger.rejected:
        raise ShardError(f"{path}: its ledger does not add up ({manifest.ledger}); encode again")
    return manifest


def _shard(value: dict[str, Any], split: str) -> Shard:
    """Parse a shard's entry; its name must be a plain file name of its split, never a path, a URL or a command."""
    name = value["name"]
    match = SHARD_NAME.fullmatch(name)
    if match is None or match["split"] != split:
        raise ValueError(f"{name!r} is not the name of a {split} shard")
    return Shard(name, int(value["notes"]), int(value["tokens"]), int(value["bytes"]), str(value["sha256"]))
