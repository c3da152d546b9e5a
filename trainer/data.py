"""Batches: the notes of a shard set in an `Order`, read from tars, padded to arrays, through WebDataset.

Knows no model, and nothing of the tar format.
"""

import io
import os
import re
import signal
import tarfile
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from shards.cache import cached_shard
from shards.errors import ShardError, UserError
from shards.manifest import Manifest
from shards.note import Note, json_object, npy_array
from trainer.config import DataConfig
from trainer.order import NoteIndex, Order, split_range
from trainer.vocabulary import Vocabulary, label_value

BLOCK = tarfile.BLOCKSIZE  # bytes
PLAIN = (tarfile.REGTYPE[0], tarfile.AREGTYPE[0])
NAME = slice(0, 100)  # where a header has a member's name, its size in octal, and its type
SIZE = slice(124, 136)
TYPE = 156
NPY_HEADER = 128  # bytes before the numbers of an npy file of one dimension
PREFETCH = 4  # batches that a worker reads ahead
MEMBER = re.compile(rb"([^./\x00]+)\.(npy|json)")


@dataclass(frozen=True)
class Batch:
    """Notes side by side, shorter ones padded with 0."""

    keys: list[str]
    labels: np.ndarray  # (note, label) int64 ids
    codes: np.ndarray  # (note, token) int16 raw codes
    lengths: np.ndarray  # (note,) int64 tokens of each note without padding

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

    longest: int  # tokens of the longest note
    combinations: list[tuple[tuple[Any, ...], int]]  # values of the run's labels, and how many notes have them


class NoteFile:
    """One tar of notes, read by row."""

    def __init__(self, path: Path, notes: int) -> None:
        self.path = path
        self.offsets = _scan(path)
        if len(self.offsets) != notes + 1:
            raise ShardError(
                f"{path}: holds {len(self.offsets) - 1} notes, but the manifest says {notes}; "
                "`python -m shards verify` says what is wrong with the set"
            )

    def read(self, row: int) -> tuple[str, np.ndarray, dict[str, Any]]:
        """(key, raw codes (token,) int16, labels) of one note.

        Raises:
            ShardError: not a plain KEY.npy + KEY.json pair of flat int16 codes and a JSON object.
        """
        start, stop = int(self.offsets[row]), int(self.offsets[row + 1])
        with self.path.open("rb", buffering=0) as file:
            record = os.pread(file.fileno(), stop - start, start)
        try:
            (key, codes), (other, labels) = self._pair(record)
        except (tarfile.TarError, ValueError) as error:
            raise ShardError(f"{self.path}: note {row} is no whole pair ({error}); encode this set again") from error
        if key != other:
            raise ShardError(f"{self.path}: {key}.npy has no {key}.json behind it; encode this set again")
        where = f"{self.path}: {key}"
        return key, _codes(codes, f"{where}.npy"), json_object(labels, f"{where}.json")

    def _pair(self, record: bytes) -> Iterator[tuple[str, bytes]]:
        """(key, content) of the npy, then of the json."""
        place = 0
        for ending in (b"npy", b"json"):
            header = record[place : place + BLOCK]
            if len(header) < BLOCK:
                raise ShardError(f"{self.path}: is cut short; encode this set again")
            if header[TYPE] not in PLAIN:
                yield from self._pair_of_long_names(record)
                return
            match = MEMBER.fullmatch(header[NAME].rstrip(b"\0"))
            if match is None or match[2] != ending:
                raise self._stranger(header[NAME].rstrip(b"\0").decode(errors="replace"))
            size = _size(header)
            place += BLOCK
            yield match[1].decode(), record[place : place + size]
            place += -(-size // BLOCK) * BLOCK

    def _pair_of_long_names(self, record: bytes) -> Iterator[tuple[str, bytes]]:
        """The same for a note whose name has a header of its own (PAX), and so for whatever else tars can hold."""
        with tarfile.open(fileobj=io.BytesIO(record + bytes(2 * BLOCK)), mode="r:") as tar:
            for member, ending in zip(tar.getmembers(), ("npy", "json"), strict=False):
                match = MEMBER.fullmatch(member.name.encode())
                if match is None or match[2].decode() != ending or not member.isreg():
                    raise self._stranger(member.name)
                content = tar.extractfile(member)
                assert content is not None
                yield match[1].decode(), content.read()

    def _stranger(self, name: str) -> ShardError:
        return ShardError(f"{self.path}: member {name!r} is not a plain file of a note; do not use this tar")


class NoteReader:
    """Random access to the notes of a split by (shard, row). A tar is fetched, if it is remote, and its headers are
    scanned when its first note is read."""

    def __init__(self, folder: Path, manifest: Manifest, split: str) -> None:
        self.folder = folder
        self.manifest = manifest
        self.shards = manifest.splits.get(split, ())
        self._files: dict[int, NoteFile] = {}

    @property
    def counts(self) -> tuple[int, ...]:
        """Notes in each shard."""
        return tuple(shard.notes for shard in self.shards)

    def positions(self) -> Iterator[tuple[int, int]]:
        """(shard, row) of all notes, in the order of the tars."""
        return ((shard, row) for shard, notes in enumerate(self.counts) for row in range(notes))

    def read(self, shard: int, row: int) -> Note:
        """Read a note.

        Raises:
            UserError: its tar is missing, damaged, or cannot be fetched.
        """
        file = self._files.get(shard)
        if file is None:
            entry = self.shards[shard]
            file = self._files[shard] = NoteFile(cached_shard(self.folder, entry), entry.notes)
        return Note(*file.read(row))

    def read_all(self) -> Iterator[Note]:
        """Read all notes, in the order of the tars."""
        return (self.read(shard, row) for shard, row in self.positions())

    def stats(self, labels: tuple[str, ...]) -> SplitStats:
        """The statistics for a run with these labels: from the shards' records, so that no tar is opened, or from the
        notes if the records lack them."""
        longest, counts = 0, Counter[tuple[Any, ...]]()
        for note in self.read_all():
            longest = max(longest, len(note.tokens))
            counts[tuple(label_value(note.labels, name) for name in labels)] += 1
        return SplitStats(longest, sorted(counts.items(), key=str))


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

    reader: NoteReader
    order: Order
    vocabulary: Vocabulary
    window: int  # tokens
    label_dropout: float
    steps: range
    lanes: range  # of this rank

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
                notes = [self.reader.read(index.shard, index.row) for index in indices]
                batch = collate(notes, self.vocabulary, self.window, str(self.reader.folder))
                lanes = [index.lane for index in indices]
                yield hide_labels(batch, self.vocabulary, lanes, self.label_dropout, (self.order.seed, step))
        except UserError as error:
            yield error


def train_batches(stream: TrainStream, workers: int) -> Iterator[Batch]:
    """Yield one batch a step, read ahead by `workers` processes; the same for any number of them.

    Raises:
        ShardError: a shard that is missing, damaged, or not what the manifest says.
    """
    import webdataset as wds

    workers = min(workers, len(stream.lanes))
    loader = wds.WebLoader(
        wds.DataPipeline(stream.indices, stream.batches),
        num_workers=workers,
        batch_size=None,
        collate_fn=_identity,
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


def valid_batches(
    reader: NoteReader, vocabulary: Vocabulary, window: int, data: DataConfig, rank: int, world: int
) -> Iterator[Batch]:
    """Yield one rank's batches of the split, each note once over all ranks."""
    size = data.micro_batch or -(-data.batch // world)
    positions = list(reader.positions())
    for first in range(rank * size, len(positions), world * size):
        notes = [reader.read(shard, row) for shard, row in positions[first : first + size]]
        yield collate(notes, vocabulary, window, str(reader.folder))


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


def _scan(path: Path) -> np.ndarray:
    """Where each note's pair begins in the tar, and where the last one ends: (note + 1,) int64.

    Raises:
        ShardError: missing, no tar, or cut short.
    """
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            offsets, members, place, begun = [], 0, 0, False
            while header := os.pread(file.fileno(), BLOCK, place):
                if not any(header):
                    break
                if not begun and members % 2 == 0:
                    offsets.append(place)
                begun = header[TYPE] not in PLAIN  # headers that only tell more about the member behind them
                members += not begun
                place += BLOCK + -(-_size(header) // BLOCK) * BLOCK
            if place + 2 * BLOCK > size:
                raise ShardError(f"{path}: is cut short after {size} bytes; encode this set again")
            return np.array([*offsets, place], np.int64)
    except FileNotFoundError as error:
        raise ShardError(f"{path}: missing; encode this set again") from error
    except (OSError, ValueError, IndexError) as error:
        raise ShardError(f"{path}: is not a whole tar ({error}); encode this set again") from error


def _size(header: bytes) -> int:
    """Bytes of a member's content. Only plain octal digits: Python would also take a minus sign."""
    digits = header[SIZE].strip(b" \0")
    if not digits.isdigit():
        raise ValueError(f"a size of {digits!r}")
    return int(digits, 8)


def _codes(data: bytes, where: str) -> np.ndarray:
    """The content of an npy file: (token,) int16."""
    length = _flat_length(data[:NPY_HEADER])
    if len(data) == NPY_HEADER + 2 * length:
        return np.frombuffer(data, "<i2", offset=NPY_HEADER)
    codes = npy_array(data, where)
    if codes.ndim != 1 or codes.dtype.str != "<i2":
        raise ShardError(f"{where}: holds {codes.dtype} of shape {codes.shape}, not flat int16 codes")
    return codes


@lru_cache(maxsize=1024)
def _flat_length(header: bytes) -> int:
    """How many int16 an npy file with this header holds, or -1 if it is not one that is read the short way.

    Notes of one length share their header; parsing it again for each would take longer than all the rest.
    """
    stream = io.BytesIO(header)
    try:
        if np.lib.format.read_magic(stream) != (1, 0):
            return -1
        shape, _, dtype = np.lib.format.read_array_header_1_0(stream)
    except ValueError:
        return -1
    return shape[0] if len(shape) == 1 and dtype.str == "<i2" and stream.tell() == NPY_HEADER else -1


def _identity(item: Any) -> Any:
    return item


def _ignore_signals(worker: int) -> None:
    """Ctrl-C and SIGTERM reach the whole process group; the training process decides when its workers end."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
