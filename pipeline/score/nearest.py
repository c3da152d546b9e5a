"""Search for the most similar note of a collection by the tokens that agree: tells new notes from copies.

Compares tokens at equal positions and knows nothing of what they mean.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby, islice

import numpy as np

from shards.note import Note

BLOCK = 256  # notes of the collection that are compared at a time


@dataclass(frozen=True)
class Nearest:
    """The most similar note of a collection."""

    note: Note | None  # None: the collection is empty
    agreement: float  # share of the tokens, over the length of the shorter of the two


def find_nearest(collection: Iterable[Note], queries: Sequence[np.ndarray]) -> list[Nearest]:
    """Find the nearest note to each query, (token,) each; the first of equally near ones. Streams the collection."""
    best = [Nearest(None, 0.0)] * len(queries)
    for length, notes in groupby(collection, key=lambda note: len(note.tokens)):
        while length and (block := list(islice(notes, BLOCK))):
            best = _compare_block(block, queries, best)
    return best


def _compare_block(block: Sequence[Note], queries: Sequence[np.ndarray], best: Sequence[Nearest]) -> list[Nearest]:
    """Compare with notes of equal length; return the better of `best` and the block for each query."""
    tokens = np.stack([note.tokens for note in block])  # (note, token)
    result = []
    for nearest, query in zip(best, queries, strict=True):
        length = min(len(query), tokens.shape[1])
        agreement = (tokens[:, :length] == query[:length]).mean(axis=1) if length else np.zeros(len(block))
        index = int(agreement.argmax())
        better = nearest.note is None or agreement[index] > nearest.agreement
        result.append(Nearest(block[index], float(agreement[index])) if better else nearest)
    return result
