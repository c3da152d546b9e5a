"""Real notes of shard sets as references for samples: their codes, the round trip, the recording if it is there.

The round trip is decoded from a set's own codes; a recording is read from the folder that the set was made of. A run of
several sets has real notes of each; their keys begin with the name of their set then, as two sets may share keys.
A `ShardSet` caches what it has decoded, so a page that is written after the scores decodes no note twice. Its memory
grows with the references (0.8 MB for a note of 4 s: scores take about 100 of them), not with the set.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.audio import AudioError, fit, load
from pipeline.codec.loaded import LoadedCodec
from pipeline.decode.run import decode_notes
from pipeline.decode.source import load_codec_for, read_notes
from pipeline.notes.key import parse_path_name, segment_number
from pipeline.score.nearest import Nearest, find_nearest
from pipeline.score.samples import NoShardSetError
from pipeline.segments import check_segment, load_segment
from shards.errors import ShardError
from shards.manifest import Manifest, Shard, read_manifest
from shards.note import Note
from shards.record import read_shard_record
from shards.sample_info import set_name
from shards.storage import path_text, text_path

UNSEEN_FIRST = ("valid", "test", "train")  # splits, those that no model has trained on first
CANDIDATES = 2_000  # first notes of a split, from which references are chosen


@dataclass(frozen=True)
class ReferenceNote:
    """A real note; both waveforms are (sample,) float32 of one length at the codec's rate."""

    note: Note
    round_trip: np.ndarray
    recording: np.ndarray | None = None
    fault: str | None = None  # of a recording that is there and cannot be read


@dataclass(frozen=True)
class Recording:
    """The audio file, or the segment of it, that a note was encoded from; it may be gone."""

    path: Path
    trim: bool  # without the silence before the note
    segment: Any = None  # seconds, as the manifest says; None: the whole file
    key: str = ""  # of a segment, with its number

    def read(self, sample_rate: int, seconds: float) -> np.ndarray:
        """Read it as it was read when the set was encoded: (sample,). Raises AudioError."""
        if self.segment is None:
            return load(self.path, sample_rate, seconds, self.trim)
        try:
            samples = load_segment(self.path, sample_rate, check_segment(self.segment), segment_number(self.key))
        except ValueError as error:
            raise AudioError(self.path, "of another set", str(error)) from error
        return fit(samples, round(seconds * sample_rate))


@dataclass(frozen=True, eq=False)
class ShardSet:
    """A shard set, or several, with the loaded codec, and the notes that have been read and decoded."""

    manifests: Mapping[Path, Manifest]  # folder -> its manifest
    codec: LoadedCodec
    _candidates: dict[str, list[tuple[Note, Recording | None]]] = field(default_factory=dict)  # split -> notes
    _notes: dict[str, Note] = field(default_factory=dict)  # key -> note, of those that were searched for
    _round_trips: dict[str, np.ndarray] = field(default_factory=dict)  # key -> waveform
    _references: dict[str, ReferenceNote] = field(default_factory=dict)  # key -> note

    @property
    def name(self) -> str:
        """The path of the set, or the paths of all."""
        return ", ".join(path_text(folder) for folder in self.manifests)

    @property
    def splits(self) -> list[str]:
        return [*dict.fromkeys(chain.from_iterable(manifest.splits for manifest in self.manifests.values()))]

    def notes(self, split: str) -> Iterator[Note]:
        """Stream a split, without the notes that have no tokens. Raises ShardError."""
        for folder, manifest in self.manifests.items():
            for shard in manifest.splits.get(split, ()):
                yield from (self._named(note, folder) for note in self._read(folder, shard))

    def choose(self, count: int, splits: Sequence[str] = UNSEEN_FIRST) -> tuple[str, list[ReferenceNote]]:
        """Choose notes, evenly spread over the pitches, of the first split that has any; ("", []) if none has.

        They are decoded, and their recordings are read. Again: from memory.

        Raises:
            ShardError: damaged shards, or codes that do not fit the set's codec.
        """
        for split in splits:
            if split not in self._candidates:
                first = (islice(self._of_set(folder, split), CANDIDATES) for folder in self.manifests)
                self._candidates[split] = sorted(chain.from_iterable(first), key=_by_pitch)
            notes = self._candidates[split]
            if notes:
                few = min(count, len(notes))
                return split, [self._reference(*notes[(2 * i + 1) * len(notes) // (2 * few)]) for i in range(few)]
        return "", []

    def nearest(self, queries: Sequence[np.ndarray], split: str = "train") -> list[Nearest]:
        """Find the most similar note of a split to each query, (token,); `find` has these notes in memory then."""
        results = find_nearest(self.notes(split), queries)
        self._notes.update((result.note.key, result.note) for result in results if result.note is not None)
        return results

    def find(self, keys: Collection[str], split: str) -> list[tuple[Note, np.ndarray]]:
        """Read the notes of these keys, and decode them: each with its round trip."""
        if any(key not in self._notes for key in keys):
            self._notes.update((note.key, note) for note in self.notes(split) if note.key in keys)
        return [(self._notes[key], self._round_trip(self._notes[key])) for key in keys if key in self._notes]

    def _read(self, folder: Path, shard: Shard) -> Iterator[Note]:
        return (note for note in read_notes(folder / shard.name, self.codec.spec) if len(note.tokens))

    def _named(self, note: Note, folder: Path) -> Note:
        """The note; of several sets, with the name of its set in its key."""
        return note if len(self.manifests) == 1 else replace(note, key=f"{set_name(path_text(folder))}-{note.key}")

    def with_recordings(self, split: str) -> Iterator[tuple[Note, Recording | None]]:
        """Stream each note with its recording; a shard's record lists the files that it was made of."""
        return chain.from_iterable(self._of_set(folder, split) for folder in self.manifests)

    def _of_set(self, folder: Path, split: str) -> Iterator[tuple[Note, Recording | None]]:
        manifest = self.manifests[folder]
        source, trim = str(manifest.audio.get("source", "")), bool(manifest.audio.get("trim"))
        segment = manifest.audio.get("segment")
        audio = Path(source) if "://" in source else text_path(source)
        for shard in manifest.splits.get(split, ()):
            try:
                inputs = read_shard_record(folder / shard.record_name).inputs
            except (ShardError, OSError):
                inputs = {}  # a set that was made without records of its inputs
            recordings = {
                parse_path_name(path).labels["note_str"]: Recording(audio / text_path(path, audio), trim, segment)
                for path in inputs
            }
            for note in self._read(folder, shard):
                recording = recordings.get(str(note.labels.get("note_str", note.key)))
                if recording is not None and segment is not None:
                    recording = replace(recording, key=note.key)
                yield self._named(note, folder), recording

    def _round_trip(self, note: Note) -> np.ndarray:
        """Decode one note alone: in a batch, the last bits of a waveform depend on the size of the batch."""
        if note.key not in self._round_trips:
            [(_, self._round_trips[note.key])] = decode_notes([note], self.codec)
        return self._round_trips[note.key]

    def _reference(self, note: Note, source: Recording | None) -> ReferenceNote:
        if note.key not in self._references:
            round_trip, recording, fault = self._round_trip(note), None, None
            if source is not None and source.path.is_file():
                rate = self.codec.spec.sample_rate
                try:
                    recording = fit(source.read(rate, len(round_trip) / rate), len(round_trip))
                except AudioError as error:
                    fault = error.message
            self._references[note.key] = ReferenceNote(note, round_trip, recording, fault)
        return self._references[note.key]


def open_shard_set(
    folder: Path | Sequence[Path], weights: Path | None = None, device: str = "auto", codec: LoadedCodec | None = None
) -> ShardSet:
    """Open a shard set, or several, with the codec that made it; a loaded `codec` is used if it is that one.

    Raises:
        NoShardSetError: no finished set.
        ShardError: damaged, or sets of different codecs.
        CodecError: its codec cannot be loaded.
    """
    manifests = {path: _read_manifest(path) for path in (folder if isinstance(folder, Sequence) else [folder])}
    (first, manifest), *others = manifests.items()
    for path, other in others:
        if other.codec != manifest.codec:
            raise ShardError(f"{path}: is of another codec than {first}; name one of the sets with --shards")
    if codec is None or codec.spec != manifest.codec:
        codec = load_codec_for(manifest.codec, first, weights, device)
    return ShardSet(manifests, codec)


def _read_manifest(folder: Path) -> Manifest:
    try:
        return read_manifest(folder)
    except ShardError as error:
        if not isinstance(error.__cause__, FileNotFoundError | NotADirectoryError):
            raise
        raise NoShardSetError(f"{error.message}; if the set has moved, --shards FOLDER names it") from error


def _by_pitch(candidate: tuple[Note, Recording | None]) -> tuple[str, str]:
    note, _ = candidate
    return str(note.labels.get("pitch")).zfill(3), note.key
