"""Names of notes: a path below the folder of audio gives a note's key and its labels.

A key is letters of any script, digits, `_` and `-`, because WebDataset ends a key at the first dot. Opens no file.
"""

import hashlib
import unicodedata
from dataclasses import dataclass

from pipeline.notes.nsynth import Labels, parse_name
from shards.console import path_bytes
from shards.storage import path_text

LONGEST = 120  # characters; a longer key is cut and ends in a hash
MOST_BYTES = 200  # of a key in UTF-8, so that KEY.json and its part while it is written fit any file system
HASH = 12  # hexadecimal digits


@dataclass(frozen=True, slots=True)
class NoteName:
    """Key and labels of a note, parsed from its path."""

    key: str
    labels: Labels


def parse_path_name(path: str) -> NoteName:
    """Parse a path: NSynth's name and its labels, or for other audio the whole path, as key and as `note_str`."""
    folder, slash, name = path.rpartition("/")
    name = name.rpartition(".")[0] or name
    labels = parse_name(name)
    if labels is not None:
        return NoteName(_bounded(name), labels)
    return NoteName(_key(folder + slash + name), {"note_str": path_text(folder + slash + name)})


def _key(path: str) -> str:
    path = path_bytes(path).decode("utf-8", "surrogateescape")  # the same letters in all locales
    letters = unicodedata.normalize("NFC", path)  # macOS stores accents as letters of their own, others do not
    key = "".join(letter if letter.isalnum() or letter in "_-" else _replacement(letter) for letter in letters)
    return _bounded(key)


def _bounded(key: str) -> str:
    if len(key) <= LONGEST and len(key.encode()) <= MOST_BYTES:
        return key
    start = key[: LONGEST - HASH - 1].encode()[: MOST_BYTES - HASH - 1].decode(errors="ignore")
    return f"{start}-{hashlib.sha256(key.encode()).hexdigest()[:HASH]}"


def _replacement(letter: str) -> str:
    """A surrogate escape becomes its byte in hexadecimal, any other letter that a key cannot have `_`."""
    return f"x{ord(letter) - 0xDC00:02X}" if 0xDC80 <= ord(letter) <= 0xDCFF else "_"
