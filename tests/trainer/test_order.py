"""The order of notes: a function, whatever ranks and workers divide the work."""

from itertools import islice

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer.order import WINDOW, Order, permutation, split_range

SIZES = st.lists(st.integers(0, 40), min_size=1, max_size=17).filter(any)


def epoch_of(order: Order, epoch: int = 0) -> list[list[tuple[int, int]]]:
    """(shard, row) of the notes of each batch of an epoch."""
    steps = order.steps(epoch * order.steps_per_epoch, range(order.batch))
    return [[(index.shard, index.row) for index in step] for step in islice(steps, order.steps_per_epoch)]


def all_notes(order: Order) -> list[tuple[int, int]]:
    return [(shard, row) for shard, notes in enumerate(order.notes) for row in range(notes)]


@given(SIZES, st.integers(0, 5), st.integers(1, 20), st.integers(0, 3))
def test_every_note_comes_exactly_once_an_epoch(sizes: list[int], seed: int, batch: int, epoch: int) -> None:
    order = Order(tuple(sizes), seed, batch)
    seen = [note for step in epoch_of(order, epoch) for note in step]
    assert sorted(seen) == all_notes(order)


@given(SIZES, st.integers(1, 20))
def test_only_the_last_batch_of_an_epoch_is_short(sizes: list[int], batch: int) -> None:
    order = Order(tuple(sizes), 0, batch)
    *full, last = map(len, epoch_of(order))
    assert all(length == batch for length in full)
    assert last == (order.total - 1) % batch + 1


@given(SIZES, st.integers(1, 20), st.integers(1, 4), st.integers(1, 3))
def test_ranks_and_workers_divide_the_batches_without_changing_them(
    sizes: list[int], batch: int, world: int, workers: int
) -> None:
    order = Order(tuple(sizes), 3, batch)
    together = list(islice(order.steps(0, range(batch)), 2 * order.steps_per_epoch))
    lanes = [
        split_range(len(ours), worker, workers, ours.start)
        for ours in (split_range(batch, rank, world) for rank in range(world))
        for worker in range(workers)
    ]
    streams = [islice(order.steps(0, part), len(together)) for part in lanes]
    assert [[index for part in parts for index in part] for parts in zip(*streams, strict=True)] == together


@given(SIZES, st.integers(1, 20), st.integers(0, 100))
def test_any_step_can_be_the_first(sizes: list[int], batch: int, first: int) -> None:
    order = Order(tuple(sizes), 1, batch)
    from_the_start = list(islice(order.steps(0, range(batch)), first + 3))
    assert list(islice(order.steps(first, range(batch)), 3)) == from_the_start[first:]


def test_a_lane_longer_than_its_window_is_entered_anywhere() -> None:
    order = Order((WINDOW, 2 * WINDOW + 7), 0, 2)
    whole = list(order.lane(4, 1))
    for skip in (1, WINDOW - 1, WINDOW, WINDOW + 1, len(whole) - 1, len(whole)):
        assert list(order.lane(4, 1, skip)) == whole[skip:]


def test_epochs_and_seeds_differ() -> None:
    order = Order((30, 30), 0, 4)
    assert epoch_of(order, 0) != epoch_of(order, 1)
    assert epoch_of(order, 0) != epoch_of(Order((30, 30), 1, 4), 0)


@pytest.mark.parametrize("sizes", [(2000,), (1000, 1000), (100,) * 20])
def test_the_order_is_as_good_as_a_full_shuffle(sizes: tuple[int, ...]) -> None:
    order = Order(sizes, 0, 16)
    starts = np.cumsum([0, *sizes])
    sequence = [starts[shard] + row for step in epoch_of(order) for shard, row in step]
    neighbours = np.mean(np.abs(np.diff(sequence)) == 1)
    full = np.random.default_rng(0).permutation(order.total)
    assert abs(np.corrcoef(np.arange(order.total), sequence)[0, 1]) < 3 / np.sqrt(order.total)  # 3 sigma of a shuffle
    assert neighbours <= np.mean(np.abs(np.diff(full)) == 1) + 0.005


def test_a_rank_reads_few_shards_that_it_does_not_need() -> None:
    order = Order((100,) * 40, 0, 16)
    for rank in range(4):
        lanes = split_range(16, rank, 4)
        shards = {index.shard for step in islice(order.steps(0, lanes), order.steps_per_epoch) for index in step}
        assert len(shards) <= 11  # a quarter of them, and one at each border


def test_a_permutation_depends_on_its_key_only() -> None:
    assert sorted(permutation(100, 1, 2).tolist()) == list(range(100))
    assert permutation(100, 1, 2).tolist() == permutation(100, 1, 2).tolist()
    assert permutation(100, 1, 2).tolist() != permutation(100, 2, 1).tolist()
    assert permutation(6, 7).tolist() == [4, 3, 2, 1, 0, 5]  # on every machine and version
