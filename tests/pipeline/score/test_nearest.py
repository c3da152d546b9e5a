"""The nearest note by tokens: a copy is found, and the fast search agrees with the obvious one."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from pipeline.score.nearest import find_nearest
from shards.note import Note

token_lists = st.lists(st.integers(0, 3), max_size=12).map(lambda values: np.array(values, np.int16))


def agreement(tokens, other):
    same = [a == b for a, b in zip(tokens.tolist(), other.tolist(), strict=False)]
    return sum(same) / len(same) if same else 0.0


@given(st.lists(token_lists, max_size=5), st.lists(token_lists, max_size=20))
def test_the_nearest_note_agrees_most(queries, collection):
    notes = [Note(f"note_{index}", tokens) for index, tokens in enumerate(collection)]
    for query, nearest in zip(queries, find_nearest(notes, queries), strict=True):
        possible = [note for note in notes if len(note.tokens)]
        assert (nearest.note is None) == (not possible)
        if possible:
            assert nearest.agreement == max(agreement(query, note.tokens) for note in possible)
            assert agreement(query, nearest.note.tokens) == nearest.agreement


def test_a_copy_is_found_among_many():
    rng = np.random.default_rng(0)
    notes = [Note(f"note_{index}", rng.integers(1024, size=600).astype(np.int16)) for index in range(1_000)]
    [nearest] = find_nearest(notes, [notes[777].tokens.copy()])
    assert nearest.note is notes[777] and nearest.agreement == 1


def test_half_a_copy_agrees_by_half():
    tokens = np.arange(600).astype(np.int16)
    other = tokens.copy()
    other[300:] = 1_000
    [nearest] = find_nearest([Note("note", tokens)], [other])
    assert nearest.agreement == 0.5
