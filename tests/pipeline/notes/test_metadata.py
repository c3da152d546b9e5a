"""pipeline.notes.metadata: labels come out of each format as they went in, and a file that is none is one line."""

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.notes.metadata import LARGEST_ROW, Metadata, hash_rows, read_metadata
from shards.errors import UserError

NOTES = [("kit/snare.wav", "kit_snare"), ("kit/kick.wav", "kit_kick"), ("low.wav", "low")]


def read(folder: Path, name: str, content: str | bytes) -> Metadata:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    metadata = read_metadata([path])
    assert metadata is not None
    return metadata


ROWS: dict[str, dict[str, Any]] = {
    "a.wav": {"mood": 'calm, "so to say"\nand more', "brightness": 0.25, "take": 3, "id": "007"},
    "b.wav": {"mood": "wild", "brightness": 1.0},
}


def as_csv(rows: dict[str, dict[str, Any]], newline: str = "\r\n") -> str:
    text = io.StringIO(newline="")
    fields = sorted({field for row in rows.values() for field in row})
    writer = csv.DictWriter(text, ["file_name", *fields], lineterminator=newline)
    writer.writeheader()
    writer.writerows({"file_name": name, **row} for name, row in rows.items())
    return text.getvalue()


def as_json_lines(rows: dict[str, dict[str, Any]]) -> str:
    return "\n\n".join(json.dumps({"file_name": name, **row}) for name, row in rows.items())


@pytest.mark.parametrize("bom", ["", "\ufeff"])
def test_every_format_gives_the_same_rows(tmp_path: Path, bom: str) -> None:
    assert read(tmp_path, "a.json", bom + json.dumps(ROWS)).rows == ROWS
    assert read(tmp_path, "a.jsonl", bom + as_json_lines(ROWS)).rows == ROWS
    assert read(tmp_path, "a.csv", bom + as_csv(ROWS)).rows == ROWS
    assert read(tmp_path, "B.CSV", bom + as_csv(ROWS, "\n")).rows == ROWS


WORDS = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=9).filter(str.strip)


@given(st.dictionaries(WORDS, st.tuples(st.integers(-9999, 9999), st.floats(-1e9, 1e9), st.sampled_from("xy"))))
def test_what_csv_writes_is_read(rows: dict[str, tuple[int, float, str]]) -> None:
    import tempfile

    expected = {f"{name.strip()}.wav": {"n": n, "x": x, "word": word} for name, (n, x, word) in rows.items()}
    with tempfile.TemporaryDirectory() as folder:
        metadata = read(Path(folder), "a.csv", as_csv(expected))
    assert {name: {**row, "x": float(row["x"])} for name, row in metadata.rows.items()} == expected


def test_lists_of_words_stay_lists_and_other_values_are_left_out_and_named(tmp_path: Path) -> None:
    row = {
        "qualities_str": ["dark", "bright"],
        "tags": [],
        "qualities": [0, 1],
        "of": {"a": 1},
        "none": None,
        "on": True,
    }
    metadata = read(tmp_path, "a.json", json.dumps({"low": row, "kit_kick": {"qualities": "x", "none": None}}))
    assert metadata.rows["low"] == {"qualities_str": ["dark", "bright"], "tags": [], "on": True}
    assert metadata.left_out == ("qualities", "of") and metadata.rows["kit_kick"] == {}
    assert "no labels: qualities, of." in [*metadata.match(NOTES).lines()][1]


def test_a_column_has_one_kind_of_values(tmp_path: Path) -> None:
    text = "file,n,x,id,word,huge,empty\na,1,1,01,1,1e400,\nb,,0.5,2,one,1,\n"
    rows = read(tmp_path, "a.csv", text).rows
    assert rows["a"] == {"n": 1, "x": 1.0, "id": "01", "word": "1", "huge": "1e400"}
    assert rows["b"] == {"x": 0.5, "id": "2", "word": "one", "huge": "1"}
    assert [type(rows[name]["x"]) for name in "ab"] == [float, float]


def test_a_row_is_found_by_path_file_name_or_key_and_the_rest_is_counted(tmp_path: Path) -> None:
    metadata = read(tmp_path, "a.json", json.dumps({"kit/snare.wav": {"a": 1}, "kick.wav": {"a": 2}, "high": {"a": 3}}))
    matched = metadata.match(NOTES)
    assert matched.rows == ({"a": 1}, {"a": 2}, {})
    [line] = matched.lines()
    assert line == (
        f"Labels: rows in {tmp_path / 'a.json'} for 2 of 3 files; none for 1 (low.wav); 1 row without audio (high)."
    )


def test_rows_of_a_note_are_joined_unless_they_contradict_each_other(tmp_path: Path) -> None:
    first, second = tmp_path / "a.json", tmp_path / "b.json"
    first.write_text('{"low": {"a": 1}}')
    second.write_text('{"low": {"b": 2}, "low.wav": {"a": 1, "c": 3}}')
    metadata = read_metadata([first, second])
    assert metadata is not None and metadata.match(NOTES).rows[2] == {"a": 1, "b": 2, "c": 3}
    second.write_text('{"low": {"a": 2}}')
    with pytest.raises(UserError, match="a of low is 1 and 2"):
        read_metadata([first, second])
    with pytest.raises(UserError, match=r"a of low\.wav is 2 and 1"):
        read(tmp_path, "c.json", '{"low": {"a": 1}, "low.wav": {"a": 2}}').match(NOTES)


def test_a_file_name_of_several_files_is_refused(tmp_path: Path) -> None:
    metadata = read(tmp_path, "a.csv", "file,a\nkick.wav,1\n")
    with pytest.raises(
        UserError, match=r"the row kick\.wav is of several files; name each by its path, as b/kick\.wav"
    ):
        metadata.match([("a/kick.wav", "a_kick"), ("b/kick.wav", "b_kick")])


def test_rows_of_other_audio_are_refused(tmp_path: Path) -> None:
    for content in ('{"high": {}}', "{}"):
        with pytest.raises(UserError, match=r"none of its . rows? is of this audio"):
            read(tmp_path, "a.json", content).match(NOTES)


FOREIGN = {
    "no CSV": ("a.csv", 'file,a\nx,"b"c\n', "line 2 is not CSV"),
    "an open quote": ("a.csv", 'file,a\nx,"b\n', "is not CSV"),
    "no column with names": ("a.csv", "pitch,mood\n60,calm\n", "does not name its note in a field file_name, .*it has"),
    "semicolons": ("a.csv", "file;mood\nx;calm\n", "does not name its note .* it has file;mood"),
    "no name": ("a.csv", "file,mood\n,calm\n", "line 2 does not name its note in the field file"),
    "a cell too few": ("a.csv", "file,mood,pitch\nx,calm\n", "line 2 has 2 cells, and the header 3"),
    "a cell too many": ("a.csv", "file,mood\nx,calm,wild\n", "line 2 has 3 cells"),
    "a row twice": ("a.csv", "file,mood\nx,calm\ny,calm\nx,wild\n", "line 4 is a second row of x"),
    "a column twice": ("a.csv", "file,mood,mood\nx,1,2\n", "two columns mood"),
    "a column without a name": ("a.csv", ",file\n0,x\n", "column 1 has no name"),
    "many columns": ("a.csv", "file" + "," * 5000, "more than 1000 commas"),
    "Latin 1": ("a.csv", "file,mood\nx,h\xe9\n".encode("latin-1"), r"is not UTF-8 \(byte 14\); save it as UTF-8"),
    "UTF-16": ("a.csv", "file,mood\nx,calm\n".encode("utf-16"), "is UTF-16; save it as UTF-8"),
    "UTF-16 without a mark": ("a.csv", "file,mood\n".encode("utf-16-le"), "no text; save it as UTF-8"),
    "UTF-16 JSON": ("a.json", "{}".encode("utf-16"), "is UTF-16; save it as UTF-8"),
    "no JSON": ("a.json", "{", "is not JSON .*object of objects"),
    "a list": ("a.json", "[]", "not an object; it must be an object of objects"),
    "no object of objects": ("a.json", '{"x": 1}', "x is no object"),
    "no JSON Lines": ("a.jsonl", '{"file": "x"}\n[]\n', "line 2: holds JSON that is not an object"),
    "a line twice": ("a.jsonl", '{"file": "x"}\n{"file": "x"}', "line 2 is a second row of x"),
    "a number as name": ("a.jsonl", '{"file": 3}', "line 1 does not name its note in the field file"),
    "another ending": ("a.tsv", "file\tmood\n", r"ends in \.json, \.jsonl or \.csv"),
    "codec": ("a.csv", "file,codec\nx,mp3\n", "no label can be called codec"),
    "sampled": ("a.json", '{"x": {"sampled": 1}}', "no label can be called sampled"),
    "set": ("a.jsonl", '{"file": "x", "set": "a"}', "no label can be called set"),
    "seconds": ("a.csv", "file,seconds\nx,2.5\n", "no label can be called seconds"),
    "much text": ("a.json", json.dumps({"x": {"text": "a" * LARGEST_ROW}}), "the labels of x have 16388 characters"),
}  # fmt: skip


@pytest.mark.parametrize("case", FOREIGN)
def test_what_is_no_file_of_labels_is_one_line(tmp_path: Path, case: str) -> None:
    name, content, fact = FOREIGN[case]
    with pytest.raises(UserError, match=fact) as error:
        read(tmp_path, name, content)
    assert error.value.message.startswith(f"{tmp_path / name}: ")
    assert "\n" not in error.value.message and len(error.value.message) < 400


def test_a_missing_file_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none\.csv: cannot be read \(No such file"):
        read_metadata([tmp_path / "none.csv"])
    assert read_metadata([]) is None


def test_the_digest_knows_paths_and_values_and_no_order() -> None:
    rows = [("a", {"x": 1, "y": "b"}), ("b", {})]
    assert hash_rows(rows) == hash_rows([("b", {}), ("a", {"y": "b", "x": 1})])
    others = [
        rows[:1],
        [rows[0], ("c", {})],
        [("a", {"x": 1.0, "y": "b"}), rows[1]],
        [("a", {"x": 2, "y": "b"}), rows[1]],
    ]
    assert len({hash_rows(rows), *map(hash_rows, others)}) == 5
