"""Metadata files: labels of notes in JSON (as NSynth's `examples.json`), JSON Lines or CSV, a row a note.

A row is found by the note's path below the folder of audio, its file name, or its key. Knows nothing of audio and sets.
"""

import csv
import hashlib
import io
import json
import math
import re
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.notes.nsynth import Labels
from shards.console import counted, quote
from shards.errors import UserError, first_line
from shards.note import SECONDS
from shards.parse import json_object
from shards.sample_info import SET_LABEL
from shards.storage import read_bytes

NAME_FIELDS = ("file_name", "filename", "file", "path", "note_str", "key")  # the first that a file has names the note
RESERVED = ("codec", "sampled", SET_LABEL, SECONDS)  # fields of token files, and labels that notes get in a training
LARGEST_ROW = 1 << 14  # characters of a note's labels
MOST_COLUMNS = 1_000
WHOLE = re.compile(r"-?(0|[1-9][0-9]{0,14})")  # no leading zeros: 007 is a word
DECIMAL = re.compile(r"-?(0|[1-9][0-9]{0,14})(\.[0-9]+)?([eE][+-]?[0-9]{1,3})?")
BOM = "\ufeff"
UTF16 = (b"\xff\xfe", b"\xfe\xff")  # how such a file begins
NAMES_SHOWN = 3  # in a line
LONGEST_NAME = 60  # characters that are shown


@dataclass(frozen=True)
class Metadata:
    """The rows of one or more files."""

    files: tuple[Path, ...]
    rows: Mapping[str, Labels]  # a note's path, file name or key -> its labels
    left_out: tuple[str, ...]  # fields whose values are no labels
    is_requested: bool = True  # False: it was found beside the audio

    @property
    def source(self) -> str:
        """The files, for messages."""
        return " and ".join(map(str, self.files))

    @property
    def options(self) -> str:
        """The files as options of a command."""
        return " ".join(f"--labels {quote(file)}" for file in self.files)

    def match(self, notes: Sequence[tuple[str, str]]) -> "MatchedRows":
        """Find the labels of each note. `notes`: its path below the folder of audio, and its key.

        Raises:
            UserError: a row of several notes, rows of a note that contradict each other, or requested rows of other
                audio.
        """
        keys: dict[str, str] = {}  # name of a row -> key of its note
        rows: list[Labels] = []
        without_row = []
        for path, key in notes:
            names = [name for name in dict.fromkeys((path, path.rpartition("/")[2], key)) if name in self.rows]
            row: Labels = {}
            for name in names:
                if keys.setdefault(name, key) != key:
                    raise UserError(
                        f"{self.source}: the row {_short(name)} is of several files; name each by its path, as {path}"
                    )
                row = _join(row, self.rows[name], path, self.source)
            rows.append(row)
            if not names:
                without_row.append(path)
        if self.is_requested and not keys:
            example = (
                f" (a row is called {_short(next(iter(self.rows)))}, a file {notes[0][0]})"
                if self.rows and notes
                else ""
            )
            raise UserError(
                f"{self.source}: none of its {counted(len(self.rows), 'row')} is of this audio{example}; name a note "
                "by its path below the folder, its file name or its key"
            )
        return MatchedRows(self, tuple(rows), tuple(without_row), tuple(name for name in self.rows if name not in keys))


@dataclass(frozen=True)
class MatchedRows:
    """The labels of a list of notes."""

    metadata: Metadata
    rows: tuple[Labels, ...]  # of each note; empty if it has no row
    without_row: tuple[str, ...]  # paths of notes
    without_audio: tuple[str, ...]  # names of rows

    def lines(self) -> Iterator[str]:
        """Report to print."""
        count = len(self.rows) - len(self.without_row)
        line = f"Labels: rows in {self.metadata.source} for {count:,} of {counted(len(self.rows), 'file')}"
        if self.without_row:
            line += f"; none for {len(self.without_row):,} ({_some(self.without_row)})"
        if self.without_audio:
            line += f"; {counted(len(self.without_audio), 'row')} without audio ({_some(self.without_audio)})"
        yield f"{line}."
        if left_out := self.metadata.left_out:
            yield f"Fields that are neither words nor numbers, and no labels: {_some(left_out)}."


def read_metadata(paths: Sequence[Path]) -> Metadata | None:
    """Read the files of labels that a command names; None if it names none. Rows of a name in several files are joined.

    Raises:
        UserError: a file that cannot be read or has none of the formats, two rows of one name in it, a field that no
            note can have, or files that contradict each other.
    """
    if not paths:
        return None
    rows: dict[str, Labels] = {}
    left_out: dict[str, None] = {}
    for path in paths:
        labels, fields = check_rows(_read_rows(path), str(path))
        left_out |= dict.fromkeys(fields)
        for name, row in labels.items():
            rows[name] = _join(rows.get(name, {}), row, name, " and ".join(map(str, paths)))
    return Metadata(tuple(paths), rows, tuple(left_out))


def check_rows(rows: Mapping[str, Mapping[str, Any]], source: str) -> tuple[dict[str, Labels], tuple[str, ...]]:
    """Take the labels out of rows of JSON: words, numbers and lists of words. Returns the fields with other values too.

    Raises:
        UserError: a field that no note can have, or more text than a note's labels can have. `source` begins it.
    """
    fields = {field: None for row in rows.values() for field in row}
    if reserved := [field for field in RESERVED if field in fields]:
        raise UserError(f"{source}: no label can be called {reserved[0]}; give this field another name")
    left_out = {
        field: None
        for row in rows.values()
        for field, value in row.items()
        if value is not None and not _is_label(value)
    }
    labels: dict[str, Labels] = {}
    for name, row in rows.items():
        labels[name] = {field: value for field, value in row.items() if value is not None and field not in left_out}
        size = sum(map(_size, labels[name])) + sum(map(_size, labels[name].values()))
        if size > LARGEST_ROW:
            raise UserError(
                f"{source}: the labels of {_short(name)} have {size} characters, more than the {LARGEST_ROW} of a "
                "note; leave out a field"
            )
    return labels, tuple(left_out)


def hash_rows(rows: Iterable[tuple[str, Labels]]) -> str:
    """sha256 of the labels of notes, in any order. `rows`: path and labels of each."""
    digests = sorted(hashlib.sha256(json.dumps(row, sort_keys=True).encode()).digest() for row in rows)
    return hashlib.sha256(b"".join(digests)).hexdigest()


def _join(row: Labels, other: Labels, note: str, source: str) -> Labels:
    """The labels of two rows of a note. Raises UserError if they contradict each other."""
    for field, value in other.items():
        if field in row and row[field] != value:
            raise UserError(
                f"{source}: {_short(field)} of {_short(note)} is {_short(repr(row[field]))} and {_short(repr(value))}; "
                "leave one of them out"
            )
    return row | other


def _is_label(value: Any) -> bool:
    is_list = isinstance(value, list)
    return all(isinstance(word, str) for word in value) if is_list else isinstance(value, str | int | float)


def _size(value: Any) -> int:
    """Characters of a field's name or value, roughly."""
    return sum(map(len, value)) + len(value) if isinstance(value, list) else len(str(value))


# --- formats ----------------------------------------------------------------------------------------------------------


def _read_rows(path: Path) -> Mapping[str, Mapping[str, Any]]:
    """Read a file: the name of each row -> its fields."""
    try:
        data = read_bytes(path)
    except OSError as error:
        raise UserError(
            f"{path}: cannot be read ({error.strerror or 'no such file'}); name a file of labels"
        ) from error
    try:
        text = data.decode().removeprefix(BOM)
    except UnicodeDecodeError as error:
        fact = "UTF-16" if data.startswith(UTF16) else f"not UTF-8 (byte {error.start + 1})"
        raise UserError(f"{path}: is {fact}; save it as UTF-8") from error
    if "\0" in text:
        raise UserError(f"{path}: holds bytes that are no text; save it as UTF-8")
    match path.suffix.lower():
        case ".json":
            return _json_rows(text, path)
        case ".jsonl":
            return _named_rows(_json_lines(text, path), path)
        case ".csv":
            return _named_rows(_csv_lines(text, path), path)
    raise UserError(f"{path}: labels are in a file that ends in .json, .jsonl or .csv; convert it")


def _json_rows(text: str, path: Path) -> Mapping[str, Mapping[str, Any]]:
    cure = "it must be an object of objects, NOTE: {FIELD: VALUE}, as NSynth's examples.json"
    rows = json_object(text, str(path), UserError, cure=cure)
    for name, row in rows.items():
        if not isinstance(row, dict):
            raise UserError(f"{path}: {_short(name)} is no object; {cure}")
    return rows


def _json_lines(text: str, path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Number and fields of each line."""
    cure = "each line must be an object, as JSON Lines has them"
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            yield number, json_object(line, f"{path}: line {number}", UserError, cure=cure)


def _csv_lines(text: str, path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Number and fields of each row; a column is of whole numbers, of numbers, or of words, and "" is no value."""
    reader = csv.reader(_csv_text(text, path), strict=True, skipinitialspace=True)
    header: list[str] = []
    numbers: list[int] = []
    columns: list[list[str]] = []
    try:
        for cells in reader:
            if not cells:
                continue
            if not header:
                header = [cell.strip() for cell in cells]
                columns = [[] for _ in header]
                _check_header(header, path)
                continue
            if len(cells) != len(header):
                raise UserError(
                    f"{path}: line {reader.line_num} has {len(cells)} cells, and the header {len(header)}; commas "
                    "separate cells, and a cell with a comma is in double quotes"
                )
            numbers.append(reader.line_num)
            for column, cell in zip(columns, cells, strict=True):
                column.append(cell)
    except csv.Error as error:
        raise UserError(f"{path}: line {reader.line_num} is not CSV ({first_line(error)}); repair it") from error
    name_field = _name_field(header)
    values = [
        column if field == name_field else _convert(column) for field, column in zip(header, columns, strict=True)
    ]
    for number, row in zip(numbers, zip(*values, strict=True), strict=True):
        pairs = zip(header, row, strict=True)
        yield number, {field: value for field, value in pairs if value != "" or field == name_field}


def _csv_text(text: str, path: Path) -> Iterator[str]:
    """The lines of a file, none of which would fill the memory with empty cells."""
    for number, line in enumerate(io.StringIO(text, newline=""), 1):
        if line.count(",") > MOST_COLUMNS:
            raise UserError(f"{path}: line {number} has more than {MOST_COLUMNS} commas; leave out columns")
        yield line


def _check_header(header: Sequence[str], path: Path) -> None:
    """Refuse columns without a name, and two of one name."""
    if "" in header:
        raise UserError(f"{path}: column {header.index('') + 1} has no name; give it one in the first line")
    if twice := [field for index, field in enumerate(header) if field in header[:index]]:
        raise UserError(f"{path}: has two columns {_short(twice[0])}; rename one of them")


def _convert(column: Sequence[str]) -> Sequence[Any]:
    """Whole numbers, or numbers, if all cells are, without those that are empty."""
    for pattern, kind in ((WHOLE, int), (DECIMAL, float)):
        if all(pattern.fullmatch(cell) for cell in column if cell):
            numbers = {cell: kind(cell) for cell in column if cell}
            if all(map(math.isfinite, numbers.values())):
                return [numbers.get(cell, "") for cell in column]
    return column


def _named_rows(lines: Iterable[tuple[int, dict[str, Any]]], path: Path) -> dict[str, dict[str, Any]]:
    """Rows by the name of their note, which is no label."""
    rows: dict[str, dict[str, Any]] = {}
    name_field = None
    for number, row in lines:
        name_field = name_field or _name_field(row)
        name = row.pop(name_field, None) if name_field else None
        if not name or not isinstance(name, str):
            fields = f"the field {name_field}" if name_field else f"a field {', '.join(NAME_FIELDS)}"
            raise UserError(
                f"{path}: line {number} does not name its note in {fields}; it has {_some(tuple(row)) or 'none'}"
            )
        if name in rows:
            raise UserError(f"{path}: line {number} is a second row of {_short(name)}; leave one of them out")
        rows[name] = row
    return rows


def _name_field(fields: Container[str]) -> str | None:
    return next((field for field in NAME_FIELDS if field in fields), None)


def _short(text: str) -> str:
    return text if len(text) <= LONGEST_NAME else f"{text[:LONGEST_NAME]}..."


def _some(names: Sequence[str]) -> str:
    """The first few names."""
    return ", ".join(map(_short, names[:NAMES_SHOWN])) + " ..." * (len(names) > NAMES_SHOWN)
