"""The key of a note in its set, and the labels that go with it: pure functions of its path.

A key is letters of any script, digits, `_` and `-`, because WebDataset ends a key at the first dot.
"""

import hashlib
import os
import unicodedata
from dataclasses import dataclass

from pipeline.notes.nsynth import Labels, parse_name

LONGEST = 120  # characters; a longer key keeps its start and a hash, so that KEY.json fits any file system
HASH = 12  # hexadecimal digits


@dataclass(frozen=True, slots=True)
class NoteName:
    """Key and labels of a note, parsed from its path."""

    key: str
    labels: Labels


def parse_path_name(path: str) -> NoteName:
    """Parse a path below the folder of audio: NSynth's name and its labels, or the whole path as key and `note_str`."""
    stem = _stem(path)
    name = stem.rpartition("/")[2]
    labels = parse_name(name)
    return NoteName(name, labels) if labels else NoteName(_plain_key(stem), {"note_str": printable(stem)})


def printable(path: str) -> str:
    """A path as text that can be printed and stored, whatever bytes it has."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def _stem(path: str) -> str:
    folder, slash, name = path.rpartition("/")
    return folder + slash + (name.rpartition(".")[0] or name)


def _plain_key(stem: str) -> str:
    letters = unicodedata.normalize("NFC", stem)  # macOS keeps accents as letters of their own, others do not
    key = "".join(letter if letter.isalnum() or letter in "_-" else _plain_letter(letter) for letter in letters)
    if len(key) > LONGEST:
        key = f"{key[: LONGEST - HASH - 1]}-{hashlib.sha256(key.encode()).hexdigest()[:HASH]}"
    return key


def _plain_letter(letter: str) -> str:
    """Replace a letter that a key cannot have; a byte that is not UTF-8 keeps its number."""
    return f"x{ord(letter) - 0xDC00:02X}" if 0xDC80 <= ord(letter) <= 0xDCFF else "_"
