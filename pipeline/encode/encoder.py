"""Encoder of a batch: read the notes' audio, check it, call the codec once. Runs in a worker or in this process.

A batch always has the same shape: rejected notes, and rows that no note fills at the end of a shard, are zeros. So a
note's codes do not depend on what happens to the others. The segments of a recording are batched among themselves.
Knows nothing of processes, tars or records.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path

import numpy as np
import torch

from pipeline.audio import AudioError, load, peak_of
from pipeline.codec.loaded import LoadedCodec, load_codec
from pipeline.codec.precision import with_precision
from pipeline.encode.digests import gone_since, hash_file
from pipeline.encode.plan import Batch, PlannedNote
from pipeline.encode.settings import Settings
from pipeline.encode.workers import BatchResult
from pipeline.notes.key import segment_key
from pipeline.segments import load_segments
from shards.note import Note, flatten
from shards.record import Rejection
from shards.storage import is_remote, join_path, local_copy


class Encoder:
    """A codec with the settings of one set, for the audio below `root`."""

    def __init__(self, codec: LoadedCodec, settings: Settings, root: Path) -> None:
        self.codec = codec
        self.settings = settings
        self.root = root

    def encode(self, batch: Batch, on_read: Callable[[int | None], None] = lambda index: None) -> BatchResult:
        """Encode each note of the batch, or say why it cannot be encoded.

        `on_read` is called with the index of each file before it is opened, and with None when it is read: if the
        process crashes in between, the file is known. Fetching from a URL is not reading: no file is rejected for a
        network.

        Raises:
            UserError: a file cannot be fetched, or is not what it was when the plan was made.
        """
        if self.settings.segment is not None:
            return self._encode_recording(batch, on_read)
        samples: dict[int, np.ndarray] = {}  # index -> (sample,)
        rejected = dict(batch.rejected)
        digests: dict[int, str] = {}
        for index, note in enumerate(batch.notes):
            if index in rejected:
                continue
            try:
                with fetch_audio(self.root, note) as path:
                    on_read(index)
                    if is_remote(self.root):
                        digests[index] = hash_file(path)
                    samples[index] = self.samples(path)
            except AudioError as error:
                rejected[index] = Rejection(note.file.display_path, error.reason, error.detail)
            on_read(None)
        codes = self._encode_samples(samples) if samples else {}
        notes = [
            rejected[index] if index in rejected else Note(note.key, flatten(codes[index]), note.labels)
            for index, note in enumerate(batch.notes)
        ]
        return BatchResult(notes, digests)

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

    def encode_segments(self, note: PlannedNote, first: int, segments: Sequence[np.ndarray]) -> list[Note]:
        """Encode segments of a recording from number `first` on, as many as a call of the codec takes or fewer, without
        the silent ones."""
        assert self.settings.segment is not None, "each file is a note"
        length = round(self.settings.segment * self.settings.codec.sample_rate)
        audible = {
            index: samples for index, samples in enumerate(segments) if peak_of(samples) >= self.settings.min_peak
        }
        whole = {index: samples for index, samples in audible.items() if len(samples) == length}
        codes = self._encode_equal(whole) if whole else {}
        for index in audible.keys() - whole.keys():  # the end of the recording: padding would change its codes
            codes[index] = self._call(audible[index][None])[0]
        return [Note(segment_key(note.key, first + index), flatten(codes[index]), note.labels) for index in audible]

    def _encode_recording(self, batch: Batch, on_read: Callable[[int | None], None]) -> BatchResult:
        """Encode the segments of the one recording of a batch."""
        [note] = batch.notes
        notes: list[Note] = []
        digests: dict[int, str] = {}
        count, peak = 0, 0.0
        if batch.rejected:
            return BatchResult([batch.rejected[0]])
        try:
            with fetch_audio(self.root, note) as path:
                on_read(0)
                if is_remote(self.root):
                    digests[0] = hash_file(path)
                segments = self.segments(path)
                while group := list(islice(segments, self.settings.batch)):
                    on_read(None)
                    notes += self.encode_segments(note, count, group)
                    count += len(group)
                    peak = max(peak, *map(peak_of, group))
                    on_read(0)
                if not notes:
                    self._check_peak(path, peak)
        except AudioError as error:
            on_read(None)
            return BatchResult([Rejection(note.file.display_path, error.reason, error.detail)], digests)
        on_read(None)
        return BatchResult([*notes], digests, silent=count - len(notes))

    def _check_peak(self, path: Path, peak: float) -> None:
        if peak < self.settings.min_peak:
            raise AudioError(path, "silent", f"its peak is {peak:.2g} of full scale, below {self.settings.min_peak:g}")

    def _encode_samples(self, samples: dict[int, np.ndarray]) -> dict[int, np.ndarray]:
        """index -> (sample,) to index -> (codebook, frame)."""
        if self.settings.duration is None:  # lengths differ, and padding would change codes
            return {index: self._call(waveform[None])[0] for index, waveform in samples.items()}
        return self._encode_equal(samples)

    def _encode_equal(self, samples: dict[int, np.ndarray]) -> dict[int, np.ndarray]:
        """The same, for waveforms of equal length: one call of the codec, always of as many rows."""
        length = len(next(iter(samples.values())))
        waveforms = np.zeros((self.settings.batch, length), np.float32)  # (note, sample)
        for index, waveform in samples.items():
            waveforms[index] = waveform
        codes = self._call(waveforms)
        return {index: codes[index] for index in samples}

    def _call(self, waveforms: np.ndarray) -> np.ndarray:
        """(note, sample) -> (note, codebook, frame)."""
        return self.codec.encode(torch.from_numpy(waveforms)).cpu().numpy()


def load_encoder(settings: Settings, weights: Path | None, device: str, root: Path) -> Encoder:
    """Load the codec of `settings`, whose weights the caller has hashed, in a process of its own.

    One thread: convolutions as small as EnCodec's gain little from a second one, while processes scale with the cores,
    and the number of threads may change the last bits.
    """
    torch.set_num_threads(1)
    torch.backends.cudnn.allow_tf32 = False  # on a GPU too, float32 has all its bits
    torch.backends.cudnn.deterministic = True
    spec = settings.codec
    codec = load_codec(spec.name, spec.bandwidth, weights, device, spec=spec)
    return Encoder(with_precision(codec, settings.precision), settings, root)


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
