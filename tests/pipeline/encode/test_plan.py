"""pipeline.encode.plan: the same inputs give the same shards in any order, and every input is in a task or rejected."""

import random
from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.encode.plan import EarlierShard, Plan, fingerprint, hash_inputs, make_plan
from pipeline.encode.settings import Settings
from pipeline.notes.folder import AudioFile
from shards.errors import UserError
from tests.support.shard_sets import CODEC

SETTINGS = Settings(CODEC, notes_per_shard=3)


def file(path: str) -> AudioFile:
    return AudioFile(path, 1, "1")


def digests_of(plan: Plan, **changed: str) -> list[list[str]]:
    """Made-up digests of all audio files, task by task. `changed`: key -> another digest."""
    return [[changed.get(note.key, "d") for note in task.notes] for task in plan.tasks]


def folder(*paths: str) -> list[AudioFile]:
    return [file(path) for path in paths]


def nsynth(count: int, split: str = "train", instrument: int = 0) -> list[AudioFile]:
    return [file(f"nsynth-{split}/guitar_acoustic_{instrument:03d}-{pitch:03d}-100.mp3") for pitch in range(count)]


def shape(plan: Plan) -> dict[str, list[str]]:
    return {task.shard_name: [note.key for note in task.notes] for task in plan.tasks}


NAMES = st.text(st.characters(codec="utf-8", exclude_characters="/\0"), min_size=1, max_size=8)
PATHS = st.lists(st.lists(NAMES, min_size=1, max_size=3).map(lambda parts: "/".join(parts) + ".wav"), unique=True)


@given(PATHS, st.randoms(use_true_random=False))
def test_order_of_the_inputs_changes_nothing(paths: list[str], shuffler: random.Random) -> None:
    plan = make_plan(folder(*paths), SETTINGS)
    shuffler.shuffle(paths)
    assert make_plan(folder(*paths), SETTINGS) == plan


@given(PATHS)
def test_every_input_is_in_one_task_or_rejected(paths: list[str]) -> None:
    plan = make_plan(folder(*paths), SETTINGS)
    planned = [note.file.path for task in plan.tasks for note in task.notes]
    assert sorted([*planned, *(rejection.file for rejection in plan.rejected)]) == sorted(paths)
    assert plan.inputs == len(paths)


@given(PATHS)
def test_keys_are_unique_and_survive_webdataset(paths: list[str]) -> None:
    keys = [note.key for task in make_plan(folder(*paths), SETTINGS).tasks for note in task.notes]
    assert len(set(keys)) == len(keys)
    assert all(key and not set("./ ") & set(key) for key in keys)


def test_tasks_have_the_size_asked_for_and_follow_each_other() -> None:
    plan = make_plan(nsynth(8) + nsynth(2, "valid", 1), SETTINGS)
    assert {name: len(keys) for name, keys in shape(plan).items()} == {
        "train-00000.tar": 3,
        "train-00001.tar": 3,
        "train-00002.tar": 2,
        "valid-00000.tar": 2,
    }


def test_notes_are_mixed_and_another_seed_mixes_them_otherwise() -> None:
    plans = [shape(make_plan(nsynth(100), replace(SETTINGS, seed=seed, notes_per_shard=100))) for seed in (0, 0, 1)]
    first, same, other = (plan["train-00000.tar"] for plan in plans)
    assert first == same
    assert sorted(first) == sorted(other)
    assert first != sorted(first) and first != other


def test_splits_come_from_folders_and_else_from_the_key() -> None:
    inputs = [*nsynth(2), *nsynth(1, "valid", 1), *nsynth(1, "test", 2), *folder(*(f"{n}.wav" for n in range(2000)))]
    plan = make_plan(inputs, replace(SETTINGS, valid_fraction=0.1))
    splits = {note.file.path: task.split for task in plan.tasks for note in task.notes}
    assert [splits[path.path] for path in inputs[:4]] == ["train", "train", "valid", "test"]
    hashed = Counter(splits[path.path] for path in inputs[4:])
    assert 150 < hashed["valid"] < 250 and hashed["valid"] + hashed["train"] == 2000


def test_a_new_note_moves_no_other_to_another_split() -> None:
    inputs = folder(*(f"{n}.wav" for n in range(300)))

    def splits(some: list[AudioFile]) -> dict[str, str]:
        return {note.key: task.split for task in make_plan(some, SETTINGS).tasks for note in task.notes}

    assert splits(inputs[:200]).items() <= splits(inputs).items()


def test_a_small_folder_still_gets_a_valid_note_unless_none_is_wanted() -> None:
    inputs = folder("a.wav", "b.wav", "c.wav")
    assert Counter(task.split for task in make_plan(inputs, SETTINGS).tasks) == {"train": 1, "valid": 1}
    assert {task.split for task in make_plan(inputs, replace(SETTINGS, valid_fraction=0.0)).tasks} == {"train"}
    assert {task.split for task in make_plan(inputs[:1], SETTINGS).tasks} == {"train"}


def test_two_inputs_with_one_key_are_a_name_clash_and_the_first_path_wins() -> None:
    plan = make_plan(folder("a/C4.wav", "a_C4.flac", "a/C4.mp3"), SETTINGS)
    assert [note.file.path for task in plan.tasks for note in task.notes] == ["a/C4.mp3"]
    assert [(rejection.file, rejection.reason) for rejection in plan.rejected] == [
        ("a/C4.wav", "name clash"),
        ("a_C4.flac", "name clash"),
    ]
    assert "a/C4.mp3" in plan.rejected[0].detail


def test_a_label_that_contradicts_the_name_is_rejected() -> None:
    plan = make_plan(nsynth(2), SETTINGS, examples={"guitar_acoustic_000-001-100": {"pitch": 2}})
    assert [(rejection.file, rejection.reason) for rejection in plan.rejected] == [
        ("nsynth-train/guitar_acoustic_000-001-100.mp3", "label")
    ]


def test_faults_of_files_are_carried_into_the_ledger() -> None:
    plan = make_plan([file("a.wav"), AudioFile("b.wav", 0, "1", ("empty", "0 bytes"))], SETTINGS)
    assert [vars(rejection) for rejection in plan.rejected] == [
        {"file": "b.wav", "reason": "empty", "detail": "0 bytes"}
    ]


def test_other_audio_has_its_path_as_label() -> None:
    [task] = make_plan(folder("Piano/C4.soft.wav"), SETTINGS).tasks
    assert task.notes[0].labels == {"note_str": "Piano/C4.soft"}


CHANGES = {
    "codec": replace(CODEC, weights_sha256="2" * 64),
    "duration": 3.0,
    "min_peak": 0.5,
    "precision": "bfloat16",
    "batch": 2,
    "notes_per_shard": 4,
    "valid_fraction": 0.5,
    "seed": 1,
    "trim": True,
    "ffmpeg": True,
    "rules": 1,
    "segment": 3.0,
}


@pytest.mark.parametrize("field", CHANGES)
def test_every_setting_is_in_the_fingerprint_and_in_each_task(field: str) -> None:
    other = replace(SETTINGS, **{field: CHANGES[field]})
    assert fingerprint(other, "x") != fingerprint(SETTINGS, "x")
    [task] = make_plan(nsynth(2), SETTINGS).tasks
    assert task.digest(other, ["d", "e"]) != task.digest(SETTINGS, ["d", "e"])


def test_every_field_of_the_settings_is_tested_above() -> None:
    assert CHANGES.keys() == vars(SETTINGS).keys()


def test_the_inputs_hash_knows_bytes_names_labels_and_rejections() -> None:
    plans = [
        make_plan(inputs, SETTINGS, examples)
        for inputs, examples in [
            (nsynth(2), {}),
            ([*nsynth(1), file("nsynth-valid/guitar_acoustic_000-001-100.mp3")], {}),
            ([*nsynth(1), file("nsynth-train/guitar_acoustic_000-001-101.mp3")], {}),
            (nsynth(2), {"guitar_acoustic_000-001-100": {"pitch": 2}}),
        ]
    ]
    hashes = {hash_inputs(plan, digests_of(plan)) for plan in plans}
    hashes.add(hash_inputs(plans[0], digests_of(plans[0], **{"guitar_acoustic_000-001-100": "other bytes"})))
    assert len(hashes) == len(plans) + 1


def test_keys_that_differ_only_in_case_are_a_name_clash() -> None:
    plan = make_plan(folder("a/C4.wav", "a/c4.wav", "a/É.wav", "a/é.wav"), SETTINGS)
    assert [(rejection.file, rejection.reason) for rejection in plan.rejected] == [
        ("a/c4.wav", "name clash"),
        ("a/é.wav", "name clash"),
    ]
    assert plan.rejected[0].detail == "has the key a_c4, but for upper and lower case, that of a/C4.wav"


def test_the_plan_says_which_folder_went_to_which_split() -> None:
    plan = make_plan(folder("Train/a.wav", "Train/b.wav", "x/val/c.wav", "d.wav", "my_TEST/e.wav"), SETTINGS)
    assert {task.split for task in plan.tasks} == {"train", "valid", "test"}
    assert plan.splits_line() == (
        "Splits: Train -> train (2 notes), my_TEST -> test (1 note), x/val -> valid (1 note), "
        "1 note by a hash of their key."
    )
    many = make_plan(folder(*(f"{index}/train/a.wav" for index in range(9))), SETTINGS)
    assert many.splits_line().endswith(", 3 more folders.")


def earlier(plan: Plan) -> list[EarlierShard]:
    return [EarlierShard(task.split, task.index, [file.display_path for file in task.files]) for task in plan.tasks]


def test_extending_keeps_the_shards_there_are_and_adds_the_rest_behind_them() -> None:
    first = make_plan(nsynth(4), SETTINGS)
    second = make_plan(nsynth(9), SETTINGS, earlier=earlier(first))
    names = shape(second)
    assert {name: names[name] for name in shape(first)} == shape(first)
    assert {name: len(keys) for name, keys in names.items()} == {
        "train-00000.tar": 3,
        "train-00001.tar": 1,
        "train-00002.tar": 3,
        "train-00003.tar": 2,
    }
    assert make_plan(nsynth(9), SETTINGS, earlier=earlier(second)) == second
    anew = make_plan(nsynth(9), SETTINGS)
    assert hash_inputs(second, digests_of(second)) == hash_inputs(anew, digests_of(anew))  # otherwise arranged


def test_a_new_note_never_takes_the_key_of_one_that_is_in_the_set() -> None:
    first = make_plan(folder("b/C4.wav"), SETTINGS)
    second = make_plan(folder("b/C4.wav", "b/C4.flac"), SETTINGS, earlier=earlier(first))
    assert shape(second) == shape(first)
    assert [rejection.file for rejection in second.rejected] == ["b/C4.flac"]


@pytest.mark.parametrize(
    ("inputs", "examples", "fact"),
    [
        (nsynth(1), {}, "001-100.mp3: is gone"),
        ([*nsynth(1), replace(nsynth(2)[1], fault=("empty", "0 bytes"))], {}, "001-100.mp3: has changed"),
        (nsynth(2), {"guitar_acoustic_000-001-100": {"pitch": 2}}, "001-100.mp3: contradicts examples.json"),
    ],
)
def test_extending_a_set_whose_inputs_are_not_there_any_more_is_refused(
    inputs: list[AudioFile], examples: dict[str, dict[str, int]], fact: str
) -> None:
    first = make_plan(nsynth(2), SETTINGS)
    with pytest.raises(UserError, match=fact):
        make_plan(inputs, SETTINGS, examples, earlier=earlier(first))


@pytest.mark.parametrize(
    "wrong", [{"duration": 0.0}, {"duration": float("nan")}, {"notes_per_shard": 0}, {"valid_fraction": 1.0}]
)
def test_settings_that_make_no_sense_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(UserError):
        replace(SETTINGS, **wrong)  # type: ignore[arg-type]
