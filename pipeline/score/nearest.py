"""For each note the most similar one of a collection, by the tokens that agree: tells samples from copies.

Knows where the tokens stand and nothing of what they mean.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from shards.note import Note

BLOCK = 256  # notes of the collection that are compared at a time


@dataclass(frozen=True)
class Nearest:
    note: Note | None  # None: the collection is empty
    agreement: float  # share of the tokens, over the length of the shorter of the two


def nearest(queries: Sequence[np.ndarray], collection: Iterable[Note]) -> list[Nearest]:
    """The nearest note to each query, (token,) each; of equally near ones the first. Streams the collection."""
    best = [Nearest(None, -1.0)] * len(queries)
    block: list[Note] = []
    for note in collection:
        if block and (len(block) == BLOCK or len(note.tokens) != len(block[0].tokens)):
            best = _nearer(best, queries, block)
            block = []
        if len(note.tokens):
            block.append(note)
    if block:
        best = _nearer(best, queries, block)
    return [Nearest(one.note, max(one.agreement, 0.0)) for one in best]


def _nearer(best: list[Nearest], queries: Sequence[np.ndarray], block: list[Note]) -> list[Nearest]:
    """Compare with notes of one length."""
    tokens = np.stack([note.tokens for note in block])  # (note, token)
    found = []
    for nearest_yet, query in zip(best, queries, strict=True):
        length = min(len(query), tokens.shape[1])
        agreement = (tokens[:, :length] == query[:length]).mean(axis=1) if length else np.zeros(len(block))
        place = int(agreement.argmax())
        nearer = agreement[place] > nearest_yet.agreement
        found.append(Nearest(block[place], float(agreement[place])) if nearer else nearest_yet)
    return found
