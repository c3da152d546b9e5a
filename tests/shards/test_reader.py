"""shards.reader: the short way, for notes as the writer lays them out, does not differ from the general one."""

import tarfile
from pathlib import Path

import numpy as np
import pytest

from shards import reader
from shards.errors import ShardError
from shards.note import Note
from shards.reader import NoteFile
from shards.writer import write_shard
from tests.support.shard_sets import random_note


def first_frames(tokens: int) -> slice:
    return slice(2, min(tokens, 10))


def read_all(notes: NoteFile) -> list[object]:
    """Each note of a tar, or what is wrong with it."""
    found: list[object] = []
    for row in range(len(notes)):
        try:
            note, length = notes.read_crop(row, first_frames)
            found.append((note.key, note.tokens.tolist(), note.labels, length))
        except ShardError as error:
            found.append(error.message)
    return found


def test_a_note_laid_out_by_the_writer_needs_no_general_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written = [random_note("a"), random_note("guitar_acoustic_000-040-025", 300)]
    write_shard(tmp_path / "train-00000.tar", written)
    monkeypatch.setattr(NoteFile, "_read_pair", None)
    for note, read in zip(written, NoteFile(tmp_path / "train-00000.tar"), strict=True):
        assert (read.key, read.labels) == (note.key, note.labels)
        np.testing.assert_array_equal(read.tokens, note.tokens)


def test_both_ways_read_the_same_notes_and_refuse_the_same_damage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "train-00000.tar"
    write_shard(path, [random_note("ab", 3), random_note("klänge", 3), random_note("b" * 120, 3)])
    notes, whole = NoteFile(path), path.read_bytes()
    in_header = [0, 1, 2, 3, 5, 9, 50, 99, 100, 123, *range(124, 137), 148, 156, 157, 344, 345, 346, 511]
    positions = [header + byte for header in (0, 1024) for byte in in_header]  # of ab.npy and ab.json
    positions += [512, 520, 580, 639, 640, 1536, 1537]  # in what they hold
    damaged = [
        whole[:position] + bytes([value]) + whole[position + 1 :]
        for position in positions
        for value in (0, ord("."), ord("/"), ord("0"), ord("7"), ord("L"), 255)
    ]
    damaged += [
        whole.replace(b"ab.", name) for name in (b"a/.", b"a\0.", b"/b.", b"\0b.", b"...", b"\xffb.", b"a\xc3.")
    ]
    messages = set()
    for data in damaged:
        path.write_bytes(data)  # after the scan of the headers
        fast = read_all(notes)
        with monkeypatch.context() as patch:
            patch.setattr(reader, "_plain_pair", lambda data: None)
            assert fast == read_all(notes)
        messages.add(str(fast[0]).rpartition("tar: ")[2])
    assert len(messages) > 30


def test_the_offsets_are_those_of_the_tar_for_short_and_long_notes(tmp_path: Path) -> None:
    path = tmp_path / "train-00000.tar"
    frames = [3, 20_000, 3, 3, 9_000, 8_000, *[100] * 40, 30_000]
    write_shard(path, [Note(f"n{row}", np.zeros(2 * number, np.int16)) for row, number in enumerate(frames)])
    with tarfile.open(path) as tar:
        offsets = [member.offset for member in tar.getmembers() if member.name.endswith(".npy")]
    assert NoteFile(path).offsets.tolist()[:-1] == offsets
