"""A layer at one position, as loops that numba compiles: what a CPU does at each step of sampling, in float32.

With few notes a step takes as long as reading the weights, with many as long as reading the keys and values of all
positions before. These loops read both once, at the speed of memory, which torch's products of so small matrices do
not; and a layer is one call instead of some thirty. They release Python's lock, so threads run side by side.
"""

import math

import numpy as np
from numba import njit

EPSILON = np.float32(1e-5)  # LayerNorm's
compiled = njit(nogil=True, cache=True, fastmath={"reassoc", "contract"})  # sums in any order, but infinities are kept


@compiled
def attend(projected: np.ndarray, turns: np.ndarray, cache: np.ndarray, place: int, out: np.ndarray) -> None:
    """One position's attention to itself and those before, which `cache` holds and where it adds itself.

    projected (note, queries and keys and values, head, feature). turns (pair of features, cosine and sine) of the
    position's rotation. cache (keys and values, note, head, position, feature). out (note, head, feature).
    """
    notes, _, heads, width = projected.shape
    scale = np.float32(1 / math.sqrt(width))
    weights = np.empty(place + 1, np.float32)
    query = np.empty(width, np.float32)
    for note in range(notes):
        for head in range(heads):
            keys, values, mixed = cache[0, note, head], cache[1, note, head], out[note, head]
            turn(projected[note, 0, head], turns, query)
            turn(projected[note, 1, head], turns, keys[place])
            values[place] = projected[note, 2, head]
            highest = np.float32(-np.inf)
            for position in range(place + 1):
                score = np.float32(0)
                for feature in range(width):
                    score += query[feature] * keys[position, feature]
                weights[position] = score * scale
                highest = max(highest, weights[position])
            total = np.float32(0)
            mixed[:] = 0
            for position in range(place + 1):
                weight = math.exp(weights[position] - highest)
                total += weight
                for feature in range(width):
                    mixed[feature] += weight * values[position, feature]
            for feature in range(width):
                mixed[feature] /= total


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
                out[note, column] += a * first[column] + b * second[column] + c * third[column] + d * fourth[column]
    for row in range(fours, len(matrix)):
        for note in range(len(x)):
            for column in range(matrix.shape[1]):
                out[note, column] += x[note, row] * matrix[row, column]
