"""Logits -> codes: temperature, filters and the draw itself.

Nothing here waits for the device, so that a GPU can run it as a part of a graph. Knows no model.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from trainer.errors import ConfigError

LOWEST, HIGHEST = 1e-6, 1e6  # of temperatures and guidance: beyond, logits leave float32
LARGEST = 1 << 20  # codes


@dataclass(frozen=True)
class Sampling:
    """Settings that turn logits into a sampled code."""

    temperature: float = 1.0  # 0: always the likeliest
    top_k: int = 0  # only the likeliest k; 0: all
    top_p: float = 1.0  # only the likeliest whose probabilities reach p together
    min_p: float = 0.0  # only those at least this share of the likeliest's probability
    guidance: float = 1.0  # classifier-free: 0: logits without labels; 1: with labels; above 1: further on from there

    def __post_init__(self) -> None:
        if self.temperature != 0 and not LOWEST <= self.temperature <= HIGHEST:
            raise ConfigError(f"--temperature {self.temperature:g}: must be 0, or from {LOWEST:g} to {HIGHEST:g}")
        if not abs(self.guidance) <= HIGHEST:
            raise ConfigError(f"--guidance {self.guidance:g}: must be from {-HIGHEST:g} to {HIGHEST:g}")
        if not 0 <= self.top_k <= LARGEST:
            raise ConfigError(f"--top-k {self.top_k}: must be from 0 to {LARGEST}")
        if not 0 < self.top_p <= 1:
            raise ConfigError(f"--top-p {self.top_p:g}: must be more than 0 and at most 1")
        if not 0 <= self.min_p <= 1:
            raise ConfigError(f"--min-p {self.min_p:g}: must be between 0 and 1")


def draw_codes(logits: Tensor, uniforms: Tensor) -> Tensor:
    """Draw a code of each row, by inverse transform: (note, code) logits and (note,) uniforms -> (note,).

    Sums have the dtype of the uniforms: float64 where the device has it.
    """
    cumulative = logits.softmax(-1).to(uniforms.dtype).cumsum(-1)
    total = cumulative[:, -1:]
    sampled = torch.searchsorted(cumulative, uniforms[:, None] * total, right=True)
    last = (cumulative < total).sum(-1, keepdim=True)  # the last code that has any probability, against rounding
    return torch.minimum(sampled, last)[:, 0]


def sample_codes(
    logits: Tensor, uniforms: Tensor, sampling: Sampling, draw: Callable[[Tensor, Tensor], Tensor] = draw_codes
) -> Tensor:
    """Sample a code of each row: (note, code) logits and (note,) uniforms -> (note,)."""
    if sampling.temperature == 0:
        return logits.argmax(-1)
    return draw(filter_logits(logits / sampling.temperature, sampling), uniforms)


def log_likelihoods(logits: Tensor, codes: Tensor) -> Tensor:
    """Of each row's code: (note, code) logits and (note,) codes -> (note,)."""
    return logits.log_softmax(-1).gather(1, codes[:, None])[:, 0]


def filter_logits(logits: Tensor, sampling: Sampling) -> Tensor:
    """Set the logits of codes outside top-k, top-p or min-p to minus infinity; the likeliest always stays."""
    if 0 < sampling.top_k < logits.shape[-1]:
        logits = logits.masked_fill(logits < logits.topk(sampling.top_k).values[:, -1:], -torch.inf)
    if sampling.top_p < 1:
        ordered, codes = logits.softmax(-1).sort(descending=True)
        before = ordered.cumsum(-1) - ordered  # probability of all likelier ones
        logits = logits.masked_fill((before >= sampling.top_p).scatter(1, codes, before >= sampling.top_p), -torch.inf)
    if sampling.min_p > 0:
        probabilities = logits.softmax(-1)
        least = sampling.min_p * probabilities.amax(-1, keepdim=True)
        logits = logits.masked_fill(probabilities < least, -torch.inf)
    return logits
