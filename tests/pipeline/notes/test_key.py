"""pipeline.notes.key: any path gives a key that tars and file systems can carry, and labels that can be stored."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.notes.key import note_key, path_labels, printable

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
    assert note_key(path) == key


def test_a_key_fits_a_file_name_and_long_ones_stay_apart() -> None:
    one, other = note_key("a" * 200 + "/x.wav"), note_key("a" * 200 + "/y.wav")
    assert one != other and max(len(one), len(other)) <= 120


@given(PATHS)
def test_any_name_has_a_key_and_labels_that_can_be_written(path: str) -> None:
    path = path.encode("utf-8", "replace").decode()  # a lone surrogate outside the escapes is no file name
    assert note_key(path) and not set("./ ") & set(note_key(path))
    json.dumps(path_labels(path), ensure_ascii=False).encode()


def test_bytes_that_are_not_utf8_are_shown_as_their_numbers() -> None:
    assert printable("\udce9.wav") == "\\xe9.wav"


def test_nsynths_names_give_nsynths_labels_and_others_their_path() -> None:
    assert path_labels("x-train/guitar_acoustic_000-040-025.mp3")["pitch"] == 40
    assert path_labels("Piano/C4.soft.wav") == {"note_str": "Piano/C4.soft"}
