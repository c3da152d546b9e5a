"""Small real notes on disk, for the tests of the pipeline."""

from collections.abc import Iterable, Iterator
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from pipeline.codec.loaded import LoadedCodec, load_codec
from pipeline.codec.spec import is_hugging_face
from pipeline.encode.batch_result import BatchResult
from pipeline.encode.digests import hash_file
from pipeline.encode.encoder import Encoder
from pipeline.encode.plan import Batch
from pipeline.encode.settings import EncodingOptions
from pipeline.notes.nsynth import NSYNTH_RATE
from shards.storage import is_remote

RATE = NSYNTH_RATE


def tone(pitch: float = 60, seconds: float = 0.4, rate: int = RATE, peak: float = 0.5) -> np.ndarray:
    """A decaying note with a few harmonics: (sample,) float32."""
    time = np.arange(round(seconds * rate)) / rate
    frequency = 440 * 2 ** ((pitch - 69) / 12)
    sound = sum(np.sin(2 * np.pi * frequency * k * time) / k for k in (1, 2, 3)) * np.exp(-3 * time)
    return (sound / np.abs(sound).max() * peak).astype(np.float32)


def write_note(path: Path, samples: np.ndarray | None = None, rate: int = RATE, **how: Any) -> Path:
    """Write samples (a tone by default) in the format of the path's ending."""
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, tone(rate=rate) if samples is None else samples, rate, **how)
    return path


def nsynth_folder(root: Path, train: int = 4, valid: int = 2) -> Path:
    """A folder of MP3s in NSynth's names and layout."""
    for split, instrument, count in (("train", 0, train), ("valid", 1, valid)):
        for pitch in range(40, 40 + count):
            name = f"guitar_acoustic_{instrument:03d}-{pitch:03d}-100.mp3"
            write_note(root / f"nsynth-guitar-{split}" / name, tone(pitch))
    return root


def files_of(folder: Path) -> dict[str, bytes]:
    """Every file of a set: name -> bytes."""
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def options(**changes: Any) -> EncodingOptions:
    """The embedded codec, a fifth of a second of each note, three notes a shard."""
    values: dict[str, Any] = {
        "codec": "encodec_mini", "bandwidth": 1.5, "duration": "0.2", "weights": None, "device": "cpu",
        "min_peak": 1e-4, "precision": "float32", "notes_per_shard": 3, "valid_fraction": 0.02, "seed": 0,
    }  # fmt: skip
    return EncodingOptions(**{**values, **changes})


ENCODED: dict[Any, BatchResult] = {}  # the codec runs once for the same bytes and settings


def encode_in_this_process(make_encoder: partial[Any], batches: Iterable[Batch], workers: int) -> Iterator[BatchResult]:
    """Replace `pipeline.encode.workers.encode_batches` by one process whose codec is loaded once:
    encodec_mini, or one of Hugging Face.
    """
    settings, weights, _, root = make_encoder.args
    encoder = Encoder(_codec(settings.codec.name, settings.codec.bandwidth, weights), settings, root)
    for batch in batches:
        if is_remote(root):
            yield encoder.encode(batch)
            continue
        content = (
            settings,
            *((note.file.path, hash_file(root / note.file.path), repr(note.labels)) for note in batch.notes),
        )
        if content not in ENCODED:
            ENCODED[content] = encoder.encode(batch)
        yield ENCODED[content]


@cache
def _codec(name: str, bandwidth: float | None, weights: Path | None) -> LoadedCodec:
    return load_codec(name, bandwidth, weights) if is_hugging_face(name) else load_codec("encodec_mini")


class Silent:
    """A `Progress` without output."""

    def start(self, total: int, done: int, unit: str = "notes") -> None: ...

    def step(self, notes: int, seconds: float, segments: int | None = None, data_wait: float | None = None) -> None: ...
