"""CPU kernels: one decoder layer at one position, as loops that numba compiles. Every step of sampling runs them.

With few notes a step takes as long as reading the weights, with many as long as reading the keys and values of all
positions before. These loops read both at the speed of memory, which torch's products of so small matrices do not;
and a layer is one call instead of some thirty. They release Python's lock, so threads run side by side. All sums are
in float32.

Weights and the cache may be bfloat16, which is half as much to read. numpy has no bfloat16: here it is uint16, the
upper halves of float32's bits. Knows nothing of torch.
"""

import math
from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

from shards.numba_cache import make_cache_robust
from trainer.lanes import LANES, PAIR, broadcast, load_first, load_second, multiply_add, prefetch, store

make_cache_robust()
EPSILON = np.float32(1e-5)  # LayerNorm's
compiled = njit(
    nogil=True,
    cache=True,
    fastmath={"reassoc", "contract"},  # sums in any order, but infinities stay infinities
    error_model="numpy",  # a check of each divisor would keep loops from taking eight numbers at once
)
LINE = 16  # float32 that come from memory together
AHEAD = 32  # rows of keys or values between those that are asked for and those that are read: some thousand bytes
BITS = ir.IntType(32)
LOWEST = np.float32(-87)  # its exponential is nearly the least that float32 has
BIAS, EXPONENT = np.float32(127), np.float32(2**7)  # of bfloat16: the exponent's bias, and the unit of its lowest bit
LOG2_E, LN_2 = np.float32(math.log2(math.e)), np.float32(math.log(2))
ERF_P = np.float32(0.3275911 * math.sqrt(0.5))
ERF_1, ERF_2, ERF_3, ERF_4, ERF_5 = (
    np.float32(number) for number in (0.254829592, -0.284496736, 1.421413741, -1.453152027, 1.061405429)
)
ZERO = np.float32(0)
ONE, HALF, THIRD, FOURTH, FIFTH, SIXTH = (np.float32(1 / math.factorial(n)) for n in range(1, 7))  # of exp's series


def _unchanged(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
    return arguments[0]


def _to_float32(typing: Any, value: Any) -> Any:
    """Convert an element of a float32 or bfloat16 array to float32."""

    def of_bfloat16(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.bitcast(builder.shl(builder.zext(arguments[0], BITS), BITS(16)), ir.FloatType())

    return types.float32(value), _unchanged if value == types.float32 else of_bfloat16


def _to_dtype_of(typing: Any, number: Any, array: Any) -> Any:
    """Convert a float32 to an element of `array`: float32 as it is, or the nearest bfloat16, of two the even one."""

    def to_bfloat16(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        bits = builder.bitcast(arguments[0], BITS)
        odd = builder.and_(builder.lshr(bits, BITS(16)), BITS(1))
        rounded = builder.add(bits, builder.add(odd, BITS(0x7FFF)))
        return builder.trunc(builder.lshr(rounded, BITS(16)), ir.IntType(16))

    return array.dtype(types.float32, array), _unchanged if array.dtype == types.float32 else to_bfloat16


# Variables, not decorated functions: numba's type hints would ask callers for the argument `typing`.
to_float32: Any = intrinsic(_to_float32)
to_dtype_of: Any = intrinsic(_to_dtype_of)


@compiled
def layer(
    x: np.ndarray,
    rotary: np.ndarray,
    cache: np.ndarray,
    position: int,
    attn_norm: np.ndarray,
    qkv_proj: np.ndarray,
    out_proj: np.ndarray,
    ffn_norm: np.ndarray,
    up_proj: np.ndarray,
    up_bias: np.ndarray,
    down_proj: np.ndarray,
    down_bias: np.ndarray,
) -> None:
    """Attention and feed-forward of one layer at one position; changes x, (note, feature), and `cache`, as `attend`.

    The matrices are in the order of `pack`.
    """
    notes, width = x.shape
    heads, head_width = cache.shape[2], cache.shape[4]
    normed = np.empty((notes, width), np.float32)
    qkv = np.zeros((notes, 3 * heads * head_width), np.float32)
    attn = np.empty((notes, heads * head_width), np.float32)
    hidden = np.empty((notes, len(up_bias)), np.float32)
    layer_norm(x, attn_norm, normed)
    add_product(normed, qkv_proj, qkv)
    attend(qkv.reshape(notes, 3, heads, head_width), rotary, cache, position, attn.reshape(notes, heads, head_width))
    add_product(attn, out_proj, x)
    layer_norm(x, ffn_norm, normed)
    hidden[:] = up_bias
    add_product(normed, up_proj, hidden)
    gelu(hidden.reshape(-1))
    x += down_bias
    add_product(hidden, down_proj, x)


@compiled
def attend(qkv: np.ndarray, rotary: np.ndarray, cache: np.ndarray, position: int, out: np.ndarray) -> None:
    """Attention of one position to itself and those before it in `cache`, to which its key and value are added.

    qkv (note, query and key and value, head, feature). rotary (pair of features, cosine and sine) of the position's
    rotation. cache (keys and values, note, head, position, feature). out (note, head, feature).
    """
    notes, _, heads, width = qkv.shape
    scale = np.float32(1 / math.sqrt(width))
    weights = np.empty(position + 1, np.float32)
    query, key = np.empty(width, np.float32), np.empty(width, np.float32)
    for note in range(notes):
        for head in range(heads):
            keys, values, mean = cache[0, note, head], cache[1, note, head], out[note, head]
            rotate(qkv[note, 0, head], rotary, query)
            rotate(qkv[note, 1, head], rotary, key)
            for feature in range(width):
                keys[position, feature] = to_dtype_of(key[feature], keys)
                values[position, feature] = to_dtype_of(qkv[note, 2, head, feature], values)
            attn_scores(query, keys[: position + 1], scale, weights)
            prefetch_rows(values, 0, AHEAD)
            total = exp_shifted(weights)
            mean[:] = 0
            if head + 1 < heads:
                prefetch_rows(cache[0, note, head + 1], 0, AHEAD)
            add_weighted_sum(weights, values[: position + 1], mean)
            for feature in range(width):
                mean[feature] /= total


@compiled
def prefetch_rows(matrix: np.ndarray, first: int, end: int) -> None:
    """Ask for rows of a matrix, (row, column), that are read soon; they may be beyond the end.

    Processors do so by themselves where they see a regular order, but begin anew with each page of memory: 64 notes are
    sampled in six sevenths of the time.
    """
    width = matrix.shape[1]
    for index in range(first * width, end * width, LINE):
        prefetch(matrix, index)


@compiled
def rotate(features: np.ndarray, rotary: np.ndarray, out: np.ndarray) -> None:
    """Rotary position embedding: (feature,) -> (feature,), neighbours as one complex number."""
    for pair in range(len(rotary)):
        real, imaginary = features[2 * pair], features[2 * pair + 1]
        cosine, sine = rotary[pair]
        out[2 * pair] = real * cosine - imaginary * sine
        out[2 * pair + 1] = real * sine + imaginary * cosine


@compiled
def attn_scores(query: np.ndarray, keys: np.ndarray, scale: np.float32, out: np.ndarray) -> None:
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
        prefetch_rows(matrix, row + AHEAD, row + AHEAD + 4)
        first, second, third, fourth = matrix[row], matrix[row + 1], matrix[row + 2], matrix[row + 3]
        a = b = c = d = np.float32(0)
        for column in range(len(x)):
            a += x[column] * to_float32(first[column])
            b += x[column] * to_float32(second[column])
            c += x[column] * to_float32(third[column])
            d += x[column] * to_float32(fourth[column])
        out[row] += a
        out[row + 1] += b
        out[row + 2] += c
        out[row + 3] += d
    for row in range(fours, len(matrix)):
        a = np.float32(0)
        for column in range(len(x)):
            a += x[column] * to_float32(matrix[row, column])
        out[row] += a


@compiled
def add_weighted_sum(weights: np.ndarray, values: np.ndarray, out: np.ndarray) -> None:
    """Add weights @ values: (position,), (position, feature) -> (feature,). Four positions at a time."""
    fours = len(values) // 4 * 4
    for position in range(0, fours, 4):
        prefetch_rows(values, position + AHEAD, position + AHEAD + 4)
        first, second = values[position], values[position + 1]
        third, fourth = values[position + 2], values[position + 3]
        a, b, c, d = weights[position], weights[position + 1], weights[position + 2], weights[position + 3]
        for feature in range(len(out)):
            out[feature] += (
                a * to_float32(first[feature])
                + b * to_float32(second[feature])
                + c * to_float32(third[feature])
                + d * to_float32(fourth[feature])
            )
    for position in range(fours, len(values)):
        for feature in range(len(out)):
            out[feature] += weights[position] * to_float32(values[position, feature])


@compiled
def exp_shifted(numbers: np.ndarray) -> np.float32:
    """Replace numbers, (number,), by exp(number - highest) and return their sum: a softmax without its division."""
    highest = numbers.max()
    total = np.float32(0)
    for index in range(len(numbers)):
        numbers[index] = exp(numbers[index] - highest)
        total += numbers[index]
    return total


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
    for note in range(len(x)):
        mean = x[note].mean()
        deviation = np.sqrt(((x[note] - mean) ** 2).mean() + EPSILON)
        out[note] = (x[note] - mean) / deviation * scale


def pack(matrix: np.ndarray) -> np.ndarray:
    """Order a matrix as `add_product` reads it: (out, in) -> (block, in * PAIR).

    A block has PAIR outputs, the last of them zeros where there are no more: for each input, the weights of two
    vectors, one after the other or, of bfloat16, as the lower and upper halves of words.
    """
    out, width = matrix.shape
    padded = np.zeros((-(-out // PAIR) * PAIR, width), matrix.dtype)
    padded[:out] = matrix
    pairs = padded.reshape(-1, 2, LANES, width)  # (block, vector of a pair, lane, in)
    order = (0, 3, 1, 2) if matrix.dtype == np.float32 else (0, 3, 2, 1)
    return np.ascontiguousarray(pairs.transpose(order)).reshape(len(pairs), -1)


@compiled
def add_product(x: np.ndarray, packed: np.ndarray, out: np.ndarray) -> None:
    """Add x @ matrix.T for a matrix in the order of `pack`: (note, in), (out, in) -> (note, out).

    Four notes at a time, whose sums stay in registers. Each sum is in the order of the inputs, in any batch.
    """
    fours = len(x) // 4 * 4
    sums = np.empty((4, PAIR), np.float32)
    for block in range(len(packed) if fours else 0):
        weights = packed[block]
        for note in range(0, fours, 4):
            x0, x1, x2, x3 = x[note], x[note + 1], x[note + 2], x[note + 3]
            a0 = a1 = a2 = a3 = b0 = b1 = b2 = b3 = broadcast(ZERO)
            for column in range(x.shape[1]):
                a, b = load_first(weights, PAIR * column), load_second(weights, PAIR * column)
                number = broadcast(x0[column])
                a0, b0 = multiply_add(number, a, a0), multiply_add(number, b, b0)
                number = broadcast(x1[column])
                a1, b1 = multiply_add(number, a, a1), multiply_add(number, b, b1)
                number = broadcast(x2[column])
                a2, b2 = multiply_add(number, a, a2), multiply_add(number, b, b2)
                number = broadcast(x3[column])
                a3, b3 = multiply_add(number, a, a3), multiply_add(number, b, b3)
            store_pair(sums[0], a0, b0)
            store_pair(sums[1], a1, b1)
            store_pair(sums[2], a2, b2)
            store_pair(sums[3], a3, b3)
            for index in range(4):
                add_block(sums[index], block, out[note + index])
    for note in range(fours, len(x)):
        add_vector_product(x[note], packed, sums, out[note])


@compiled
def add_vector_product(x: np.ndarray, packed: np.ndarray, sums: np.ndarray, out: np.ndarray) -> None:
    """`add_product` of one note: two blocks at a time, so that a sum need not wait for the one before it."""
    last = len(packed) - 1
    for block in range(0, len(packed), 2):
        weights, others = packed[block], packed[min(block + 1, last)]
        a0 = b0 = a1 = b1 = broadcast(ZERO)
        for column in range(len(x)):
            number = broadcast(x[column])
            a0 = multiply_add(number, load_first(weights, PAIR * column), a0)
            b0 = multiply_add(number, load_second(weights, PAIR * column), b0)
            a1 = multiply_add(number, load_first(others, PAIR * column), a1)
            b1 = multiply_add(number, load_second(others, PAIR * column), b1)
        store_pair(sums[0], a0, b0)
        store_pair(sums[1], a1, b1)
        add_block(sums[0], block, out)
        if block < last:
            add_block(sums[1], block + 1, out)


@compiled
def store_pair(sums: np.ndarray, first: Any, second: Any) -> None:
    """Write the sums of a block, (PAIR,)."""
    store(sums, 0, first)
    store(sums, LANES, second)


@compiled
def add_block(sums: np.ndarray, block: int, out: np.ndarray) -> None:
    """Add the sums of a block, (PAIR,), to its outputs, (out,): to as many as there are."""
    first = block * PAIR
    for index in range(min(PAIR, len(out) - first)):
        out[first + index] += sums[index]
