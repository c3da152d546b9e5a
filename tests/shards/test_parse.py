"""shards.parse: what the standard writers write is read, and all else is one line, however deep, large or odd."""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import Meta

from shards.errors import ShardError, UserError
from shards.parse import DEEPEST, LARGEST_TOML, json_object, read_object, to_dataclass, toml_table

numbers = st.integers(-(2**64) + 1, 2**64 - 1) | st.floats(allow_nan=False, allow_infinity=False)
scalars = st.none() | st.booleans() | numbers | st.text()
values = st.recursive(scalars, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner))


@settings(max_examples=30)
@given(st.dictionaries(st.text(), values), st.booleans(), st.sampled_from([None, 2]))
def test_what_json_writes_is_read(value: dict, is_ascii: bool, indent: int | None) -> None:
    data = json.dumps(value, ensure_ascii=is_ascii, indent=indent).encode()
    assert json_object(data, "x") == json_object(data.decode(), "x") == json_object(data, "x", has_nan=True) == value
    assert json_object(b"\xef\xbb\xbf" + data, "x") == value


def deep(opening: str, closing: str, depth: int, inner: str = "") -> bytes:
    return (opening * depth + inner + closing * depth).encode()


FOREIGN_JSON = {
    "nothing": b"",
    "cut short": b'{"a": 1',
    "more behind it": b"{} {}",
    "a list": b"[]",
    "no Unicode": b'{"a": "\xff"}',
    "a surrogate": b'{"a": "\xed\xa0\x80"}',
    "an escaped surrogate": b'{"a": "\\ud800"}',
    "a surrogate as key": b'{"\\udfff": 1}',
    "a control character": b'{"a": "\0"}',
    "65 bits": b'{"a": [[18446744073709551616]]}',
    "400 digits": b'{"a": -' + b"9" * 400 + b"}",
    "5000 digits": b'{"a": ' + b"9" * 5000 + b"}",
    "too deep": deep('{"a":', "}", DEEPEST + 1, "1"),
    "deep lists": b'{"a": ' + deep("[", "]", 900) + b"}",
    "deeper than Python": deep('{"a":', "}", 20_000, "1"),
    "never closed": b'{"a": ' + b"[" * 1_000_000,
}
NOT_FINITE = {"NaN": b'{"a": NaN}', "infinite": b'{"a": [-Infinity]}', "beyond float": b'{"a": 1e400}'}


@pytest.mark.parametrize("has_nan", [False, True])
@pytest.mark.parametrize("data", FOREIGN_JSON.values(), ids=FOREIGN_JSON)
def test_foreign_json_is_one_line(data: bytes, has_nan: bool) -> None:
    with pytest.raises(ShardError, match=r"^x: .*JSON") as error:
        json_object(data, "x", has_nan=has_nan)
    assert "\n" not in error.value.message and len(error.value.message) < 300


def test_an_error_ends_with_the_cure(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    for content, fact in (("[]", "holds JSON that is not an object"), ("{", "is not JSON (")):
        path.write_text(content)
        with pytest.raises(UserError) as error:
            read_object(path, "start another run", UserError)
        assert error.value.message.startswith(f"{path}: {fact}")
        assert error.value.message.endswith("; start another run")


@pytest.mark.parametrize("data", NOT_FINITE.values(), ids=NOT_FINITE)
def test_numbers_that_are_not_finite_are_read_only_where_they_are_expected(data: bytes) -> None:
    with pytest.raises(UserError, match="x: is not JSON"):
        json_object(data, "x", UserError)
    assert list(json_object(data, "x", has_nan=True)) == ["a"]


def test_a_number_of_many_digits_is_refused_at_any_depth_that_is_read() -> None:
    assert json_object(deep('{"a":', "}", DEEPEST, "18446744073709551615"), "x")
    with pytest.raises(ShardError, match="64 bits"):
        json_object(deep('{"a":', "}", DEEPEST, "18446744073709551616"), "x")


def test_millions_of_empty_lists_are_refused_before_they_take_memory() -> None:
    with pytest.raises(ShardError, match="lists and objects"):
        json_object(b'{"a": [' + b"[]," * 2_000_000 + b"1]}", "x")


FOREIGN_TOML = {
    "no Unicode": b"a = '\xff'",
    "no TOML": b"a = ",
    "infinite": b"a = inf",
    "no number": b"[b]\na = -nan",
    "400 digits": b"a = " + b"9" * 400,
    "5000 digits": b"a = " + b"9" * 5000,
    "deep lists": b"a = " + deep("[", "]", 5000),
    "less deep lists": b"a = " + deep("[", "]", DEEPEST + 1),
    "deep tables": b"a = " + deep("{a=", "}", 2000, "1"),
    "deep names": b".".join([b"a"] * 2000) + b" = 1",
    "deep headers": b"[" + b".".join([b"a"] * 2000) + b"]",
    "a surrogate": b'a = "\\uD800"',
    "too large": b"#" * (LARGEST_TOML + 1),
}


@pytest.mark.parametrize("data", FOREIGN_TOML.values(), ids=FOREIGN_TOML)
def test_foreign_toml_is_one_line(data: bytes) -> None:
    with pytest.raises(UserError, match=r"^x: is not TOML") as error:
        toml_table(data, "x")
    assert "\n" not in error.value.message and len(error.value.message) < 300


def test_toml_is_read() -> None:
    assert toml_table(b"[train]\nlr = 1e-3\nlabels = ['a']\n", "x") == {"train": {"lr": 1e-3, "labels": ["a"]}}


@dataclass(frozen=True)
class Counted:
    count: Annotated[int, Meta(ge=0, le=9)]
    share: Annotated[float, Meta(ge=0, le=1)] = 0.0

    def __post_init__(self) -> None:
        if self.count == 7:
            raise ValueError("no sevens")


@pytest.mark.parametrize(
    "value",
    [
        {},
        [],
        None,
        {"count": "1"},
        {"count": True},
        {"count": 1.0},
        {"count": 10},
        {"count": 10**400},
        {"count": 7},
        {"count": 1, "share": math.nan},
        {"count": 1, "share": math.inf},
        {"count": 1, "share": 10**400},
    ],
)
def test_a_field_of_another_type_or_out_of_its_range_is_one_line(value: object) -> None:
    with pytest.raises(UserError, match=r"^x: is damaged \(.*\); cure$"):
        to_dataclass(Counted, value, "x:", "cure", UserError)


def test_fields_are_converted_and_others_ignored() -> None:
    assert to_dataclass(Counted, {"count": 3, "share": 1, "more": "x"}, "x:", "cure") == Counted(3, 1.0)
