"""Attention of a position to those before it, whose keys and values are read as the matrices of products are.

With many notes a step takes as long as that reading. So a head's keys and values are in the order of `products.pack`:
the keys as a matrix (position, feature), the values as one (feature, position), which grows by a column.
"""

import math

import numpy as np

from trainer.cpu.compiled import compiled
from trainer.cpu.functions import exp_shifted, maximum
from trainer.cpu.intrinsics import PAIR, to_dtype_of, to_float32, word_size
from trainer.cpu.products import packed_shape, vector_product

ZERO = np.float32(0)


def cache_shapes(positions: int, width: int, itemsize: int) -> tuple[tuple[int, int], tuple[int, int]]:
    """The shapes, (block, number), of a head's keys and of its values."""
    return packed_shape(positions, width, itemsize), packed_shape(width, positions, itemsize)


@compiled
def attend(
    qkv: np.ndarray, rotary: np.ndarray, keys: np.ndarray, values: np.ndarray, position: int, out: np.ndarray
) -> None:
    """Attention of a position to itself and those before it; its own key and value are added to theirs.

    qkv (note, query and key and value, head, feature). rotary (pair of features, cosine and sine) of the position's
    rotation. keys, values (note, head, block, number). out (note, head, feature).
    """
    notes, _, heads, width = qkv.shape
    size = word_size(keys)
    scale = np.float32(1 / math.sqrt(width))
    blocks = position // PAIR + 1
    key, query = np.empty(width, np.float32), np.empty(width, np.float32)
    scores = np.empty((blocks, PAIR), np.float32)
    weights = scores.reshape(-1)[: position + 1]
    sums = np.empty((1, PAIR), np.float32)
    scaled = np.empty((1, width), keys.dtype)
    inputs = np.zeros((1, (position // size + 1) * size), keys.dtype)  # the weights, in whole words
    for note in range(notes):
        for head in range(heads):
            rotate(qkv[note, 0, head], rotary, query)
            rotate(qkv[note, 1, head], rotary, key)
            store(key, qkv[note, 2, head], position, keys[note, head], values[note, head])
            for feature in range(width):
                scaled[0, feature] = to_dtype_of(query[feature] * scale, scaled)
            for block in range(blocks):
                vector_product(scaled, keys[note, head, block], scores[block : block + 1])
            total = exp_shifted(weights, maximum(weights))
            for index in range(position + 1):
                inputs[0, index] = to_dtype_of(weights[index], inputs)
            for block in range(values.shape[2]):
                vector_product(inputs, values[note, head, block], sums)
                for feature in range(block * PAIR, min((block + 1) * PAIR, width)):
                    out[note, head, feature] = sums[0, feature - block * PAIR] / total


@compiled
def fill(past: np.ndarray, keys: np.ndarray, values: np.ndarray) -> None:
    """Store the keys and values of the first positions: past (keys and values, note, head, position, feature)."""
    key, value = np.empty(past.shape[4], np.float32), np.empty(past.shape[4], np.float32)
    for note in range(past.shape[1]):
        for head in range(past.shape[2]):
            for position in range(past.shape[3]):
                for feature in range(len(key)):
                    key[feature] = to_float32(past[0, note, head, position, feature])
                    value[feature] = to_float32(past[1, note, head, position, feature])
                store(key, value, position, keys[note, head], values[note, head])


@compiled
def store(key: np.ndarray, value: np.ndarray, position: int, keys: np.ndarray, values: np.ndarray) -> None:
    """Write a key and a value, (feature,) of an even number of features, to those of a head, (block, number).

    A value that is to share the word and is not there yet becomes 0: it is read too.
    """
    size = word_size(keys)
    row = keys[position // PAIR, position % PAIR * size :]
    for word in range(len(key) // size):
        for index in range(size):
            row[word * PAIR * size + index] = to_dtype_of(key[word * size + index], keys)
    for block in range(len(values)):
        column = values[block, position // size * size * PAIR :]
        first = block * PAIR
        for feature in range(min(PAIR, len(value) - first)):
            if position % size == 0:
                for index in range(1, size):
                    column[feature * size + index] = to_dtype_of(ZERO, values)
            column[feature * size + position % size] = to_dtype_of(value[first + feature], values)


@compiled
def rotate(features: np.ndarray, rotary: np.ndarray, out: np.ndarray) -> None:
    """Rotary position embedding: (feature,) -> (feature,), neighbours as one complex number."""
    for pair in range(len(rotary)):
        real, imaginary = features[2 * pair], features[2 * pair + 1]
        cosine, sine = rotary[pair]
        out[2 * pair] = real * cosine - imaginary * sine
        out[2 * pair + 1] = real * sine + imaginary * cosine
