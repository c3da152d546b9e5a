"""A layer at one position, as loops that numba compiles: what a CPU does at each step of sampling, in float32.

With few notes a step takes as long as reading the weights, with many as long as reading the keys and values of all
positions before. These loops read both once, at the speed of memory, which torch's products of so small matrices do
not; and a layer is one call instead of some thirty. They release Python's lock, so threads run side by side.

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
compiled = njit(nogil=True, cache=True, fastmath={"reassoc", "contract"})  # sums in any order, but infinities are kept
BITS = ir.IntType(32)
LOWEST = np.float32(-87)  # its exponential is nearly the least that float32 has
LOG2_E, LN_2 = np.float32(math.log2(math.e)), np.float32(math.log(2))
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
            add_product(weights.reshape(1, -1), values[: place + 1], mixed.reshape(1, -1))
            for feature in range(width):
                mixed[feature] /= total


@compiled
def compare(query: np.ndarray, keys: np.ndarray, scale: np.float32, out: np.ndarray) -> None:
    """Scaled products, (position,), of a query, (feature,), and all keys, (position, feature). Four keys at a time."""
    fours = len(keys) // 4 * 4
    for position in range(0, fours, 4):
        a = b = c = d = np.float32(0)
        for feature in range(len(query)):
            number = query[feature]
            a += number * widened(keys[position, feature])
            b += number * widened(keys[position + 1, feature])
            c += number * widened(keys[position + 2, feature])
            d += number * widened(keys[position + 3, feature])
        out[position], out[position + 1], out[position + 2], out[position + 3] = (
            a * scale,
            b * scale,
            c * scale,
            d * scale,
        )
    for position in range(fours, len(keys)):
        a = np.float32(0)
        for feature in range(len(query)):
            a += query[feature] * widened(keys[position, feature])
        out[position] = a * scale


@compiled
def exponentials(numbers: np.ndarray) -> np.float32:
    """Replace numbers, (number,), by the exponentials of their differences from the highest; return their sum.

    exp(x) = 2^n exp(r) with a whole n and |r| below 0.35, where a polynomial is as exact as float32. Unlike a call of
    the C library's function, these steps are taken for eight numbers at once.
    """
    highest = numbers.max()
    total = np.float32(0)
    for index in range(len(numbers)):
        x = max(numbers[index] - highest, LOWEST)
        n = np.floor(x * LOG2_E + HALF)
        r = x - n * LN_2
        tail = ((((SIXTH * r + FIFTH) * r + FOURTH) * r + THIRD) * r + HALF) * r + ONE
        numbers[index] = (tail * r + ONE) * widened(np.uint16((np.int32(n) + 127) << 7))  # its bits: n as exponent
        total += numbers[index]
    return total


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
    projected = np.empty((notes, project.shape[1]), np.float32)
    mixed = np.empty((notes, heads * head_width), np.float32)
    wide = np.empty((notes, widen.shape[1]), np.float32)
    norm(x, attention_norm, normed)
    projected[:] = 0
    add_product(normed, project, projected)
    attend(projected.reshape(notes, 3, heads, head_width), turns, cache, place, mixed.reshape(notes, heads, head_width))
    add_product(mixed, to_out, x)
    norm(x, feed_norm, normed)
    wide[:] = widen_bias
    add_product(normed, widen, wide)
    for note in range(notes):
        for feature in range(wide.shape[1]):
            value = wide[note, feature]
            wide[note, feature] = value * (math.erf(value * math.sqrt(0.5)) + 1) / 2  # GELU
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
    """Add x @ matrix: (note, in), (in, out) -> (note, out). Reads the matrix once, four rows at a time."""
    fours = len(matrix) // 4 * 4
    for row in range(0, fours, 4):
        first, second, third, fourth = matrix[row], matrix[row + 1], matrix[row + 2], matrix[row + 3]
        for note in range(len(x)):
            a, b, c, d = x[note, row], x[note, row + 1], x[note, row + 2], x[note, row + 3]
            for column in range(matrix.shape[1]):
                out[note, column] += (
                    a * widened(first[column])
                    + b * widened(second[column])
                    + c * widened(third[column])
                    + d * widened(fourth[column])
                )
    for row in range(fours, len(matrix)):
        for note in range(len(x)):
            for column in range(matrix.shape[1]):
                out[note, column] += x[note, row] * widened(matrix[row, column])
