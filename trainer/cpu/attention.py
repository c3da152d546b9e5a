"""Attention of a position to those before it. With many notes a step takes as long as reading their keys and values."""

import math

import numpy as np

from trainer.cpu.compiled import compiled
from trainer.cpu.functions import exp_shifted
from trainer.cpu.intrinsics import prefetch, to_dtype_of, to_float32

LINE = 16  # float32 that come from memory together
AHEAD = 32  # rows of keys or values between those that are asked for and those that are read: some thousand bytes


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
