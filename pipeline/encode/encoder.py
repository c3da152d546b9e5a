"""Some notes of a task -> their codes: read, check, one call of the codec. What a worker does, wherever it runs.

A batch always has the same shape: notes that were rejected, and places at the end of a shard that no note fills, are
zeros. So a note's codes do not depend on its neighbours' fate. Knows nothing of processes, tars or ledgers.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from pipeline.audio import AudioError, load
from pipeline.codec.model import EnCodec
from pipeline.codec.spec import CodecError
from pipeline.encode.options import Choice, load_chosen
from pipeline.encode.plan import PlannedNote
from pipeline.encode.settings import Settings
from pipeline.notes.folder import hash_file
from shards.errors import UserError
from shards.note import Note, flatten
from shards.record import Rejection
from shards.storage import is_remote, local_copy


@dataclass
class Batch:
    """The notes of one call of the codec."""

    notes: tuple[PlannedNote, ...]
    condemned: dict[int, Rejection] = field(default_factory=dict)  # places of notes not to be opened again


def make_encoder(choice: Choice, root: Path) -> "Encoder":
    """An encoder with a codec of its own, for a process of its own.

    One thread: convolutions as small as EnCodec's gain little from a second one, while processes scale with the cores,
    and the number of threads may change the last bits.
    """
    torch.set_num_threads(1)
    torch.backends.cudnn.allow_tf32 = False  # on a GPU too, float32 has all its bits
    torch.backends.cudnn.deterministic = True
    return Encoder(load_chosen(choice), choice.settings, root)


class Encoder:
    """Holds the codec and the settings of one set."""

    def __init__(self, codec: EnCodec, settings: Settings, root: Path) -> None:
        if codec.spec != settings.codec:
            raise CodecError(f"{codec.spec.name}: the set was made with other weights; name them with --weights FILE")
        self.codec = codec
        self.settings = settings
        self.root = root

    def encode(
        self, batch: Batch, reading: Callable[[int | None], None] = lambda place: None
    ) -> list[Note | Rejection]:
        """Codes of each note of the batch, or why it has none.

        `reading` is told the place of each file before it is opened, and None when it is read: if the process dies in
        between, the file is known. Bringing a file from elsewhere is not reading it: no file is to blame for a network.

        Raises:
            UserError: a file that was there when the plan was made cannot be brought.
        """
        heard: dict[int, np.ndarray] = {}  # place -> (sample,)
        rejected = dict(batch.condemned)
        for place, note in enumerate(batch.notes):
            if place in rejected:
                continue
            try:
                with _brought(self.root, note) as path:
                    reading(place)
                    heard[place] = self.samples(path)
            except AudioError as error:
                rejected[place] = Rejection(note.input.display_path, error.reason, error.detail)
            reading(None)
        codes = self._codes(heard) if heard else {}
        return [
            rejected[place] if place in rejected else Note(note.key, flatten(codes[place]), note.labels)
            for place, note in enumerate(batch.notes)
        ]

    def samples(self, path: Path) -> np.ndarray:
        """What the codec is given for a file: (sample,) float32.

        Raises:
            AudioError: the file gives no usable samples.
        """
        samples = load(path, self.settings.codec.sample_rate, self.settings.duration)
        peak = float(np.abs(samples).max(initial=0.0))
        if peak < self.settings.min_peak:
            raise AudioError(path, "silent", f"its peak is {peak:.2g} of full scale, below {self.settings.min_peak:g}")
        return samples

    def _codes(self, heard: dict[int, np.ndarray]) -> dict[int, np.ndarray]:
        """place -> (codebook, frame)."""
        if self.settings.duration is None:  # lengths differ, and padding would change codes
            return {place: self._call(samples[None])[0] for place, samples in heard.items()}
        length = len(next(iter(heard.values())))
        samples = np.zeros((self.settings.batch, length), np.float32)  # (note, sample)
        for place, note in heard.items():
            samples[place] = note
        codes = self._call(samples)
        return {place: codes[place] for place in heard}

    def _call(self, samples: np.ndarray) -> np.ndarray:
        """(note, sample) -> (note, codebook, frame)."""
        return self.codec.encode(torch.from_numpy(samples)).cpu().numpy()


@contextmanager
def _brought(root: Path, note: PlannedNote) -> Iterator[Path]:
    """The note's file on this machine; what came over a network must still be what the plan was made of."""
    path = root / note.input.path
    try:
        with local_copy(path) as copy:
            if is_remote(root) and hash_file(copy.parent, copy.name).digest != note.input.digest:
                raise UserError(f"{path}: has changed since it was listed; run the same command again")
            yield copy
    except FileNotFoundError as error:
        raise UserError(f"{path}: is gone since it was listed; run the same command again") from error
