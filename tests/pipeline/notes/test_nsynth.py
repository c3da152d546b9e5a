"""pipeline.notes.nsynth: names say what a note is, folders say which split it is in."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.notes.nsynth import contradiction, parse_name, read_examples, split_folder
from shards.errors import UserError

FAMILIES = ["bass", "brass", "flute", "guitar", "keyboard", "mallet", "organ", "reed", "string", "synth_lead", "vocal"]


def test_a_name_gives_all_six_labels() -> None:
    assert parse_name("guitar_acoustic_010-062-100") == {
        "note_str": "guitar_acoustic_010-062-100",
        "instrument_str": "guitar_acoustic_010",
        "instrument_family_str": "guitar",
        "instrument_source_str": "acoustic",
        "pitch": 62,
        "velocity": 100,
    }


@given(
    st.sampled_from(FAMILIES),
    st.sampled_from(["acoustic", "electronic", "synthetic"]),
    st.integers(0, 999),
    st.integers(0, 127),
    st.integers(0, 127),
)
def test_every_name_of_nsynths_form_is_read_back(
    family: str, source: str, instrument: int, pitch: int, velocity: int
) -> None:
    labels = parse_name(f"{family}_{source}_{instrument:03d}-{pitch:03d}-{velocity:03d}")
    assert labels is not None
    assert (labels["instrument_family_str"], labels["instrument_source_str"]) == (family, source)
    assert (labels["instrument_str"], labels["pitch"]) == (f"{family}_{source}_{instrument:03d}", pitch)
    assert labels["velocity"] == velocity
    assert contradiction(labels, labels) is None


@pytest.mark.parametrize(
    "name",
    ["", "C4", "guitar_acoustic_010-062", "guitar_acoustic_010-62-100", "guitar_plastic_010-062-100", "a-062-100",
     "guitar_acoustic_010-062-100 ", "guitar_acoustic_010-062-100-b", "Guitar_acoustic_010-062-100"],
)  # fmt: skip
def test_other_names_have_no_labels(name: str) -> None:
    assert parse_name(name) is None


def test_a_pitch_that_midi_does_not_have_is_a_contradiction() -> None:
    labels = parse_name("guitar_acoustic_010-128-100")
    assert labels is not None
    assert contradiction(labels, {}) == "pitch 128 is above MIDI's 127"


def test_labels_that_examples_json_contradicts_are_named() -> None:
    labels = parse_name("guitar_acoustic_010-062-100")
    assert labels is not None
    assert contradiction(labels, {"pitch": 62, "qualities_str": []}) is None
    assert contradiction(labels, {"pitch": 63}) == "pitch is 62 in the name and 63 in examples.json"


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("nsynth-guitar-train/a.wav", ("nsynth-guitar-train", "train")),
        ("a/nsynth-guitar-valid/audio/b.wav", ("a/nsynth-guitar-valid", "valid")),
        ("nsynth-test/b-train/a.wav", ("nsynth-test/b-train", "train")),
        ("train/a.wav", ("train", "train")),
        ("x/Val/a.wav", ("x/Val", "valid")),
        ("my_VALIDATION/a.wav", ("my_VALIDATION", "valid")),
        ("test/a.wav", ("test", "test")),
        ("x-training/a.wav", None),
        ("latest/contest/train.wav", None),
        ("-train-/a.wav", None),
        ("a.wav", None),
    ],
)
def test_the_nearest_folder_that_names_a_split_decides(path: str, found: tuple[str, str] | None) -> None:
    assert split_folder(path) == found


@pytest.mark.parametrize("content", ["{", "[]", '{"a": 1}'])
def test_an_examples_json_that_is_not_one_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "examples.json"
    path.write_text(content)
    with pytest.raises(UserError, match=r"examples\.json"):
        read_examples(path)
    path.write_text(json.dumps({"guitar_acoustic_010-062-100": {"pitch": 62}}))
    assert read_examples(path)["guitar_acoustic_010-062-100"]["pitch"] == 62
