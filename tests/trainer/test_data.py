"""Batches from shard sets: the notes in them, their division among ranks and workers, and damaged tars."""

import io
import json
import os
import pickle
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest

from shards.errors import ShardError
from shards.manifest import MANIFEST, read_manifest
from shards.note import Note, npy_bytes
from shards.reader import read_shard
from tests.support.shard_sets import CODEC, random_note, write_set
from trainer.config import DataConfig
from trainer.data import Batch, NoteReader, TrainStream, collate, hide_labels, train_batches, valid_batches
from trainer.order import Order, split_range
from trainer.vocabulary import Vocabulary

LABELS = (("pitch", tuple(range(40, 77))), ("velocity", (25, 50, 75, 100, 127)))
VOCABULARY = Vocabulary(2, 1024, labels=LABELS)


def reader(folder: Path, split: str = "train") -> NoteReader:
    return NoteReader(folder, read_manifest(folder), split)


def stream(folder: Path, batch: int, steps: range, rank: int = 0, world: int = 1) -> TrainStream:
    notes = reader(folder)
    order = Order(notes.counts, seed=5, batch=batch)
    return TrainStream(notes, order, VOCABULARY, 600, 0.1, steps, split_range(batch, rank, world))


def same(ours: Batch, theirs: Batch) -> bool:
    return ours.keys == theirs.keys and all(
        np.array_equal(getattr(ours, name), getattr(theirs, name)) for name in ("labels", "codes", "lengths")
    )


def write_tar(path: Path, members: list[tuple[tarfile.TarInfo, bytes]]) -> None:
    with tarfile.open(path, "w") as tar:
        for info, data in members:
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


def test_notes_read_by_position_are_those_of_the_strict_reader_with_their_length(make_set: Callable[..., Path]) -> None:
    folder = make_set(train=[3, 1, 4])
    notes = reader(folder)
    strict = [note for shard in notes.shards for note in read_shard(folder / shard.name)]
    for (shard, row), note in zip(notes.positions(), strict, strict=True):
        read = notes.read(shard, row)
        assert (read.key, read.labels) == (note.key, {"seconds": 0.16, **note.labels})
        assert np.array_equal(read.tokens, note.tokens)


def test_long_and_foreign_names_are_read(tmp_path: Path) -> None:
    notes = [random_note(key) for key in ("a" * 150, "gitarrenklänge", "plain")]
    write_set(tmp_path, {"train": [notes]})
    assert [reader(tmp_path).read(0, row).key for row in range(3)] == [note.key for note in notes]


def test_stats_are_the_longest_note_and_the_joint_counts_of_labels(tmp_path: Path) -> None:
    write_set(
        tmp_path, {"train": [[random_note("a", 3), random_note("b", 5)], [replace(random_note("a", 3), key="c")]]}
    )
    stats = reader(tmp_path).stats(("pitch", "velocity"))
    assert stats.longest == 10
    assert sum(count for _, count in stats.combinations) == 3
    labels = random_note("a", 3).labels
    assert ((labels["pitch"], labels["velocity"]), 2) in stats.combinations


def test_shorter_notes_are_padded_and_longer_ones_cut() -> None:
    notes = [random_note(key, frames) for key, frames in (("short", 2), ("long", 5))]
    batch = collate(notes, VOCABULARY, window=8, source="")
    assert batch.codes.shape == (2, 8)
    assert batch.lengths.tolist() == [4, 8]
    assert np.array_equal(batch.codes[0, :4], notes[0].tokens) and not batch.codes[0, 4:].any()
    assert np.array_equal(batch.codes[1], notes[1].tokens[:8])


def test_a_part_of_a_batch_is_cut_to_its_longest_note() -> None:
    notes = [random_note(key, frames) for key, frames in (("a", 2), ("b", 3), ("c", 5))]
    part = collate(notes, VOCABULARY, 600, "").part(slice(0, 2))
    assert (part.keys, part.codes.shape, part.tokens) == (["a", "b"], (2, 6), 10)


@pytest.mark.parametrize("codes", [[0, 1024], [-1, 0], [0, 1, 2]])
def test_codes_that_the_codec_cannot_have_made_are_refused(codes: list[int]) -> None:
    with pytest.raises(ShardError, match="set: bad holds codes that its codec cannot have made"):
        collate([Note("bad", np.array(codes, np.int16))], VOCABULARY, 600, "set")


@pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning")
@pytest.mark.parametrize("workers", [1, 3])
def test_batches_are_the_same_for_any_number_of_workers(make_set: Callable[..., Path], workers: int) -> None:
    folder = make_set(train=[7, 4])
    alone = list(train_batches(stream(folder, 4, range(1, 8)), workers=0))
    assert len(alone) == 7
    together = list(train_batches(stream(folder, 4, range(1, 8)), workers=workers))
    assert all(same(ours, theirs) for ours, theirs in zip(alone, together, strict=True))


@pytest.mark.parametrize("world", [2, 3, 4])
@pytest.mark.parametrize("shards", [1, 2, 5, 17])
def test_ranks_together_see_the_batches_of_one(make_set: Callable[..., Path], world: int, shards: int) -> None:
    folder = make_set(train=[2] * shards)
    steps = range(0, 2 * Order((2 * shards,), 0, 6).steps_per_epoch)
    alone = list(train_batches(stream(folder, 6, steps), 0))
    ranks = [list(train_batches(stream(folder, 6, steps, rank, world), 0)) for rank in range(world)]
    for step, batch in enumerate(alone):
        assert [key for rank in ranks for key in rank[step].keys] == batch.keys
        assert np.array_equal(np.concatenate([rank[step].labels for rank in ranks]), batch.labels)


def test_more_workers_than_notes_a_step_are_not_started(make_set: Callable[..., Path]) -> None:
    assert len(list(train_batches(stream(make_set(train=[3]), 1, range(3)), workers=4))) == 3


def test_a_stream_that_starts_later_reads_nothing_before(
    make_set: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_set(train=[10, 10])
    read: list[tuple[int, int]] = []
    original = NoteReader.read
    monkeypatch.setattr(NoteReader, "read", lambda self, *position: read.append(position) or original(self, *position))
    next(train_batches(stream(folder, 4, range(103, 110)), 0))
    assert len(read) == 4


@pytest.mark.parametrize(("most_open", "opens"), [(64, 3), (1, 1 + 20)])
def test_a_batch_opens_each_of_its_tars_once_up_to_a_limit_and_closes_them(
    make_set: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, most_open: int, opens: int
) -> None:
    monkeypatch.setattr("trainer.data.MOST_OPEN", most_open)
    batches = train_batches(stream(make_set(train=[10, 10, 10]), 30, range(2)), 0)
    next(batches)  # scans the tars
    opened: list[int] = []
    closed: list[int] = []
    original_open, original_close = os.open, os.close
    monkeypatch.setattr(os, "open", lambda *arguments: opened.append(original_open(*arguments)) or opened[-1])
    monkeypatch.setattr(os, "close", lambda file: closed.append(file) or original_close(file))
    next(batches)
    monkeypatch.undo()
    assert len(opened) == opens
    assert sorted(closed) == sorted(opened)


def test_hidden_labels_are_a_function_of_seed_step_and_lane() -> None:
    labels = {"pitch": 60, "velocity": 100}
    batch = collate([Note(str(lane), np.zeros(2, np.int16), labels) for lane in range(20)], VOCABULARY, 600, "")
    whole = hide_labels(batch, VOCABULARY, list(range(20)), 0.5, (0, 3))
    part = hide_labels(batch.part(slice(7, 9)), VOCABULARY, [7, 8], 0.5, (0, 3))
    assert np.array_equal(whole.labels[7:9], part.labels)
    assert not np.array_equal(whole.labels, hide_labels(batch, VOCABULARY, list(range(20)), 0.5, (0, 4)).labels)


def test_each_label_is_hidden_with_the_given_probability_and_half_of_that_with_all_others() -> None:
    labels = {"pitch": 60, "velocity": 100}
    batch = collate([Note("", np.zeros(2, np.int16), labels)] * 20_000, VOCABULARY, 600, "")
    hidden = hide_labels(batch, VOCABULARY, list(range(20_000)), 0.1, (0, 0)).labels != batch.labels
    assert np.allclose(hidden.mean(0), [0.1, 0.1], atol=0.01)
    assert np.isclose(hidden.all(1).mean(), 0.05 + 0.95 * (0.1 / 1.9) ** 2, atol=0.01)


@pytest.mark.parametrize("world", [1, 2, 3])
def test_each_valid_note_is_seen_once_over_all_ranks(make_set: Callable[..., Path], world: int) -> None:
    notes = reader(make_set(train=[1], valid=[4, 7]), "valid")
    parts = [valid_batches(notes, VOCABULARY, 600, DataConfig(batch=6), rank, world) for rank in range(world)]
    keys = [key for part in parts for batch in part for key in batch.keys]
    assert sorted(keys) == sorted(note.key for note in notes.read_all())


def npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


class Bomb:
    """Unpickling this makes a folder."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, ("exploded",)


GOOD = npy_bytes(np.zeros(4, np.int16))
MEMBERS: dict[str, list[tuple[tarfile.TarInfo, bytes]]] = {
    "pickle in the npy": [(tarfile.TarInfo("n.npy"), npy(np.array([Bomb()]))), (tarfile.TarInfo("n.json"), b"{}")],
    "pickle instead of an npy": [(tarfile.TarInfo("n.npy"), pickle.dumps(Bomb())), (tarfile.TarInfo("n.json"), b"{}")],
    "pickle member": [(tarfile.TarInfo("n.pyd"), pickle.dumps(Bomb())), (tarfile.TarInfo("n.json"), b"{}")],
    "path upwards": [(tarfile.TarInfo("../n.npy"), GOOD), (tarfile.TarInfo("../n.json"), b"{}")],
    "absolute path": [(tarfile.TarInfo("/n.npy"), GOOD), (tarfile.TarInfo("/n.json"), b"{}")],
    "two notes mixed": [(tarfile.TarInfo("n.npy"), GOOD), (tarfile.TarInfo("m.json"), b"{}")],
    "no labels": [(tarfile.TarInfo("n.npy"), GOOD), (tarfile.TarInfo("n.npy"), GOOD)],
    "json that is none": [(tarfile.TarInfo("n.npy"), GOOD), (tarfile.TarInfo("n.json"), b"{")],
    "json that is a list": [(tarfile.TarInfo("n.npy"), GOOD), (tarfile.TarInfo("n.json"), b"[]")],
    "floats": [(tarfile.TarInfo("n.npy"), npy(np.zeros(4))), (tarfile.TarInfo("n.json"), b"{}")],
    "two dimensions": [(tarfile.TarInfo("n.npy"), npy(np.zeros((2, 2), np.int16))), (tarfile.TarInfo("n.json"), b"{}")],
    "npy cut short": [(tarfile.TarInfo("n.npy"), GOOD[:-2]), (tarfile.TarInfo("n.json"), b"{}")],
    "npy with more behind it": [(tarfile.TarInfo("n.npy"), GOOD + b"xx"), (tarfile.TarInfo("n.json"), b"{}")],
}


@pytest.mark.parametrize("kind", MEMBERS)
@pytest.mark.parametrize("workers", [0, 1])
def test_a_hostile_or_damaged_member_is_refused_and_runs_nothing(
    make_set: Callable[..., Path], kind: str, workers: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = make_set(train=[1])
    write_tar(folder / "train-00000.tar", MEMBERS[kind])
    with pytest.raises(ShardError) as caught:
        next(train_batches(stream(folder, 1, range(1)), workers))
    assert "train-00000.tar" in caught.value.message and "\n" not in caught.value.message
    assert not (tmp_path / "exploded").exists()


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE])
def test_links_and_devices_are_refused(make_set: Callable[..., Path], kind: bytes) -> None:
    folder = make_set(train=[1])
    link = tarfile.TarInfo("n.npy")
    link.type, link.linkname = kind, "/etc/passwd"
    write_tar(folder / "train-00000.tar", [(link, b""), (tarfile.TarInfo("n.json"), b"{}")])
    with pytest.raises(ShardError, match=r"train-00000\.tar"):
        reader(folder).read(0, 0)


@pytest.mark.parametrize(
    "name", ["pipe:touch exploded", "../train-00000.tar", "/etc/passwd", "https://example.org/a.tar"]
)
def test_a_manifest_that_names_anything_but_its_own_tars_is_refused(
    make_set: Callable[..., Path], name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = make_set(train=[1])
    value = json.loads((folder / MANIFEST).read_text())
    value["splits"]["train"][0]["name"] = name
    (folder / MANIFEST).write_text(json.dumps(value))
    with pytest.raises(ShardError):
        read_manifest(folder)
    assert not (tmp_path / "exploded").exists()


@pytest.mark.parametrize(
    "size", [b"-0000001000", b"-1000000000", b"1_0", b"\x80\0\0\0\0\0\0\x01\0", b"99999999999", b""]
)
def test_a_size_that_is_none_is_refused(make_set: Callable[..., Path], size: bytes) -> None:
    folder = make_set(train=[1])
    path = folder / "train-00000.tar"
    data = bytearray(path.read_bytes())
    data[124:136] = size.ljust(12, b"\0")
    path.write_bytes(data)
    with pytest.raises(ShardError, match=r"train-00000\.tar"):
        reader(folder).read(0, 0)


def test_labels_that_are_lists_or_objects_count_as_absent(tmp_path: Path) -> None:
    notes = [replace(random_note(f"n{index}"), labels={"pitch": value}) for index, value in enumerate(([1], {}, 60))]
    write_set(tmp_path, {"train": [notes]})
    assert reader(tmp_path).stats(("pitch",)).combinations == [((60,), 1), ((None,), 2)]
    assert VOCABULARY.label_ids({"pitch": [1]}) == VOCABULARY.uncond_ids()


@pytest.mark.parametrize("keep", [0, 100, 512, 1536, 3000, 3 * 4 * 512])
def test_a_tar_cut_short_is_refused(make_set: Callable[..., Path], keep: int) -> None:
    folder = make_set(train=[3])
    path = folder / "train-00000.tar"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ShardError, match=r"train-00000\.tar"):
        reader(folder).read(0, 0)


def test_a_tar_that_is_gone_or_has_other_notes_is_refused(make_set: Callable[..., Path]) -> None:
    folder = make_set(train=[3])
    other = make_set("other", train=[2])
    (folder / "train-00000.tar").write_bytes((other / "train-00000.tar").read_bytes())
    with pytest.raises(ShardError, match="holds 2 notes, but the manifest says 3"):
        reader(folder).read(0, 0)
    (folder / "train-00000.tar").unlink()
    with pytest.raises(ShardError, match="missing"):
        reader(folder).read(0, 0)


def test_a_vocabulary_gives_every_id_one_meaning() -> None:
    ids = [VOCABULARY.offset(codebook) + code for codebook in range(2) for code in range(1024)] + [VOCABULARY.start]
    nones = VOCABULARY.uncond_ids()
    values = [VOCABULARY.label_ids({"pitch": pitch})[0] for pitch in LABELS[0][1]]
    values += [VOCABULARY.label_ids({"velocity": velocity})[1] for velocity in LABELS[1][1]]
    assert sorted([*ids, *nones, *values]) == list(range(VOCABULARY.size))
    assert VOCABULARY.label_ids({"pitch": 12, "velocity": 25})[0] == nones[0]  # never seen in training
    assert msgspec.convert(json.loads(json.dumps(VOCABULARY.to_json())), Vocabulary) == VOCABULARY


def test_note_of_random_codes_is_what_the_codec_allows() -> None:
    note: Note = random_note("x")
    assert note.tokens.max() < CODEC.codebook_size
