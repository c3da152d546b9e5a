"""How good a codec is on a folder of notes: what survives a round trip, and how much of its codebooks it uses.

Scores whole notes at their own levels, one decoded note against its real one. Knows nothing of training.

Fundamental: YIN, de Cheveigné and Kawahara, 2002. Distance: `codec_loss.mel_distance`.
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
from pipeline.codec.distance import mel_distance, sounding
from pipeline.codec.model import EnCodec, load_codec
from pipeline.codec.training.codebooks import perplexity
from pipeline.notes.folder import scan_folder
from pipeline.notes.nsynth import parse_name
from pipeline.progress import Progress
from shards.errors import UserError

DURATION = 4.0  # seconds of each note, NSynth's
BATCH = 4  # notes decoded at once: activations of more leave the cache
PITCHES = range(40, 85)  # MIDI pitches whose fundamental is looked for
PITCH_SPAN = (0.1, 1.25)  # seconds of a note in which it is: after the pluck, before most decays end
YIN_RANGE = (60.0, 1_500.0)  # Hz, a little more than PITCHES
NEAR = 50.0  # cents: nearer to the right note than to its neighbours


@dataclass(frozen=True)
class Score:
    """Figures of a codec on some notes; `silence` is the distance of a codec that decodes nothing."""

    notes: int
    pitched: int  # notes whose fundamental YIN finds in the real note
    kept: float  # share of these whose decoded fundamental is within `NEAR` of it
    distance: float
    distance_one: float  # decoded from the first codebook alone
    silence: float
    used: tuple[int, ...]  # entries of each codebook that occur
    perplexity: tuple[float, ...]  # of each codebook, over all frames
    perplexity_sounding: tuple[float, ...]  # over frames that are not silence
    load_seconds: float

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    def lines(self) -> list[str]:
        """A table to read."""
        return [
            f"fundamental kept within {NEAR:g} cents  {self.kept:.1%} of {self.pitched}",
            f"log-mel distance                  {self.distance:.3f}",
            f"  with one codebook               {self.distance_one:.3f}",
            f"  of silence                      {self.silence:.3f}",
            f"codes used                        {', '.join(map(str, self.used))}",
            f"perplexity                        {', '.join(f'{value:.0f}' for value in self.perplexity)}",
            f"  in frames that sound            {', '.join(f'{value:.0f}' for value in self.perplexity_sounding)}",
            f"load                              {self.load_seconds:.2f} s",
        ]


def score_folder(folder: Path, name: str, weights: Path | None, count: int | None, progress: Progress) -> Score:
    """Score a codec on the notes of a folder, or on `count` of them at even distances.

    Raises:
        UserError: no audio there, or a codec that cannot be loaded.
    """
    started = time.perf_counter()
    codec = load_codec(name, weights=weights)
    seconds = time.perf_counter() - started
    found = scan_folder(folder)
    paths = [found.root / note.path for note in found.inputs if note.fault is None]
    if count is not None and count < len(paths):
        paths = [paths[index * len(paths) // count] for index in range(count)]
    if not paths:
        raise UserError(f"{folder}: no audio that can be read")
    progress.start(len(paths), 0)
    return _summary(
        [note for batch in _batches(paths, BATCH) for note in _score(codec, batch, progress)], codec, seconds
    )


@dataclass(frozen=True)
class _Note:
    """What is measured on one note."""

    distance: float
    distance_one: float
    silence: float
    codes: np.ndarray  # (codebook, frame)
    sounds: np.ndarray  # (frame,) bool
    kept: bool | None  # None: no fundamental to keep


def _score(codec: EnCodec, paths: list[Path], progress: Progress) -> Iterator[_Note]:
    rate = codec.spec.sample_rate
    real = torch.from_numpy(np.stack([load(path, rate, DURATION) for path in paths]))  # (note, sample)
    codes = codec.encode(real).cpu()
    decoded = codec.decode(codes).cpu()[:, : real.shape[1]]
    decoded_one = codec.decode(codes[:, :1]).cpu()[:, : real.shape[1]]
    sounds = sounding(real, codec.spec.hop)  # (note, frame)
    for index, path in enumerate(paths):
        only = slice(index, index + 1)
        yield _Note(
            distance=float(mel_distance(decoded[only], real[only])),
            distance_one=float(mel_distance(decoded_one[only], real[only])),
            silence=float(mel_distance(torch.zeros_like(real[only]), real[only])),
            codes=codes[index].numpy(),
            sounds=sounds[index].numpy(),
            kept=_kept(path, real[index], decoded[index], rate),
        )
        progress.step(1, DURATION)


def _kept(path: Path, real: Tensor, decoded: Tensor, rate: int) -> bool | None:
    """Whether the decoded note has the pitch of its name, where the real one has."""
    labels = parse_name(path.stem)
    if labels is None or labels["pitch"] not in PITCHES or _cents_off(real, labels["pitch"], rate) > NEAR:
        return None
    return _cents_off(decoded, labels["pitch"], rate) <= NEAR


def _cents_off(samples: Tensor, pitch: int, rate: int) -> float:
    """Distance of the fundamental, a median over `PITCH_SPAN`, from a MIDI pitch."""
    import librosa

    first, last = (int(seconds * rate) for seconds in PITCH_SPAN)
    fundamental = np.median(librosa.yin(samples[first:last].numpy(), fmin=YIN_RANGE[0], fmax=YIN_RANGE[1], sr=rate))
    return abs(1200 * float(np.log2(fundamental / librosa.midi_to_hz(pitch))))


def _summary(notes: list[_Note], codec: EnCodec, load_seconds: float) -> Score:
    codes = np.concatenate([note.codes for note in notes], axis=1)  # (codebook, frame)
    sounding = codes[:, np.concatenate([note.sounds for note in notes])[: codes.shape[1]]]
    pitched = [note.kept for note in notes if note.kept is not None]
    return Score(
        notes=len(notes),
        pitched=len(pitched),
        kept=float(np.mean(pitched)) if pitched else 0.0,
        distance=float(np.mean([note.distance for note in notes])),
        distance_one=float(np.mean([note.distance_one for note in notes])),
        silence=float(np.mean([note.silence for note in notes])),
        used=tuple(len(np.unique(book)) for book in codes),
        perplexity=tuple(_perplexity(book, codec) for book in codes),
        perplexity_sounding=tuple(_perplexity(book, codec) for book in sounding),
        load_seconds=load_seconds,
    )


def _perplexity(codes: np.ndarray, codec: EnCodec) -> float:
    return perplexity(torch.from_numpy(codes), codec.spec.codebook_size) if codes.size else 1.0


def _batches(paths: list[Path], size: int) -> Iterator[list[Path]]:
    for start in range(0, len(paths), size):
        yield paths[start : start + size]
