"""Functions of each number, and LayerNorm."""

import math

import numpy as np

from trainer.cpu.compiled import compiled
from trainer.cpu.intrinsics import to_float32

EPSILON = np.float32(1e-5)  # LayerNorm's
LOWEST = np.float32(-87)  # its exponential is nearly the least that float32 has
BIAS, EXPONENT = np.float32(127), np.float32(2**7)  # of bfloat16: the exponent's bias, and the unit of its lowest bit
LOG2_E, LN_2 = np.float32(math.log2(math.e)), np.float32(math.log(2))
ERF_P = np.float32(0.3275911 * math.sqrt(0.5))
ERF_1, ERF_2, ERF_3, ERF_4, ERF_5 = (
    np.float32(number) for number in (0.254829592, -0.284496736, 1.421413741, -1.453152027, 1.061405429)
)
ONE, HALF, THIRD, FOURTH, FIFTH, SIXTH = (np.float32(1 / math.factorial(n)) for n in range(1, 7))  # of exp's series


@compiled
def exp_shifted(numbers: np.ndarray, highest: np.float32) -> np.float32:
    """Replace numbers, (number,), by exp(number - highest) and return their sum: a softmax without its division."""
    total = np.float32(0)
    for index in range(len(numbers)):
        numbers[index] = exp(numbers[index] - highest)
        total += numbers[index]
    return total


@compiled
def maximum(numbers: np.ndarray) -> np.float32:
    """The highest of (number,), by their bits: a maximum of integers is compiled to take many at once."""
    bits = numbers.view(np.int32)
    highest = ordered(bits[0])
    for index in range(1, len(bits)):
        highest = max(highest, ordered(bits[index]))
    return to_float32(ordered(highest))


@compiled
def ordered(bits: np.int32) -> np.int32:
    """The bits of a float32 to an integer, in the order of the numbers, or such an integer to the bits."""
    return np.int32(bits ^ (bits >> 31 & 0x7FFFFFFF))


@compiled
def exp(x: np.float32) -> np.float32:
    """exp(x) of x <= 0: 2^n exp(r) with a whole n and |r| below 0.35, where a polynomial is as exact as float32.

    Unlike a call of the C library's function, these steps can be taken for eight numbers at once.
    """
    x = max(x, LOWEST)
    n = np.floor(x * LOG2_E + HALF)
    r = x - n * LN_2
    tail = ((((SIXTH * r + FIFTH) * r + FOURTH) * r + THIRD) * r + HALF) * r + ONE
    return (tail * r + ONE) * to_float32(np.uint16((n + BIAS) * EXPONENT))  # 2^n by its bits


@compiled
def gelu(x: np.ndarray) -> None:
    """GELU in place: x times the normal distribution function of x.

    The function by Abramowitz and Stegun, Handbook of Mathematical Functions, 1964, formula 7.1.26: within 1e-7.
    """
    for index in range(len(x)):
        size = abs(x[index])
        t = ONE / (ONE + ERF_P * size)
        tail = ((((ERF_5 * t + ERF_4) * t + ERF_3) * t + ERF_2) * t + ERF_1) * t * exp(-HALF * size * size)
        x[index] = HALF * (x[index] + size * (ONE - tail))


@compiled
def layer_norm(x: np.ndarray, scale: np.ndarray, out: np.ndarray) -> None:
    """LayerNorm without a bias: (note, feature) -> (note, feature)."""
    width = np.float32(x.shape[1])
    for note in range(len(x)):
        mean, variance = np.float32(0), np.float32(0)
        for feature in range(x.shape[1]):
            mean += x[note, feature]
        mean /= width
        for feature in range(x.shape[1]):
            variance += (x[note, feature] - mean) ** 2
        deviation = np.sqrt(variance / width + EPSILON)
        for feature in range(x.shape[1]):
            out[note, feature] = (x[note, feature] - mean) / deviation * scale[feature]
