"""Write a finished set anew with other labels and the same codes: no audio is read, and no codec is loaded.

The new set is what encoding the audio with these labels would make of it, so `encode` finds it finished.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pipeline.encode.plan import match_inputs, names_of_rows
from pipeline.encode.ranks import lock_set
from pipeline.encode.state import SetState, read_set_state
from pipeline.notes.key import parse_path_name
from pipeline.notes.metadata import MatchedRows, hash_rows, read_metadata
from pipeline.notes.nsynth import Labels, contradiction
from pipeline.progress import Progress
from shards.console import counted, quote
from shards.errors import ShardError, UserError
from shards.files import atomic_write, sha256_of
from shards.manifest import REJECTED, Manifest, read_manifest, write_manifest
from shards.note import Codec, Note
from shards.reader import NoteFile
from shards.record import ShardRecord, count_notes, read_rejections, write_shard_record
from shards.storage import list_files, local_copy, read_bytes, text_path
from shards.writer import write_shard


@dataclass(frozen=True)
class Relabelled:
    """The new set."""

    folder: Path
    out: Path
    manifest: Manifest
    matched: MatchedRows
    is_new: bool  # False: it was there

    def lines(self) -> Iterator[str]:
        """Report to print; the last line says the next command."""
        yield from self.matched.lines()
        how = f"the codes of {self.folder}" if self.is_new else "finished before: nothing to do"
        notes = counted(self.manifest.ledger.notes, "note")
        yield f"{self.out}: {notes}, {how}. Labels: {', '.join(self.manifest.labels)}."
        yield f"Next: python -m shards inspect {quote(self.out)}"


def relabel_set(folder: Path, labels: Sequence[Path], out: Path, progress: Progress) -> Relabelled:
    """Write `out`, a set of the notes in `folder`, with labels of their names and of metadata files.

    Raises:
        UserError: no finished set of `pipeline encode`, files of labels that cannot be used, labels that contradict a
            name, or another set under `out`; nothing is written.
    """
    metadata = read_metadata(labels)
    if metadata is None:
        raise UserError("relabel: name a file of labels, with --labels FILE")
    state = read_set_state(folder)
    manifest = state.manifest or read_manifest(folder)  # raises an error, as there is none
    _check_records(state, manifest)
    records = state.finished()
    inputs = [path for record in records for path in record.inputs]
    files = [*dict.fromkeys([*inputs, *(rejection.file for rejection in read_rejections(folder))])]
    matched = match_inputs(files, metadata)
    rows = dict(zip(files[: len(inputs)], matched.rows, strict=False))
    _check_names(rows, metadata.source)
    new = replace(manifest, labels_sha256=hash_rows(rows.items()))
    with lock_set(out, shared=False):
        if is_new := not _is_finished(out, new, records):
            progress.start(manifest.ledger.notes, 0)
            before = list_files(out)
            try:
                new = _write_set(state, new, records, rows, out, progress)
            except BaseException:
                for name in list_files(out).keys() - before.keys():
                    (out / name).unlink(missing_ok=True)
                raise
    return Relabelled(folder, out, new if is_new else read_manifest(out), matched, is_new)


def _check_records(state: SetState, manifest: Manifest) -> None:
    """Refuse a set whose records are not those of its tars, or do not say the files that it was made of."""
    are_segments = manifest.audio.get("segment") is not None  # several notes are of one file
    for shard in manifest.shards:
        record = state.records.get(shard.name)
        if record is None or record.shard != shard or len(record.inputs) < (1 if are_segments else shard.notes):
            raise ShardError(
                f"{state.out / shard.record_name}: is missing, or does not say what {shard.name} was made of; encode "
                "the folder under a new name, with --labels"
            )


def _check_names(rows: Mapping[str, Labels], source: str) -> None:
    """Refuse labels that contradict the names of notes."""
    names = ((path, _name_labels(path), row) for path, row in rows.items())
    faults = [
        (path, fact) for path, name, row in names if "pitch" in name and (fact := contradiction(name, row, source))
    ]
    if faults:
        path, fact = faults[0]
        raise UserError(
            f"{path}: {fact} ({counted(len(faults), 'such note')}); repair the file, or encode the folder anew with it"
        )


def _is_finished(out: Path, new: Manifest, records: Sequence[ShardRecord]) -> bool:
    """True if `out` is this set already. Raises UserError if it is another."""
    state = read_set_state(out)
    if (other := state.manifest) is not None:
        if (other.fingerprint, other.labels_sha256) != (new.fingerprint, new.labels_sha256):
            raise UserError(f"{out}: is another set; give another --out")
        return True
    tasks = {record.shard.name: record.task_sha256 for record in records}
    if any(tasks.get(name) != record.task_sha256 for name, record in state.records.items()):
        raise UserError(f"{out}: is part of another set; give another --out")
    return False


def _write_set(
    state: SetState,
    manifest: Manifest,
    records: Sequence[ShardRecord],
    rows: Mapping[str, Labels],
    out: Path,
    progress: Progress,
) -> Manifest:
    """Write the tars with their records, then the rejected files, and last the manifest."""
    new = {}
    for record in records:
        shard = _write_shard(state.out, record, rows, out, manifest.codec)
        write_shard_record(out, shard)
        new[record.shard.name] = shard
        progress.step(record.shard.notes, record.shard.tokens / manifest.codec.tokens_per_second)
    if REJECTED in state.files:
        with atomic_write(out / REJECTED) as file:
            file.write(read_bytes(state.out / REJECTED))
    splits = {split: tuple(new[shard.name].shard for shard in shards) for split, shards in manifest.splits.items()}
    labels = tuple(sorted({label for record in new.values() for label in record.labels}))
    manifest = replace(manifest, splits=splits, labels=labels)
    write_manifest(out, manifest)
    return manifest


def _write_shard(folder: Path, record: ShardRecord, rows: Mapping[str, Labels], out: Path, codec: Codec) -> ShardRecord:
    """Write the tar of a record with other labels; return its new record."""
    shard = record.shard
    statistics: dict[str, Any] = {}
    notes: list[Note] = []
    if shard.notes:
        path = folder / shard.name
        paths = {_name_labels(path)["note_str"]: path for path in record.inputs}
        with local_copy(path) as copy:
            if sha256_of(copy) != shard.sha256:  # else damaged codes would get a digest of their own
                raise ShardError(f"{path}: is damaged, its sha256 is not the manifest's; encode this set again")
            notes = [_relabel(note, record, rows, paths, path) for note in NoteFile(copy, shard.notes, path)]
        shard = write_shard(out / shard.name, notes)
        statistics = count_notes(notes, codec)
    inputs = {path: rows[path] for path in record.inputs}
    return replace(
        record,
        shard=shard,
        labels=tuple(sorted({label for note in notes for label in note.labels})),
        **statistics,
        labels_sha256=hash_rows(inputs.items()),
        row_labels=names_of_rows((_name_labels(path), row) for path, row in inputs.items()),
    )


def _relabel(note: Note, record: ShardRecord, rows: Mapping[str, Labels], paths: Mapping[str, str], tar: Path) -> Note:
    """The note with the labels of its name and its row, and those that no earlier row gave. `paths`: by `note_str`."""
    name = str(note.labels.get("note_str"))
    if name not in paths:
        raise ShardError(f"{tar}: {note.key} is of no file that the record names; encode this set again")
    earlier = {label: value for label, value in note.labels.items() if label not in record.row_labels}
    path = paths[name]
    return replace(note, labels={**earlier, **rows[path], **_name_labels(path), "note_str": name})


def _name_labels(path: str) -> Labels:
    return parse_path_name(str(text_path(path))).labels
