"""Reader of a batch: audio files -> waveforms, checked and ready for the codec. Runs in a worker or in this process.

Knows nothing of codes and processes, and does not import torch.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import numpy as np

from pipeline.audio import AudioError, load, peak_of
from pipeline.encode.digests import gone_since, hash_file
from pipeline.encode.plan import Batch, PlannedNote
from pipeline.encode.settings import Settings
from pipeline.notes.key import segment_key
from pipeline.notes.nsynth import Labels
from pipeline.segments import load_segments
from shards.record import Rejection
from shards.storage import is_remote, join_path, local_copy


@dataclass(frozen=True)
class Waveform:
    """Audio of a note that is to be encoded."""

    key: str
    labels: Labels
    samples: np.ndarray  # (sample,) float32


@dataclass(frozen=True)
class AudioBatch:
    """Audio of one call of the codec: a `BatchResult` with waveforms in place of codes."""

    notes: list[Waveform | Rejection | None]  # None: a silent segment
    digests: dict[int, str] = field(default_factory=dict)  # index -> of a file that was fetched from a URL


class Reader:
    """Reads the audio below `root` with the settings of one set."""

    def __init__(self, settings: Settings, root: Path) -> None:
        self.settings = settings
        self.root = root

    def read(self, batch: Batch, on_read: Callable[[int | None], None] = lambda index: None) -> Iterator[AudioBatch]:
        """Read each note of the batch, or say why it cannot be encoded: one `AudioBatch`.

        A recording is read in parts of as many segments as a call of the codec takes, so memory does not grow with it;
        the last part has no segments, but its rejection if there is one.

        `on_read` is called with the index of each file before it is opened, and with None when it is read: if the
        process crashes in between, the file is known. Fetching from a URL is not reading: no file is rejected for a
        network.

        Raises:
            UserError: a file cannot be fetched, or is not what it was when the plan was made.
        """
        if self.settings.segment is not None:
            yield from self._read_recording(batch, on_read)
            return
        notes: list[Waveform | Rejection | None] = []
        digests: dict[int, str] = {}
        for index, note in enumerate(batch.notes):
            if index in batch.rejected:
                notes.append(batch.rejected[index])
                continue
            try:
                with fetch_audio(self.root, note) as path:
                    on_read(index)
                    if is_remote(self.root):
                        digests[index] = hash_file(path)
                    notes.append(Waveform(note.key, note.labels, self.samples(path)))
            except AudioError as error:
                notes.append(Rejection(note.file.display_path, error.reason, error.detail))
            on_read(None)
        yield AudioBatch(notes, digests)

    def samples(self, path: Path) -> np.ndarray:
        """Load a file as the codec's input: (sample,) float32.

        Raises:
            AudioError: the file gives no usable samples.
        """
        samples = load(path, self.settings.codec.sample_rate, self.settings.duration, self.settings.trim)
        self._check_peak(path, peak_of(samples))
        return samples

    def segments(self, path: Path) -> Iterator[np.ndarray]:
        """Load a recording segment by segment: each (sample,) float32, the last one may be shorter.

        Raises:
            AudioError: as `load_segments`.
        """
        assert self.settings.segment is not None, "each file is a note"
        codec = self.settings.codec
        return load_segments(path, codec.sample_rate, self.settings.segment, shortest=codec.hop)

    def part(self, note: PlannedNote, first: int, segments: Sequence[np.ndarray]) -> AudioBatch:
        """Segments of a recording from number `first` on, as many as a call of the codec takes or fewer."""
        return AudioBatch(
            [
                Waveform(segment_key(note.key, number), note.labels, samples)
                if peak_of(samples) >= self.settings.min_peak
                else None
                for number, samples in enumerate(segments, first)
            ]
        )

    def _read_recording(self, batch: Batch, on_read: Callable[[int | None], None]) -> Iterator[AudioBatch]:
        """Read the segments of the one recording of a batch."""
        if batch.rejected:
            yield AudioBatch([batch.rejected[0]])
            return
        [note] = batch.notes
        digests: dict[int, str] = {}
        count, peak = 0, 0.0
        try:
            with fetch_audio(self.root, note) as path:
                on_read(0)
                if is_remote(self.root):
                    digests[0] = hash_file(path)
                segments = self.segments(path)
                while group := list(islice(segments, self.settings.batch)):
                    on_read(None)
                    yield self.part(note, count, group)
                    count += len(group)
                    peak = max(peak, *map(peak_of, group))
                    on_read(0)
                self._check_peak(path, peak)
        except AudioError as error:
            on_read(None)
            yield AudioBatch([Rejection(note.file.display_path, error.reason, error.detail)], digests)
            return
        on_read(None)
        yield AudioBatch([], digests)

    def _check_peak(self, path: Path, peak: float) -> None:
        if peak < self.settings.min_peak:
            raise AudioError(path, "silent", f"its peak is {peak:.2g} of full scale, below {self.settings.min_peak:g}")


@contextmanager
def fetch_audio(root: Path, note: PlannedNote) -> Iterator[Path]:
    """The note's file on this machine."""
    path = join_path(root, note.file.path)
    try:
        with local_copy(path) as copy:
            if is_remote(root) and note.file.size not in (None, copy.stat().st_size):
                raise gone_since(path, "has changed")
            yield copy
    except FileNotFoundError as error:
        raise gone_since(path, "is gone") from error
