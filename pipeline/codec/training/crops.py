"""Notes in memory -> the short crops a codec is trained on, varied in level, pitch and timbre.

A batch is a function of (seed, step) alone, so a resumed training sees what an uninterrupted one would. Knows nothing
of models and losses.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

PCM_PEAK = 32_767  # notes are kept as 16 bit: 0.2 MB each
PEAKS = (0.01, 0.95)  # of the note, drawn evenly in its logarithm: recorded notes have all levels
NEAR_OWN = 0.9  # share of the crops that have about their own level instead
NEAR = 1.6  # at most so many times louder or quieter
AT_ONSET = 0.3  # share of the crops that start where the note starts
HELD = 0.75  # share of a note before its release, after which there is little but silence
WHILE_HELD = 0.5  # share of the other crops that start there
SPEEDS = (0.944, 1.06)  # a semitone down to a semitone up
RESPEED = 0.2  # share of the crops that are played faster or slower
TILT = 0.6  # most of the sample before that is added: darker, or brighter if subtracted
RETILT = 0.15  # share of the crops that are made darker or brighter


@dataclass(frozen=True)
class Notes:
    """Notes of several folders: int16 samples, each (sample,), and which folder each is of."""

    samples: tuple[np.ndarray, ...]
    folder: np.ndarray  # (note,)

    def draw(self, random: np.random.Generator) -> np.ndarray:
        """One note, (sample,): each folder as often as the square root of its number of notes."""
        shares = np.sqrt(np.bincount(self.folder))
        folder = random.choice(len(shares), p=shares / shares.sum())
        return self.samples[random.choice(np.flatnonzero(self.folder == folder))]


def read_notes(folders: Iterable[Iterable[Path]], sample_rate: int) -> Notes:
    """Decode files into memory, folder by folder; silent ones are left out."""
    from tqdm import tqdm

    from pipeline.audio import load

    samples, owners = [], []
    for owner, paths in enumerate(folders):
        for path in tqdm(list(paths), desc=f"read {owner}", unit=" notes", leave=False):
            note = np.rint(load(path, sample_rate).clip(-1, 1) * PCM_PEAK).astype(np.int16)
            if note.any():
                samples.append(note)
                owners.append(owner)
    return Notes(tuple(samples), np.array(owners))


def batch(notes: Notes, crops: int, length: int, seed: int, step: int) -> np.ndarray:
    """(crop, sample) float32."""
    random = np.random.default_rng((seed, step))
    return np.stack([crop(notes.draw(random), length, random) for _ in range(crops)])


def crop(note: np.ndarray, length: int, random: np.random.Generator) -> np.ndarray:
    """One varied crop of a note: (sample,) int16 -> (length,) float32."""
    speed = random.uniform(*SPEEDS) if random.random() < RESPEED else 1.0
    last = max(0, len(note) - int(length * speed) - 2)
    if random.random() < AT_ONSET:
        start = 0
    else:
        latest = last * HELD if random.random() < WHILE_HELD else last
        start = int(random.integers(0, int(latest) + 1))
    source = note[start : start + int(length * speed) + 2] / PCM_PEAK
    part = np.interp(np.arange(length) * speed, np.arange(len(source)), source, right=0.0)
    own = np.abs(note).max() / PCM_PEAK
    if random.random() < RETILT:
        tilt = random.uniform(-TILT, TILT)
        part[1:] += tilt * part[:-1]
        part /= 1 + abs(tilt)
    if random.random() < NEAR_OWN:
        peak = min(PEAKS[1], own * NEAR ** random.uniform(-1, 1))
    else:
        peak = np.exp(random.uniform(*np.log(PEAKS)))
    return (part * (peak / own)).astype(np.float32)
