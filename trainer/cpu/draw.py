"""Draws of codes from their logits, and the likelihood of what was drawn."""

import math

import numpy as np

from trainer.cpu.compiled import compiled
from trainer.cpu.functions import LOWEST, exp_shifted, maximum

TOGETHER = 32  # codes: whole sums of so many are looked through before the codes themselves


@compiled
def draw(logits: np.ndarray, uniforms: np.ndarray) -> np.ndarray:
    """Sample a code of each row, by inverse transform: (note, code) logits and (note,) uniforms -> (note,).

    Probabilities are float32, their sums float64. A logit of minus infinity is never drawn.
    """
    codes = np.empty(len(logits), np.int64)
    weights = np.empty(logits.shape[1], np.float32)
    sums = np.empty(-(-len(weights) // TOGETHER), np.float64)
    for note in range(len(logits)):
        weights[:] = logits[note]
        highest = maximum(weights)
        exp_shifted(weights, highest)
        for code in range(len(weights)):
            weights[code] = weights[code] if logits[note, code] > highest + LOWEST else np.float32(0)
        for part in range(len(sums)):
            sums[part] = 0
            for code in range(part * TOGETHER, min((part + 1) * TOGETHER, len(weights))):
                sums[part] += np.float64(weights[code])
        codes[note] = invert(weights, sums, uniforms[note] * sums.sum())
    return codes


@compiled
def invert(weights: np.ndarray, sums: np.ndarray, target: float) -> int:
    """The first code at which the sum of all weights up to it is above the target, or the last one that has a weight.

    sums: of TOGETHER weights each.
    """
    last = len(sums) - 1
    while last > 0 and sums[last] == 0:
        last -= 1
    part, total, sampled = 0, 0.0, 0
    while part < last and total + sums[part] <= target:
        total += sums[part]
        part += 1
    for code in range(part * TOGETHER, min((part + 1) * TOGETHER, len(weights))):
        if weights[code] > 0:
            sampled = code
            total += np.float64(weights[code])
            if total > target:
                break
    return sampled


@compiled
def log_likelihoods(logits: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """(note, code) logits and (note,) codes -> (note,)."""
    likelihoods = np.empty(len(codes), np.float32)
    weights = np.empty(logits.shape[1], np.float32)
    for note in range(len(codes)):
        weights[:] = logits[note]
        highest = maximum(weights)
        total = exp_shifted(weights, highest)
        likelihoods[note] = logits[note, codes[note]] - highest - np.float32(math.log(total))
    return likelihoods
