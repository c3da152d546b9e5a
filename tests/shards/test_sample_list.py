"""The list of a call's token files: what is taken, and what is named."""

from pathlib import Path

import pytest

from shards.errors import ShardError
from shards.sample_list import LIST, SampleList, select_last_call


def test_a_folder_without_a_list_is_taken_whole(tmp_path: Path) -> None:
    assert select_last_call(tmp_path, {"b", "a"}) == (["a", "b"], "")


def test_files_of_other_calls_are_left_out_and_named(tmp_path: Path) -> None:
    SampleList(2, ("a", "b")).write(tmp_path)
    assert select_last_call(tmp_path, {"a", "b"}) == (["a", "b"], "")
    selected, line = select_last_call(tmp_path, {"a", "b", "c", "d", "e", "f"})
    assert selected == ["a", "b"] and "left out: 4 samples of other calls (c, d, e ...)" in line
    assert str(tmp_path) in line and LIST in line and "\n" not in line


def test_files_that_are_missing_are_named(tmp_path: Path) -> None:
    SampleList(2, ("a", "b")).write(tmp_path)
    selected, line = select_last_call(tmp_path, {"a"})
    assert selected == ["a"] and "missing: 1 file of the last call (b)" in line


def test_a_call_that_was_interrupted_is_named_and_its_files_are_taken(tmp_path: Path) -> None:
    SampleList(3, ("a",)).write(tmp_path)
    selected, line = select_last_call(tmp_path, {"a", "z"})
    assert selected == ["a"] and "interrupted after 1 of 3 samples" in line
    SampleList(3, ()).write(tmp_path)
    with pytest.raises(ShardError, match="interrupted after 0 of 3"):
        select_last_call(tmp_path, {"a", "z"})


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"count": -1, "keys": []}', '{"count": 1, "keys": [1]}'])
def test_a_damaged_list_is_refused_by_name(tmp_path: Path, text: str) -> None:
    (tmp_path / LIST).write_text(text)
    with pytest.raises(ShardError, match=LIST):
        select_last_call(tmp_path, {"a"})
