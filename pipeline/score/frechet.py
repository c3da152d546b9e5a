"""Fréchet distance between two sets of notes: of Gaussians that are fitted to their latent frames.

It is the Fréchet audio distance, with a codec's encoder as the embedding. Knows nothing of audio and codecs.

Heusel et al., "GANs Trained by a Two Time-Scale Update Rule", 2017, https://arxiv.org/abs/1706.08500; Kilgour et al.,
"Fréchet Audio Distance", 2019, https://arxiv.org/abs/1812.08466
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

RESAMPLES = 100
COVERAGE = 0.95  # share of the resampled distances within the interval


@dataclass(frozen=True)
class Moments:
    """Sums over frames that a Gaussian is fitted to; those of several notes add up."""

    count: int  # frames
    total: np.ndarray  # (channel,)
    products: np.ndarray  # (channel, channel)


@dataclass(frozen=True)
class Gaussian:
    """Mean and covariance of frames; `root` is the covariance's square root, slow to compute and used often."""

    mean: np.ndarray  # (channel,)
    covariance: np.ndarray  # (channel, channel)
    root: np.ndarray


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


def fit_gaussian(frames: Moments) -> Gaussian:
    """Fit the Gaussian that other frames are compared with."""
    mean, covariance = _mean_and_covariance(frames)
    values, vectors = np.linalg.eigh(covariance)
    root = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T  # no eigenvalue is negative, but for rounding
    return Gaussian(mean, covariance, root)


def frechet(frames: Moments, reference: Gaussian) -> float:
    """Return |mean - mean'|^2 + tr(S + S' - 2 (S S')^(1/2)): 0 for the same set."""
    mean, covariance = _mean_and_covariance(frames)
    eigenvalues = np.linalg.eigvalsh(reference.root @ covariance @ reference.root)
    cross = np.sqrt(np.maximum(eigenvalues, 0)).sum()
    return float(np.sum((mean - reference.mean) ** 2) + np.trace(covariance + reference.covariance) - 2 * cross)


def interval(notes: Sequence[Moments], reference: Gaussian, seed: int = 0) -> tuple[float, float]:
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


def _mean_and_covariance(frames: Moments) -> tuple[np.ndarray, np.ndarray]:
    mean = frames.total / frames.count
    return mean, frames.products / frames.count - np.outer(mean, mean)
