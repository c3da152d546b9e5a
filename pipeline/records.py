"""A record: the proof beside a tar that its task is done, and of what it was made.

`train-00000.json` is written after `train-00000.tar` is in place. It holds the tar's facts, what its task rejected, and
all that is needed to say whether a task of today's plan is the same one. Encodes nothing.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.plan import Earlier, Plan, Rejection, Task
from pipeline.settings import Settings
from shards.errors import ShardError, UserError
from shards.files import write_json
from shards.layout import json_object
from shards.manifest import SHARD_NAME, Shard

LONGEST_VALUE = 16  # characters of a value that are shown: enough of a sha256
DECIDES_NOTHING = ("source",)  # fields of the manifest's audio block that say only where things came from


@dataclass(frozen=True)
class Record:
    shard: Shard
    rejected: tuple[Rejection, ...]
    labels: tuple[str, ...]  # the label names that its notes have
    inputs: dict[str, str]  # Input.shown -> digest, of all notes of the task in their order
    settings: dict[str, dict[str, Any]]  # Settings.to_json
    task_sha256: str


def write_record(folder: Path, record: Record) -> None:
    """Declare the record's task done."""
    value = {**vars(record), **vars(record.shard), "rejected": [vars(rejection) for rejection in record.rejected]}
    del value["shard"]
    write_json(folder / record.shard.record_name, value)


def read_record(path: Path) -> Record:
    """Undo `write_record`.

    Raises:
        ShardError: damaged.
    """
    value = json_object(path.read_bytes(), str(path))
    try:
        return Record(
            shard=Shard(*(value[name] for name in ("name", "notes", "tokens", "bytes", "sha256"))),
            rejected=tuple(Rejection(**rejection) for rejection in value["rejected"]),
            labels=tuple(value["labels"]),
            inputs=dict(value["inputs"]),
            settings=dict(value["settings"]),
            task_sha256=str(value["task_sha256"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ShardError(f"{path}: is damaged ({type(error).__name__}: {error}); delete it and run again") from error


def read_records(folder: Path) -> dict[str, Record]:
    """All records in `folder`: shard name -> record."""
    records = {}
    for path in sorted(folder.glob("*-*.json")):
        name = path.with_suffix(".tar").name
        if SHARD_NAME.fullmatch(name):
            records[name] = read_record(path)
    return records


def is_done(folder: Path, task: Task, settings: Settings, record: Record | None) -> bool:
    """Whether this very task's tar is in place. Its size is looked at, its bytes are for `verify`."""
    if record is None or record.task_sha256 != task.digest(settings):
        return False
    tar = folder / record.shard.name
    return tar.is_file() and tar.stat().st_size == record.shard.bytes


def check_same_settings(where: Path, made_with: dict[str, dict[str, Any]], settings: Settings) -> None:
    """Refuse to mix two ways of making codes in one set.

    Raises:
        UserError: names the first field that differs.
    """
    wanted = settings.to_json()
    for block, fields in wanted.items():
        for name, value in fields.items():
            made = made_with.get(block, {}).get(name)
            if name not in DECIDES_NOTHING and made != value:
                raise UserError(
                    f"{where}: was made with {_words(block, name)} {_value(made)}, and this is {_value(value)}; "
                    "ask for the same, or give another --out"
                )


def check_same_tasks(where: Path, plan: Plan, settings: Settings, records: Iterable[Record]) -> None:
    """Refuse to go on with shards that today's inputs would not give.

    Raises:
        UserError: the inputs have changed.
    """
    digests = {task.shard_name: task.digest(settings) for task in plan.tasks}
    for record in records:
        if digests.get(record.shard.name) == record.task_sha256:
            continue
        now = {note.input.shown: note.input.digest for task in plan.tasks for note in task.notes}
        changed = [name for name, digest in record.inputs.items() if now.get(name) != digest]
        fact = f"{changed[0]} is gone or has changed" if changed else "files were added or labels have changed"
        raise UserError(
            f"{where}: is unfinished and its inputs are not what they were ({fact}); restore them and run again, "
            "or give another --out"
        )


def earlier_of(records: Sequence[Record]) -> list[Earlier]:
    """The shards of a finished set, as `make_plan` wants them."""
    earlier = []
    for record in records:
        match = SHARD_NAME.fullmatch(record.shard.name)
        assert match is not None, "read_records takes no others"
        earlier.append(Earlier(match["split"], int(match["index"]), record.inputs))
    return earlier


def _words(block: str, name: str) -> str:
    words = name.replace("_", " ")
    return f"codec {words}" if block == "codec" else words


def _value(value: object) -> str:
    return "full" if value is None else f"{value:g}" if isinstance(value, float) else str(value)[:LONGEST_VALUE]
