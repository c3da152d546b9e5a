"""pipeline.notes.key: any path gives a key that tars and file systems can carry, and labels that can be stored."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.notes.key import parse_path_name
from shards.storage import path_text

PATHS = st.text(min_size=1).map(lambda name: f"a/{name}.wav")


@pytest.mark.parametrize(
    ("path", "key"),
    [
        ("x-train/guitar_acoustic_000-040-025.mp3", "guitar_acoustic_000-040-025"),
        ("Piano/soft/C4.wav", "Piano_soft_C4"),
        ("note.v1.wav", "note_v1"),
        ("a b.wav", "a_b"),
        ("ドラム.WAV", "ドラム"),
        ("e\u0301.wav", "é"),
        ("\udce9t\udce9.wav", "xE9txE9"),
    ],
)
def test_a_key_is_the_path_made_plain(path: str, key: str) -> None:
    assert parse_path_name(path).key == key


def test_a_key_fits_a_file_name_and_long_ones_stay_apart() -> None:
    first, second = (parse_path_name("a" * 200 + name).key for name in ("/x.wav", "/y.wav"))
    assert first != second and max(len(first), len(second)) <= 120


@given(st.text(min_size=1, max_size=300))
def test_a_key_and_its_endings_fit_a_file_name_in_any_script(text: str) -> None:
    text = text.encode("utf-8", "replace").decode()
    for path in (f"{text}.wav", f"guitar{'r' * len(text)}_acoustic_000-040-025.wav"):
        key = parse_path_name(path).key
        assert len(key) <= 120 and len(key.encode()) <= 200


def test_long_names_of_wide_letters_stay_apart() -> None:
    first, second = (parse_path_name("音" * 70 + f"{name}.wav").key for name in "一二")
    assert first != second and first.startswith("音" * 60)


@given(PATHS)
def test_any_name_has_a_key_and_labels_that_can_be_written(path: str) -> None:
    path = path.encode("utf-8", "replace").decode()  # a lone surrogate outside the escapes is no file name
    name = parse_path_name(path)
    assert name.key and not set("./ ") & set(name.key)
    json.dumps(name.labels, ensure_ascii=False).encode()


def test_bytes_that_are_not_utf8_are_shown_as_their_numbers() -> None:
    assert path_text("\udce9.wav") == "\\xe9.wav"


def test_nsynths_names_give_nsynths_labels_and_others_their_path() -> None:
    assert parse_path_name("x-train/guitar_acoustic_000-040-025.mp3").labels["pitch"] == 40
    assert parse_path_name("Piano/C4.soft.wav").labels == {"note_str": "Piano/C4.soft"}
