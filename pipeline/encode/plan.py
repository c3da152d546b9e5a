"""Which note goes into which shard: a pure function of the inputs and the settings.

A task is one shard to be made. Same inputs and settings, in any order, on any machine: same tasks. Opens no file.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.encode.settings import Settings
from pipeline.notes.folder import AudioFile
from pipeline.notes.key import parse_path_name
from pipeline.notes.nsynth import EXAMPLES, Labels, contradiction, split_of
from shards.errors import UserError
from shards.record import Rejection


@dataclass(frozen=True, slots=True)
class PlannedNote:
    """An input with its place in the set. There are as many as notes, so it holds no more than it must."""

    key: str
    input: AudioFile

    @property
    def labels(self) -> Labels:
        return parse_path_name(self.input.path).labels


@dataclass(frozen=True)
class Task:
    """One shard to be made, from these notes in this order."""

    split: str
    index: int
    notes: tuple[PlannedNote, ...]

    @property
    def shard_name(self) -> str:
        return f"{self.split}-{self.index:05d}.tar"

    def batches(self, size: int) -> Iterator[tuple[PlannedNote, ...]]:
        """The notes of each call of the codec."""
        for start in range(0, len(self.notes), size):
            yield self.notes[start : start + size]

    def digest(self, settings: Settings) -> str:
        """sha256 of all that decides the shard's bytes."""
        return _sha256([self.shard_name, settings.to_json(), [_identity(note, self.split) for note in self.notes]])


@dataclass(frozen=True)
class Earlier:
    """A shard of a finished set that is being extended: which inputs it was made of. It keeps its place."""

    split: str
    index: int
    inputs: Mapping[str, str]  # AudioFile.display_path -> digest, in the order of the shard


@dataclass(frozen=True)
class Plan:
    tasks: tuple[Task, ...]
    rejected: tuple[Rejection, ...]  # known without decoding
    inputs: int
    inputs_sha256: str  # of the inputs with their digests, keys and splits, however they are arranged in shards


def make_plan(
    inputs: Sequence[AudioFile],
    settings: Settings,
    examples: Mapping[str, Labels] | None = None,
    earlier: Sequence[Earlier] = (),
) -> Plan:
    """Assign every input to a task, or reject it.

    `examples`: note_str -> labels known from elsewhere than the names. `earlier`: shards that stay as they are; only
    what is not in them is assigned, to shards with the next free numbers.

    Raises:
        UserError: an input of an earlier shard is gone or has changed.
    """
    kept = {shown: digest for shard in earlier for shown, digest in shard.inputs.items()}
    rejected: list[Rejection] = []
    notes: dict[str, PlannedNote] = {}  # key -> note
    for file in sorted(inputs, key=lambda file: (file.display_path not in kept, file.path)):
        fault = _fault(file, notes, examples or {})
        if fault is None:
            note = PlannedNote(parse_path_name(file.path).key, file)
            notes[note.key] = note
        else:
            rejected.append(Rejection(file.display_path, *fault))
    tasks = _keep(earlier, inputs, notes) + _assign(
        [note for note in notes.values() if note.input.display_path not in kept], settings, earlier
    )
    tasks.sort(key=lambda task: (task.split, task.index))
    rejected.sort(key=lambda rejection: rejection.file)
    identities = sorted(_sha256(_identity(note, task.split)) for task in tasks for note in task.notes)
    return Plan(
        tasks=tuple(tasks),
        rejected=tuple(rejected),
        inputs=len(inputs),
        inputs_sha256=_sha256([identities, [vars(rejection) for rejection in rejected]]),
    )


def fingerprint(settings: Settings, inputs_sha256: str) -> str:
    """sha256 of all that decides the codes of a set."""
    return _sha256([settings.to_json(), inputs_sha256])


def _fault(file: AudioFile, notes: Mapping[str, PlannedNote], examples: Mapping[str, Labels]) -> tuple[str, str] | None:
    """Reason and detail, if the input is rejected unopened."""
    if file.fault is not None:
        return file.fault
    name = parse_path_name(file.path)
    key, labels = name.key, name.labels
    contradicted = contradiction(labels, examples.get(key, {})) if "pitch" in labels else None
    if contradicted:
        return "label", contradicted
    if key in notes:
        return "name clash", f"has the key {key} of {notes[key].input.display_path}"
    return None


def _keep(earlier: Sequence[Earlier], inputs: Sequence[AudioFile], notes: Mapping[str, PlannedNote]) -> list[Task]:
    """The tasks of shards that stay as they are. Raises UserError if their inputs have not."""
    if not earlier:
        return []
    found = {file.display_path: file for file in inputs}
    planned = {note.input.display_path: note for note in notes.values()}
    for shown, digest in ((shown, digest) for shard in earlier for shown, digest in shard.inputs.items()):
        fact = (
            "is gone" if shown not in found
            else "has changed" if found[shown].digest != digest
            else f"contradicts {EXAMPLES}" if shown not in planned
            else None
        )  # fmt: skip
        if fact:
            raise UserError(
                f"{shown}: {fact} since this set was made of it; restore it, or encode the folder under a new name"
            )
    return [Task(shard.split, shard.index, tuple(planned[shown] for shown in shard.inputs)) for shard in earlier]


def _assign(notes: Sequence[PlannedNote], settings: Settings, earlier: Sequence[Earlier]) -> list[Task]:
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

    Only where chance gives a small new set no valid note at all does the one nearest to the limit become it.
    """
    splits = [split_of(note.input.path.split("/")[:-1]) or _hashed_split(note, settings) for note in notes]
    hashed = [index for index, note in enumerate(notes) if split_of(note.input.path.split("/")[:-1]) is None]
    if is_first and settings.valid_fraction > 0 and "valid" not in splits and len(hashed) > 1:
        splits[min(hashed, key=lambda index: _share(notes[index]))] = "valid"
    return splits


def _hashed_split(note: PlannedNote, settings: Settings) -> str:
    return "valid" if _share(note) < settings.valid_fraction else "train"


def _share(note: PlannedNote) -> float:
    """A note's fixed place in [0, 1)."""
    return int.from_bytes(_hash(note.key)[:6]) / 2**48


def _identity(note: PlannedNote, split: str) -> list[Any]:
    return [note.input.display_path, note.input.digest, split, note.key]


def _hash(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


def _sha256(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
