"""Order of training notes: a pure function of (notes in each shard, seed, global batch size) -> the notes of each step.

Each epoch the shards are permuted, their notes laid end to end, and that sequence cut into `batch` lanes of equal
length; a lane shuffles inside windows of WINDOW notes, and each step takes the next note of every lane. Ranks and
loader workers own whole lanes, so they divide the work without changing the order, and a run resumes at any step by
arithmetic. Knows nothing of files.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import repeat
from typing import NamedTuple

import numpy as np

WINDOW = 1024  # notes a lane shuffles at a time, and so how far apart in its shards it reads


class NoteIndex(NamedTuple):
    """Index of a note: its lane in the batch, its shard in the split, its row in the shard."""

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
        """Position of a lane's first note in the epoch's sequence."""
        return lane * self.total // self.batch

    def lane(self, epoch: int, lane: int, skip: int = 0) -> Iterator[NoteIndex]:
        """Yield the lane's notes in the order of the epoch's steps, without the first `skip`."""
        start, stop = self.lane_start(lane), self.lane_start(lane + 1)
        shards, starts, ends, shift = _epoch_sequence(self.notes, self.seed, epoch)
        for window in range(skip // WINDOW, -(-(stop - start) // WINDOW)):
            first = start + window * WINDOW
            length = min(WINDOW, stop - first)
            shuffled = permutation(length, self.seed, epoch, lane, window)[max(0, skip - window * WINDOW) :]
            positions = (first + shuffled + shift) % self.total
            slots = np.searchsorted(ends, positions, side="right")  # of their shards in this epoch's order
            rows = positions - starts[slots]
            yield from map(NoteIndex, repeat(lane), shards[slots].tolist(), rows.tolist())

    def steps(self, first_step: int, lanes: range) -> Iterator[list[NoteIndex]]:
        """Yield the notes of these lanes for each step from `first_step` on, without end."""
        epoch, skip = divmod(first_step, self.steps_per_epoch)
        while True:
            streams = [self.lane(epoch, lane, skip) for lane in lanes]
            for _ in range(skip, self.steps_per_epoch):
                yield [index for stream in streams if (index := next(stream, None)) is not None]
            epoch, skip = epoch + 1, 0


def split_range(total: int, part: int, parts: int, first: int = 0) -> range:
    """Part `part` of `parts` contiguous, nearly equal parts of the range of `total` numbers from `first` on."""
    return range(first + part * total // parts, first + (part + 1) * total // parts)


def permutation(length: int, *key: int) -> np.ndarray:
    """Shuffle 0..length - 1: (length,) int64, the same for the same key.

    From Philox's raw stream, which numpy promises to keep; it does not promise that for `Generator.permutation`.
    """
    return np.argsort(np.random.Philox(np.random.SeedSequence(key)).random_raw(length), kind="stable")


@lru_cache(maxsize=2)
def _epoch_sequence(notes: tuple[int, ...], seed: int, epoch: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
    """An epoch's order of shards, the positions of each one's first note and after its last, and the first note's.

    Starting in the middle moves the lanes' borders from epoch to epoch even if there is only one shard.
    """
    shards = permutation(len(notes), seed, epoch)
    counts = np.array(notes)[shards]
    ends = np.cumsum(counts)
    shift = int(np.random.Philox(np.random.SeedSequence((seed, epoch, 0))).random_raw() % sum(notes))
    return shards, ends - counts, ends, shift
