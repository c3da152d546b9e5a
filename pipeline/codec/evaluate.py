"""Score of a codec on a folder of notes: what survives a round trip, and the use of its codebooks.

Compares whole notes at their own levels, decoded against original. Knows nothing of training.

Fundamental: YIN, de Cheveigné and Kawahara, 2002. Distance: `distance.note_distance`.
"""

import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pipeline.audio import load
from pipeline.codec.distance import is_sounding, note_distance
from pipeline.codec.loaded import LoadedCodec, load_codec
from pipeline.notes.folder import scan_folder
from pipeline.notes.nsynth import NSYNTH_SECONDS, parse_name
from pipeline.progress import Progress
from shards.console import counted
from shards.errors import UserError
from shards.numba_cache import make_cache_robust
from shards.summary import perplexity

BATCH = 4  # notes decoded at once: activations of more leave the cache
PITCHES = range(40, 85)  # MIDI pitches that YIN is run on
PITCH_SPAN = (0.1, 1.25)  # seconds of a note for YIN: after the pluck, before most decays end
YIN_RANGE = (60.0, 1_500.0)  # Hz, a little more than PITCHES
PITCH_TOLERANCE = 50.0  # cents: half a semitone


@dataclass(frozen=True)
class Score:
    """Figures of a codec on some notes."""

    audio: str
    codec: str
    notes: int
    pitched: int  # notes with the fundamental of their name, by YIN
    pitch_accuracy: float  # share of these whose decoded fundamental is right
    distance: float
    distance_one: float  # decoded from the first codebook alone
    silence: float  # distance of silence from the notes
    used: tuple[int, ...]  # entries of each codebook that occur
    perplexity: tuple[float, ...]  # of each codebook, over all frames
    perplexity_sounding: tuple[float, ...]  # over frames that are not silence
    load_seconds: float

    def to_json(self) -> dict[str, Any]:
        figures = asdict(self)
        return {"kept" if name == "pitch_accuracy" else name: value for name, value in figures.items()}

    def lines(self) -> Iterator[str]:
        yield f"fundamental kept within {PITCH_TOLERANCE:g} cents  {self.pitch_accuracy:.1%} of {self.pitched}"
        yield f"log-mel distance                  {self.distance:.3f}"
        yield f"  with one codebook               {self.distance_one:.3f}"
        yield f"  of silence                      {self.silence:.3f}"
        yield f"codes used                        {', '.join(map(str, self.used))}"
        yield f"perplexity                        {', '.join(f'{value:.0f}' for value in self.perplexity)}"
        yield f"  in frames that sound            {', '.join(f'{value:.0f}' for value in self.perplexity_sounding)}"
        yield f"load                              {self.load_seconds:.2f} s"
        yield f"{self.audio}: {counted(self.notes, 'note')} through {self.codec}."


@dataclass(frozen=True)
class _NoteScore:
    """Measurements of one note."""

    distance: float
    distance_one: float
    silence: float
    codes: np.ndarray  # (codebook, frame)
    sounding: np.ndarray  # (frame,) bool
    is_pitch_kept: bool | None  # None: the original has no fundamental to compare with


def score_folder(folder: Path, name: str, weights: Path | None, count: int | None, progress: Progress) -> Score:
    """Score a codec on the notes of a folder, or on `count` of them at even distances.

    Raises:
        UserError: no audio there, or a codec that cannot be loaded.
    """
    started = time.perf_counter()
    codec = load_codec(name, weights=weights)
    load_seconds = time.perf_counter() - started
    audio = scan_folder(folder)
    paths = [audio.root / file.path for file in audio.inputs if file.fault is None]
    if count is not None and count < len(paths):
        paths = [paths[index * len(paths) // count] for index in range(count)]
    if not paths:
        raise UserError(f"{folder}: no audio that can be read")
    progress.start(len(paths), 0)
    batches = (paths[start : start + BATCH] for start in range(0, len(paths), BATCH))
    notes = [note for batch in batches for note in _score_batch(codec, batch, progress)]

    codes = np.concatenate([note.codes for note in notes], axis=1)  # (codebook, frame of all notes)
    sounding = np.concatenate([note.sounding for note in notes])  # (frame of all notes,)
    pitched = [note.is_pitch_kept for note in notes if note.is_pitch_kept is not None]
    uses = [np.bincount(book, minlength=codec.spec.codebook_size) for book in codes]
    uses_sounding = [np.bincount(book[sounding], minlength=codec.spec.codebook_size) for book in codes]
    return Score(
        audio=str(folder),
        codec=str(weights or name),
        notes=len(notes),
        pitched=len(pitched),
        pitch_accuracy=float(np.mean(pitched)) if pitched else 0.0,
        distance=float(np.mean([note.distance for note in notes])),
        distance_one=float(np.mean([note.distance_one for note in notes])),
        silence=float(np.mean([note.silence for note in notes])),
        used=tuple(int((counts > 0).sum()) for counts in uses),
        perplexity=tuple(map(perplexity, uses)),
        perplexity_sounding=tuple(map(perplexity, uses_sounding)),
        load_seconds=load_seconds,
    )


def _score_batch(codec: LoadedCodec, paths: list[Path], progress: Progress) -> Iterator[_NoteScore]:
    rate = codec.spec.sample_rate
    original = torch.from_numpy(np.stack([load(path, rate, NSYNTH_SECONDS) for path in paths]))  # (note, sample)
    codes = codec.encode(original).cpu()
    decoded = codec.decode(codes).cpu()[:, : original.shape[1]]
    decoded_one = codec.decode(codes[:, :1]).cpu()[:, : original.shape[1]]
    sounding = is_sounding(original, codec.spec.hop)  # (note, frame)
    for index, path in enumerate(paths):
        yield _NoteScore(
            distance=note_distance(decoded[index].numpy(), original[index].numpy(), rate),
            distance_one=note_distance(decoded_one[index].numpy(), original[index].numpy(), rate),
            silence=note_distance(np.zeros_like(original[index].numpy()), original[index].numpy(), rate),
            codes=codes[index].numpy(),
            sounding=sounding[index].numpy(),
            is_pitch_kept=_is_pitch_kept(path, original[index], decoded[index], rate),
        )
        progress.step(1, NSYNTH_SECONDS)


def _is_pitch_kept(path: Path, original: Tensor, decoded: Tensor, rate: int) -> bool | None:
    """Compare the decoded note's pitch with its name's; None if there is none or the original has another."""
    labels = parse_name(path.stem)
    if labels is None or labels["pitch"] not in PITCHES:
        return None
    if _cents_off(original, labels["pitch"], rate) > PITCH_TOLERANCE:
        return None
    return _cents_off(decoded, labels["pitch"], rate) <= PITCH_TOLERANCE


def _cents_off(samples: Tensor, pitch: int, rate: int) -> float:
    """Distance of the median fundamental over `PITCH_SPAN` from a MIDI pitch."""
    make_cache_robust()
    import librosa

    first, last = (int(seconds * rate) for seconds in PITCH_SPAN)
    fundamental = np.median(librosa.yin(samples[first:last].numpy(), fmin=YIN_RANGE[0], fmax=YIN_RANGE[1], sr=rate))
    return abs(1200 * float(np.log2(fundamental / librosa.midi_to_hz(pitch))))
