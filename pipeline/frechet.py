"""How far two sets of sounds lie apart: the Fréchet distance of Gaussians fitted to their latent frames.

As the Fréchet audio distance, with a codec's encoder for the embedding. Numbers only: knows no audio and no codec.

Heusel et al., "GANs Trained by a Two Time-Scale Update Rule", 2017, https://arxiv.org/abs/1706.08500; Kilgour et al.,
"Fréchet Audio Distance", 2019, https://arxiv.org/abs/1812.08466
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

RESAMPLES = 200
COVERED = 0.95  # of the resampled distances lie within the interval


@dataclass(frozen=True)
class Moments:
    """What a Gaussian is fitted from; sums, so that those of several notes just add up."""

    count: int  # frames
    total: np.ndarray  # (channel,)
    products: np.ndarray  # (channel, channel)

    def fitted(self) -> tuple[np.ndarray, np.ndarray]:
        """Mean and covariance."""
        mean = self.total / self.count
        return mean, self.products / self.count - np.outer(mean, mean)


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


def frechet(one: Moments, other: Moments) -> float:
    """|mean - mean'|^2 + tr(S + S' - 2 (S S')^(1/2)): 0 for the same set."""
    (mean, cov), (other_mean, other_cov) = one.fitted(), other.fitted()
    root = _root(cov)
    overlap = np.linalg.eigvalsh(root @ other_cov @ root)
    crossed = np.sqrt(np.maximum(overlap, 0)).sum()
    return float(np.sum((mean - other_mean) ** 2) + np.trace(cov) + np.trace(other_cov) - 2 * crossed)


def interval(notes: Sequence[Moments], reference: Moments, seed: int = 0) -> tuple[float, float]:
    """Where the distance to `reference` would lie for other notes like these: a bootstrap over notes."""
    rng = np.random.default_rng(seed)
    distances = [
        frechet(pooled([notes[index] for index in rng.integers(len(notes), size=len(notes))]), reference)
        for _ in range(RESAMPLES)
    ]
    low, high = np.quantile(distances, [(1 - COVERED) / 2, (1 + COVERED) / 2])
    return float(low), float(high)


def _root(matrix: np.ndarray) -> np.ndarray:
    """The square root of a symmetric matrix without negative eigenvalues, but for rounding."""
    values, vectors = np.linalg.eigh(matrix)
    return (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
