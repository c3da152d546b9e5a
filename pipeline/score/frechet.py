"""Fréchet distance between two sets of notes: of Gaussians that are fitted to their latent frames.

It is the Fréchet audio distance, with a codec's encoder as the embedding. Knows nothing of audio and codecs.

Heusel et al., "GANs Trained by a Two Time-Scale Update Rule", 2017, https://arxiv.org/abs/1706.08500; Kilgour et al.,
"Fréchet Audio Distance", 2019, https://arxiv.org/abs/1812.08466
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

MIN_NOTES = 32  # of fewer, a distance says more about their number than about the notes
RESAMPLES = 100
COVERAGE = 0.95  # share of the resampled distances within the interval


@dataclass(frozen=True)
class Moments:
    """Sums over frames, which a Gaussian is fitted to; those of several notes add up."""

    count: int  # frames
    total: np.ndarray  # (channel,)
    products: np.ndarray  # (channel, channel)

    @cached_property
    def mean(self) -> np.ndarray:
        return self.total / self.count

    @cached_property
    def covariance(self) -> np.ndarray:
        return self.products / self.count - np.outer(self.mean, self.mean)

    @cached_property
    def root(self) -> np.ndarray:
        """The covariance's square root: slow to compute, and used often."""
        values, vectors = np.linalg.eigh(self.covariance)
        return (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T  # no eigenvalue is negative, but for rounding


def moments(frames: np.ndarray) -> Moments:
    """Sum the latents of one note, (channel, frame)."""
    frames = frames.astype(np.float64)
    return Moments(frames.shape[1], frames.sum(1), frames @ frames.T)


def pooled(notes: Sequence[Moments]) -> Moments:
    """Add up the moments of several notes."""
    return Moments(
        sum(note.count for note in notes),
        np.sum([note.total for note in notes], axis=0),
        np.sum([note.products for note in notes], axis=0),
    )


def frechet(frames: Moments, reference: Moments) -> float:
    """Return |mean - mean'|^2 + tr(S + S' - 2 (S S')^(1/2)): 0 for the same set."""
    eigenvalues = np.linalg.eigvalsh(reference.root @ frames.covariance @ reference.root)
    cross = np.sqrt(np.maximum(eigenvalues, 0)).sum()
    shift = np.sum((frames.mean - reference.mean) ** 2)
    return float(shift + np.trace(frames.covariance + reference.covariance) - 2 * cross)


def interval(notes: Sequence[Moments], reference: Moments, seed: int = 0) -> tuple[float, float]:
    """Estimate the 95 % interval of the distance to `reference` by a bootstrap over notes.

    A resample has fewer different notes, so its distance is larger: its relative spread is put around the distance.
    """
    rng = np.random.default_rng(seed)
    distances = [
        frechet(pooled([notes[index] for index in rng.integers(len(notes), size=len(notes))]), reference)
        for _ in range(RESAMPLES)
    ]
    low, middle, high = np.quantile(distances, [(1 - COVERAGE) / 2, 0.5, (1 + COVERAGE) / 2])
    distance = frechet(pooled(notes), reference)
    return float(distance * low / middle), float(distance * high / middle)
