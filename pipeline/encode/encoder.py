"""Encoder of a batch: the codec is called once for notes of equal length. Runs in a worker or in this process.

A batch always has the same shape: rejected notes, and rows that no note fills at the end of a shard, are zeros. So a
note's codes do not depend on what happens to the others. The segments of a recording are batched among themselves.
Knows nothing of processes, tars or records.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pipeline.codec.loaded import LoadedCodec, load_codec, resolve_device
from pipeline.codec.precision import with_precision
from pipeline.encode.batch_result import BatchResult, join_parts
from pipeline.encode.plan import Batch, PlannedNote
from pipeline.encode.reader import AudioBatch, Reader, Waveform
from pipeline.encode.settings import Settings
from shards.errors import name_lack_of_memory
from shards.note import Note, flatten


class AudioEncoder:
    """A codec with the settings of one set: audio that is in memory -> codes."""

    def __init__(self, codec: LoadedCodec, settings: Settings) -> None:
        self.codec = codec
        self.settings = settings
        self._is_cuda = codec.device.type == "cuda"

    def launch(self, audio: AudioBatch) -> Callable[[], BatchResult]:
        """Start to encode a batch; the function that is returned waits for its codes.

        Nothing waits for a GPU in between: it computes while the caller reads, launches, or waits for something else.

        Raises:
            UserError: the memory is full.
        """
        waveforms = {index: note.samples for index, note in enumerate(audio.notes) if isinstance(note, Waveform)}
        batch = self.settings.batch
        smaller = f"try --batch {batch // 2}, under a new --out if this set has shards already"
        cure = smaller if batch > 1 else "make the notes shorter by --duration or --segment"
        with name_lack_of_memory(f"end what else uses it, or {cure}", str(self.codec.device)):
            codes = self._launch(waveforms)
        copied = torch.cuda.Event(blocking=True) if self._is_cuda else None  # type: ignore[no-untyped-call]
        if copied is not None:
            copied.record()

        def finish() -> BatchResult:
            if copied is not None:
                copied.synchronize()
            notes = [
                Note(note.key, flatten(codes[index].numpy()), note.labels) if isinstance(note, Waveform) else note
                for index, note in enumerate(audio.notes)
                if note is not None
            ]
            return BatchResult(notes, audio.digests, silent=len(audio.notes) - len(notes))

        return finish

    def _launch(self, waveforms: dict[int, np.ndarray]) -> dict[int, Tensor]:
        """index -> (sample,) to index -> (codebook, frame) on the CPU, where a GPU's codes are still on their way."""
        seconds = self.settings.segment or self.settings.duration
        length = None if seconds is None else round(seconds * self.settings.codec.sample_rate)
        equal = [index for index, samples in waveforms.items() if len(samples) == length]
        codes: dict[int, Tensor] = {}
        if equal:
            rows = np.zeros((self.settings.batch, length or 0), np.float32)  # (note, sample)
            for index in equal:
                rows[index] = waveforms[index]
            encoded = self._call(rows)
            codes = {index: encoded[index] for index in equal}
        for index in waveforms.keys() - codes.keys():  # lengths differ, and padding would change codes
            codes[index] = self._call(waveforms[index][None])[0]
        return codes

    def _call(self, waveforms: np.ndarray) -> Tensor:
        """(note, sample) -> (note, codebook, frame) on the CPU."""
        samples = torch.from_numpy(waveforms)
        if not self._is_cuda:
            return self.codec.encode(samples).cpu()
        # both copies go through pinned memory, else they would wait for all that was launched before
        samples = samples.pin_memory().to(self.codec.device, non_blocking=True)
        return self.codec.encode(samples).to("cpu", non_blocking=True)


class Encoder(AudioEncoder):
    """An encoder that also reads the audio, below `root`."""

    def __init__(self, codec: LoadedCodec, settings: Settings, root: Path) -> None:
        super().__init__(codec, settings)
        self.reader = Reader(settings, root)

    def encode(self, batch: Batch, on_read: Callable[[int | None], None] = lambda index: None) -> BatchResult:
        """Encode each note of the batch, or say why it cannot be encoded; arguments and errors of `Reader.read`."""
        return join_parts([self.launch(audio)() for audio in self.reader.read(batch, on_read)])

    def encode_segments(self, note: PlannedNote, first: int, segments: Sequence[np.ndarray]) -> BatchResult:
        """Encode segments of a recording from number `first` on, as `Reader.part`, without the silent ones."""
        return self.launch(self.reader.part(note, first, segments))()


def load_encoder(settings: Settings, weights: Path | None, device: str, root: Path) -> Encoder:
    """Load an encoder in a process of its own; arguments and errors of `load_audio_encoder`."""
    return Encoder(load_audio_encoder(settings, weights, device).codec, settings, root)


def load_audio_encoder(settings: Settings, weights: Path | None, device: str) -> AudioEncoder:
    """Load the codec of `settings`, whose weights the caller has hashed, in a process of its own.

    One thread: convolutions as small as EnCodec's gain little from a second one, while processes scale with the cores,
    and the number of threads may change the last bits.
    """
    torch.set_num_threads(1)
    torch.backends.cudnn.allow_tf32 = False  # on a GPU too, float32 has all its bits
    torch.backends.cudnn.deterministic = True
    target = resolve_device(device)
    if target.type == "cuda" and target.index is not None:
        torch.cuda.set_device(target)  # pinned memory and events belong to the current device
    spec = settings.codec
    with name_lack_of_memory("end what else uses it, or choose another by --device", str(target)):
        codec = load_codec(spec.name, spec.bandwidth, weights, str(target), spec=spec)
    return AudioEncoder(with_precision(codec, settings.precision), settings)
