"""Compare a set's folder with the request: the tasks that are done, or the setting or input that conflicts.

Reads the manifest and the records; encodes and writes nothing.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pipeline.encode.digests import AudioDigests
from pipeline.encode.plan import EarlierShard, Plan, changed_since, make_plan, match_inputs
from pipeline.encode.ranks import Rank
from pipeline.encode.settings import EARLIER, RULES, Settings, blocks_of, check_backend
from pipeline.notes.folder import AudioFolder
from pipeline.notes.metadata import Metadata, hash_rows
from shards.console import counted, quote
from shards.errors import UserError
from shards.manifest import MANIFEST, SHARD_NAME, Manifest, read_manifest
from shards.note import upgrade_codec
from shards.record import ShardRecord, read_shard_records
from shards.storage import list_files

LONGEST_VALUE = 16  # characters of a value that are shown: enough of a sha256


@dataclass(frozen=True)
class SetState:
    """The files of a set, finished or not."""

    out: Path
    manifest: Manifest | None
    records: Mapping[str, ShardRecord]  # shard name -> record
    files: Mapping[str, int]  # name -> bytes

    def undone(self, plan: Plan, done: Mapping[str, ShardRecord]) -> set[str]:
        """Shards without a record in `done`, or whose tar has not its full size; `verify` checks the bytes."""
        names = {task.shard_name for task in plan.tasks}
        return {name for name in names if name not in done or not self.has_tar(done[name])}

    def has_tar(self, record: ShardRecord) -> bool:
        """True if the record's tar is there with its full size. A shard without notes has no tar."""
        return self.files.get(record.shard.name, 0) == record.shard.bytes

    def finished(self) -> list[ShardRecord]:
        """The records of the finished set, in the order of their names: those of its shards, and of empty ones."""
        names = {shard.name for shard in self.manifest.shards} if self.manifest is not None else set()
        return [record for name, record in sorted(self.records.items()) if name in names or not record.shard.notes]


def read_set_state(out: Path, known: Mapping[str, ShardRecord] | None = None, has_counts: bool = True) -> SetState:
    """Read the manifest, if there is one, and all records. `known`, `has_counts`: as `read_shard_records`."""
    files = list_files(out)
    manifest = read_manifest(out) if MANIFEST in files else None
    return SetState(out, manifest, read_shard_records(out, files, known, has_counts), files)


def settings_for(state: SetState, requested: Settings, has_batch: bool = False) -> Settings:
    """The settings to go on with: those requested, with the batch, the decoders and the rules of the set.

    `has_batch`: the batch was requested too, so it is compared as other settings are.

    Raises:
        UserError: the set was made with other settings; names the first field that differs. Or it is unfinished and
            was begun under other rules.
    """
    if state.manifest is not None:
        made_with, file = blocks_of(state.manifest), state.out
    elif state.records:
        record = next(iter(state.records.values()))
        made_with = {**record.settings, "codec": upgrade_codec(record.settings["codec"])}
        file = state.out / record.shard.record_name
    else:
        return requested
    check_backend(made_with["audio"], file)
    audio = {**EARLIER, "batch": requested.batch, **made_with["audio"]}
    taken_over = ("ffmpeg", "rules") if has_batch else ("batch", "ffmpeg", "rules")
    settings = replace(requested, **{name: audio[name] for name in taken_over})
    if settings.rules != RULES and state.manifest is None:
        raise UserError(
            f"{file}: is part of an unfinished set that was begun under rules {settings.rules} of reading audio, and "
            f"this version has rules {RULES}; finish it with the version that began it, or give another --out"
        )
    blocks = settings.to_json()
    blocks["audio"] = {**EARLIER, **blocks["audio"]}  # a field that is not written is compared too
    for block, fields in blocks.items():
        for name, value in fields.items():
            made = audio.get(name) if block == "audio" else made_with[block].get(name)
            if made != value:
                raise UserError(
                    f"{file}: was made with {_words(block, name)} {_value(name, made)}, and this is "
                    f"{_value(name, value)}; ask for the same, or give another --out"
                )
    return settings


def metadata_for(state: SetState, folder: AudioFolder, requested: Metadata | None) -> Metadata | None:
    """The labels that a set's notes get beside those of their names: those requested, else NSynth's own.

    A set that was begun without labels stays without NSynth's, as all sets of earlier versions are.
    """
    begun_without = state.records and all(record.labels_sha256 is None for record in state.records.values())
    return requested or (None if begun_without else folder.metadata())


def relabel_command(out: Path, metadata: Metadata) -> str:
    """The command that makes another set of a finished one, with these labels."""
    return f"python -m pipeline relabel {quote(out)} {metadata.options} --out {quote(out)}-relabelled"


def unused_labels(out: Path, folder: AudioFolder, metadata: Metadata | None) -> list[str]:
    """Report NSynth's own labels, if the set goes without them."""
    own = folder.metadata() if metadata is None else None
    if own is None:
        return []
    return [
        f"{out}: its notes do not have the labels in {own.source}; for a set that does: {relabel_command(out, own)}"
    ]


def plan_for(
    state: SetState,
    folder: AudioFolder,
    metadata: Metadata | None,
    settings: Settings,
    extend: bool,
    digests: AudioDigests,
    rank: Rank,
) -> tuple[Plan, dict[str, ShardRecord]]:
    """The plan that the set's shards belong to, and the records of its tasks (`match_records`).

    Raises:
        UserError: there is none, its notes have other labels, or the folder has new notes and `extend` is not set.
    """
    plan = make_plan(folder.inputs, settings, folder.examples, metadata=metadata)
    done = match_records(plan, state, settings, digests, rank)
    if state.manifest is not None:
        finished = state.finished()
        names = {record.shard.name for record in finished}
        if {task.shard_name for task in plan.tasks} == names and all(record.shard.name in done for record in finished):
            return plan, done
        earlier = [_earlier(record) for record in finished]
        plan = make_plan(folder.inputs, settings, folder.examples, earlier, metadata)
        done = match_records(plan, state, settings, digests, rank)
        if changed := _changed(finished, plan, digests):
            raise changed_since(changed, "has changed")
        if any(
            task.shard_name in names and task.labels_sha256 != state.records[task.shard_name].labels_sha256
            for task in plan.tasks
        ):
            raise other_labels(state.out, metadata)
        new = sum(len(task.notes) for task in plan.tasks if task.shard_name not in names)
        if new and not extend:
            raise UserError(
                f"{state.out}: is finished, and {folder.root} has {counted(new, plan.unit)} not in it; "
                "add them with --extend, or give another --out"
            )
    if others := [record for name, record in state.records.items() if name not in done]:
        changed = _changed(others[:1], plan, digests)
        fact = f"{changed} is gone or has changed" if changed else "files were added or labels have changed"
        raise UserError(
            f"{state.out}: is unfinished and its inputs are not what they were ({fact}); restore them and run again, "
            "or give another --out"
        )
    return plan, done


def other_labels(out: Path, metadata: Metadata | None) -> UserError:
    """Error: a finished set differs from what is requested in labels alone."""
    if metadata is None:
        return UserError(f"{out}: was made with a file of labels; name it with --labels, or give another --out")
    forgotten = "" if metadata.is_requested else ", or name the file it was made with in --labels"
    return UserError(
        f"{out}: differs in labels alone, {metadata.source} has others; for a set with them, without encoding again: "
        f"{relabel_command(out, metadata)}{forgotten}"
    )


def check_earlier_set(state: SetState, folder: AudioFolder, metadata: Metadata | None, digests: AudioDigests) -> None:
    """Check that a set that was finished under earlier rules is whole, and made of the files that the folder has.

    Raises:
        UserError: it is not; today's rules cannot go on with it.
    """
    assert state.manifest is not None, "an unfinished set has been refused"
    files = {file.display_path: file for file in folder.inputs}
    fact = ""
    if missing := [shard.name for shard in state.manifest.shards if state.files.get(shard.name) != shard.bytes]:
        fact = f"its {missing[0]} is missing or cut"
    for path, digest in (item for record in state.finished() for item in record.inputs.items()):
        if path not in files or digests.differs(files[path], digest):
            fact = f"{path} is gone or has changed"
    if len(files) > state.manifest.ledger.inputs:
        fact = f"{folder.root} has {counted(len(files) - state.manifest.ledger.inputs, 'more file')}"
    if fact:
        raise UserError(
            f"{state.out}: was made under earlier rules of reading audio, which cannot be gone on with, and {fact}; "
            "restore it, or encode the folder under a new name"
        )
    inputs = [path for record in state.finished() for path in record.inputs]
    rows = zip(inputs, match_inputs(inputs, metadata).rows, strict=True) if metadata else ()
    if (hash_rows(rows) if metadata else None) != state.manifest.labels_sha256:
        raise other_labels(state.out, metadata)


def match_records(
    plan: Plan,
    state: SetState,
    settings: Settings,
    digests: AudioDigests,
    rank: Rank,
    done: Mapping[str, ShardRecord] | None = None,
) -> dict[str, ShardRecord]:
    """The records that today's tasks would get: shard name -> record.

    Audio of the rank's own tasks is hashed where its digest is not known; for the tasks of other ranks, digests that
    are not known (those of files under a URL) are taken from the records. `done`: those that are matched already.
    """
    done = dict(done or {})
    recorded = [
        (task, record)
        for task in plan.tasks
        if task.shard_name not in done
        and (record := state.records.get(task.shard_name)) is not None
        and record.inputs.keys() == {file.display_path for file in task.files}
    ]
    own = {task.shard_name for task in rank.tasks(plan.tasks)}
    digests.hash_files(file for task, _ in recorded if task.shard_name in own for file in task.files)
    for task, record in recorded:
        digest = task.digest(settings, digests.of(task.files, record.inputs))
        if (digest, task.labels_sha256) == (record.task_sha256, record.labels_sha256):
            done[task.shard_name] = record
    return done


def _changed(records: Iterable[ShardRecord], plan: Plan, digests: AudioDigests) -> str | None:
    """The first input of the records that is not in the plan any more, or whose digest is known to be another."""
    files = {file.display_path: file for task in plan.tasks for file in task.files}
    for path, digest in (item for record in records for item in record.inputs.items()):
        if path not in files or digests.differs(files[path], digest):
            return path
    return None


def _earlier(record: ShardRecord) -> EarlierShard:
    match = SHARD_NAME.fullmatch(record.shard.name)
    assert match is not None, "read_shard_records takes no others"
    return EarlierShard(match["split"], int(match["index"]), tuple(record.inputs))


def _words(block: str, name: str) -> str:
    words = name.replace("_", " ")
    return f"codec {words}" if block == "codec" else words


def _value(name: str, value: Any) -> str:
    if value is None:
        return "full" if name == "duration" else "none"
    return f"{value:g}" if isinstance(value, float) else str(value)[:LONGEST_VALUE]
