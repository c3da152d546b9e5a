"""A layer at one position, as loops that numba compiles: what a CPU does at each step of sampling, in float32.

With few notes a step takes as long as reading the weights, with many as long as reading the keys and values of all
positions before. These loops read both at the speed of memory, which torch's products of so small matrices do not;
and a layer is one call instead of some thirty. They release Python's lock, so threads run side by side.

Matrices and the cache may be kept in bfloat16, which is half as much to read. numpy has no such numbers: they are
uint16 here, the upper halves of float32's bits.
"""

import math
from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

EPSILON = np.float32(1e-5)  # LayerNorm's
compiled = njit(
    nogil=True,
    cache=True,
    fastmath={"reassoc", "contract"},  # sums in any order, but infinities are kept
    error_model="numpy",  # a check of each divisor would keep loops from taking eight numbers at once
)
BITS = ir.IntType(32)
LOWEST = np.float32(-87)  # its exponential is nearly the least that float32 has
BIAS, EXPONENT = np.float32(127), np.float32(2**7)  # of a bfloat16's exponent: what is added, where it begins
LOG2_E, LN_2 = np.float32(math.log2(math.e)), np.float32(math.log(2))
ERF_P = np.float32(0.3275911 * math.sqrt(0.5))
ERF_1, ERF_2, ERF_3, ERF_4, ERF_5 = (
    np.float32(number) for number in (0.254829592, -0.284496736, 1.421413741, -1.453152027, 1.061405429)
)
ONE, HALF, THIRD, FOURTH, FIFTH, SIXTH = (np.float32(1 / math.factorial(n)) for n in range(1, 7))  # of exp's series


def _widened(typing: Any, kept: Any) -> Any:
    """The float32 that is kept as it is, or as bfloat16."""

    def of_float32(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return arguments[0]

    def of_bfloat16(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.bitcast(builder.shl(builder.zext(arguments[0], BITS), BITS(16)), ir.FloatType())

    return types.float32(kept), of_float32 if kept == types.float32 else of_bfloat16


def _narrowed(typing: Any, number: Any, place: Any) -> Any:
    """A float32 as the array `place` keeps it: rounded to the nearest bfloat16, to the even one if two are as near."""

    def to_float32(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return arguments[0]

    def to_bfloat16(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        bits = builder.bitcast(arguments[0], BITS)
        odd = builder.and_(builder.lshr(bits, BITS(16)), BITS(1))
        rounded = builder.add(bits, builder.add(odd, BITS(0x7FFF)))
        return builder.trunc(builder.lshr(rounded, BITS(16)), ir.IntType(16))

    return place.dtype(types.float32, place), to_float32 if place.dtype == types.float32 else to_bfloat16


# As variables: in numba's own types the first argument is still to be given.
widened: Any = intrinsic(_widened)
narrowed: Any = intrinsic(_narrowed)


@compiled
def attend(projected: np.ndarray, turns: np.ndarray, cache: np.ndarray, place: int, out: np.ndarray) -> None:
    """One position's attention to itself and those before, which `cache` holds and where it adds itself.

    projected (note, queries and keys and values, head, feature). turns (pair of features, cosine and sine) of the
    position's rotation. cache (keys and values, note, head, position, feature). out (note, head, feature).
    """
    notes, _, heads, width = projected.shape
    scale = np.float32(1 / math.sqrt(width))
    weights = np.empty(place + 1, np.float32)
    query, key = np.empty(width, np.float32), np.empty(width, np.float32)
    for note in range(notes):
        for head in range(heads):
            keys, values, mixed = cache[0, note, head], cache[1, note, head], out[note, head]
            turn(projected[note, 0, head], turns, query)
            turn(projected[note, 1, head], turns, key)
            for feature in range(width):
                keys[place, feature] = narrowed(key[feature], keys)
                values[place, feature] = narrowed(projected[note, 2, head, feature], values)
            compare(query, keys[: place + 1], scale, weights)
            total = exponentials(weights)
            mixed[:] = 0
            add_mixture(weights, values[: place + 1], mixed)
            for feature in range(width):
                mixed[feature] /= total


@compiled
def compare(query: np.ndarray, keys: np.ndarray, scale: np.float32, out: np.ndarray) -> None:
    """Scaled products, (position,), of a query, (feature,), and all keys, (position, feature)."""
    out[:] = 0
    add_rows(query, keys, out)
    for position in range(len(out)):
        out[position] *= scale


@compiled
def add_rows(x: np.ndarray, matrix: np.ndarray, out: np.ndarray) -> None:
    """Add x @ matrix.T: (in,), (out, in) -> (out,). Four rows at a time."""
    fours = len(matrix) // 4 * 4
    for row in range(0, fours, 4):
        first, second, third, fourth = matrix[row], matrix[row + 1], matrix[row + 2], matrix[row + 3]
        a = b = c = d = np.float32(0)
        for column in range(len(x)):
            a += x[column] * widened(first[column])
            b += x[column] * widened(second[column])
            c += x[column] * widened(third[column])
            d += x[column] * widened(fourth[column])
        out[row] += a
        out[row + 1] += b
        out[row + 2] += c
        out[row + 3] += d
    for row in range(fours, len(matrix)):
        a = np.float32(0)
        for column in range(len(x)):
            a += x[column] * widened(matrix[row, column])
        out[row] += a


@compiled
def add_mixture(weights: np.ndarray, values: np.ndarray, out: np.ndarray) -> None:
    """Add weights @ values: (position,), (position, feature) -> (feature,). Four positions at a time."""
    fours = len(values) // 4 * 4
    for position in range(0, fours, 4):
        first, second = values[position], values[position + 1]
        third, fourth = values[position + 2], values[position + 3]
        a, b, c, d = weights[position], weights[position + 1], weights[position + 2], weights[position + 3]
        for feature in range(len(out)):
            out[feature] += (
                a * widened(first[feature])
                + b * widened(second[feature])
                + c * widened(third[feature])
                + d * widened(fourth[feature])
            )
    for position in range(fours, len(values)):
        for feature in range(len(out)):
            out[feature] += weights[position] * widened(values[position, feature])


@compiled
def exponentials(numbers: np.ndarray) -> np.float32:
    """Replace numbers, (number,), by the exponentials of their differences from the highest; return their sum."""
    highest = numbers.max()
    total = np.float32(0)
    for index in range(len(numbers)):
        numbers[index] = exponential(numbers[index] - highest)
        total += numbers[index]
    return total


@compiled
def exponential(x: np.float32) -> np.float32:
    """exp(x) of x <= 0: 2^n exp(r) with a whole n and |r| below 0.35, where a polynomial is as exact as float32.

    Unlike a call of the C library's function, these steps can be taken for eight numbers at once.
    """
    x = max(x, LOWEST)
    n = np.floor(x * LOG2_E + HALF)
    r = x - n * LN_2
    tail = ((((SIXTH * r + FIFTH) * r + FOURTH) * r + THIRD) * r + HALF) * r + ONE
    return (tail * r + ONE) * widened(np.uint16((n + BIAS) * EXPONENT))  # 2^n by its bits


@compiled
def gelu(x: np.ndarray) -> None:
    """x times the normal distribution's share below x, in place.

    The share by Abramowitz and Stegun, Handbook of Mathematical Functions, 1964, formula 7.1.26: within 1e-7.
    """
    for index in range(len(x)):
        size = abs(x[index])
        t = ONE / (ONE + ERF_P * size)
        tail = ((((ERF_5 * t + ERF_4) * t + ERF_3) * t + ERF_2) * t + ERF_1) * t * exponential(-HALF * size * size)
        x[index] = HALF * (x[index] + size * (ONE - tail))


@compiled
def turn(features: np.ndarray, turns: np.ndarray, out: np.ndarray) -> None:
    """Rotary position: (feature,) -> (feature,), neighbours as one complex number."""
    for pair in range(len(turns)):
        real, imaginary = features[2 * pair], features[2 * pair + 1]
        cosine, sine = turns[pair]
        out[2 * pair] = real * cosine - imaginary * sine
        out[2 * pair + 1] = real * sine + imaginary * cosine


@compiled
def layer(
    x: np.ndarray,
    turns: np.ndarray,
    cache: np.ndarray,
    place: int,
    attention_norm: np.ndarray,
    project: np.ndarray,
    to_out: np.ndarray,
    feed_norm: np.ndarray,
    widen: np.ndarray,
    widen_bias: np.ndarray,
    narrow: np.ndarray,
    narrow_bias: np.ndarray,
) -> None:
    """Attention and feed-forward of one depth at one position; changes x, (note, feature), and `cache`, as `attend`."""
    notes, width = x.shape
    heads, head_width = cache.shape[2], cache.shape[4]
    normed = np.empty((notes, width), np.float32)
    projected = np.zeros((notes, len(project)), np.float32)
    mixed = np.empty((notes, heads * head_width), np.float32)
    wide = np.empty((notes, len(widen)), np.float32)
    norm(x, attention_norm, normed)
    add_product(normed, project, projected)
    attend(projected.reshape(notes, 3, heads, head_width), turns, cache, place, mixed.reshape(notes, heads, head_width))
    add_product(mixed, to_out, x)
    norm(x, feed_norm, normed)
    wide[:] = widen_bias
    add_product(normed, widen, wide)
    gelu(wide.reshape(-1))
    x += narrow_bias
    add_product(wide, narrow, x)


@compiled
def norm(x: np.ndarray, scale: np.ndarray, out: np.ndarray) -> None:
    """LayerNorm without a bias: (note, feature) -> (note, feature)."""
    for note in range(len(x)):
        mean = x[note].mean()
        deviation = np.sqrt(((x[note] - mean) ** 2).mean() + EPSILON)
        out[note] = (x[note] - mean) / deviation * scale


@compiled
def add_product(x: np.ndarray, matrix: np.ndarray, out: np.ndarray) -> None:
    """Add x @ matrix.T: (note, in), (out, in) -> (note, out). Eight notes at a time, whose sums stay in registers."""
    eights = len(x) // 8 * 8
    for row in range(len(matrix) if eights else 0):
        weights = matrix[row]
        for note in range(0, eights, 8):
            x0, x1, x2, x3 = x[note], x[note + 1], x[note + 2], x[note + 3]
            x4, x5, x6, x7 = x[note + 4], x[note + 5], x[note + 6], x[note + 7]
            a0 = a1 = a2 = a3 = a4 = a5 = a6 = a7 = np.float32(0)
            for column in range(len(weights)):
                weight = widened(weights[column])
                a0 += x0[column] * weight
                a1 += x1[column] * weight
                a2 += x2[column] * weight
                a3 += x3[column] * weight
                a4 += x4[column] * weight
                a5 += x5[column] * weight
                a6 += x6[column] * weight
                a7 += x7[column] * weight
            out[note, row] += a0
            out[note + 1, row] += a1
            out[note + 2, row] += a2
            out[note + 3, row] += a3
            out[note + 4, row] += a4
            out[note + 5, row] += a5
            out[note + 6, row] += a6
            out[note + 7, row] += a7
    for note in range(eights, len(x)):
        add_rows(x[note], matrix, out[note])
