"""Compare a set's folder with the request: the tasks that are done, or the setting or input that conflicts.

Reads the manifest and the records; encodes and writes nothing.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pipeline.encode.digests import AudioDigests
from pipeline.encode.plan import EarlierShard, Plan, Task, changed_since, make_plan
from pipeline.encode.ranks import Rank
from pipeline.encode.settings import BACKEND, Settings
from pipeline.notes.folder import AudioFile, AudioFolder
from shards.errors import UserError
from shards.manifest import MANIFEST, SHARD_NAME, Manifest, read_manifest
from shards.record import ShardRecord, read_shard_records
from shards.storage import is_remote, list_files

LONGEST_VALUE = 16  # characters of a value that are shown: enough of a sha256


@dataclass(frozen=True)
class SetState:
    """The files of a set, finished or not."""

    out: Path
    manifest: Manifest | None
    records: Mapping[str, ShardRecord]  # shard name -> record
    files: Mapping[str, int]  # name -> bytes

    @property
    def is_new(self) -> bool:
        return self.manifest is None and not self.records

    def is_done(self, task: Task, task_digests: Mapping[str, str]) -> bool:
        """True if the record is of this task and its tar has its full size; `verify` checks the bytes."""
        record = self.records.get(task.shard_name)
        if record is None or record.task_sha256 != task_digests.get(task.shard_name):
            return False
        return self.files.get(record.shard.name) == record.shard.bytes


def read_set_state(out: Path) -> SetState:
    """Read the manifest, if there is one, and all records."""
    files = list_files(out)
    manifest = read_manifest(out) if MANIFEST in files else None
    return SetState(out, manifest, read_shard_records(out, files), files)


def settings_for(state: SetState, requested: Settings) -> Settings:
    """The settings to go on with: those requested, with the batch that the set was begun with.

    Raises:
        UserError: the set was made with other settings; names the first field that differs.
    """
    if state.manifest is not None:
        manifest, file = state.manifest, state.out
        made_with = {"codec": manifest.codec.to_json(), "audio": manifest.audio, "plan": manifest.plan}
    elif state.records:
        record = next(iter(state.records.values()))
        made_with, file = record.settings, state.out / record.shard.record_name
    else:
        return requested
    check_backend(made_with["audio"], file)
    settings = replace(requested, batch=made_with["audio"].get("batch", requested.batch))
    for block, fields in settings.to_json().items():
        for name, value in fields.items():
            made = made_with[block].get(name)
            if made != value:
                raise UserError(
                    f"{file}: was made with {_words(block, name)} {_value(made)}, and this is {_value(value)}; "
                    "ask for the same, or give another --out"
                )
    return settings


def check_backend(audio: Mapping[str, Any], file: Path) -> None:
    """Refuse to encode as a set whose `audio` block names a backend that is no longer there."""
    if (backend := audio.get("backend", BACKEND)) != BACKEND:
        raise UserError(
            f"{file}: was encoded by {backend}, which is no longer supported, and {BACKEND} gives other codes; decode "
            "it or train on it as it is, or encode the folder under a new name"
        )


def plan_for(
    state: SetState, folder: AudioFolder, settings: Settings, extend: bool, digests: AudioDigests, rank: Rank
) -> tuple[Plan, dict[str, str]]:
    """The plan that the set's shards belong to, and its `match_records`.

    Raises:
        UserError: there is none, or the folder has new notes and `extend` is not set.
    """
    out, manifest, records = state.out, state.manifest, state.records
    plan = make_plan(folder.inputs, settings, folder.examples)
    task_digests = match_records(plan, state, settings, digests, rank)
    if manifest is None:
        _check_same_tasks(state, plan, task_digests, digests)
        return plan, task_digests
    names = {shard.name for shard in manifest.shards}
    finished = [records[name] for name in sorted(names & records.keys())]
    if {task.shard_name for task in plan.tasks} == names and all(
        task_digests.get(record.shard.name) == record.task_sha256 for record in finished
    ):
        return plan, task_digests
    plan = make_plan(folder.inputs, settings, folder.examples, [_earlier(record) for record in finished])
    task_digests = match_records(plan, state, settings, digests, rank)
    files = _planned_files(plan)
    for path in (path for record in finished for path in _changed(record, files, digests)):
        raise changed_since(path, "has changed")
    new = sum(len(task.notes) for task in plan.tasks if task.shard_name not in names)
    if new and not extend:
        raise UserError(
            f"{out}: is finished, and {folder.root} has {new} notes that are not in it; "
            "add them with --extend, or give another --out"
        )
    _check_same_tasks(state, plan, task_digests, digests)
    return plan, task_digests


def match_records(
    plan: Plan,
    state: SetState,
    settings: Settings,
    digests: AudioDigests,
    rank: Rank,
    task_digests: Mapping[str, str] | None = None,
) -> dict[str, str]:
    """Digests of the tasks that have a record of the same notes: shard name -> sha256.

    Audio is hashed where its digest is not known; under a URL only that of the rank's own tasks: for the tasks of other
    ranks, digests that are not known are taken from the records. `task_digests`: those that are computed already.
    """
    result = dict(task_digests or {})
    own = {task.shard_name for task in (rank.tasks(plan.tasks) if is_remote(digests.root) else plan.tasks)}
    matching = [
        (task, record)
        for task in plan.tasks
        if task.shard_name not in result
        and (record := state.records.get(task.shard_name)) is not None
        and record.inputs.keys() == {file.display_path for file in task.files}
    ]
    digests.hash_files(file for task, _ in matching if task.shard_name in own for file in task.files)
    for task, record in matching:
        result[task.shard_name] = task.digest(settings, digests.of(task.files, record.inputs))
    return result


def _check_same_tasks(state: SetState, plan: Plan, task_digests: Mapping[str, str], digests: AudioDigests) -> None:
    """Refuse to go on with shards that today's inputs would not give."""
    files = _planned_files(plan)
    for record in state.records.values():
        if task_digests.get(record.shard.name) == record.task_sha256:
            continue
        changed = _changed(record, files, digests)
        fact = f"{changed[0]} is gone or has changed" if changed else "files were added or labels have changed"
        raise UserError(
            f"{state.out}: is unfinished and its inputs are not what they were ({fact}); restore them and run again, "
            "or give another --out"
        )


def _planned_files(plan: Plan) -> dict[str, AudioFile]:
    return {file.display_path: file for task in plan.tasks for file in task.files}


def _changed(record: ShardRecord, files: Mapping[str, AudioFile], digests: AudioDigests) -> list[str]:
    """The record's inputs that are not in `files` any more, or whose digest is known to be another."""
    return [
        path
        for path, digest in record.inputs.items()
        if path not in files or digests.get(files[path]) not in (None, digest)
    ]


def _earlier(record: ShardRecord) -> EarlierShard:
    match = SHARD_NAME.fullmatch(record.shard.name)
    assert match is not None, "read_shard_records takes no others"
    return EarlierShard(match["split"], int(match["index"]), tuple(record.inputs))


def _words(block: str, name: str) -> str:
    words = name.replace("_", " ")
    return f"codec {words}" if block == "codec" else words


def _value(value: Any) -> str:
    return "full" if value is None else f"{value:g}" if isinstance(value, float) else str(value)[:LONGEST_VALUE]
