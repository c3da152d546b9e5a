"""Runs of several sets: shares, order, labels, resuming, and sets and weights that are refused."""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shards.errors import UserError
from shards.manifest import Ledger, Manifest, Shard
from shards.metrics import read_metrics
from shards.note import Codec, Note, read_token_file
from tests.support.shard_sets import CODEC, random_note, write_set
from trainer.candidates import CandidateRequest
from trainer.checkpoint import LAST, find_checkpoint, read_checkpoint, saved_steps
from trainer.config import Config, load_config
from trainer.data import NoteReader, TrainStream
from trainer.errors import ConfigError, TrainError
from trainer.mixture import Mixture, WeightedSet, open_split, read_sets
from trainer.order import Order, split_range
from trainer.run import RUN_FILE, fit_config, read_run
from trainer.runtime import Ranks
from trainer.sample import SampleRequest, sample
from trainer.train import train
from trainer.vocabulary import Vocabulary

TINY = ["width=16", "depth=1", "heads=2", "head_width=8", "batch=4", "workers=0", "dtype=float32", "samples=0"]
SETS = st.lists(
    st.tuples(st.lists(st.integers(0, 20), min_size=1, max_size=5).filter(any), st.integers(1, 4)),
    min_size=1,
    max_size=4,
)


def tiny(*changes: str) -> Config:
    return load_config("small", [*TINY, "steps=8", "evaluate_every=4", *changes])


def unwritten_set(name: str, sizes: Sequence[int], weight: int = 1) -> WeightedSet:
    """A set of which only the manifest exists; `sizes`: notes of each shard."""
    shards = tuple(Shard(f"train-{index:05d}.tar", notes, notes, 2 * notes, "") for index, notes in enumerate(sizes))
    ledger = Ledger(sum(sizes), sum(sizes), 0)
    manifest = Manifest(CODEC, {}, {}, "", {"train": shards}, (), ledger, {})
    return WeightedSet(name, Path(name), manifest, weight)


def mixture_of(sets: Sequence[tuple[Sequence[int], int]]) -> Mixture:
    return Mixture([unwritten_set(f"set{index}", sizes, weight) for index, (sizes, weight) in enumerate(sets)])


def read_name(reader: NoteReader, shard: int, row: int, crop: object = None) -> Note:
    """Stands in for reading a tar: a note whose key says which it is."""
    return Note(f"{reader.folder}/{shard}/{row}", np.zeros(2, np.int16))


def batches_of(
    mixture: Mixture, batch: int, steps: range, rank: int = 0, world: int = 1, workers: int = 1
) -> list[list[str]]:
    """Keys of the notes of each step, as the loader workers of a rank read them."""
    order = Order(mixture.counts, 3, batch)
    lanes = split_range(batch, rank, world)
    read: list[list[str]] = [[] for _ in steps]
    with patch.object(NoteReader, "read", read_name):
        for worker in range(workers):
            part = split_range(len(lanes), worker, workers, lanes.start)
            stream = TrainStream(mixture, order, Vocabulary(2, 1024), 600, 0.1, steps, part)
            for keys, made in zip(read, stream.batches(stream.indices()), strict=True):
                assert not isinstance(made, UserError)
                keys.extend(made.keys)
    return read


def write_notes(folder: Path, names: Sequence[str], **labels: Any) -> Path:
    """A set of a train shard and a valid shard with such notes, whose labels are changed; None removes one."""
    notes = []
    for name in names:
        note = random_note(name, 6)
        changed = {**note.labels, **labels}
        notes.append(replace(note, labels={key: value for key, value in changed.items() if value is not None}))
    write_set(folder, {"train": [notes], "valid": [[replace(note, key=f"v_{note.key}") for note in notes[:2]]]})
    return folder


@pytest.fixture
def two(tmp_path: Path) -> list[Path]:
    """Two sets, a and b; only notes of a have `instrument_str`, and only those of b have `bow`."""
    first = write_notes(tmp_path / "a", ["n0", "n1", "n2"], instrument_str="x")
    return [first, write_notes(tmp_path / "b", ["n0", "n3", "n4", "n5"], instrument_str=None, bow="soft")]


@given(SETS, st.integers(1, 12), st.integers(0, 2))
def test_an_epoch_has_each_note_as_often_as_the_weight_of_its_set_says(
    sets: list[tuple[list[int], int]], batch: int, epoch: int
) -> None:
    mixture = mixture_of(sets)
    length = Order(mixture.counts, 3, batch).steps_per_epoch
    read = Counter(
        key for step in batches_of(mixture, batch, range(epoch * length, (epoch + 1) * length)) for key in step
    )
    assert read == {
        f"set{index}/{shard}/{row}": weight
        for index, (sizes, weight) in enumerate(sets)
        for shard, notes in enumerate(sizes)
        for row in range(notes)
    }


@given(SETS, st.integers(1, 12), st.integers(1, 4), st.integers(1, 3), st.integers(0, 50))
def test_ranks_and_workers_divide_the_batches_of_a_mixture_from_any_step_on(
    sets: list[tuple[list[int], int]], batch: int, world: int, workers: int, first: int
) -> None:
    mixture = mixture_of(sets)
    together = batches_of(mixture, batch, range(first + 4))[first:]
    ranks = [batches_of(mixture, batch, range(first, first + 4), rank, world, workers) for rank in range(world)]
    assert [[key for part in parts for key in part] for parts in zip(*ranks, strict=True)] == together


def test_one_set_of_weight_one_is_read_as_the_set_alone(two: list[Path]) -> None:
    mixture = Mixture(read_sets(two[:1], ["a=1"]))
    [weighted] = mixture.sets
    alone = NoteReader(weighted.folder, weighted.manifest, "train")
    assert (mixture.counts, mixture.labels, mixture.source) == (alone.counts, weighted.manifest.labels, str(two[0]))
    assert mixture.stats(("pitch", "velocity")) == alone.stats(("pitch", "velocity"))
    assert [mixture.read(0, row).labels for row in range(3)] == [alone.read(0, row).labels for row in range(3)]


@pytest.mark.parametrize("sets", [[([60], 3), ([500], 1)], [([40] * 5, 2), ([40] * 5, 1)], [([300], 2), ([1], 1)]])
def test_repeats_of_a_note_are_as_far_apart_as_random_steps(sets: list[tuple[list[int], int]]) -> None:
    mixture = mixture_of(sets)
    steps: dict[str, list[int]] = {}
    length = Order(mixture.counts, 3, 8).steps_per_epoch
    for epoch in range(10):
        for step, keys in enumerate(batches_of(mixture, 8, range(epoch * length, (epoch + 1) * length))):
            for key in keys:
                steps.setdefault(f"{epoch} {key}", []).append(step)
    distances = [last - first for all_steps in steps.values() for first, last in pairwise(all_steps)]
    repeats = max(weight for _, weight in sets)
    assert np.mean(distances) == pytest.approx(length / (repeats + 1), rel=0.1)  # n random points leave n + 1 gaps


def test_the_order_of_the_options_changes_nothing(two: list[Path]) -> None:
    forwards, backwards = (Mixture(read_sets(folders, ["b=2"])) for folders in (two, two[::-1]))
    assert [(each.name, each.weight) for each in forwards.sets] == [("a", 1), ("b", 2)]
    assert backwards.counts == forwards.counts == (3, 4, 4)
    assert [backwards.read(shard, 2).key for shard in range(3)] == [forwards.read(shard, 2).key for shard in range(3)]


def test_notes_have_the_name_of_their_set_as_a_label_and_none_for_labels_of_other_sets(two: list[Path]) -> None:
    mixture = Mixture(read_sets(two, ["b=3"]))
    assert [mixture.read(shard, 0).labels["set"] for shard in range(4)] == ["a", "b", "b", "b"]
    expected = [(("x", "a", None), 3), ((None, "b", "soft"), 4)]  # each note once, whatever its weight
    assert sorted(mixture.stats(("instrument_str", "set", "bow")).combinations, key=str) == sorted(expected, key=str)
    for path in [*two[0].glob("*-0*.json"), *two[1].glob("*-0*.json")]:
        path.unlink()
    assert sorted(mixture.stats(("instrument_str", "set", "bow")).combinations, key=str) == sorted(expected, key=str)


def test_presets_learn_the_label_set_in_a_run_of_several_sets_alone(two: list[Path]) -> None:
    several, single = Mixture(read_sets(two)), Mixture(read_sets(two[:1]))

    def labels(config: Config, notes: Mixture) -> tuple[str, ...]:
        return fit_config(config, notes, Ranks()).model.labels

    assert labels(tiny(), several) == ("pitch", "velocity", "instrument_str", "set")
    assert labels(tiny(), single) == ("pitch", "velocity", "instrument_str")
    assert labels(tiny("labels=pitch"), several) == ("pitch",)
    assert labels(tiny("labels=set,bow"), several) == ("set", "bow")
    assert labels(load_config("tutorial", ["window=0"]), several) == ()  # it has no room for labels
    with pytest.raises(ConfigError, match=r"no note of .*a has the label set; they have instrument_source_str, instr"):
        labels(tiny("labels=pitch,set"), single)
    with pytest.raises(ConfigError, match=r"no note of .*a, .*b has the label mood; they have .*bow, set$"):
        labels(tiny("labels=mood"), several)


def test_the_name_of_a_set_replaces_a_label_set_of_its_own_notes(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folders = [write_notes(tmp_path / "a", ["n0", "n1"], set="mine"), write_notes(tmp_path / "b", ["n2"])]
    mixture = Mixture(read_sets(folders))
    assert [mixture.read(shard, 0).labels["set"] for shard in (0, 1)] == ["a", "b"]
    assert mixture.stats(("set",)).combinations == [(("a",), 2), (("b",), 1)]
    assert not caplog.records
    fit_config(tiny(), mixture, Ranks())
    assert "a: its notes have a label set; the name of their set replaces it." in caplog.text
    single = Mixture(read_sets(folders[:1]))
    assert fit_config(tiny("labels=set"), single, Ranks()).model.labels == ("set",)
    assert single.stats(("set",)).combinations == [(("mine",), 2)]


CODECS = {
    "name": replace(CODEC, name="encodec_24khz"),
    "weights_sha256": replace(CODEC, weights_sha256="1" * 64),
    "bandwidth": replace(CODEC, bandwidth=3.0),
    "codebooks": replace(CODEC, codebooks=1),
    "hop": replace(CODEC, hop=480),
}


@pytest.mark.parametrize("field", CODECS)
def test_sets_of_different_codecs_are_refused_by_the_field_that_differs(tmp_path: Path, field: str) -> None:
    codec: Codec = CODECS[field]
    write_set(tmp_path / "a", {"train": [[random_note("n0")]]})
    write_set(tmp_path / "b", {"train": [[random_note("n0", codec=codec)]]}, codec)
    ours, theirs = (str(getattr(each, field))[:12] for each in (CODEC, codec))
    with pytest.raises(ConfigError) as caught:
        read_sets([tmp_path / "a", tmp_path / "b"])
    assert caught.value.message == (
        f"{tmp_path / 'b'}: its codec has {field} {theirs}, but that of {tmp_path / 'a'} has {ours}; "
        "sets of one run need the same codec"
    )


@pytest.mark.parametrize(
    ("weights", "says"),
    [
        (["c=2"], "--weight c=2: no set of this run has the name c; it has a, b"),
        (["a"], "--weight a: is not NAME=N, such as a=3"),
        (["a=0"], "--weight a=0: must be a whole number from 1 to 1000"),
        (["a=-1"], "from 1 to 1000"),
        (["a=1.5"], "from 1 to 1000"),
        (["a=many"], "--weight a=many: must be a whole number"),
        (["a="], "--weight a=: must be a whole number"),
        (["a=1001"], "from 1 to 1000"),
        (["a=" + "9" * 5000], "from 1 to 1000"),
        (["a=2", "a=3"], "--weight a=3: the set a has a weight already, 2; give it once"),
    ],
)
def test_weights_that_are_none_are_refused_in_one_line(two: list[Path], weights: list[str], says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read_sets(two, weights)
    assert says in caught.value.message and "\n" not in caught.value.message


def test_sets_that_cannot_be_one_run_are_refused_and_nothing_is_written(two: list[Path], tmp_path: Path) -> None:
    same_name = write_notes(tmp_path / "other" / "a", ["n0"])
    no_train = tmp_path / "c"
    write_set(no_train, {"valid": [[random_note("n0")]]})
    for folders, weights, says in (
        (
            [two[0], same_name],
            [],
            rf"{same_name}: has the name a, as {two[0]} has; sets of one run need different names",
        ),
        ([two[0], two[0]], [], "need different names"),
        ([two[0], Path("..")], [], r"--shards \.\.: has no name"),
        ([two[0]], ["a=2"], "--weight a=2: weighs a set against others"),
        ([two[0], no_train], [], rf"{no_train}: has no train split"),
        ([two[0], tmp_path / "nowhere"], [], "nowhere: no such shard set"),
    ):
        with pytest.raises(UserError, match=says):
            train(folders, tmp_path / "run", tiny(), weights=weights)
    assert not (tmp_path / "run").exists()


def test_a_mixture_that_stopped_goes_on_exactly_also_in_another_order_and_from_other_folders(
    two: list[Path], tmp_path: Path
) -> None:
    settings = tiny("dropout=0.1", "keep=9")
    train(two, tmp_path / "whole", settings, weights=["b=2"])
    train(two, tmp_path / "cut", settings, weights=["b=2"])
    find_checkpoint(tmp_path / "cut", 8).unlink()
    assert saved_steps(tmp_path / "cut") == [4]
    (tmp_path / "moved").mkdir()
    moved = [folder.rename(tmp_path / "moved" / folder.name) for folder in two]
    train(moved[::-1], tmp_path / "cut", settings, weights=["b=2", "a=1"])
    for kind in ("train", "valid"):
        ours, theirs = (read_metrics(tmp_path / name).of(kind) for name in ("cut", "whole"))
        assert [line.values["loss"] for line in ours] == [line.values["loss"] for line in theirs]
    ours, theirs = (read_checkpoint(find_checkpoint(tmp_path / name, LAST)).tensors for name in ("cut", "whole"))
    assert ours.keys() == theirs.keys() and all(ours[name].equal(theirs[name]) for name in ours)
    assert [each.shards for each in read_run(tmp_path / "cut").sets] == [str(folder) for folder in moved]


def test_a_mixture_does_not_go_on_with_other_sets_weights_or_notes(two: list[Path], tmp_path: Path) -> None:
    run, settings = tmp_path / "run", tiny("steps=1")
    other = write_notes(tmp_path / "c", ["n0"])
    changed = write_notes(tmp_path / "changed" / "b", ["n9"], bow="soft")
    train(two, run, settings, weights=["b=2"])
    for folders, weights, says in (
        (two, [], "began with --weight b=2, not 1; use the same"),
        (two, ["b=2", "a=5"], "began with --weight a=1, not 5"),
        ([two[0], other], [], "began with --shards a, b, not a, c; use the same sets"),
        (two[:1], [], "began with --shards a, b, not a"),
        ([*two, other], ["b=2"], "not a, b, c"),
        ([two[0], changed], ["b=2"], rf"other notes than the set b has; use {two[1]}, or another run"),
    ):
        with pytest.raises(TrainError, match=says):
            train(folders, run, settings, weights=weights)
    train(two[:1], tmp_path / "alone", settings)
    with pytest.raises(TrainError, match="began with --shards a, not a, b"):
        train(two, tmp_path / "alone", settings)


def test_a_run_file_has_sets_only_where_there_are_several(two: list[Path], tmp_path: Path) -> None:
    for name, folders in (("single", two[:1]), ("several", two)):
        train(folders, tmp_path / name, tiny("steps=1"))
    single, several = (json.loads((tmp_path / name / RUN_FILE).read_text()) for name in ("single", "several"))
    assert several.keys() - single.keys() == {"sets"}
    assert [(each["name"], each["weight"], each["shards"]) for each in several["sets"]] == [
        ("a", 1, str(two[0])),
        ("b", 1, str(two[1])),
    ]
    for damage in (
        [several["sets"][0]],
        [several["sets"][0]] * 2,
        [{"name": "a"}],
        3,
        [{**several["sets"][0], "weight": 0}],
    ):
        (tmp_path / "several" / RUN_FILE).write_text(json.dumps({**several, "sets": damage}))
        with pytest.raises(TrainError, match="sets"):
            read_run(tmp_path / "several")


def test_valid_loss_is_of_each_note_once_and_of_each_set(two: list[Path], tmp_path: Path) -> None:
    write_set(tmp_path / "c", {"train": [[random_note("n7", 6)]]})  # without a valid split
    train([*two, tmp_path / "c"], tmp_path / "run", tiny("steps=4"), weights=["a=3"])
    [line] = read_metrics(tmp_path / "run").of("valid")
    losses = [line.values[f"loss_set_{name}"] for name in "ab"]
    assert line.values["loss"] == pytest.approx(sum(losses) / 2)  # both have two notes of one length
    assert losses[0] != losses[1] and "loss_set_c" not in line.values
    train(two[:1], tmp_path / "alone", tiny("steps=4"))
    assert not any("set" in name for name in read_metrics(tmp_path / "alone").of("valid")[0].values)


def test_the_loss_of_a_set_is_that_of_its_notes_with_their_label(two: list[Path]) -> None:
    for reader, name in zip(open_split(read_sets(two), "valid"), "ab", strict=True):
        assert {note.labels["set"] for note in reader.read_all()} == {name}


def test_a_run_of_several_sets_is_sampled_as_one_of_them(two: list[Path], tmp_path: Path) -> None:
    run = tmp_path / "run"
    train(two, run, tiny("steps=1"))
    files = sample(run, tmp_path / "out", SampleRequest(labels=("set=b",))).files
    [token_file] = [read_token_file(path) for path in files]
    assert token_file.note.labels["set"] == "b" and "instrument_str" not in token_file.note.labels
    assert token_file.sampled is not None and token_file.sampled.shards == (str(two[0]), str(two[1]))
    with pytest.raises(ConfigError, match="--label set=c: no note that the run was trained on has it; it knows a, b"):
        sample(run, tmp_path / "out", SampleRequest(labels=("set=c",)))
    notes = [read_token_file(path).note for path in sample(run, tmp_path / "many", SampleRequest(40)).files]
    assert {(note.labels["set"], note.labels.get("instrument_str")) for note in notes} == {("a", "x"), ("b", None)}


def test_candidates_are_of_one_set_that_with_most_notes_of_their_instrument(tmp_path: Path) -> None:
    folders = [
        write_notes(tmp_path / "a", ["n0", "n1", "n2"], instrument_str="x"),
        write_notes(tmp_path / "b", ["n3", "n4", "n5", "n6"], instrument_str="y"),
    ]
    train(folders, tmp_path / "run", tiny("steps=1"))
    for options, name in (
        ((), "b"),
        (("instrument_str=x",), "a"),
        (("instrument_str=mix:x=1",), "a"),
        (("set=a",), "a"),
    ):
        request = SampleRequest(labels=options, candidates=CandidateRequest(1))
        files = sample(tmp_path / "run", tmp_path / f"out{options}", request).files
        assert {read_token_file(path).note.labels["set"] for path in files} == {name}
