"""A record: the proof beside a tar that its task is done, and of what it was made.

`train-00000.json` is written after `train-00000.tar` is in place. It holds the tar's facts, what its task rejected, and
all that is needed to say whether a task of today's plan is the same one; who says so is `resume`.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shards.errors import ShardError
from shards.files import write_json
from shards.manifest import SHARD_NAME, Shard
from shards.note import json_object
from shards.storage import read_bytes


@dataclass(frozen=True)
class Rejection:
    """An input that gets no codes, and why: one line of `rejected.jsonl`."""

    file: str
    reason: str  # one of a few words, to count by
    detail: str


@dataclass(frozen=True)
class ShardRecord:
    shard: Shard
    rejected: tuple[Rejection, ...]
    labels: tuple[str, ...]  # the label names that its notes have
    inputs: dict[str, str]  # AudioFile.display_path -> digest, of all notes of the task in their order
    settings: dict[str, dict[str, Any]]  # Settings.to_json
    task_sha256: str


def write_shard_record(folder: Path, record: ShardRecord, writer: str = "") -> None:
    """Declare the record's task done. `writer`: as in `atomic_write`."""
    value = {**vars(record), **vars(record.shard), "rejected": [vars(rejection) for rejection in record.rejected]}
    del value["shard"]
    write_json(folder / record.shard.record_name, value, writer)


def read_shard_record(path: Path) -> ShardRecord:
    """Undo `write_shard_record`.

    Raises:
        ShardError: damaged.
    """
    value = json_object(read_bytes(path), str(path))
    try:
        return ShardRecord(
            shard=Shard(*(value[name] for name in ("name", "notes", "tokens", "bytes", "sha256"))),
            rejected=tuple(Rejection(**rejection) for rejection in value["rejected"]),
            labels=tuple(value["labels"]),
            inputs=dict(value["inputs"]),
            settings=dict(value["settings"]),
            task_sha256=str(value["task_sha256"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ShardError(f"{path}: is damaged ({type(error).__name__}: {error}); delete it and run again") from error


def read_shard_records(folder: Path, names: Iterable[str]) -> dict[str, ShardRecord]:
    """Those of the files `names` in `folder` that are records: shard name -> record."""
    records = {}
    for name in sorted(names):
        shard = name.removesuffix(".json") + ".tar"
        if name.endswith(".json") and SHARD_NAME.fullmatch(shard):
            records[shard] = read_shard_record(folder / name)
    return records
