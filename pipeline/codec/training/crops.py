"""Training data of a codec: short random crops of notes in memory, varied in level, pitch and timbre.

A batch is a function of (seed, step), so a resumed training sees the same crops as an uninterrupted one. Knows nothing
of models and losses.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipeline.audio import PCM_PEAK, load
from shards.console import progress_bar

PEAKS = (0.01, 0.95)  # peak of a crop, log-uniform: recorded notes have all levels
NEAR_OWN = 0.9  # probability that a crop is close to its own level instead
NEAR_FACTOR = 1.6  # then it is at most so many times louder or quieter
AT_ONSET = 0.3  # probability that a crop starts with the note
SUSTAIN = 0.75  # fraction of a note before its release; after it there is little but silence
IN_SUSTAIN = 0.5  # probability that another crop starts in it
SPEEDS = (0.944, 1.06)  # playback speed, a semitone down to a semitone up
CHANGE_SPEED = 0.2  # probability of a changed speed
MAX_TILT = 0.6  # factor of the previous sample that is added (darker) or subtracted (brighter)
CHANGE_TILT = 0.15  # probability of a changed spectral tilt


@dataclass(frozen=True)
class Notes:
    """Notes of several folders in 16 bits, which take 0.2 MB each."""

    samples: tuple[np.ndarray, ...]  # int16, each (sample,)
    folder: np.ndarray  # index of each note's folder, (note,)

    def choose(self, random: np.random.Generator) -> np.ndarray:
        """Choose a random note, (sample,): each folder as often as the square root of its number of notes."""
        shares = np.sqrt(np.bincount(self.folder))
        folder = random.choice(len(shares), p=shares / shares.sum())
        return self.samples[random.choice(np.flatnonzero(self.folder == folder))]


def read_notes(folders: Iterable[Iterable[Path]], sample_rate: int) -> Notes:
    """Decode files into memory, folder by folder; silent ones are left out."""
    samples, folder_of = [], []
    for index, paths in enumerate(folders):
        for path in progress_bar(iterable=list(paths), desc=f"read {index}", unit=" notes", leave=False):
            note = np.rint(load(path, sample_rate).clip(-1, 1) * PCM_PEAK).astype(np.int16)
            if note.any():
                samples.append(note)
                folder_of.append(index)
    return Notes(tuple(samples), np.array(folder_of))


def crop_batch(notes: Notes, crops: int, length: int, seed: int, step: int) -> np.ndarray:
    """Make the crops of one step: (crop, sample) float32."""
    random = np.random.default_rng((seed, step))
    return np.stack([random_crop(notes.choose(random), length, random) for _ in range(crops)])


def random_crop(note: np.ndarray, length: int, random: np.random.Generator) -> np.ndarray:
    """Make one varied crop of a note: (sample,) int16 -> (length,) float32."""
    speed = random.uniform(*SPEEDS) if random.random() < CHANGE_SPEED else 1.0
    last = max(0, len(note) - int(length * speed) - 2)
    if random.random() < AT_ONSET:
        start = 0
    else:
        latest = last * SUSTAIN if random.random() < IN_SUSTAIN else last
        start = int(random.integers(0, int(latest) + 1))
    source = note[start : start + int(length * speed) + 2] / PCM_PEAK
    crop = np.interp(np.arange(length) * speed, np.arange(len(source)), source, right=0.0)
    own_peak = np.abs(note).max() / PCM_PEAK
    if random.random() < CHANGE_TILT:
        tilt = random.uniform(-MAX_TILT, MAX_TILT)
        crop[1:] += tilt * crop[:-1]
        crop /= 1 + abs(tilt)
    if random.random() < NEAR_OWN:
        peak = min(PEAKS[1], own_peak * NEAR_FACTOR ** random.uniform(-1, 1))
    else:
        peak = np.exp(random.uniform(*np.log(PEAKS)))
    return (crop * (peak / own_peak)).astype(np.float32)
