"""Real notes of a shard set as references for samples: their codes, the round trip, the recording if it is there.

The round trip is decoded from the set's own codes; a recording is read from the folder that the set was made of.
A `ShardSet` caches what it has decoded, so a page that is written after the scores decodes no note twice. Its memory
grows with the references (0.8 MB for a note of 4 s: scores take about 100 of them), not with the set.
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import numpy as np

from pipeline.audio import AudioError, fit, load
from pipeline.codec.model import EnCodec
from pipeline.decode.run import decode_notes
from pipeline.decode.source import load_codec_for, read_notes
from pipeline.notes.key import parse_path_name
from pipeline.score.nearest import Nearest, find_nearest
from shards.errors import ShardError
from shards.manifest import Manifest, Shard, read_manifest
from shards.note import Note
from shards.record import read_shard_record

UNSEEN_FIRST = ("valid", "test", "train")  # splits, those that no model has trained on first
CANDIDATES = 2_000  # first notes of a split, from which references are chosen


@dataclass(frozen=True)
class ReferenceNote:
    """A real note; both waveforms are (sample,) float32 of one length at the codec's rate."""

    note: Note
    round_trip: np.ndarray
    recording: np.ndarray | None = None
    fault: str | None = None  # of a recording that is there and cannot be read


@dataclass(frozen=True, eq=False)
class ShardSet:
    """A shard set with its loaded codec, and the notes of it that have been read and decoded."""

    folder: Path
    manifest: Manifest
    codec: EnCodec
    _candidates: dict[str, list[Note]] = field(default_factory=dict)  # split -> its first notes
    _notes: dict[str, Note] = field(default_factory=dict)  # key -> note, of those that were searched for
    _shard_of: dict[str, Shard] = field(default_factory=dict)  # key -> shard, of the candidates
    _recordings: dict[str, dict[str, Path]] = field(default_factory=dict)  # shard name -> key -> path
    _round_trips: dict[str, np.ndarray] = field(default_factory=dict)  # key -> waveform
    _references: dict[str, ReferenceNote] = field(default_factory=dict)  # key -> note

    def notes(self, split: str) -> Iterator[Note]:
        """Stream a split, without the notes that have no tokens. Raises ShardError."""
        return (note for _, note in self._read(split))

    def choose(self, count: int, splits: Sequence[str] = UNSEEN_FIRST) -> tuple[str, list[Note]]:
        """Choose notes, evenly spread over the pitches, of the first split that has any; ("", []) if none has.

        Raises:
            ShardError: damaged shards, or codes that do not fit the set's codec.
        """
        for split in splits:
            if split not in self._candidates:
                self._read_candidates(split)
            notes = self._candidates[split]
            if notes:
                few = min(count, len(notes))
                return split, [notes[(2 * index + 1) * len(notes) // (2 * few)] for index in range(few)]
        return "", []

    def nearest(self, queries: Sequence[np.ndarray], split: str = "train") -> list[Nearest]:
        """Find the most similar note of a split to each query, (token,); `find` has these notes in memory then."""
        results = find_nearest(self.notes(split), queries)
        self._notes.update((result.note.key, result.note) for result in results if result.note is not None)
        return results

    def find(self, keys: Collection[str], split: str) -> list[Note]:
        """Read the notes of these keys."""
        if any(key not in self._notes for key in keys):
            self._notes.update((note.key, note) for note in self.notes(split) if note.key in keys)
        return [self._notes[key] for key in keys if key in self._notes]

    def round_trips(self, notes: Sequence[Note]) -> list[np.ndarray]:
        """Decode notes: (sample,) float32 each. What was decoded before comes from memory.

        The codec decodes one note at a time: in a batch, the last bits of a waveform depend on the size of the batch.
        """
        for note in notes:
            if note.key not in self._round_trips:
                self._round_trips.update((note.key, waveform) for _, waveform in decode_notes([note], self.codec))
        return [self._round_trips[note.key] for note in notes]

    def references(self, notes: Sequence[Note]) -> list[ReferenceNote]:
        """Decode notes that `choose` has returned, and read their recordings. Again: from memory."""
        for note, round_trip in zip(notes, self.round_trips(notes), strict=True):
            if note.key not in self._references:
                self._references[note.key] = self._reference(note, round_trip)
        return [self._references[note.key] for note in notes]

    def _read(self, split: str) -> Iterator[tuple[Shard, Note]]:
        for shard in self.manifest.splits.get(split, ()):
            for note in read_notes([shard], self.folder, self.manifest.codec):
                if len(note.tokens):
                    yield shard, note

    def _read_candidates(self, split: str) -> None:
        candidates = list(islice(self._read(split), CANDIDATES))
        self._shard_of.update((note.key, shard) for shard, note in candidates)
        notes = [note for _, note in candidates]
        self._candidates[split] = sorted(notes, key=lambda note: (str(note.labels.get("pitch")).zfill(3), note.key))

    def _reference(self, note: Note, round_trip: np.ndarray) -> ReferenceNote:
        path = self._recording(note.key)
        if path is None or not path.is_file():
            return ReferenceNote(note, round_trip)
        rate = self.codec.spec.sample_rate
        try:
            recording = load(path, rate, len(round_trip) / rate)
        except AudioError as error:
            return ReferenceNote(note, round_trip, fault=error.message)
        return ReferenceNote(note, round_trip, fit(recording, len(round_trip)))

    def _recording(self, key: str) -> Path | None:
        """Find the recording of a note by the record of its shard, which lists the files that the shard was made of."""
        shard = self._shard_of[key]
        if shard.name not in self._recordings:
            try:
                inputs = read_shard_record(self.folder / shard.record_name).inputs
            except (ShardError, OSError):
                inputs = {}  # a set that was made without records of its inputs
            audio = Path(str(self.manifest.audio.get("source", "")))
            self._recordings[shard.name] = {parse_path_name(path).key: audio / path for path in inputs}
        return self._recordings[shard.name].get(key)


def open_shard_set(
    folder: Path, weights: Path | None = None, device: str = "auto", codec: EnCodec | None = None
) -> ShardSet:
    """Open a shard set with the codec that it was made with; a loaded `codec` is used if it is that one.

    Raises:
        ShardError: no finished set.
        CodecError: its codec cannot be loaded.
    """
    manifest = read_manifest(folder)
    return ShardSet(folder, manifest, load_codec_for(manifest.codec, folder, weights, device, codec))
