"""Random crops: frame-aligned, in range, any offset, and the same for any ranks, workers and first step."""

import os
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shards.manifest import read_manifest
from tests.support.shard_sets import random_note, write_set
from trainer.config import DataConfig
from trainer.crops import choose_crops
from trainer.data import Batch, NoteReader, TrainStream, collate, train_batches, valid_batches
from trainer.order import Order, split_range
from trainer.vocabulary import Vocabulary

VOCABULARY = Vocabulary(2, 1024, labels=(("pitch", tuple(range(40, 77))),))
WINDOW = 8  # tokens, of two codebooks
BATCH = 4


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Ten train notes, from one frame to far more than a window, and two valid ones."""
    notes = [random_note(f"n{frames}", frames) for frames in (1, 3, 4, 5, 9, 20, 40, 60, 17_000, 20_000)]
    write_set(tmp_path, {"train": [notes[:7], notes[7:]], "valid": [[random_note("v1", 2), random_note("v2", 30)]]})
    return tmp_path


def stream(folder: Path, steps: range, rank: int = 0, world: int = 1, crop: str = "random") -> TrainStream:
    notes = NoteReader(folder, read_manifest(folder), "train")
    order = Order(notes.counts, seed=5, batch=BATCH)
    lanes = split_range(BATCH, rank, world)
    return TrainStream(notes, order, VOCABULARY, WINDOW, 0.1, steps, lanes, crop)


def rows(batches: list[Batch]) -> list[tuple[str, list[int]]]:
    """(key, tokens) of each note."""
    return [
        (key, codes[:length].tolist())
        for batch in batches
        for key, codes, length in zip(batch.keys, batch.codes, batch.lengths, strict=True)
    ]


@given(st.integers(1, 8), st.integers(1, 50), st.integers(1, 300), st.floats(0, 1, exclude_max=True))
def test_crops_are_whole_windows_of_whole_frames(codebooks: int, window: int, frames: int, seed: float) -> None:
    key = (int(seed * 2**32), 3)
    [crop] = choose_crops("random", window * codebooks, codebooks, [2], key)
    part = crop(frames * codebooks)
    assert part.start % codebooks == 0
    assert 0 <= part.start <= max(0, frames - window) * codebooks
    assert part.stop == min(part.start + (window + 1) * codebooks, frames * codebooks)


def test_each_offset_is_as_likely_as_any_other() -> None:
    crops = [crop for step in range(500) for crop in choose_crops("random", WINDOW, 2, [*range(20)], (0, step))]
    counts = Counter(crop(WINDOW + 2 * 9).start for crop in crops)
    assert sorted(counts) == [*range(0, 20, 2)]  # 10 of them, 1000 times each
    assert all(850 < count < 1150 for count in counts.values())


def test_seeds_steps_and_lanes_have_crops_of_their_own() -> None:
    def starts(lanes: list[int], key: tuple[int, int]) -> list[int]:
        return [crop(10**6).start for crop in choose_crops("random", WINDOW, 2, lanes, key)]

    whole = starts([*range(9)], (0, 3))
    assert starts([4, 7], (0, 3)) == [whole[4], whole[7]]
    assert len({*whole, *starts([*range(9)], (0, 4)), *starts([*range(9)], (1, 3))}) == 27


def test_a_batch_has_windows_of_its_notes(folder: Path) -> None:
    notes = {note.key: note.tokens.tolist() for note in NoteReader(folder, read_manifest(folder), "train").read_all()}
    offsets = set()
    for key, tokens in rows(list(train_batches(stream(folder, range(60)), 0))):
        note = notes[key]
        fitting = [at for at in range(0, len(note) - len(tokens) + 1, 2) if note[at : at + len(tokens)] == tokens]
        assert fitting and len(tokens) == min(WINDOW, len(note))
        offsets.add((key, fitting[0]))
    assert {at for key, at in offsets if key == "n5"} == {0, 2}
    assert len({at for key, at in offsets if key == "n20000"}) > 15


@pytest.mark.parametrize("world", [2, 3])
def test_ranks_together_have_the_crops_of_a_single_process(folder: Path, world: int) -> None:
    alone = [rows([batch]) for batch in train_batches(stream(folder, range(7)), 0)]
    ranks = [[rows([b]) for b in train_batches(stream(folder, range(7), rank, world), 0)] for rank in range(world)]
    assert [[row for rank in ranks for row in rank[step]] for step in range(7)] == alone


@pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning")
@pytest.mark.parametrize("workers", [0, 3])
def test_a_later_start_and_workers_change_no_crop(folder: Path, workers: int) -> None:
    whole = [rows([batch]) for batch in train_batches(stream(folder, range(12)), 0)]
    assert [rows([batch]) for batch in train_batches(stream(folder, range(5, 12)), workers)] == whole[5:]


def test_crops_from_the_start_are_the_first_tokens(folder: Path) -> None:
    reader = NoteReader(folder, read_manifest(folder), "train")
    whole = {note.key: note.tokens[:WINDOW].tolist() for note in reader.read_all()}
    assert all(
        whole[key] == tokens for key, tokens in rows(list(train_batches(stream(folder, range(9), crop="start"), 0)))
    )


def test_validation_has_the_start_of_each_note(folder: Path) -> None:
    reader = NoteReader(folder, read_manifest(folder), "valid")
    data = DataConfig(batch=BATCH, window=WINDOW, crop="random")
    starts = [(note.key, note.tokens[:WINDOW].tolist()) for note in reader.read_all()]
    assert rows(list(valid_batches(reader, VOCABULARY, WINDOW, data, 0, 1))) == starts


def test_a_crop_goes_on_behind_the_window_exactly_if_its_note_does(folder: Path) -> None:
    reader = NoteReader(folder, read_manifest(folder), "train")
    for shard, row in reader.positions():
        length = len(reader.read(shard, row).tokens)
        for step in range(20):
            [crop] = choose_crops("random", WINDOW, 2, [0], (0, step))
            note = reader.read(shard, row, crop)
            assert (len(note.tokens) > WINDOW) == (crop(length).start + WINDOW < length)
            assert collate([note], VOCABULARY, WINDOW, "").codes.shape[1] <= WINDOW


def test_notes_read_in_parts_are_those_read_whole(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    long = replace(random_note("a" * 150, 30_000), labels={"note": "é" * 300})  # a PAX header before each member
    write_set(folder / "other", {"train": [[random_note("b", 3), long, random_note("c", 3)]]})
    reader = NoteReader(folder / "other", read_manifest(folder / "other"), "train")
    sizes: list[int] = []
    pread = os.pread
    whole = reader.read(0, 1)
    monkeypatch.setattr(os, "pread", lambda file, size, at: sizes.append(size) or pread(file, size, at))
    part = reader.read(0, 1, lambda length: slice(length - 1_000, length))
    assert np.array_equal(part.tokens, long.tokens[-1_000:]) and np.array_equal(whole.tokens, long.tokens)
    assert (part.key, part.labels) == (whole.key, whole.labels) == (long.key, {**long.labels, "seconds": 400.0})
    assert sum(sizes) < 20_000
