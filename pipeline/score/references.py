"""Real notes of a shard set to hold samples against: their tokens, the round trip, the recording if it is there.

The round trip is decoded from the set's own codes; a recording is found in the folder that the set was made of.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np

from pipeline.audio import AudioError, fit, load
from pipeline.codec.model import EnCodec
from pipeline.decode.run import decode_notes, load_matching
from pipeline.notes.key import parse_path_name
from shards.errors import ShardError
from shards.manifest import Manifest, read_manifest
from shards.note import Note, check_tokens
from shards.reader import read_shard
from shards.record import read_shard_record

UNSEEN_FIRST = ("valid", "test", "train")  # splits, those that no model has trained on first
MOST_READ = 2_000  # notes of the split that the choice is made from


@dataclass(frozen=True)
class OpenSet:
    """A shard set and its codec, ready to be heard."""

    folder: Path
    manifest: Manifest
    codec: EnCodec

    def notes(self, split: str) -> Iterator[Note]:
        """Stream a split, but for notes without tokens; codes that do not fit the codec are refused."""
        for shard in self.manifest.splits.get(split, ()):
            for note in read_shard(self.folder / shard.name):
                check_tokens(note.tokens, self.manifest.codec, f"{self.folder / shard.name}: {note.key}")
                if len(note.tokens):
                    yield note


@dataclass(frozen=True)
class Reference:
    """One real note; both sounds are (sample,) float32 of one length at the codec's rate."""

    note: Note
    round_trip: np.ndarray
    recording: np.ndarray | None = None
    fault: str | None = None  # of a recording that is there and cannot be read


def open_set(folder: Path, weights: Path | None = None, device: str = "auto") -> OpenSet:
    """A shard set with the codec that it was made with.

    Raises:
        ShardError: no finished set.
        CodecError: its codec cannot be had.
    """
    manifest = read_manifest(folder)
    return OpenSet(folder, manifest, load_matching(manifest.codec, folder, weights, device))


def choose_notes(source: OpenSet, count: int, splits: Sequence[str] = UNSEEN_FIRST) -> tuple[str, list[Note]]:
    """`count` notes, evenly spread over the pitches, of the first split that has any; ("", []) if none has.

    Raises:
        ShardError: damaged shards, or codes that do not fit the set's codec.
    """
    for split in splits:
        notes = list(islice(source.notes(split), MOST_READ))
        notes.sort(key=lambda note: (str(note.labels.get("pitch")).zfill(3), note.key))
        if notes:
            few = min(count, len(notes))
            return split, [notes[(2 * place + 1) * len(notes) // (2 * few)] for place in range(few)]
    return "", []


def find_notes(source: OpenSet, keys: Iterable[str], split: str) -> list[Note]:
    """The notes of these keys."""
    wanted = set(keys)
    return [note for note in source.notes(split) if note.key in wanted] if wanted else []


def hear(notes: Sequence[Note], source: OpenSet) -> list[Reference]:
    """Decode the notes, and read what they were made of."""
    files = _recordings(source, {note.key for note in notes})
    decoded = dict(decode_notes(source.codec, notes))
    rate = source.manifest.codec.sample_rate
    return [_reference(note, decoded[note.key], files.get(note.key), rate) for note in notes]


def _reference(note: Note, round_trip: np.ndarray, file: Path | None, sample_rate: int) -> Reference:
    if file is None:
        return Reference(note, round_trip)
    try:
        recording = load(file, sample_rate, len(round_trip) / sample_rate)
    except AudioError as error:
        return Reference(note, round_trip, fault=error.message)
    return Reference(note, round_trip, fit(recording, len(round_trip)))


def _recordings(source: OpenSet, keys: set[str]) -> dict[str, Path]:
    """key -> file, of the recordings that are still in the folder that the set was made of."""
    audio = Path(str(source.manifest.audio.get("source", "")))
    found: dict[str, Path] = {}
    for shard in source.manifest.shards:
        try:
            inputs = read_shard_record(source.folder / shard.record_name).inputs
        except (ShardError, OSError):
            continue  # a set from elsewhere, that has no record of its inputs
        paths = {parse_path_name(name).key: audio / name for name in inputs}
        found |= {key: path for key, path in paths.items() if key in keys and path.is_file()}
    return found
