"""Which notes a step sees: a pure function of (notes in each shard, seed, global batch size), and nothing else.

Each epoch the shards are permuted, their notes laid end to end, and that sequence cut into `batch` lanes of equal
length; a lane shuffles inside windows of WINDOW notes, and each step takes the next note of every lane. Ranks and
loader workers own whole lanes, so they divide the work without changing the order, and a run resumes at any step by
arithmetic. Knows nothing of files.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np

WINDOW = 1024  # notes a lane shuffles at a time, and so how far apart in its shards it reads


class Place(NamedTuple):
    """Where a note of a batch lies."""

    lane: int
    shard: int
    row: int


@dataclass(frozen=True)
class Order:
    """The order of a split's notes over all epochs.

    Every note comes exactly once an epoch. If `batch` does not divide the notes, the epoch's last batch is short: it
    holds the lanes that are one note longer, which lie evenly among all lanes.
    """

    notes: tuple[int, ...]  # in each shard
    seed: int
    batch: int  # notes a step, over all ranks

    def __post_init__(self) -> None:
        assert sum(self.notes) > 0 and self.batch > 0

    @property
    def total(self) -> int:
        return sum(self.notes)

    @property
    def steps_per_epoch(self) -> int:
        return -(-self.total // self.batch)

    def lane_start(self, lane: int) -> int:
        """Where a lane begins in the epoch's sequence of notes."""
        return lane * self.total // self.batch

    def lane(self, epoch: int, lane: int, skip: int = 0) -> Iterator[Place]:
        """The lane's notes in the order of the epoch's steps, but for the first `skip`."""
        start, stop = self.lane_start(lane), self.lane_start(lane + 1)
        shards, ends, shift = _sequence(self.notes, self.seed, epoch)
        for window in range(skip // WINDOW, -(-(stop - start) // WINDOW)):
            first = start + window * WINDOW
            length = min(WINDOW, stop - first)
            shuffled = permutation(length, self.seed, epoch, lane, window)[max(0, skip - window * WINDOW) :]
            places = (first + shuffled + shift) % self.total
            found = np.searchsorted(ends, places, side="right")
            for index, place in zip(found.tolist(), places.tolist(), strict=True):
                shard = shards[index]
                yield Place(lane, shard, place - (int(ends[index]) - self.notes[shard]))

    def steps(self, first_step: int, lanes: range) -> Iterator[list[Place]]:
        """For each step from `first_step` on, without end: the notes of these lanes."""
        epoch, skip = divmod(first_step, self.steps_per_epoch)
        while True:
            streams = [self.lane(epoch, lane, skip) for lane in lanes]
            for _ in range(skip, self.steps_per_epoch):
                found = (next(stream, None) for stream in streams)
                yield [place for place in found if place is not None]
            epoch, skip = epoch + 1, 0


def divided(total: int, part: int, parts: int, first: int = 0) -> range:
    """What one of several owners has of `total` lanes that begin with `first`: a run of neighbours."""
    return range(first + part * total // parts, first + (part + 1) * total // parts)


def permutation(length: int, *key: int) -> np.ndarray:
    """A shuffled 0..length - 1, (length,) int64, the same for the same key.

    From Philox's raw stream, which numpy promises to keep; it does not promise that for `Generator.permutation`.
    """
    return np.argsort(np.random.Philox(np.random.SeedSequence(key)).random_raw(length), kind="stable")


@lru_cache(maxsize=2)
def _sequence(notes: tuple[int, ...], seed: int, epoch: int) -> tuple[list[int], np.ndarray, int]:
    """An epoch's order of shards, where each one's notes end, and the note that comes first.

    Starting in the middle moves the lanes' borders from epoch to epoch even where there is only one shard.
    """
    shards = permutation(len(notes), seed, epoch).tolist()
    ends = np.cumsum([notes[shard] for shard in shards])
    shift = int(np.random.Philox(np.random.SeedSequence((seed, epoch, 0))).random_raw() % sum(notes))
    return shards, ends, shift
