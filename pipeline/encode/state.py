"""What is in a set's folder already -> what is still to do, or why it is another set.

Reads the manifest and the records; encodes and writes nothing.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pipeline.encode.plan import Earlier, Plan, Task, make_plan
from pipeline.encode.settings import Settings
from pipeline.notes.folder import AudioFolder
from shards.errors import UserError
from shards.manifest import MANIFEST, SHARD_NAME, Manifest, read_manifest
from shards.record import ShardRecord, read_shard_records
from shards.storage import list_files

LONGEST_VALUE = 16  # characters of a value that are shown: enough of a sha256


@dataclass(frozen=True)
class Present:
    """What is there."""

    out: Path
    manifest: Manifest | None
    records: Mapping[str, ShardRecord]  # shard name -> record
    files: Mapping[str, int]  # name -> bytes

    def is_done(self, task: Task, settings: Settings) -> bool:
        """Whether this very task's tar is in place. Its size is looked at; its bytes are for `verify`."""
        record = self.records.get(task.shard_name)
        if record is None or record.task_sha256 != task.digest(settings):
            return False
        return self.files.get(record.shard.name) == record.shard.bytes


def look(out: Path) -> Present:
    """Read the manifest, if there is one, and all records."""
    files = list_files(out)
    manifest = read_manifest(out) if MANIFEST in files else None
    return Present(out, manifest, read_shard_records(out, files), files)


def settings_for(present: Present, wanted: Settings) -> Settings:
    """The settings to go on with: those wanted, with the batch of a set that was begun on another device.

    Raises:
        UserError: what is there was made with other settings; names the first field that differs.
    """
    if present.manifest is not None:
        manifest, where = present.manifest, present.out
        made_with = {"codec": manifest.codec.to_json(), "audio": manifest.audio, "plan": manifest.plan}
    elif present.records:
        record = next(iter(present.records.values()))
        made_with, where = record.settings, present.out / record.shard.record_name
    else:
        return wanted
    settings = replace(wanted, batch=made_with["audio"].get("batch", wanted.batch))
    for block, fields in settings.to_json().items():
        for name, value in fields.items():
            made = made_with[block].get(name)
            if made != value:
                raise UserError(
                    f"{where}: was made with {_words(block, name)} {_value(made)}, and this is {_value(value)}; "
                    "ask for the same, or give another --out"
                )
    return settings


def plan_for(present: Present, folder: AudioFolder, settings: Settings, extend: bool) -> Plan:
    """The plan that what is there belongs to.

    Raises:
        UserError: there is none, or it has new notes that nobody asked to add.
    """
    out, manifest, records = present.out, present.manifest, present.records
    plan = make_plan(folder.inputs, settings, folder.examples)
    if manifest is None:
        _check_same_tasks(out, plan, settings, records.values())
        return plan
    names = {shard.name for shard in manifest.shards}
    listed = [records[name] for name in sorted(names & records.keys())]
    digests = {task.shard_name: task.digest(settings) for task in plan.tasks}
    if digests.keys() == names and all(digests[record.shard.name] == record.task_sha256 for record in listed):
        return plan
    plan = make_plan(folder.inputs, settings, folder.examples, [_earlier(record) for record in listed])
    new = sum(len(task.notes) for task in plan.tasks if task.shard_name not in names)
    if new and not extend:
        raise UserError(
            f"{out}: is finished, and {folder.root} has {new} notes that are not in it; "
            "add them with --extend, or give another --out"
        )
    _check_same_tasks(out, plan, settings, records.values())
    return plan


def _check_same_tasks(out: Path, plan: Plan, settings: Settings, records: Iterable[ShardRecord]) -> None:
    """Refuse to go on with shards that today's inputs would not give."""
    digests = {task.shard_name: task.digest(settings) for task in plan.tasks}
    for record in records:
        if digests.get(record.shard.name) == record.task_sha256:
            continue
        now = {note.input.display_path: note.input.digest for task in plan.tasks for note in task.notes}
        changed = [name for name, digest in record.inputs.items() if now.get(name) != digest]
        fact = f"{changed[0]} is gone or has changed" if changed else "files were added or labels have changed"
        raise UserError(
            f"{out}: is unfinished and its inputs are not what they were ({fact}); restore them and run again, "
            "or give another --out"
        )


def _earlier(record: ShardRecord) -> Earlier:
    match = SHARD_NAME.fullmatch(record.shard.name)
    assert match is not None, "read_shard_records takes no others"
    return Earlier(match["split"], int(match["index"]), record.inputs)


def _words(block: str, name: str) -> str:
    words = name.replace("_", " ")
    return f"codec {words}" if block == "codec" else words


def _value(value: Any) -> str:
    return "full" if value is None else f"{value:g}" if isinstance(value, float) else str(value)[:LONGEST_VALUE]
