"""Which note goes into which shard: a pure function of the inputs and the settings.

A task is one shard to be made. Same inputs and settings, in any order, on any machine: same tasks. Opens no file.
"""

import hashlib
import json
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.audio import RESAMPLER
from pipeline.inputs import Input
from pipeline.nsynth import EXAMPLES, Labels, contradiction, labels_of, split_of
from shards.errors import UserError
from shards.layout import Codec

LONGEST_KEY = 120  # characters; a longer one keeps its start and a hash, so that KEY.json fits any file system
KEY_HASH = 12  # hexadecimal digits

NPY_HEADER = 128  # bytes
TAR_BLOCK = 512  # bytes


@dataclass(frozen=True)
class Settings:
    """All that decides a set's bytes, apart from its inputs."""

    codec: Codec
    duration: float | None = 4.0  # seconds; None keeps each note's length
    min_peak: float = 1e-4  # of full scale; a note that stays below is rejected as silent
    precision: str = "float32"  # of the codec's arithmetic
    batch: int = 1  # notes in one call of the codec: their codes may depend on it, so a set keeps its own
    notes_per_shard: int = 1000
    valid_fraction: float = 0.02  # of notes whose folder names no split
    seed: int = 0

    def __post_init__(self) -> None:
        if self.duration is not None and not 1 / self.codec.frame_rate <= self.duration <= 3600:
            raise UserError(f"duration {self.duration:g}: give seconds, from one frame to an hour, or `full`")
        if self.notes_per_shard < 1:
            raise UserError(f"notes per shard {self.notes_per_shard}: give 1 or more")
        if not 0 <= self.valid_fraction < 1:
            raise UserError(f"valid fraction {self.valid_fraction:g}: give a share from 0 to less than 1, such as 0.02")

    @property
    def frames(self) -> int | None:
        """Codec frames of each note, if all have the same number."""
        if self.duration is None:
            return None
        return -(-round(self.duration * self.codec.sample_rate) // self.codec.hop)

    def to_json(self) -> dict[str, dict[str, Any]]:
        """The manifest's blocks: the codec, how audio is prepared and encoded, how notes are assigned."""
        return {
            "codec": self.codec.to_json(),
            "audio": {
                "duration": self.duration,
                "sample_rate": self.codec.sample_rate,
                "channels": "mean",
                "resampler": RESAMPLER,
                "min_peak": self.min_peak,
                "precision": self.precision,
                "batch": self.batch,
            },
            "plan": {
                "notes_per_shard": self.notes_per_shard,
                "valid_fraction": self.valid_fraction,
                "seed": self.seed,
            },
        }

    @classmethod
    def from_json(cls, blocks: Mapping[str, Mapping[str, Any]]) -> "Settings":
        """Undo `to_json`, whatever else is in the blocks."""
        audio, plan = blocks["audio"], blocks["plan"]
        return cls(
            codec=Codec(**blocks["codec"]),
            **{name: audio[name] for name in ("duration", "min_peak", "precision", "batch")},
            **{name: plan[name] for name in ("notes_per_shard", "valid_fraction", "seed")},
        )


@dataclass(frozen=True)
class PlannedNote:
    """An input with its place in the set."""

    key: str
    input: Input
    labels: Labels


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
class Rejection:
    """An input that gets no codes, and why: one line of `rejected.jsonl`."""

    file: str
    reason: str  # one of a few words, to count by
    detail: str


@dataclass(frozen=True)
class Earlier:
    """A shard of a finished set that is being extended: which inputs it was made of. It keeps its place."""

    split: str
    index: int
    inputs: Mapping[str, str]  # Input.shown -> digest, in the order of the shard


@dataclass(frozen=True)
class Plan:
    tasks: tuple[Task, ...]
    rejected: tuple[Rejection, ...]  # known without decoding
    inputs: int
    inputs_sha256: str  # of the list of inputs with their digests, labels and splits


def make_plan(
    inputs: Sequence[Input],
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
    found = {file.shown: file.digest for file in inputs}
    for shown, digest in kept.items():
        if found.get(shown) != digest:
            fact = "has changed" if shown in found else "is gone"
            raise UserError(
                f"{shown}: {fact} since this set was made of it; restore it, or encode the folder under a new name"
            )

    rejected: list[Rejection] = []
    keys: dict[str, str] = {}  # key -> the input that has it
    notes: dict[str, PlannedNote] = {}  # Input.shown -> note
    for file in sorted(inputs, key=lambda file: (file.shown not in kept, file.path)):
        note = _plan_note(file, examples or {})
        if isinstance(note, PlannedNote) and note.key in keys:
            note = Rejection(file.shown, "name clash", f"has the key {note.key} of {keys[note.key]}")
        if isinstance(note, Rejection):
            rejected.append(note)
        else:
            keys[note.key] = file.shown
            notes[file.shown] = note

    for shown in kept:
        if shown not in notes:
            raise UserError(f"{shown}: is in this set with labels that {EXAMPLES} now contradicts; use a new name")
    tasks = [Task(shard.split, shard.index, tuple(notes[shown] for shown in shard.inputs)) for shard in earlier]
    fresh = [note for shown, note in notes.items() if shown not in kept]
    splits: dict[str, list[PlannedNote]] = {}
    for split, note in zip(_splits(fresh, settings, is_first=not earlier), fresh, strict=True):
        splits.setdefault(split, []).append(note)
    for split in sorted(splits):
        mixed = sorted(splits[split], key=lambda note: _sha256([settings.seed, note.key]))
        index = max((shard.index + 1 for shard in earlier if shard.split == split), default=0)
        for start in range(0, len(mixed), settings.notes_per_shard):
            tasks.append(Task(split, index, tuple(mixed[start : start + settings.notes_per_shard])))
            index += 1
    tasks.sort(key=lambda task: (task.split, task.index))
    rejected.sort(key=lambda rejection: rejection.file)
    identities = sorted(_identity(note, task.split) for task in tasks for note in task.notes)
    return Plan(
        tasks=tuple(tasks),
        rejected=tuple(rejected),
        inputs=len(inputs),
        inputs_sha256=_sha256([identities, [vars(rejection) for rejection in rejected]]),
    )


def fingerprint(settings: Settings, inputs_sha256: str) -> str:
    """sha256 of all that decides the codes of a set."""
    return _sha256([settings.to_json(), inputs_sha256])


def key_of(path: str) -> str:
    """The key of a note in its set: NSynth's name, or for other audio the whole path below the folder, made plain.

    A key is letters of any script, digits, `_` and `-`: WebDataset ends a key at the first dot.
    """
    stem = path[: path.rindex(".")] if "." in path.rpartition("/")[2] else path
    name = stem.rpartition("/")[2]
    if labels_of(name) is not None:
        return name
    letters = unicodedata.normalize("NFC", stem)  # macOS keeps accents as letters of their own, others do not
    key = "".join(letter if letter.isalnum() or letter in "_-" else _plain(letter) for letter in letters)
    if len(key) > LONGEST_KEY:
        key = f"{key[: LONGEST_KEY - KEY_HASH - 1]}-{_sha256(key)[:KEY_HASH]}"
    return key


def _plain(letter: str) -> str:
    """What stands in a key for a letter that it cannot have; a byte that is not UTF-8 keeps its number."""
    return f"x{ord(letter) - 0xDC00:02X}" if 0xDC80 <= ord(letter) <= 0xDCFF else "_"


def _plan_note(file: Input, examples: Mapping[str, Labels]) -> PlannedNote | Rejection:
    if file.fault is not None:
        return Rejection(file.shown, *file.fault)
    key = key_of(file.path)
    labels = labels_of(key)
    if labels is None:
        return PlannedNote(key, file, {"note_str": file.shown[: file.shown.rindex(".")]})
    fault = contradiction(labels, examples.get(key, {}))
    return Rejection(file.shown, "label", fault) if fault else PlannedNote(key, file, labels)


def _splits(notes: Sequence[PlannedNote], settings: Settings, is_first: bool) -> list[str]:
    """The split of each note: its folder's, else by a hash of its key, which no other note can change.

    Only where chance gives a small new set no valid note at all does the one nearest to the limit become it.
    """
    named = [split_of(note.input.path.split("/")[:-1]) for note in notes]
    places = [_share(note.key) for note in notes]
    splits = [
        split or ("valid" if place < settings.valid_fraction else "train")
        for split, place in zip(named, places, strict=True)
    ]
    unnamed = [place for split, place in zip(named, places, strict=True) if split is None]
    if is_first and settings.valid_fraction > 0 and "valid" not in splits and len(unnamed) > 1:
        splits[places.index(min(unnamed))] = "valid"
    return splits


def _share(key: str) -> float:
    """A key's fixed place in [0, 1)."""
    return int(hashlib.sha256(key.encode()).hexdigest()[:13], 16) / 16**13


def _identity(note: PlannedNote, split: str) -> list[Any]:
    return [note.input.shown, note.input.digest, split, note.key, sorted(note.labels.items())]


def _sha256(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def tar_bytes(notes: int, tokens_per_note: float, labels: Labels) -> int:
    """About how large shards of so many notes are: two members each, padded to tar's blocks."""
    npy = NPY_HEADER + 2 * tokens_per_note
    blocks = 2 + -(-npy // TAR_BLOCK) + -(-len(json.dumps(labels)) // TAR_BLOCK)
    return round(notes * blocks * TAR_BLOCK)
