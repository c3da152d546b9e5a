"""shards.sample_info: the origin of a sample comes back equal, and a block of any content can be read."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shards.note import read_token_file, write_token_file
from shards.sample_info import SampleInfo, common
from tests.support.shard_sets import CODEC, random_note

INFO = SampleInfo("runs/a", "step-2.safetensors", 2, "shards/a", "float32", 7, 0.9, 50, 1.0, 0.0, 3.0, index=1)


def test_a_token_file_gives_back_the_origin_of_its_sample(tmp_path: Path) -> None:
    path = write_token_file(tmp_path, random_note("sample"), CODEC, INFO)
    file = read_token_file(path)
    assert file.sampled == INFO
    assert file.note.labels == random_note("sample").labels
    block = json.loads(path.with_suffix(".json").read_text())
    assert list(block)[-2:] == ["sampled", "codec"]
    assert block["sampled"] == INFO.to_json() and "prompt" not in block["sampled"]


any_json = st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(), st.lists)


@given(st.dictionaries(st.sampled_from([*vars(INFO), "other"]), any_json) | any_json)
def test_a_block_of_any_content_is_read(value: object) -> None:
    info = SampleInfo.from_json(value)
    fields = [field for name, field in vars(info).items() if name != "shards"]
    assert {type(field) for field in fields} <= {str, int, float, type(None)}
    assert all(isinstance(path, str) for path in info.sets_of([]))


@pytest.mark.parametrize(
    ("name", "value"), [("step", "12"), ("step", True), ("seed", 1.5), ("run", 3), ("guidance", 10**400)]
)
def test_a_field_of_another_type_is_not_stated(name: str, value: object) -> None:
    assert SampleInfo.from_json({**INFO.to_json(), name: value}) == SampleInfo.from_json(
        {key: field for key, field in INFO.to_json().items() if key != name}
    )


def test_common_fields_are_those_in_which_all_samples_agree() -> None:
    other = SampleInfo.from_json({**INFO.to_json(), "seed": 8, "index": 2})
    assert common([INFO, other]).to_json() == {
        name: value for name, value in INFO.to_json().items() if name not in ("seed", "index")
    }
    assert common([INFO, SampleInfo()]) == common([]) == SampleInfo()


def test_samples_like_notes_of_one_set_name_that_set_and_others_name_all() -> None:
    several = SampleInfo(shards=("shards/a", "s3://bucket/b/", "old/c"))
    assert several.sets_of(["b"]) == ("s3://bucket/b/",)
    assert several.sets_of(["c", "a", "a"]) == ("shards/a", "old/c")
    for names in ([], [None], ["a", None], ["d"], [["a"]]):
        assert several.sets_of(names) == several.shards
    assert (
        SampleInfo(shards="shards/a").sets_of([None]) == SampleInfo(shards="shards/a").sets_of(["x"]) == ("shards/a",)
    )
    assert SampleInfo().sets_of(["a"]) == ()
