"""Plan of a shard set: a pure function from the listed audio files and the settings to tasks, one for each shard.

Needs names, sizes and labels, not contents: opens no file. Same files and settings, in any order, on any machine: same
tasks. Knows nothing of what is in the set's folder already.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pipeline.encode.settings import Settings
from pipeline.notes.folder import AudioFile
from pipeline.notes.key import SUFFIX, NoteName, parse_path_name
from pipeline.notes.metadata import MatchedRows, Metadata, hash_rows
from pipeline.notes.nsynth import EXAMPLES, Labels, contradiction, split_folder
from shards.console import counted
from shards.errors import UserError
from shards.record import Rejection
from shards.storage import path_text, text_path

JSON = json.JSONEncoder(sort_keys=True)  # of what digests are made of
FOLDERS_SHOWN = 6  # folders whose split is printed


@dataclass(frozen=True, slots=True)
class PlannedNote:
    """An audio file that becomes a note of the set, or with `Settings.segment` its segments."""

    key: str  # of the note; those of segments begin with it
    file: AudioFile
    row: Labels | None = None  # labels of a metadata file; None: there is no such file

    @property
    def name_labels(self) -> Labels:
        """The labels in the file's name; parsed again, as a million parsed names need 400 MB."""
        return parse_path_name(self.file.path).labels

    @property
    def labels(self) -> Labels:
        """All labels: those of the name, and of the row what the name does not have."""
        return {**(self.row or {}), **self.name_labels}


@dataclass
class Batch:
    """The notes of one call of the codec."""

    notes: tuple[PlannedNote, ...]
    rejected: dict[int, Rejection] = field(default_factory=dict)  # index -> of notes whose file is not opened again


@dataclass(frozen=True)
class Task:
    """One shard to be made, from these notes in this order."""

    split: str
    index: int
    notes: tuple[PlannedNote, ...]

    @property
    def shard_name(self) -> str:
        return f"{self.split}-{self.index:05d}.tar"

    @property
    def files(self) -> list[AudioFile]:
        return [note.file for note in self.notes]

    @property
    def labels_sha256(self) -> str | None:
        """Digest of the labels that a metadata file gives; None if there is no such file."""
        return _hash_labels(self.notes)

    @property
    def row_labels(self) -> tuple[str, ...]:
        """Names of labels that notes have from a metadata file alone."""
        return names_of_rows((note.name_labels, note.row or {}) for note in self.notes)

    def batches(self, size: int) -> Iterator[Batch]:
        """Cut the notes for the calls of the codec."""
        for start in range(0, len(self.notes), size):
            yield Batch(self.notes[start : start + size])

    def digest(self, settings: Settings, digests: Sequence[str]) -> str:
        """sha256 of all that decides the shard's codes and keys; `labels_sha256` is that of what else is in it.

        `digests`: of its notes' audio files, in their order.
        """
        return _sha256([self.shard_name, settings.identity(), _identities(self, digests)])


@dataclass(frozen=True)
class EarlierShard:
    """A shard of a finished set that is being extended: it stays as it is."""

    split: str
    index: int
    files: Sequence[str]  # AudioFile.display_path of its notes, in their order


@dataclass(frozen=True)
class Plan:
    tasks: tuple[Task, ...]
    rejected: tuple[Rejection, ...]  # files that are rejected unopened
    inputs: int
    unit: str = "note"  # word for an input: a note, or a file, which is cut into notes
    matched: MatchedRows | None = None  # rows of a metadata file

    @property
    def labels_sha256(self) -> str | None:
        """Digest of the labels that a metadata file gives, however notes are arranged in shards."""
        return _hash_labels([note for task in self.tasks for note in task.notes])

    def lines(self) -> list[str]:
        """Report the splits, and the rows of a metadata file."""
        return [self.splits_line(), *(self.matched.lines() if self.matched else ())]

    def splits_line(self) -> str:
        """Report the folders that decide a split, and how many files a hash assigns."""
        found = [split_folder(note.file.path) for task in self.tasks for note in task.notes]
        folders = [
            f"{path_text(folder)} -> {split} ({counted(notes, self.unit)})"
            for (folder, split), notes in Counter(filter(None, found)).most_common()
        ]
        more = [f"{counted(len(folders) - FOLDERS_SHOWN, 'more folder')}"] * (len(folders) > FOLDERS_SHOWN)
        hashed = [f"{counted(found.count(None), self.unit)} by a hash of their key"] * (None in found)
        return f"Splits: {', '.join([*folders[:FOLDERS_SHOWN], *more, *hashed])}."


def make_plan(
    files: Sequence[AudioFile],
    settings: Settings,
    examples: Mapping[str, Labels] | None = None,
    earlier: Sequence[EarlierShard] = (),
    metadata: Metadata | None = None,
) -> Plan:
    """Assign every file to a task, or reject it.

    `examples`: note_str -> labels of NSynth's examples.json, which a name must not contradict. `earlier`: only files
    that are in none of these shards are assigned, to new shards with the next free indices. `metadata`: gives the notes
    labels beside those of their names.

    Raises:
        UserError: a file of an earlier shard is gone, or rows of the metadata that name no note or several.
    """
    in_earlier = {path for shard in earlier for path in shard.files}
    rejected: list[Rejection] = []
    notes: dict[str, PlannedNote] = {}  # key without upper case -> note: some file systems do not tell them apart
    files = sorted(files, key=lambda file: (file.display_path not in in_earlier, file.path))
    suffix = 0 if settings.segment is None else SUFFIX
    matched = None
    if metadata:
        matched = metadata.match([(file.display_path, parse_path_name(file.path, suffix).key) for file in files])
    for index, file in enumerate(files):
        name = parse_path_name(file.path, suffix)
        rows = [((examples or {}).get(name.key, {}), EXAMPLES)]
        row = None
        if matched:
            row = matched.rows[index]
            rows.append((row, matched.metadata.source))
        note = PlannedNote(name.key, file, row)
        fault = _fault(note, notes, name, rows)
        if fault is None:
            notes[note.key.casefold()] = note
        else:
            rejected.append(Rejection(file.display_path, *fault))
    new = [note for note in notes.values() if note.file.display_path not in in_earlier]
    source = metadata.source if metadata else EXAMPLES
    tasks = _earlier_tasks(earlier, files, notes, source) + _assign(new, settings, earlier)
    return Plan(
        tasks=tuple(sorted(tasks, key=lambda task: (task.split, task.index))),
        rejected=tuple(sorted(rejected, key=lambda rejection: rejection.file)),
        inputs=len(files),
        unit="note" if settings.segment is None else "file",
        matched=matched,
    )


def hash_inputs(plan: Plan, digests: Sequence[Sequence[str]]) -> str:
    """sha256 of the inputs with their digests, keys and splits, however they are arranged in shards.

    `digests`: for each task, of its notes' audio files.
    """
    identities = sorted(
        _sha256(identity)
        for task, task_digests in zip(plan.tasks, digests, strict=True)
        for identity in _identities(task, task_digests)
    )
    digest = hashlib.sha256()  # that of `_sha256`, without the whole text in memory
    for part in JSON.iterencode([identities, [vars(rejection) for rejection in plan.rejected]]):
        digest.update(part.encode())
    return digest.hexdigest()


def fingerprint(settings: Settings, inputs_sha256: str) -> str:
    """sha256 of all that decides the codes of a set."""
    return _sha256([settings.identity(), inputs_sha256])


def match_inputs(inputs: Iterable[str], metadata: Metadata) -> MatchedRows:
    """The rows of the files that a set was made of. `inputs`: AudioFile.display_path of each. Raises UserError."""
    return metadata.match([(path, parse_path_name(str(text_path(path))).key) for path in inputs])


def names_of_rows(notes: Iterable[tuple[Labels, Labels]]) -> tuple[str, ...]:
    """Names of labels that some note has from its row alone. `notes`: the labels of its name, and its row."""
    return tuple(sorted({name for labels, row in notes for name in row.keys() - labels.keys()}))


def _hash_labels(notes: Sequence[PlannedNote]) -> str | None:
    rows = [(note.file.display_path, note.row) for note in notes if note.row is not None]
    return hash_rows(rows) if rows else None


def _fault(
    note: PlannedNote, notes: Mapping[str, PlannedNote], name: NoteName, rows: Iterable[tuple[Labels, str]]
) -> tuple[str, str] | None:
    """Reason and detail, if the file is rejected unopened. `rows`: labels of its `name` elsewhere, and their source."""
    if note.file.fault is not None:
        return note.file.fault
    if "pitch" in name.labels:
        for row, source in rows:
            if contradicted := contradiction(name.labels, row, source):
                return "label", contradicted
    if (other := notes.get(note.key.casefold())) is not None:
        case = "" if note.key == other.key else ", but for upper and lower case, that"
        return "name clash", f"has the key {note.key}{case} of {other.file.display_path}"
    return None


def _earlier_tasks(
    earlier: Sequence[EarlierShard], files: Sequence[AudioFile], notes: Mapping[str, PlannedNote], source: str
) -> list[Task]:
    """The tasks of shards that stay as they are. Raises UserError if one of their files is not there any more.

    `source`: of the labels that a name may contradict.
    """
    if not earlier:
        return []
    faults = {file.display_path: file.fault for file in files}
    planned = {note.file.display_path: note for note in notes.values()}
    for path in (path for shard in earlier for path in shard.files):
        if path not in planned:
            fact = "is gone" if path not in faults else "has changed" if faults[path] else f"contradicts {source}"
            raise changed_since(path, fact)
    return [Task(shard.split, shard.index, tuple(planned[path] for path in shard.files)) for shard in earlier]


def changed_since(path: str, fact: str) -> UserError:
    """Error: a file of a finished set is not what it was."""
    return UserError(f"{path}: {fact} since this set was made of it; restore it, or encode the folder under a new name")


def _assign(notes: Sequence[PlannedNote], settings: Settings, earlier: Sequence[EarlierShard]) -> list[Task]:
    """Mix the notes of each split, and cut them into shards behind the earlier ones."""
    splits: dict[str, list[PlannedNote]] = {}
    for note, split in zip(notes, _splits(notes, settings, is_first=not earlier), strict=True):
        splits.setdefault(split, []).append(note)
    tasks = []
    for split in sorted(splits):
        mixed = sorted(splits[split], key=lambda note: _hash(f"{settings.seed} {note.key}"))
        first = max((shard.index + 1 for shard in earlier if shard.split == split), default=0)
        starts = range(0, len(mixed), settings.notes_per_shard)
        tasks += [
            Task(split, index, tuple(mixed[start : start + settings.notes_per_shard]))
            for index, start in enumerate(starts, first)
        ]
    return tasks


def _splits(notes: Sequence[PlannedNote], settings: Settings, is_first: bool) -> list[str]:
    """The split of each note: its folder's, else by a hash of its key, which no other note can change.

    Only a small new set in which no note has hashed to valid moves the note nearest to the limit there.
    """
    found = [split_folder(note.file.path) for note in notes]
    splits = [
        folder[1] if folder else "valid" if _hash_fraction(note) < settings.valid_fraction else "train"
        for folder, note in zip(found, notes, strict=True)
    ]
    hashed = [index for index, folder in enumerate(found) if folder is None]
    if is_first and settings.valid_fraction > 0 and "valid" not in splits and len(hashed) > 1:
        splits[min(hashed, key=lambda index: _hash_fraction(notes[index]))] = "valid"
    return splits


def _hash_fraction(note: PlannedNote) -> float:
    """Hash a note's key to [0, 1)."""
    return int.from_bytes(_hash(note.key)[:6]) / 2**48


def _identities(task: Task, digests: Sequence[str]) -> list[list[str]]:
    return [
        [note.file.display_path, digest, task.split, note.key] for note, digest in zip(task.notes, digests, strict=True)
    ]


def _hash(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


def _sha256(value: Any) -> str:
    return hashlib.sha256(JSON.encode(value).encode()).hexdigest()
