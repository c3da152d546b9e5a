"""Products of a few notes' features and a matrix, which is read at the speed of memory or of the processor's units."""

import numpy as np

from trainer.cpu.compiled import compiled
from trainer.cpu.intrinsics import (
    NOTES,
    PAIR,
    add_products,
    empty_tile,
    prefetch,
    store_tile,
    to_dtype_of,
    word_size,
)

WORD = 4  # bytes: a number of float32, or two of bfloat16
ALONE = 2  # notes: a tile of so few takes longer than each by itself


def packed_shape(out: int, width: int, itemsize: int) -> tuple[int, int]:
    """The shape of a matrix, (out, in), in the order of `pack`."""
    size = WORD // itemsize
    return -(-out // PAIR), -(-width // size) * size * PAIR


def pack(matrix: np.ndarray) -> np.ndarray:
    """Order a matrix as it is read here: (out, in) -> (block, in * PAIR).

    A block has PAIR outputs, the last of them zeros where there are no more. Of float32 it has the weights of each
    input one after the other, of bfloat16 those of two inputs in a word; an input more, of zeros, makes the last pair.
    """
    out, width = matrix.shape
    blocks, numbers = packed_shape(out, width, matrix.itemsize)
    padded = np.zeros((blocks * PAIR, numbers // PAIR), matrix.dtype)
    padded[:out, :width] = matrix
    words = padded.reshape(blocks, PAIR, -1, WORD // matrix.itemsize)
    return np.ascontiguousarray(words.transpose(0, 2, 1, 3)).reshape(blocks, numbers)


@compiled
def input_of(x: np.ndarray, packed: np.ndarray) -> np.ndarray:
    """x as `add_product` takes it: (note, in) in the dtype of the matrix, with as many inputs as that has."""
    converted = np.zeros((len(x), packed.shape[1] // PAIR), packed.dtype)
    for note in range(len(x)):
        for column in range(x.shape[1]):
            converted[note, column] = to_dtype_of(x[note, column], converted)
    return converted


@compiled
def add_product(x: np.ndarray, packed: np.ndarray, out: np.ndarray) -> None:
    """Add x @ matrix.T for a matrix in the order of `pack`: (note, in), (out, in) -> (note, out).

    x is of `input_of`. Sums are float32, and each is in the order of the inputs, in any batch.
    """
    size = word_size(packed)
    tiles = len(x) - len(x) % NOTES
    if len(x) - tiles > ALONE:
        tiles = len(x)
    sums = np.empty((NOTES, PAIR), np.float32)
    for block in range(len(packed)):
        weights, following = packed[block], packed[min(block + 1, len(packed) - 1)]
        for note in range(0, tiles, NOTES):
            tile = empty_tile(NOTES)
            half = note // NOTES % 2 * x.shape[1]
            for column in range(0, x.shape[1], size):
                prefetch(following, (half + column) * PAIR // 2)  # a tile brings half of the next block
                tile = add_products(tile, x, note, weights, column)
            store_tile(tile, sums)
            for index in range(min(NOTES, len(x) - note)):
                add_block(sums[index], block, out[note + index])
        for note in range(tiles, len(x)):
            vector_product(x[note : note + 1], weights, sums)
            add_block(sums[0], block, out[note])


@compiled
def vector_product(x: np.ndarray, weights: np.ndarray, sums: np.ndarray) -> None:
    """Write the products of one note, (1, in), and a block of a matrix to the first row of `sums`, (note, PAIR)."""
    tile = empty_tile(1)
    for column in range(0, x.shape[1], word_size(weights)):
        tile = add_products(tile, x, 0, weights, column)
    store_tile(tile, sums)


@compiled
def add_block(sums: np.ndarray, block: int, out: np.ndarray) -> None:
    """Add the sums of a block, (PAIR,), to its outputs, (out,): to as many as there are."""
    first = block * PAIR
    for index in range(min(PAIR, len(out) - first)):
        out[first + index] += sums[index]
