"""New runs: vocabulary and window come from the records of shards, and no tar is read before its notes are needed."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from shards.errors import ShardError
from shards.note import Note
from shards.storage import parse_path
from tests.support.servers import Behaviour, web_server
from tests.support.shard_sets import CODEC, random_note, write_set
from trainer.config import Config, load_config
from trainer.data import SplitStats
from trainer.errors import TrainError
from trainer.mixture import Mixture, read_sets
from trainer.order import Order
from trainer.run import RUN_FILE, open_run, read_run
from trainer.runtime import Ranks
from trainer.train import train

TINY = ["width=16", "depth=1", "heads=2", "head_width=8", "workers=0", "steps=1", "samples=0"]


def tiny(*changes: str) -> Config:
    return load_config("small", [*TINY, *changes])


def labelled_set(folder: Path) -> Path:
    """Two shards of notes of different lengths, with missing, repeated and non-scalar labels."""
    labels = [
        {"pitch": 60, "velocity": 100, "instrument_str": "a"},
        {"pitch": 60, "velocity": 100, "instrument_str": "b"},
        {"pitch": 61, "instrument_str": "a", "qualities_str": ["dark"]},
        {"velocity": 25, "bright": True, "gain": 0.5},
        {"pitch": [60], "velocity": {"of": 100}},
        {"pitch": 60, "velocity": 25, "instrument_str": "a"},
        {},
    ]
    notes = [
        Note(f"n{index}", random_note(f"n{index}", 10 - index).tokens, {**value, "note_str": f"n{index}"})
        for index, value in enumerate(labels)
    ]
    manifest = write_set(folder, {"train": [notes[:4], notes[4:]], "valid": [[random_note("longest", 30)]]})
    assert manifest.labels
    return folder


def notes_of(folder: Path) -> Mixture:
    return Mixture(read_sets([folder]))


def stats(folder: Path, *labels: str) -> SplitStats:
    return notes_of(folder).stats(labels)


def delete(folder: Path, pattern: str) -> None:
    for path in folder.glob(pattern):
        path.unlink()


def change_record(folder: Path, change: Callable[[dict[str, object]], object]) -> None:
    path = folder / "train-00001.json"
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))


@pytest.mark.parametrize(
    "labels",
    [(), ("pitch",), ("pitch", "velocity"), ("velocity", "pitch"), ("gain", "bright", "instrument_str", "mood")],
)
def test_statistics_of_the_records_are_those_of_the_notes(tmp_path: Path, labels: tuple[str, ...]) -> None:
    folder = labelled_set(tmp_path / "set")
    other = labelled_set(tmp_path / "other")
    delete(folder, "*.tar")
    delete(other, "*-0*.json")
    from_records, from_notes = stats(folder, *labels), stats(other, *labels)
    assert from_records == from_notes
    assert from_records.longest == 20
    assert sum(count for _, count in from_records.combinations) == 7


@pytest.mark.parametrize(
    "change",
    [
        lambda record: record.pop("longest"),
        lambda record: record.pop("label_counts"),
        lambda record: record.pop("task_sha256"),
        lambda record: record.update(sha256="0" * 64),
        lambda record: record.update(longest=99, notes=1),
    ],
)
def test_records_without_statistics_or_of_another_tar_are_not_used(
    tmp_path: Path, change: Callable[[dict[str, object]], object]
) -> None:
    folder = labelled_set(tmp_path / "set")
    expected = stats(folder, "pitch")
    change_record(folder, change)
    assert stats(folder, "pitch") == expected
    delete(folder, "*.tar")
    with pytest.raises(ShardError, match=r"train-00001\.tar: missing"):
        stats(folder, "pitch")


def test_names_of_notes_are_counted_from_the_notes(tmp_path: Path) -> None:
    combinations = stats(labelled_set(tmp_path), "pitch", "note_str").combinations
    assert len(combinations) == 7
    assert ((60, "n5"), 1) in combinations


@pytest.mark.parametrize("labels", ["pitch,velocity", "pitch,velocity,note_str", ""])
def test_a_run_file_of_the_records_is_that_of_the_notes(tmp_path: Path, labels: str) -> None:
    folder, config = labelled_set(tmp_path / "set"), tiny(f"labels={labels}")
    open_run(notes_of(folder), tmp_path / "fast", config, Ranks())
    delete(folder, "*-0*.json")
    open_run(notes_of(folder), tmp_path / "slow", config, Ranks())
    assert (tmp_path / "fast" / RUN_FILE).read_bytes() == (tmp_path / "slow" / RUN_FILE).read_bytes()


def vocabulary_labels(value: dict[str, Any]) -> list[Any]:
    return value["vocabulary"]["labels"]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda value: value.pop("plans"), "plans"),
        (lambda value: value.update(plans=[[0, 1, 2]]), "plans"),
        (lambda value: value.update(plans=[[0, -1]]), "plans"),
        (lambda value: value.update(plans=3), "plans"),
        (lambda value: value.update(window=0), "window"),
        (lambda value: value.update(window=3), "tokens do not fit"),
        (lambda value: value.update(window=2 * 10**12), "tokens do not fit"),
        (lambda value: value.update(window=CODEC.most_tokens + CODEC.codebooks), "tokens do not fit"),
        (lambda value: value.update(combinations=[]), "combinations do not fit"),
        (lambda value: value.update(combinations=[[[60], 1]]), "combinations do not fit"),
        (lambda value: value.update(combinations=[[[60, 25], 0]]), "combinations"),
        (lambda value: value["vocabulary"].update(codebook_size=10**12), "codebooks do not fit"),
        (lambda value: value["vocabulary"].update(shared=True), "labels do not fit"),
        (lambda value: vocabulary_labels(value).pop(), "labels do not fit"),
        (lambda value: vocabulary_labels(value)[0][1].append([60]), "vocabulary"),
        (lambda value: value["config"].update(model=[]), "tables"),
        (lambda value: value["config"]["model"].update(width="wide"), "model.width"),
        (lambda value: value["config"]["model"].update(depth=10**9), "model.depth"),
        (lambda value: value["config"]["model"].update(head_width=7), "model.head_width"),
        (lambda value: value["config"]["train"].update(new=1), "new"),
        (lambda value: value.update(config=None), "tables"),
        (lambda value: value.pop("codec"), "codec"),
    ],
)
def test_a_run_file_that_is_damaged_is_refused_by_name(
    tmp_path: Path, change: Callable[[dict[str, Any]], object], says: str
) -> None:
    run = tmp_path / "run"
    open_run(notes_of(labelled_set(tmp_path / "set")), run, tiny("labels=pitch,velocity"), Ranks())
    value = json.loads((run / RUN_FILE).read_text())
    assert read_run(run).config == tiny("labels=pitch,velocity")
    change(value)
    (run / RUN_FILE).write_text(json.dumps(value))
    with pytest.raises(TrainError, match=says) as caught:
        read_run(run)
    assert str(run / RUN_FILE) in caught.value.message and "\n" not in caught.value.message


@pytest.mark.parametrize("text", [b"", b"[]", b"[" * 100_000, b"\xff", b'{"plans": ' + b"9" * 400 + b"}"])
def test_a_run_file_that_is_no_object_is_refused_by_name(tmp_path: Path, text: bytes) -> None:
    (tmp_path / RUN_FILE).write_bytes(text)
    with pytest.raises(TrainError, match=RUN_FILE):
        read_run(tmp_path)


def test_a_training_whose_tars_are_not_there_yet_fails_at_the_first_note_it_needs(tmp_path: Path) -> None:
    folder, run = labelled_set(tmp_path / "set"), tmp_path / "run"
    tars = {path.name: path.read_bytes() for path in folder.glob("*.tar")}
    steps = Order((4, 3), 0, 1).steps(0, range(1))
    [[first], [second]] = next(steps), next(steps)
    assert (first.shard, second.shard) == (0, 1)
    delete(folder, "*.tar")
    with pytest.raises(ShardError, match=r"train-00000\.tar: missing"):
        train(folder, run, tiny("batch=1"))
    assert (run / RUN_FILE).is_file()
    for name in ("train-00000.tar", "valid-00000.tar"):
        (folder / name).write_bytes(tars[name])
    assert train(folder, run, tiny("batch=1")).step == 1
    with pytest.raises(ShardError, match=r"train-00001\.tar: missing"):
        train(folder, run, tiny("batch=1", "steps=2"))


def test_a_remote_training_fetches_the_shards_of_its_batches_and_no_others(
    make_set: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder, behaviour = make_set(train=[4] * 9), Behaviour()
    steps = Order((4,) * 9, 0, 2).steps(0, range(2))
    needed = [{index.shard for index in next(steps)} for _ in range(3)]
    requests: list[set[str]] = []
    with web_server(folder, behaviour) as url:
        for count in (1, 3):
            train(parse_path(url), tmp_path / "run", tiny("batch=2", f"steps={count}"))
            requests.append({path for path in behaviour.requests if path.endswith(".tar")})
    tars = [{f"/train-0000{shard}.tar" for shard in shards} for shards in needed]
    assert requests == [tars[0], set().union(*tars)]
    assert len(requests[1]) < 9
