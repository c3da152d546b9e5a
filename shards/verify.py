"""Is this set what its manifest says? Every byte is read; every fault is found in one pass and named.

Whether the codes are what the codec would give again is not for this file: that needs the codec.
"""

from collections.abc import Iterator
from pathlib import Path

from shards.errors import ShardError
from shards.files import PART, sha256_of
from shards.manifest import SHARD_NAME, Manifest, Shard, read_manifest
from shards.note import check_tokens, json_object
from shards.reader import read_shard
from shards.storage import is_http, list_files, local_copy, read_bytes


def find_faults(folder: Path) -> Iterator[str]:
    """Yield one line for each fault of the set in `folder`; nothing if it is whole.

    Raises:
        ShardError: there is no manifest to hold the set against.
    """
    manifest = read_manifest(folder)
    keys: dict[str, str] = {}  # key -> its shard
    for shard in manifest.shards:
        yield from _shard_faults(folder, shard, manifest, keys)
        yield from _record_faults(folder, shard)
    expected = {shard.name for shard in manifest.shards}
    for name in () if is_http(folder) else sorted(list_files(folder)):
        path = folder / name
        if name.endswith(PART):
            yield f"{path}: left by an interrupted run; delete it"
        elif name.endswith(".tar") and name not in expected:
            yield f"{path}: is not in the manifest; delete it or encode into a new name"
        elif (
            SHARD_NAME.fullmatch(name.removesuffix(".json") + ".tar")
            and name.removesuffix(".json") + ".tar" not in expected
        ):
            yield f"{path}: is the record of a shard that is not in the manifest; delete it"
    counted = sum(shard.notes for shard in manifest.shards)
    if counted != manifest.ledger.encoded:
        yield f"{folder}: the shards hold {counted} notes, but the ledger says {manifest.ledger.encoded} were encoded"


def _shard_faults(folder: Path, shard: Shard, manifest: Manifest, keys: dict[str, str]) -> Iterator[str]:
    path = folder / shard.name
    try:
        with local_copy(path) as copy:
            size, sha256 = copy.stat().st_size, sha256_of(copy)
    except FileNotFoundError:
        yield f"{path}: missing; encode this set again, finished shards are kept"
        return
    if size != shard.bytes:
        yield f"{path}: {size} bytes, but the manifest says {shard.bytes}; delete it and encode this set again"
        return
    if sha256 != shard.sha256:
        yield f"{path}: its sha256 is not the manifest's, so its bytes changed; delete it and encode this set again"
        return
    notes = tokens = 0
    try:
        for note in read_shard(path):
            check_tokens(note.tokens, manifest.codec, f"{path}: {note.key}")
            notes += 1
            tokens += len(note.tokens)
            if note.key in keys:
                yield f"{path}: {note.key} is in {keys[note.key]} too"
            keys[note.key] = shard.name
    except ShardError as error:
        yield error.message
        return
    if (notes, tokens) != (shard.notes, shard.tokens):
        yield (
            f"{path}: {notes} notes of {tokens} tokens, but the manifest says {shard.notes} of {shard.tokens}; "
            "delete it and encode this set again"
        )


def _record_faults(folder: Path, shard: Shard) -> Iterator[str]:
    path = folder / shard.record_name
    try:
        record = json_object(read_bytes(path), str(path))
    except FileNotFoundError:
        yield f"{path}: missing; encode this set again"
        return
    except ShardError as error:
        yield error.message
        return
    for name in ("notes", "tokens", "bytes", "sha256"):
        if record.get(name) != getattr(shard, name):
            yield f"{path}: {name} is {record.get(name)!r}, but the manifest says {getattr(shard, name)!r}"
