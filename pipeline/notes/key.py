"""The key of a note in its set, and the labels that go with it: pure functions of its path.

A key is letters of any script, digits, `_` and `-`, because WebDataset ends a key at the first dot.
"""

import hashlib
import os
import unicodedata

from pipeline.notes.nsynth import Labels, parse_name

LONGEST = 120  # characters; a longer key keeps its start and a hash, so that KEY.json fits any file system
HASH = 12  # hexadecimal digits


def note_key(path: str) -> str:
    """NSynth's name, or for other audio the whole path below the folder, made plain."""
    stem = _stem(path)
    name = stem.rpartition("/")[2]
    if parse_name(name) is not None:
        return name
    letters = unicodedata.normalize("NFC", stem)  # macOS keeps accents as letters of their own, others do not
    key = "".join(letter if letter.isalnum() or letter in "_-" else _plain(letter) for letter in letters)
    if len(key) > LONGEST:
        key = f"{key[: LONGEST - HASH - 1]}-{hashlib.sha256(key.encode()).hexdigest()[:HASH]}"
    return key


def path_labels(path: str) -> Labels:
    """All that a path says of its note: NSynth's labels, or just its name."""
    return parse_name(_stem(path).rpartition("/")[2]) or {"note_str": printable(_stem(path))}


def printable(path: str) -> str:
    """A path as text that can be printed and stored, whatever bytes it has."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def _stem(path: str) -> str:
    folder, slash, name = path.rpartition("/")
    return folder + slash + (name.rpartition(".")[0] or name)


def _plain(letter: str) -> str:
    """What stands in a key for a letter that it cannot have; a byte that is not UTF-8 keeps its number."""
    return f"x{ord(letter) - 0xDC00:02X}" if 0xDC80 <= ord(letter) <= 0xDCFF else "_"
