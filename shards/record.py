"""A shard's record, `train-00000.json` beside `train-00000.tar`: the proof that its task is done, and how it was made.

It is written after the tar is in place, and holds the tar's facts, the inputs that were rejected, all that tells
whether a task of today's plan is the same, and what a trainer needs before it opens a tar.
"""

import json
import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import msgspec

from shards.errors import ShardError
from shards.files import write_json
from shards.manifest import REJECTED, SHARD_NAME, Shard
from shards.note import MOST_TOKENS, SECONDS, Codec, Count, Note
from shards.parse import json_object, read_object, to_dataclass
from shards.storage import read_bytes

UNCOUNTED = "note_str"  # label with another value for every note
MOST_DECIMALS = 64  # values of a counted label with numbers that are not whole
LARGEST_COLUMN = 1 << 16  # bytes of a counted label's values
Tokens = Annotated[int, msgspec.Meta(ge=0, le=MOST_TOKENS)]
ROW = re.compile(r"[0-9]{1,15}( [0-9]{1,15})*")


@dataclass(frozen=True)
class Rejection:
    """An input that gets no codes, and the reason: one line of `rejected.jsonl`."""

    file: str
    reason: str  # one word of a few, so that reasons can be counted
    detail: str


@dataclass(frozen=True)
class LabelCounts:
    """Joint counts of label values: the number of notes with each combination of them."""

    names: tuple[str, ...]  # labels, sorted: all but those with as many values as notes
    counts: Mapping[tuple[Any, ...], int]  # (value of each label, None: the note lacks it) -> notes; lists as tuples

    def of(self, names: Sequence[str]) -> Counter[tuple[Any, ...]]:
        """The joint counts of these labels alone; a label that no note has is None everywhere."""
        indices = [self.names.index(name) if name in self.names else None for name in names]
        counts = Counter[tuple[Any, ...]]()
        for values, notes in self.counts.items():
            counts[tuple(None if index is None else values[index] for index in indices)] += notes
        return counts

    def to_json(self) -> dict[str, Any]:
        """Values once a label, and a row as text a combination: the indices of its values, then the notes."""
        values = [list(dict.fromkeys(column)) for column in zip(*self.counts, strict=True)]
        indices = [{value: index for index, value in enumerate(column)} for column in values]
        rows = [
            [*(index[value] for index, value in zip(indices, row, strict=True)), notes]
            for row, notes in self.counts.items()
        ]
        return {"names": list(self.names), "values": values, "rows": [" ".join(map(str, row)) for row in rows]}

    @classmethod
    def from_json(cls, value: Any) -> "LabelCounts":
        """Undo `to_json`.

        Raises:
            KeyError, TypeError, ValueError, IndexError: not such an object.
        """
        names, values = tuple(value["names"]), value["values"]
        if not all(isinstance(name, str) for name in names) or len(names) != len(values):
            raise ValueError("label_counts: not a list of values for each name")
        values = [[tuple(item) if isinstance(item, list) else item for item in column] for column in values]
        counts: dict[tuple[Any, ...], int] = {}
        for row in value["rows"]:
            if ROW.fullmatch(row) is None:
                raise ValueError("label_counts: a row that is not a few numbers")
            *indices, notes = map(int, row.split(" "))
            counts[tuple(column[index] for column, index in zip(values, indices, strict=True))] = notes
        return cls(names, counts)


@dataclass(frozen=True)
class ShardRecord:
    """One shard, the task that made it, and statistics of its notes."""

    shard: Shard
    rejected: tuple[Rejection, ...]
    labels: tuple[str, ...]  # names of all labels of its notes
    inputs: dict[str, str]  # AudioFile.display_path -> digest, of all notes of the task in their order
    settings: dict[str, dict[str, Any]]  # Settings.to_json
    task_sha256: str
    longest: Tokens | None = None  # tokens of the longest note; None: written before this was stored
    label_counts: LabelCounts | None = None  # None: as above
    silent: Count = 0  # segments of its inputs that are no notes because they are silent
    labels_sha256: str | None = None  # of the labels that a metadata file gives its inputs; None: there was none
    row_labels: tuple[str, ...] = ()  # names of labels that notes have from that file alone
    shortest: Tokens | None = None  # tokens of the shortest note; None: as `longest`, or all are as long as that

    def has_counts(self, names: Iterable[str]) -> bool:
        """True if the statistics are there, with the values of all these labels; else they are in the tar alone."""
        if self.longest is None or self.label_counts is None:
            return False
        if self.shortest is None and self.shard.tokens != self.shard.notes * self.longest:
            return False  # written before lengths were counted
        missing = {name for name in names if name not in self.label_counts.names}
        return not missing & {*self.labels} and (SECONDS not in missing or self.shortest is None)

    def count_values(self, names: Sequence[str], codec: Codec) -> Counter[tuple[Any, ...]]:
        """The joint counts of these labels, of which `has_counts`; the label SECONDS is the notes' length."""
        assert self.longest is not None and self.label_counts is not None
        counts = self.label_counts.of(names)
        if self.shortest is not None or SECONDS not in names:
            return counts
        index, seconds = names.index(SECONDS), codec.seconds(self.longest)
        return Counter({(*row[:index], seconds, *row[index + 1 :]): notes for row, notes in counts.items()})


def count_notes(notes: Sequence[Note], codec: Codec) -> dict[str, Any]:
    """The fields of a record that are statistics of its notes. Where their lengths differ, the labels are counted with
    the length, as the label SECONDS."""
    lengths = count_lengths(notes)
    differ = lengths["shortest"] is not None
    counts = count_labels(with_length(note, codec) for note in notes) if differ else count_labels(notes)
    return {**lengths, "label_counts": counts}


def count_lengths(notes: Iterable[Note]) -> dict[str, int | None]:
    """The fields `longest` and, where lengths differ, `shortest` of a record."""
    lengths = {len(note.tokens) for note in notes} or {0}
    return {"longest": max(lengths), "shortest": min(lengths) if len(lengths) > 1 else None}


def with_length(note: Note, codec: Codec) -> Note:
    """Add the note's length, as the label SECONDS."""
    return replace(note, labels={**note.labels, SECONDS: codec.seconds(len(note.tokens))})


def count_labels(notes: Iterable[Note], names: Sequence[str] | None = None) -> LabelCounts:
    """Count the combinations of the notes' label values: of `names`, or of all labels that have not too many values.

    Objects, and lists with other items than words, are no values to count by.
    """
    labels = [
        {
            name: tuple(value) if isinstance(value, list) else value
            for name, value in note.labels.items()
            if _is_value(value)
        }
        for note in notes
    ]
    if names is None:
        columns = {name: {row[name] for row in labels if name in row} for name in set().union(*labels) - {UNCOUNTED}}
        names = sorted(name for name, values in columns.items() if _has_few(values, is_length=name == SECONDS))
    return LabelCounts(tuple(names), Counter(tuple(row.get(name) for name in names) for row in labels))


def _is_value(value: Any) -> bool:
    if isinstance(value, list):
        return all(isinstance(word, str) for word in value)
    return isinstance(value, str | int | float)


def _has_few(values: Collection[Any], is_length: bool) -> bool:
    """True if a record that lists the values stays small."""
    if not is_length and len(values) > MOST_DECIMALS and any(isinstance(value, float) for value in values):
        return False
    return len(json.dumps(list(values), ensure_ascii=False).encode(errors="replace")) <= LARGEST_COLUMN


def write_shard_record(folder: Path, record: ShardRecord, writer: str = "") -> None:
    """Declare the record's task done. `writer`: as in `atomic_write`."""
    value = {
        "rejected": [vars(rejection) for rejection in record.rejected],
        "labels": record.labels,
        "inputs": record.inputs,
        "settings": record.settings,
        "task_sha256": record.task_sha256,
        **vars(record.shard),
    }
    if record.longest is not None:
        value["longest"] = record.longest
    if record.label_counts is not None:
        value["label_counts"] = record.label_counts.to_json()
    if record.silent:
        value["silent"] = record.silent
    if record.labels_sha256 is not None:
        value |= {"labels_sha256": record.labels_sha256, "row_labels": record.row_labels}
    if record.shortest is not None:
        value["shortest"] = record.shortest
    write_json(folder / record.shard.record_name, value, writer)


def read_shard_record(path: Path) -> ShardRecord:
    """Undo `write_shard_record`.

    Raises:
        FileNotFoundError: it is not there.
        ShardError: damaged.
    """
    value = read_object(path, "delete it and run again")
    try:
        if "label_counts" in value:
            value["label_counts"] = LabelCounts.from_json(value["label_counts"])
        return msgspec.convert({**value, "shard": value}, ShardRecord)
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise ShardError(f"{path}: is damaged ({type(error).__name__}: {error}); delete it and run again") from error


def read_rejections(folder: Path) -> tuple[Rejection, ...]:
    """Read `rejected.jsonl` of a set; none if there is no such file.

    Raises:
        ShardError: damaged.
    """
    path = folder / REJECTED
    try:
        lines = read_bytes(path).splitlines()
    except FileNotFoundError:
        return ()
    cure = "encode again"
    return tuple(to_dataclass(Rejection, json_object(line, str(path), cure=cure), f"{path}:", cure) for line in lines)


def read_shard_records(
    folder: Path, names: Iterable[str], known: Mapping[str, ShardRecord] | None = None, has_counts: bool = True
) -> dict[str, ShardRecord]:
    """Read those of the files `names` in `folder` that are records: shard name -> record.

    `known`: records that are taken as they are. `has_counts`: with the label counts, which take the most memory.
    """
    records = {}
    for name in sorted(names):
        if shard := shard_of_record(name):
            record = (known or {}).get(shard) or read_shard_record(folder / name)
            records[shard] = record if has_counts else replace(record, label_counts=None)
    return records


def shard_of_record(name: str) -> str | None:
    """The name of the shard whose record has this file name; None if it is no record's name."""
    shard = name.removesuffix(".json") + ".tar"
    return shard if name.endswith(".json") and SHARD_NAME.fullmatch(shard) else None
