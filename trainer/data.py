"""Batches: the notes of a shard set in an `Order`, read from tars, padded to arrays, through WebDataset.

Knows no model, and nothing of the tar format.
"""

import logging
import multiprocessing
import signal
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from shards.cache import cached_shard
from shards.errors import ShardError, UserError, first_line
from shards.manifest import Manifest, Shard
from shards.note import SECONDS, Note
from shards.reader import Crop, NoteFile
from shards.record import ShardRecord, read_shard_record
from trainer.config import DataConfig
from trainer.crops import choose_crops, start_crop
from trainer.errors import TrainError
from trainer.order import NoteIndex, Order, split_range
from trainer.vocabulary import Combinations, Vocabulary, label_value, stored_label

log = logging.getLogger(__name__)

PREFETCH = 4  # batches that a worker reads ahead
START_METHOD = "fork" if sys.platform == "linux" else None  # of workers: Python 3.14 would let each import torch
MOST_OPEN = 64  # tars at a time: some systems allow a process 256 files


@dataclass(frozen=True)
class Batch:
    """Notes side by side, shorter ones padded with 0."""

    keys: list[str]
    labels: np.ndarray  # (note, label) int64 ids
    codes: np.ndarray  # (note, token) int16 raw codes
    lengths: np.ndarray  # (note,) int64 tokens of each note without padding

    @property
    def arrays(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Labels, codes and lengths, as `NoteModel.forward` takes them."""
        return self.labels, self.codes, self.lengths

    @property
    def tokens(self) -> int:
        return int(self.lengths.sum())

    def part(self, rows: slice) -> "Batch":
        """Some of the notes, cut to the longest of them."""
        lengths = self.lengths[rows]
        return Batch(self.keys[rows], self.labels[rows], self.codes[rows, : lengths.max(initial=0)], lengths)


@dataclass(frozen=True)
class SplitStats:
    """Statistics of a split that a new run is made from."""

    shortest: int  # tokens of the shortest note
    longest: int
    combinations: Combinations  # values of the run's labels, and how many notes have them


class NoteSource(Protocol):
    """Random access to notes by (shard, row): of a set, or of a mixture of sets (`trainer.mixture`)."""

    @property
    def source(self) -> str:
        """The path of the set or the sets, for errors."""

    def read(self, shard: int, row: int, crop: Crop | None = None) -> Note: ...

    def keep_open(self) -> AbstractContextManager[None]:
        """Tars that are read in the block are opened once, and closed at its end."""


class NoteReader:
    """Random access to the notes of a split by (shard, row). A tar is fetched, if it is remote, and its headers are
    scanned when its first note is read."""

    def __init__(self, folder: Path, manifest: Manifest, split: str) -> None:
        self.folder = folder
        self.manifest = manifest
        self.shards = manifest.splits.get(split, ())
        self._files: dict[int, NoteFile] = {}
        self._seconds: dict[int, float] = {}  # tokens of a note -> its length
        self._opened: list[NoteFile] | None = None  # in a block of `keep_open`

    @property
    def source(self) -> str:
        return str(self.folder)

    @property
    def counts(self) -> tuple[int, ...]:
        """Notes in each shard."""
        return tuple(shard.notes for shard in self.shards)

    def positions(self) -> Iterator[tuple[int, int]]:
        """(shard, row) of all notes, in the order of the tars."""
        return ((shard, row) for shard, notes in enumerate(self.counts) for row in range(notes))

    def read(self, shard: int, row: int, crop: Crop | None = None) -> Note:
        """Read a note, or a crop of its tokens. The length of the whole note is its label SECONDS.

        Raises:
            UserError: its tar is missing, damaged, or cannot be fetched.
        """
        file = self._files.get(shard)
        if file is None:
            entry = self.shards[shard]
            file = self._files[shard] = NoteFile(cached_shard(self.folder, entry), entry.notes)
        try:
            if self._opened is not None and not file.is_open and len(self._opened) < MOST_OPEN:
                file.open()
                self._opened.append(file)
            note, length = file.read_crop(row, crop)
        except OSError as error:
            raise ShardError(
                f"{file.path}: cannot be read any more ({error.strerror}); bring it back, and the same command goes on"
            ) from error
        seconds = self._seconds.get(length)
        if seconds is None:
            seconds = self._seconds[length] = self.manifest.codec.seconds(length)
        note.labels[SECONDS] = seconds
        return note

    @contextmanager
    def keep_open(self) -> Iterator[None]:
        """Tars that are read in the block are opened once, and closed at its end, so that a tar that goes away is
        missed by the next batch."""
        self._opened = []
        try:
            yield
        finally:
            for file in self._opened:
                file.close()
            self._opened = None

    def read_all(self) -> Iterator[Note]:
        """Read all notes, in the order of the tars."""
        return (self.read(shard, row) for shard, row in self.positions())

    def stats(self, labels: tuple[str, ...]) -> SplitStats:
        """The statistics for a run with these labels: from the shards' records, so that no tar is opened, or from the
        notes of those whose record lacks them."""
        lengths, counts = set[int](), Counter[tuple[Any, ...]]()
        stored = sorted({stored_label(name, (*self.manifest.labels, SECONDS)) for name in labels})
        for index, shard in enumerate(self.shards):
            groups: Iterable[tuple[Mapping[str, Any], int]]  # labels of notes, and how many notes have them
            record = self._record(shard)
            if record is not None and record.longest and record.has_counts(stored):
                lengths |= {record.shortest or record.longest, record.longest}
                joint = record.count_values(stored, self.manifest.codec)
                groups = ((dict(zip(stored, values, strict=True)), notes) for values, notes in joint.items())
            else:
                shard_notes = [self.read(index, row) for row in range(shard.notes)]
                lengths |= {len(note.tokens) for note in shard_notes}
                groups = ((note.labels, 1) for note in shard_notes)
            for note_labels, notes in groups:
                counts[tuple(label_value(note_labels, name) for name in labels)] += notes
        longest = max(lengths, default=0)
        if longest > (most := self.manifest.codec.most_tokens):  # the model would be made for it
            raise ShardError(
                f"{self.folder}: holds a note of {longest} tokens, more than the {most} of its codec's longest"
            )
        return SplitStats(min(lengths, default=0), longest, sorted(counts.items(), key=str))

    def _record(self, shard: Shard) -> ShardRecord | None:
        """The record of a shard; None if it is missing, damaged, or of another tar."""
        try:
            record = read_shard_record(self.folder / shard.record_name)
        except (FileNotFoundError, ShardError):
            return None
        return record if record.shard == shard else None


def collate(notes: Iterable[Note], vocabulary: Vocabulary, window: int, source: str) -> Batch:
    """Make a batch of notes, cut to `window` tokens. `source` begins the error.

    Raises:
        ShardError: codes that the codec cannot have made, or a part of a frame.
    """
    notes = list(notes)
    keys = [note.key for note in notes]
    codes = [note.tokens[:window] for note in notes]
    lengths = np.array([len(tokens) for tokens in codes], np.int64)
    padded = np.zeros((len(codes), lengths.max(initial=0)), np.int16)
    for row, tokens in zip(padded, codes, strict=True):
        row[: len(tokens)] = tokens
    bad = (padded.min(1, initial=0) < 0) | (padded.max(1, initial=0) >= vocabulary.codebook_size)
    bad |= lengths % vocabulary.codebooks > 0
    if bad.any():
        key = keys[int(bad.argmax())]
        raise ShardError(f"{source}: {key} holds codes that its codec cannot have made; encode this set again")
    labels = np.array([vocabulary.label_ids(note.labels) for note in notes], np.int64)
    return Batch(keys, labels.reshape(len(keys), len(vocabulary.labels)), padded, lengths)


def hide_labels(batch: Batch, vocabulary: Vocabulary, lanes: list[int], dropout: float, key: tuple[int, int]) -> Batch:
    """Replace each label of each note by "none" with probability `dropout`.

    Half of that is notes that lose all of their labels at once: guidance needs a model that was trained without
    labels too. A function of `key` (seed, step) and the notes' lanes, so ranks and workers change nothing.
    """
    count = len(vocabulary.labels)
    if not count or not dropout or not lanes:
        return batch
    stream = np.random.Generator(np.random.Philox(np.random.SeedSequence((*key, 1))))
    uniforms = stream.random((max(lanes) + 1, 1 + count))[lanes]  # (note, all or label)
    alone = dropout / (2 - dropout)  # so that 1 - (1 - dropout / 2) * (1 - alone) = dropout
    hidden = (uniforms[:, :1] < dropout / 2) | (uniforms[:, 1:] < alone)
    return replace(batch, labels=np.where(hidden, np.array(vocabulary.uncond_ids()), batch.labels))


@dataclass(frozen=True)
class TrainStream:
    """The batches of one rank from one step to another, as the two stages of a WebDataset pipeline."""

    reader: NoteSource
    order: Order
    vocabulary: Vocabulary
    window: int  # tokens
    label_dropout: float
    steps: range
    lanes: range  # of this rank
    crop: str = "start"  # as in DataConfig

    def indices(self) -> Iterator[tuple[int, list[NoteIndex]]]:
        """First stage: (step, the indices of its notes) for the lanes of this loader worker."""
        from torch.utils.data import get_worker_info

        info = get_worker_info()
        part, parts = (info.id, info.num_workers) if info else (0, 1)
        lanes = split_range(len(self.lanes), part, parts, self.lanes.start)
        return zip(self.steps, self.order.steps(self.steps.start, lanes), strict=False)

    def batches(self, steps: Iterable[tuple[int, list[NoteIndex]]]) -> Iterator[Batch | UserError]:
        """Second stage: read and collate. An error is the last item: raised in a worker it would be a traceback."""
        try:
            for step, indices in steps:
                lanes, key = [index.lane for index in indices], (self.order.seed, step)
                crops = choose_crops(self.crop, self.window, self.vocabulary.codebooks, lanes, key)
                with self.reader.keep_open():
                    notes = [self.reader.read(at.shard, at.row, crop) for at, crop in zip(indices, crops, strict=True)]
                batch = collate(notes, self.vocabulary, self.window, self.reader.source)
                yield hide_labels(batch, self.vocabulary, lanes, self.label_dropout, key)
        except UserError as error:
            yield error


def train_batches(stream: TrainStream, workers: int) -> Iterator[Batch]:
    """Yield one batch a step, read ahead by `workers` processes; the same for any number of them.

    Raises:
        ShardError: a shard that is missing, damaged, or not what the manifest says.
    """
    import webdataset as wds

    workers = min(workers, len(stream.lanes)) if workers and _can_start_workers() else 0
    loader = wds.WebLoader(
        wds.DataPipeline(stream.indices, stream.batches),
        num_workers=workers,
        multiprocessing_context=START_METHOD if workers else None,
        batch_size=None,
        worker_init_fn=_ignore_signals,
        prefetch_factor=PREFETCH if workers else None,
    )
    parts: list[Batch] = []
    for item in loader:
        if isinstance(item, UserError):
            raise item
        parts.append(item)
        if len(parts) == max(1, workers):
            yield _concatenate(parts)
            parts = []


@contextmanager
def name_dead_workers() -> Iterator[None]:
    """Raise TrainError if a loader process ends by itself: torch raises RuntimeError at any time in the block."""
    try:
        yield
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        for process in multiprocessing.active_children():
            process.kill()  # the others ignore SIGTERM, and wait for what the dead one had locked
        raise TrainError(
            f"data.workers: {first_line(error).rstrip('. ')}; the same command goes on from the last checkpoint, "
            "with data.workers=0 without such processes"
        ) from error


def _can_start_workers() -> bool:
    try:
        multiprocessing.Lock()
    except (OSError, ImportError) as error:  # no /dev/shm, in some containers
        log.warning("data.workers: no semaphores here (%s), so notes are read in the training process.", error)
        return False
    return True


def valid_batches(
    reader: NoteReader, vocabulary: Vocabulary, window: int, data: DataConfig, rank: int, world: int
) -> Iterator[Batch]:
    """Yield one rank's batches of the split, the start of each note once over all ranks."""
    crop = start_crop(window, vocabulary.codebooks)
    size = data.micro_batch or -(-data.batch // world)
    positions = list(reader.positions())
    for first in range(rank * size, len(positions), world * size):
        with reader.keep_open():
            notes = [reader.read(shard, row, crop) for shard, row in positions[first : first + size]]
        yield collate(notes, vocabulary, window, reader.source)


def _concatenate(parts: list[Batch]) -> Batch:
    """Join the workers' parts of one batch."""
    if len(parts) == 1:
        return parts[0]
    width = max(part.codes.shape[1] for part in parts)
    codes = [np.pad(part.codes, ((0, 0), (0, width - part.codes.shape[1]))) for part in parts]
    return Batch(
        [key for part in parts for key in part.keys],
        np.concatenate([part.labels for part in parts]),
        np.concatenate(codes),
        np.concatenate([part.lengths for part in parts]),
    )


def _ignore_signals(worker: int) -> None:
    """Ctrl-C and SIGTERM reach the whole process group; the training process decides when its workers end."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
