"""Damaged files of every format: each is accepted or rejected, none crashes or hangs the run."""

import random
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from pipeline.audio import AudioError, load
from pipeline.encode.batch_result import BatchResult
from pipeline.encode.plan import Batch, PlannedNote
from pipeline.encode.workers import encode_batches
from pipeline.notes.folder import AudioFile
from shards.note import Note
from shards.record import Rejection
from tests.mutations.mutators import mutate_bytes
from tests.support.notes import tone, write_note

FORMS = [(16_000, 1), (44_100, 2), (8_000, 1), (48_000, 1)]  # Hz, channels
READ_SECONDS = 20.0


class Reader:
    """An encoder that only reads: the codec never sees what is damaged."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def encode(self, batch: Batch, on_read: Callable[[int | None], None]) -> BatchResult:
        notes: list[Note | Rejection] = []
        for index, note in enumerate(batch.notes):
            if index in batch.rejected:
                notes.append(batch.rejected[index])
                continue
            on_read(index)
            try:
                assert np.isfinite(load(self.root / note.file.path, 24_000, 1.0)).all()
                notes.append(Note(note.key, np.zeros(2, np.int16)))
            except AudioError as error:
                notes.append(Rejection(note.file.path, error.reason, error.detail))
        on_read(None)
        return BatchResult(notes)


def read_mutants(folder: Path, suffix: str, count: int, seed: int) -> Counter[str]:
    """Damage small files in so many ways and read them with two workers: outcome -> how many."""
    rng = random.Random(seed)
    whole = []
    for index, (rate, channels) in enumerate(FORMS):
        sound = np.repeat(tone(50 + index, 0.5, rate)[:, None], channels, axis=1)  # (sample, channel)
        whole.append(write_note(folder / f"whole_{index}.{suffix}", sound, rate).read_bytes())
    notes = []
    for index in range(count):
        name = f"mutant_{index}.{suffix}"
        (folder / name).write_bytes(mutate_bytes(whole[index % len(whole)], rng))
        notes.append(PlannedNote(f"mutant_{index}", AudioFile(name)))
    batches = [Batch(tuple(notes[start : start + 25])) for start in range(0, count, 25)]
    return Counter(
        "accepted" if isinstance(outcome, Note) else outcome.reason
        for result in encode_batches(partial(Reader, folder), batches, 2, READ_SECONDS)
        for outcome in result.notes
    )


@pytest.mark.parametrize("suffix", ["mp3", "wav", "flac", "ogg"])
def test_mutants_are_accepted_or_rejected(tmp_path: Path, suffix: str) -> None:
    outcomes = read_mutants(tmp_path, suffix, 100, seed=0)
    assert outcomes.total() == 100
    assert 0 < outcomes["accepted"] < 100


@pytest.mark.long
@pytest.mark.parametrize("suffix", ["mp3", "wav", "flac", "ogg"])
def test_two_thousand_mutants_are_accepted_or_rejected(tmp_path: Path, suffix: str) -> None:
    assert read_mutants(tmp_path, suffix, 2_000, seed=1).total() == 2_000
