"""shards.writer and shards.reader: inverses of each other, strict with damaged tars, readable by stock tools."""

import io
import os
import tarfile
import tracemalloc
from pathlib import Path

import datasets
import numpy as np
import pytest
import webdataset
from hypothesis import given
from hypothesis import strategies as st

from shards.errors import ShardError
from shards.note import Note, npy_bytes
from shards.reader import read_shard
from shards.writer import estimate_bytes, write_shard
from tests.support.shard_sets import random_note, write_set

keys = st.text(st.characters(exclude_characters="./\0", exclude_categories=("Cs",)), min_size=1, max_size=120)


def same(left: Note, right: Note) -> bool:
    return (left.key, left.labels) == (right.key, right.labels) and np.array_equal(left.tokens, right.tokens)


@given(st.lists(st.tuples(keys, st.integers(1, 20)), max_size=6, unique_by=lambda item: item[0]))
def test_reading_restores_what_was_written(
    tmp_path_factory: pytest.TempPathFactory, notes: list[tuple[str, int]]
) -> None:
    path = tmp_path_factory.mktemp("tars") / "train-00000.tar"
    written = [random_note(key, frames) for key, frames in notes]
    shard = write_shard(path, written)
    read = list(read_shard(path))
    assert len(read) == len(written) == shard.notes
    assert all(map(same, read, written))
    assert (shard.bytes, shard.tokens) == (path.stat().st_size, sum(len(note.tokens) for note in written))


def test_the_same_notes_give_the_same_bytes(tmp_path: Path) -> None:
    notes = [random_note(f"n{index}") for index in range(3)]
    first, second = (write_shard(tmp_path / folder / "train-00000.tar", iter(notes)) for folder in "ab")
    assert first == second
    assert (tmp_path / "a" / first.name).read_bytes() == (tmp_path / "b" / first.name).read_bytes()


def test_a_generator_that_fails_leaves_no_tar(tmp_path: Path) -> None:
    def notes():
        yield random_note("first")
        raise RuntimeError("decoder died")

    with pytest.raises(RuntimeError, match="decoder died"):
        write_shard(tmp_path / "train-00000.tar", notes())
    assert list(tmp_path.iterdir()) == []


def test_a_tar_cut_at_any_block_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "train-00000.tar"
    write_shard(path, [random_note(f"n{index}") for index in range(3)])
    whole = path.read_bytes()
    end = whole.rstrip(b"\0")
    for size in range(0, len(end), 512):
        path.write_bytes(whole[:size])
        with pytest.raises(ShardError, match=r"train-00000\.tar"):
            list(read_shard(path))


@pytest.mark.parametrize("offset", [0, 110, 130, 150, 345])  # key, owner, size, checksum, folder
def test_a_header_with_one_changed_byte_is_refused(tmp_path: Path, offset: int) -> None:
    path = tmp_path / "train-00000.tar"
    write_shard(path, [random_note("a"), random_note("b")])
    data = bytearray(path.read_bytes())
    data[offset] += 1
    path.write_bytes(data)
    with pytest.raises(ShardError, match=r"train-00000\.tar: is not a whole tar"):
        list(read_shard(path))


def test_a_tar_whose_end_is_not_empty_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "train-00000.tar"
    path.write_bytes(bytes(512) + b"x" * 512)
    with pytest.raises(ShardError, match="is cut short"):
        list(read_shard(path))


def test_the_estimated_size_is_that_of_the_tar_but_for_its_end(tmp_path: Path) -> None:
    notes = [random_note(f"n{index}", frames=300) for index in range(20)]
    size = write_shard(tmp_path / "train-00000.tar", notes).bytes
    assert 0 <= size - estimate_bytes(len(notes), 600, notes[0].labels) <= tarfile.RECORDSIZE


def tar_of(path: Path, *members: tuple[tarfile.TarInfo, bytes]) -> Path:
    with tarfile.open(path, "w") as tar:
        for info, data in members:
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def link(name: str, kind: bytes) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, "/etc/passwd"
    return info


NPY = npy_bytes(np.zeros(4, np.int16))


@pytest.mark.parametrize(
    ("members", "fact"),
    [
        ([(tarfile.TarInfo("folder" * 12 + "/" + "a" * 90 + ".npy"), NPY)], "is not a plain file"),
        ([(tarfile.TarInfo("../../out.npy"), NPY)], "is not a plain file"),
        ([(tarfile.TarInfo("/etc/out.npy"), NPY)], "is not a plain file"),
        ([(link("a.npy", tarfile.SYMTYPE), b"")], "is not a plain file"),
        ([(link("a.npy", tarfile.LNKTYPE), b"")], "is not a plain file"),
        ([(link("a.npy", tarfile.FIFOTYPE), b"")], "is not a plain file"),
        ([(tarfile.TarInfo("a.npy"), NPY)], "has no a.json behind it"),
        ([(tarfile.TarInfo("a.npy"), NPY), (tarfile.TarInfo("b.json"), b"{}")], "has no a.json behind it"),
        ([(tarfile.TarInfo("a.json"), b"{}"), (tarfile.TarInfo("a.npy"), NPY)], "is where a KEY.npy should be"),
        ([(tarfile.TarInfo("a.pyd"), NPY)], "is where a KEY.npy should be"),
        ([(tarfile.TarInfo("a.npy"), b"not npy")], r"a\.npy: is not a whole"),
        ([(tarfile.TarInfo("a.npy"), npy_bytes(np.zeros((2, 2), np.int16)))], "flat int16"),
        ([(tarfile.TarInfo("a.npy"), npy_bytes(np.zeros(2, np.int64)))], "flat int16"),
        (
            [(tarfile.TarInfo("a.npy"), NPY), (tarfile.TarInfo("a.json"), b"[]")],
            r"a\.json: holds JSON that is not an object",
        ),
        ([(tarfile.TarInfo("a.npy"), NPY), (tarfile.TarInfo("a.json"), b"{")], r"a\.json: is not JSON"),
    ],
)
def test_a_hostile_or_foreign_member_is_refused_by_name(tmp_path: Path, members, fact: str) -> None:
    path = tar_of(tmp_path / "train-00000.tar", *members)
    with pytest.raises(ShardError, match=fact):
        list(read_shard(path))


def raw_member(name: bytes, content: bytes, kind: bytes = b"0", size: bytes | None = None) -> bytes:
    """A member with a header of any content and the right checksum."""
    size = b"%011o\0" % len(content) if size is None else size
    header = bytearray(tarfile.TarInfo("x").tobuf())
    header[:100], header[124:136], header[156:157] = name.ljust(100, b"\0"), size.ljust(12, b"\0"), kind
    header[148:156] = b"%06o\0 " % (sum(header[:148]) + sum(header[156:]) + 256)
    return bytes(header) + content + bytes(-len(content) % 512)


def pax(**records: bytes) -> bytes:
    """A PAX header with these records; `__` in a name is a dot."""
    content = b""
    for name, value in records.items():
        record = b" %s=%s\n" % (name.replace("__", ".").encode(), value)
        length = next(n for n in range(len(record), len(record) + 9) if len(str(n)) + len(record) == n)
        content += b"%d%s" % (length, record)
    return raw_member(b"PaxHeaders/x", content, b"x")


A, A_JSON = raw_member(b"a.npy", NPY), raw_member(b"a.json", b"{}")
LONG_LINK = raw_member(b"././@LongLink", b"a.npy\0", b"L")
HUGE = [8 * 2**30 - 1, 100 * 2**30, 2**62, 2**80]
HOSTILE = {
    "8 GB in octal": raw_member(b"a.npy", NPY, size=b"77777777777"),
    "12 octal digits": raw_member(b"a.npy", NPY, size=b"7" * 12),
    "base-256": raw_member(b"a.npy", NPY, size=b"\x80" + (100 * 2**30).to_bytes(11, "big")),
    "negative": raw_member(b"a.npy", NPY, size=b"-1"),
    "no number": raw_member(b"a.npy", NPY, size=b""),
    **{f"PAX size {size}": pax(size=b"%d" % size) + A for size in HUGE},
    "GNU sparse": raw_member(b"a.npy", NPY, b"S"),
    "PAX sparse 0.1": pax(GNU__sparse__size=b"%d" % 2**40, GNU__sparse__map=b"0,1") + A,
    "PAX sparse 1.0": pax(GNU__sparse__major=b"1", GNU__sparse__realsize=b"%d" % 2**40) + A,
    "chain of PAX headers": pax(path=b"a.npy") * 3_000 + A,
    "chain of GNU names": LONG_LINK * 3_000 + A,
    "both": (LONG_LINK + pax(path=b"a.npy")) * 2 + A,
    "a name of 1 MB": pax(path=b"a" * 1_000_000) + A,
    "a name of 8 GB": raw_member(b"././@LongLink", b"", b"L", size=b"77777777777") + A,
    "a NUL in a name": pax(path=b"a\0b.npy") + A,
    "a name that is no UTF-8": pax(path=b"\xff.npy") + A,
    "a surrogate in a name": pax(path=b"\xed\xa0\x80.npy") + A,
    "an empty name": raw_member(b"", NPY),
    "a record that lies": raw_member(b"x", b"99 path=a.npy\n", b"x") + A,
    "a record of 5000 digits": raw_member(b"x", b"9" * 5_000, b"x") + A,
    "a global header": raw_member(b"x", b"", b"g") + A,
    "a header without a member": A + A_JSON + pax(path=b"a.npy"),
    "a key twice": A + A_JSON + A,
    "a surrogate in the labels": A + raw_member(b"a.json", b'{"a": "\\ud800"}'),
    "deep labels": A + raw_member(b"a.json", b'{"a":' * 5_000 + b"1" + b"}" * 5_000),
}


@pytest.mark.parametrize("start", HOSTILE.values(), ids=HOSTILE)
def test_a_header_that_lies_is_one_line_and_asks_for_no_memory(tmp_path: Path, start: bytes) -> None:
    path = tmp_path / "train-00000.tar"
    path.write_bytes(start + A_JSON + bytes(1024))
    tracemalloc.start()
    with pytest.raises(ShardError, match=r"train-00000\.tar") as error:
        list(read_shard(path))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert "\n" not in error.value.message and peak < 10_000_000


def test_a_sparse_file_of_eight_gigabytes_is_refused_without_reading_it(tmp_path: Path) -> None:
    path = tmp_path / "train-00000.tar"
    path.write_bytes(raw_member(b"a.npy", NPY, size=b"77777777777"))
    with path.open("r+b") as file:
        file.truncate(9 * 2**30)
        file.seek(0, 2)
    with pytest.raises(ShardError, match=r"train-00000\.tar"):
        list(read_shard(path))


@pytest.mark.parametrize("tail", [b"x", A + A_JSON, bytes(1 << 17)])
def test_notes_behind_the_end_of_a_tar_are_not_dropped_in_silence(tmp_path: Path, tail: bytes) -> None:
    path = tmp_path / "train-00000.tar"
    path.write_bytes(A + A_JSON + bytes(1024) + tail)
    with pytest.raises(ShardError, match=r"train-00000\.tar: goes on behind its end"):
        list(read_shard(path))


def test_a_pipe_is_no_tar(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "train-00000.tar")
    with pytest.raises(ShardError, match=r"train-00000\.tar: is not a file"):
        list(read_shard(tmp_path / "train-00000.tar"))


def test_names_that_other_tar_programs_write_are_read(tmp_path: Path) -> None:
    path = tmp_path / "train-00000.tar"
    long = b"b" * 150
    pairs = pax(path=long + b".npy", mtime=b"1.5") + A + pax(path=long + b".json") + A_JSON
    path.write_bytes(LONG_LINK + A + A_JSON + pairs + bytes(1024))
    assert [note.key for note in read_shard(path)] == ["a", long.decode()]


def test_a_file_that_is_missing_or_no_tar_is_named(tmp_path: Path) -> None:
    with pytest.raises(ShardError, match=r"gone\.tar: missing"):
        list(read_shard(tmp_path / "gone.tar"))
    (tmp_path / "text.tar").write_text("hello " * 200)
    with pytest.raises(ShardError, match=r"text\.tar: is not a whole tar"):
        list(read_shard(tmp_path / "text.tar"))


@pytest.fixture
def notes_and_set(tmp_path: Path) -> tuple[list[Note], Path]:
    notes = [
        random_note(f"guitar_acoustic_000-{pitch:03d}-100", frames) for pitch, frames in [(40, 12), (41, 7), (42, 12)]
    ]
    write_set(tmp_path / "set", {"train": [notes[:2], notes[2:]]})
    return notes, tmp_path / "set"


def test_stock_webdataset_reads_the_same_notes(notes_and_set: tuple[list[Note], Path]) -> None:
    notes, folder = notes_and_set
    urls = [str(path) for path in sorted(folder.glob("train-*.tar"))]
    stream = webdataset.WebDataset(urls, shardshuffle=False).decode()
    read = [Note(sample["__key__"], sample["npy"], sample["json"]) for sample in stream]
    assert len(read) == 3
    assert all(map(same, read, notes))


def test_tarfile_and_numpy_alone_read_the_same_notes(notes_and_set: tuple[list[Note], Path]) -> None:
    notes, folder = notes_and_set
    with tarfile.open(folder / "train-00000.tar") as tar:
        member = tar.extractfile(f"{notes[1].key}.npy")
        assert member is not None
        np.testing.assert_array_equal(np.load(io.BytesIO(member.read())), notes[1].tokens)


def test_hugging_face_datasets_reads_the_same_notes(
    notes_and_set: tuple[list[Note], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    notes, folder = notes_and_set
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    files = {"train": str(folder / "train-*.tar")}
    read = datasets.load_dataset("webdataset", data_files=files, split="train", cache_dir=str(tmp_path / "cache"))
    assert [row["__key__"] for row in read] == [note.key for note in notes]
    assert [row["npy"] for row in read] == [note.tokens.tolist() for note in notes]
    assert [row["json"] for row in read] == [note.labels for note in notes]
