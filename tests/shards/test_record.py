"""shards.record: a record comes back equal, its label counts are those of the notes, and older records are read."""

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shards.errors import ShardError
from shards.manifest import Shard
from shards.note import Note
from shards.record import LabelCounts, Rejection, ShardRecord, count_labels, read_shard_record, write_shard_record
from tests.support.shard_sets import random_note

SHARD = Shard("train-00000.tar", 3, 72, 10240, "0" * 64)
OLD = ShardRecord(SHARD, (Rejection("a.wav", "empty", "0 bytes"),), ("pitch",), {"b.wav": "1"}, {"audio": {}}, "2" * 64)
FIELDS = ["rejected", "labels", "inputs", "settings", "task_sha256", "name", "notes", "tokens", "bytes", "sha256"]

scalars = st.none() | st.text() | st.integers() | st.floats(allow_nan=False)
labels = st.dictionaries(
    st.sampled_from(["pitch", "velocity", "source", "note_str"]),
    scalars | st.lists(st.integers(), min_size=1) | st.lists(st.text(max_size=2)),
)


def note_of(labels: dict[str, object]) -> Note:
    return Note("n", np.zeros(2, np.int16), labels)


def counted(value: object) -> object:
    """The value by which notes are counted: a list of words as a tuple, None for a list of numbers."""
    if not isinstance(value, list):
        return value
    return tuple(value) if all(isinstance(word, str) for word in value) else None


@given(st.lists(labels, max_size=8))
def test_counts_come_back_equal_and_are_those_of_the_notes(notes: list[dict[str, object]]) -> None:
    counts = count_labels(map(note_of, notes))
    assert LabelCounts.from_json(json.loads(json.dumps(counts.to_json()))) == counts
    values = [{name: counted(value) for name, value in note.items()} for note in notes]
    for names in ((), ("pitch",), ("velocity", "pitch"), ("source", "nothing", "velocity")):
        assert counts.of(names) == Counter(tuple(note.get(name) for name in names) for note in values)


def test_a_record_comes_back_equal_and_new_fields_stand_behind_the_others(tmp_path: Path) -> None:
    notes = [random_note(f"n{index}") for index in range(3)]
    record = replace(OLD, longest=24, label_counts=count_labels(notes))
    write_shard_record(tmp_path, record)
    assert read_shard_record(tmp_path / "train-00000.json") == record
    assert list(json.loads((tmp_path / "train-00000.json").read_text())) == [*FIELDS, "longest", "label_counts"]


def test_a_record_without_the_new_fields_is_read(tmp_path: Path) -> None:
    write_shard_record(tmp_path, OLD)
    record = read_shard_record(tmp_path / "train-00000.json")
    assert record == OLD and record.longest is None and record.label_counts is None
    assert list(json.loads((tmp_path / "train-00000.json").read_text())) == FIELDS


def test_the_counts_of_a_thousand_notes_are_small(tmp_path: Path) -> None:
    notes = [random_note(f"n{index}") for index in range(1000)]
    assert len(json.dumps(count_labels(notes).to_json(), indent=2)) < 30_000


def test_labels_with_too_many_values_are_read_from_the_notes() -> None:
    notes = [
        note_of(
            {
                "note_str": str(n),
                "gain": n / 7,
                "level": n % 4 / 4,
                "take": n,
                "text": "x" * 900 + str(n),
                "tags": ["a"],
            }
        )
        for n in range(100)
    ]
    counts = count_labels(notes)
    assert counts.names == ("level", "tags", "take")
    record = replace(OLD, longest=24, label_counts=counts, labels=tuple(sorted(notes[0].labels)))
    assert record.has_counts(["take", "tags", "level", "of no note"])
    assert not any(record.has_counts([name]) for name in ("gain", "text", "note_str"))
    assert not OLD.has_counts([])
    assert not replace(record, longest=30).has_counts([])  # of several lengths, written before those were counted
    assert count_labels(notes, ["gain"]).counts == {(n / 7,): 1 for n in range(100)}


def test_the_digest_of_labels_comes_back_and_is_not_written_without_them(tmp_path: Path) -> None:
    record = replace(OLD, labels_sha256="3" * 64, row_labels=("mood",))
    write_shard_record(tmp_path, record)
    assert read_shard_record(tmp_path / "train-00000.json") == record


@pytest.mark.parametrize(
    "counts",
    [None, [], {}, "x"]
    + [
        {"names": ["pitch"], "values": [[60]], "rows": rows} for rows in (["1 1"], ["0"], ["0 0 1"], ["x 1"], [3], [""])
    ],
)
def test_damaged_counts_are_a_damaged_record(tmp_path: Path, counts: object) -> None:
    write_shard_record(tmp_path, OLD)
    path = tmp_path / "train-00000.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "label_counts": counts}))
    with pytest.raises(ShardError, match=r"train-00000\.json: is damaged"):
        read_shard_record(path)
