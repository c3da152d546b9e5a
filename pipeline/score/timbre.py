"""Timbre of notes: a vector for each, distances between them, and the distances that real instruments have.

The vector is the mean of mel-frequency cepstral coefficients over a note's first second, without the one that is its
level (Davis & Mermelstein, "Comparison of Parametric Representations for Monosyllabic Word Recognition", 1980).
Knows nothing of samples and files of scores.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.audio import resample
from shards.numba_cache import make_cache_robust

RATE = 16_000  # Hz
SECONDS = 1.0  # from the start of the note
FFT, HOP = 1_024, 256  # samples
MEL_BANDS = 40
RANGE_DB = 60.0  # below the loudest band of the note; what is quieter counts as this quiet
COEFFICIENTS = slice(1, 13)
SCALE = 40.0  # makes the distance of two real instruments about 2
NEIGHBOURS = 2  # semitones at most between notes that are compared as neighbours


@dataclass(frozen=True, eq=False)
class RealNote:
    """A train note, as far as timbres are compared with it."""

    key: str
    instrument: str
    pitch: int
    velocity: int
    timbre: np.ndarray  # (coefficient,)
    cents: float | None = None  # off its pitch; None: none was found, or it was not measured


@dataclass(frozen=True)
class TimbreScale:
    """Mean distances of neighbouring keys of real instruments at one velocity."""

    same: float  # of one instrument
    different: float  # of two

    def share(self, distance: float) -> float:
        """The share of the way from one instrument (0) to two (1)."""
        return (distance - self.same) / (self.different - self.same)


def timbre_of(samples: np.ndarray, sample_rate: int) -> np.ndarray:
    """The timbre vector of a note: (sample,) -> (12,) float64."""
    make_cache_robust()
    import librosa

    first = resample(samples[: round(2 * SECONDS * sample_rate)], sample_rate, RATE)[: round(SECONDS * RATE)]
    power = librosa.feature.melspectrogram(y=first, sr=RATE, n_fft=FFT, hop_length=HOP, n_mels=MEL_BANDS)
    decibels = librosa.power_to_db(power, ref=np.max, top_db=RANGE_DB)  # (band, frame)
    coefficients = librosa.feature.mfcc(S=decibels, n_mfcc=COEFFICIENTS.stop)[COEFFICIENTS]
    return np.asarray(coefficients.mean(axis=1) / SCALE, np.float64)


def distance(timbre: np.ndarray, other: np.ndarray) -> float:
    """The Euclidean distance of two timbres."""
    return float(np.linalg.norm(timbre - other))


def timbre_scale(notes: Iterable[RealNote], velocity: int) -> TimbreScale | None:
    """Measure real neighbours at one velocity: keys a semitone apart, or two where no instrument has closer ones.

    None: there are no two neighbours of one instrument, or of two, or they are equally far apart.
    """
    layer = [note for note in notes if note.velocity == velocity]
    for step in range(1, NEIGHBOURS + 1):
        same: list[float] = []
        different: list[float] = []
        by_pitch: dict[int, list[RealNote]] = {}
        for note in layer:
            by_pitch.setdefault(note.pitch, []).append(note)
        for note in layer:
            for other in by_pitch.get(note.pitch + step, ()):
                distances = same if note.instrument == other.instrument else different
                distances.append(distance(note.timbre, other.timbre))
        if same and different and np.mean(different) > np.mean(same):
            return TimbreScale(float(np.mean(same)), float(np.mean(different)))
    return None


def comparable_notes(pitch: int, velocity: int, notes: Sequence[RealNote]) -> list[RealNote]:
    """The real notes of about this pitch, of this velocity if there are any."""
    near = [note for note in notes if abs(note.pitch - pitch) <= NEIGHBOURS]
    return [note for note in near if note.velocity == velocity] or near


def nearest_note(timbre: np.ndarray, notes: Sequence[RealNote]) -> RealNote | None:
    """The real note with the most similar timbre."""
    return min(notes, key=lambda note: distance(note.timbre, timbre), default=None)
