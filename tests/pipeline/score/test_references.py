"""Real notes as references: decoded once, with the recordings that their shard's record names."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.audio import fit, load
from pipeline.codec.loaded import load_codec
from pipeline.score import references
from pipeline.score.references import ShardSet, open_shard_set
from pipeline.score.samples import NoShardSetError
from shards.errors import ShardError
from tests.support.listening import RATE, make_listening_set, set_source
from tests.support.shard_sets import CODEC, random_note, write_set


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_listening_set(tmp_path_factory.mktemp("listening"))


@pytest.fixture
def shard_set(folder: Path) -> ShardSet:
    return open_shard_set(folder, codec=load_codec("encodec_mini"))


def test_notes_are_spread_over_the_pitches_of_the_first_split_that_has_any(shard_set: ShardSet) -> None:
    split, chosen = shard_set.choose(2)
    assert split == "valid" and [real.note.labels["pitch"] for real in chosen] == [51, 61]  # of 46, 51, 56, 61
    split, chosen = shard_set.choose(99, ("test", "train"))
    assert split == "train" and len(chosen) == 6
    assert shard_set.choose(2, ("test",)) == ("", [])


def test_a_reference_has_the_recording_of_its_own_note(folder: Path, shard_set: ShardSet) -> None:
    for split in ("valid", "train"):
        _, chosen = shard_set.choose(4, (split,))
        assert len(chosen) == 4
        for reference in chosen:
            path = folder.parent / "audio" / f"some-{split}" / f"{reference.note.key}.wav"
            assert reference.recording is not None
            assert np.array_equal(reference.recording, fit(load(path, RATE), len(reference.round_trip)))


def test_a_recording_that_is_gone_or_damaged_leaves_the_round_trip(tmp_path: Path) -> None:
    shard_set = open_shard_set(make_listening_set(tmp_path), codec=load_codec("encodec_mini"))
    paths = sorted((tmp_path / "audio" / "some-valid").iterdir())[1::2]
    paths[0].unlink()
    paths[1].write_bytes(b"RIFF")
    _, [gone, damaged] = shard_set.choose(2)
    assert gone.recording is damaged.recording is gone.fault is None and "not audio" in str(damaged.fault)
    assert len(gone.round_trip) and len(damaged.round_trip)


def test_a_note_is_decoded_once_and_only_the_records_of_chosen_notes_are_read(
    shard_set: ShardSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    records: list[str] = []
    decoded: list[str] = []
    read_record, decode = references.read_shard_record, references.decode_notes

    def count_record(path: Path) -> Any:
        records.append(path.name)
        return read_record(path)

    def count_notes(notes: Any, codec: Any) -> Any:
        decoded.extend(note.key for note in notes)
        return decode(notes, codec)

    monkeypatch.setattr(references, "read_shard_record", count_record)
    monkeypatch.setattr(references, "decode_notes", count_notes)
    _, chosen = shard_set.choose(3)
    keys = [real.note.key for real in chosen]
    assert shard_set.choose(3) == ("valid", chosen)
    assert [note.key for note, _ in shard_set.find(keys, "valid")] == keys
    assert records == ["valid-00000.json"] and sorted(decoded) == sorted(keys)


def test_the_codec_is_loaded_unless_it_is_loaded_already(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    codec = load_codec("encodec_mini")
    monkeypatch.setattr("pipeline.decode.source.load_codec", lambda *_: pytest.fail("loaded again"))
    assert open_shard_set(folder, codec=codec).codec is codec


def test_the_nearest_notes_are_found_again_without_reading_the_set(
    shard_set: ShardSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    notes = [*shard_set.notes("train")]
    nearest = shard_set.nearest([notes[2].tokens, notes[4].tokens])
    assert [match.note.key for match in nearest if match.note] == [notes[2].key, notes[4].key]
    assert [note.key for note, _ in shard_set.find({notes[1].key, "no such key"}, "train")] == [notes[1].key]
    monkeypatch.setattr(references, "read_notes", lambda *_: pytest.fail("read again"))
    keys = [notes[4].key, notes[2].key]
    assert [note.key for note, _ in shard_set.find(keys, "train")] == keys


def test_several_sets_give_real_notes_of_each_even_if_they_share_keys(tmp_path: Path) -> None:
    codec = load_codec("encodec_mini")
    folders = [make_listening_set(tmp_path / name).rename(tmp_path / name / name) for name in ("a", "b")]
    set_source(folders[1], tmp_path / "gone")
    both = open_shard_set(folders, codec=codec)
    assert (both.name, both.splits) == (f"{folders[0]}, {folders[1]}", ["train", "valid"])
    split, chosen = both.choose(8)
    assert split == "valid" and len({real.note.key for real in chosen}) == 8
    keys = {name: [real.note.key for real in chosen if real.note.key.startswith(f"{name}-")] for name in "ab"}
    assert [len(each) for each in keys.values()] == [4, 4]
    assert {real.note.key for real in chosen if real.recording is not None} == {*keys["a"]}
    queries = [note.tokens for note in both.notes("train") if note.key.startswith("b-")]
    assert len(queries) == 6
    found = both.find([match.note.key for match in both.nearest(queries) if match.note], "train")
    assert [np.array_equal(note.tokens, query) for (note, _), query in zip(found, queries, strict=True)] == [True] * 6


def test_sets_of_different_codecs_are_not_opened_together(folder: Path, tmp_path: Path) -> None:
    write_set(tmp_path / "other", {"train": [[random_note("n")]]}, replace(CODEC, weights_sha256="1" * 64))
    with pytest.raises(ShardError, match=r"other: is of another codec than .*set; name one of the sets with --shards"):
        open_shard_set([folder, tmp_path / "other"], codec=load_codec("encodec_mini"))
    with pytest.raises(NoShardSetError, match="nowhere: no such shard set"):
        open_shard_set([folder, tmp_path / "nowhere"], codec=load_codec("encodec_mini"))
