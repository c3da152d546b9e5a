"""Comparison of a set with its manifest: every byte is read once, and every fault is named.

Knows nothing of the codec: whether it would make the same codes again is the part of `pipeline.encode.reencode`.
"""

import json
from collections.abc import Iterator
from pathlib import Path

from shards.console import counted
from shards.errors import ShardError
from shards.files import PART, sha256_of
from shards.manifest import Manifest, Shard, read_manifest
from shards.note import Codec, Note, check_tokens
from shards.reader import NoteFile
from shards.record import count_labels, count_lengths, read_shard_record, shard_of_record, with_length
from shards.storage import is_http, list_files, local_copy

CURE = "delete it and encode this set again"


def find_faults(folder: Path) -> Iterator[str]:
    """Yield one line for each fault of the set in `folder`; nothing if it is whole.

    Raises:
        ShardError: there is no manifest to compare with.
    """
    manifest = read_manifest(folder)
    keys: dict[str, str] = {}  # key -> its shard
    for shard in manifest.shards:
        notes: list[Note] = []
        yield from _shard_faults(folder, shard, manifest, keys, notes)
        yield from _record_faults(folder, shard, manifest.codec, notes)
    expected = {shard.name for shard in manifest.shards}
    for name in () if is_http(folder) else sorted(list_files(folder)):
        path = folder / name
        if name.endswith(PART):
            yield f"{path}: left by an interrupted run; delete it"
        elif name.endswith(".tar") and name not in expected:
            yield f"{path}: is not in the manifest; delete it or encode into a new name"
        elif (described := shard_of_record(name)) and described not in expected and not _is_of_no_notes(path):
            yield f"{path}: is the record of a shard that is not in the manifest; delete it"
    total = sum(shard.notes for shard in manifest.shards)
    if total != manifest.ledger.notes:
        yield (
            f"{folder}: the shards hold {counted(total, 'note')}, but the ledger says {manifest.ledger.notes} were "
            "encoded"
        )


def _is_of_no_notes(path: Path) -> bool:
    """True for the record of a task whose inputs were all rejected: it has no tar."""
    try:
        return read_shard_record(path).shard.notes == 0
    except ShardError:
        return False


def _shard_faults(
    folder: Path, shard: Shard, manifest: Manifest, keys: dict[str, str], notes: list[Note]
) -> Iterator[str]:
    """Faults of a tar; adds its notes to `notes`, and their keys to `keys`."""
    path = folder / shard.name
    try:
        with local_copy(path) as copy:
            size = copy.stat().st_size
            if size != shard.bytes:
                yield f"{path}: {size} bytes, but the manifest says {shard.bytes}; {CURE}"
                return
            if sha256_of(copy) != shard.sha256:
                yield f"{path}: its sha256 is not the manifest's, so its bytes changed; {CURE}"
                return
            for note in NoteFile(copy, display_path=path, check_headers=True):
                check_tokens(note.tokens, manifest.codec, f"{path}: {note.key}")
                notes.append(note)
                if note.key in keys:
                    yield f"{path}: {note.key} is in {keys[note.key]} too"
                keys[note.key] = shard.name
    except FileNotFoundError:
        yield f"{path}: missing; encode this set again, its other shards stay"
        return
    except ShardError as error:
        yield error.message
        return
    tokens = sum(len(note.tokens) for note in notes)
    if (len(notes), tokens) != (shard.notes, shard.tokens):
        yield (
            f"{path}: {counted(len(notes), 'note')} of {tokens} tokens, but the manifest says {shard.notes} of "
            f"{shard.tokens}; {CURE}"
        )


def _record_faults(folder: Path, shard: Shard, codec: Codec, notes: list[Note]) -> Iterator[str]:
    """Faults of a record; its statistics are compared where all notes of the tar could be read."""
    path = folder / shard.record_name
    try:
        record = read_shard_record(path)
    except FileNotFoundError:
        yield f"{path}: missing; encode this set again"
        return
    except ShardError as error:
        yield error.message
        return
    for name, value in vars(record.shard).items():
        if value != getattr(shard, name):
            yield f"{path}: {name} is {value!r}, but the manifest says {getattr(shard, name)!r}"
    if len(notes) != shard.notes:
        return
    faults = []  # of statistics, which records of earlier versions lack
    faults += [name for name, value in count_lengths(notes).items() if getattr(record, name) not in (None, value)]
    counts = record.label_counts
    measured = (with_length(note, codec) for note in notes) if record.shortest is not None else notes
    if counts and json.dumps(counts.to_json()) != json.dumps(count_labels(measured, counts.names).to_json()):
        faults.append("label_counts")
    for name in faults:
        yield f"{path}: {name} is not that of the shard's notes; delete shard and record and encode this set again"
