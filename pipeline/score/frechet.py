"""How far two sets of sounds lie apart: the Fréchet distance of Gaussians fitted to their latent frames.

As the Fréchet audio distance, with a codec's encoder for the embedding. Numbers only: knows no audio and no codec.

Heusel et al., "GANs Trained by a Two Time-Scale Update Rule", 2017, https://arxiv.org/abs/1706.08500; Kilgour et al.,
"Fréchet Audio Distance", 2019, https://arxiv.org/abs/1812.08466
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

RESAMPLES = 100
COVERED = 0.95  # of the resampled distances lie within the interval


@dataclass(frozen=True)
class Moments:
    """What a Gaussian is fitted from; sums, so that those of several notes just add up."""

    count: int  # frames
    total: np.ndarray  # (channel,)
    products: np.ndarray  # (channel, channel)


@dataclass(frozen=True)
class Gaussian:
    """Fitted to frames; `root` is the square root of the covariance, which is dear and used again and again."""

    mean: np.ndarray  # (channel,)
    covariance: np.ndarray  # (channel, channel)
    root: np.ndarray


def moments(frames: np.ndarray) -> Moments:
    """Of one note's latents, (channel, frame)."""
    exact = frames.astype(np.float64)
    return Moments(exact.shape[1], exact.sum(1), exact @ exact.T)


def pooled(notes: Sequence[Moments]) -> Moments:
    """Of several notes together."""
    return Moments(
        sum(note.count for note in notes),
        np.sum([note.total for note in notes], axis=0),
        np.sum([note.products for note in notes], axis=0),
    )


def fit_gaussian(frames: Moments) -> Gaussian:
    """The Gaussian that others are compared with."""
    mean, covariance = _mean_and_covariance(frames)
    values, vectors = np.linalg.eigh(covariance)
    root = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T  # no eigenvalue is negative, but for rounding
    return Gaussian(mean, covariance, root)


def frechet(frames: Moments, reference: Gaussian) -> float:
    """|mean - mean'|^2 + tr(S + S' - 2 (S S')^(1/2)): 0 for the same set."""
    mean, covariance = _mean_and_covariance(frames)
    overlap = np.linalg.eigvalsh(reference.root @ covariance @ reference.root)
    crossed = np.sqrt(np.maximum(overlap, 0)).sum()
    return float(np.sum((mean - reference.mean) ** 2) + np.trace(covariance + reference.covariance) - 2 * crossed)


def interval(notes: Sequence[Moments], reference: Gaussian, seed: int = 0) -> tuple[float, float]:
    """Where the distance to `reference` would lie for other notes like these: a bootstrap over notes.

    A resample has fewer different notes, and so lies farther away; its spread is kept, and put around the distance.
    """
    rng = np.random.default_rng(seed)
    distances = [
        frechet(pooled([notes[index] for index in rng.integers(len(notes), size=len(notes))]), reference)
        for _ in range(RESAMPLES)
    ]
    low, middle, high = np.quantile(distances, [(1 - COVERED) / 2, 0.5, (1 + COVERED) / 2])
    distance = frechet(pooled(notes), reference)
    return float(distance * low / middle), float(distance * high / middle)


def _mean_and_covariance(frames: Moments) -> tuple[np.ndarray, np.ndarray]:
    mean = frames.total / frames.count
    return mean, frames.products / frames.count - np.outer(mean, mean)
