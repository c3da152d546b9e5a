"""Search for the most similar note of a collection by the tokens that agree: tells new notes from copies.

Compares tokens at equal positions and knows nothing of what they mean.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

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
    best = [Nearest(None, -1.0)] * len(queries)
    block: list[Note] = []
    for note in collection:
        if block and (len(block) == BLOCK or len(note.tokens) != len(block[0].tokens)):
            best = _compare_block(block, queries, best)
            block = []
        if len(note.tokens):
            block.append(note)
    if block:
        best = _compare_block(block, queries, best)
    return [Nearest(nearest.note, max(nearest.agreement, 0.0)) for nearest in best]


def _compare_block(block: list[Note], queries: Sequence[np.ndarray], best: list[Nearest]) -> list[Nearest]:
    """Compare with notes of equal length; return the better of `best` and the block for each query."""
    tokens = np.stack([note.tokens for note in block])  # (note, token)
    result = []
    for nearest, query in zip(best, queries, strict=True):
        length = min(len(query), tokens.shape[1])
        agreement = (tokens[:, :length] == query[:length]).mean(axis=1) if length else np.zeros(len(block))
        index = int(agreement.argmax())
        better = agreement[index] > nearest.agreement
        result.append(Nearest(block[index], float(agreement[index])) if better else nearest)
    return result
