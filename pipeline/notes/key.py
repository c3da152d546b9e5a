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
SEGMENT_DIGITS = 4  # of a segment's number, behind the key of its recording
SUFFIX = 1 + SEGMENT_DIGITS  # characters, and bytes


@dataclass(frozen=True, slots=True)
class NoteName:
    """Key and labels of a note, parsed from its path."""

    key: str
    labels: Labels


def parse_path_name(path: str, room: int = 0) -> NoteName:
    """Parse a path: NSynth's name and its labels, or for other audio the whole path, as key and as `note_str`.

    `room`: characters that will be added to the key.
    """
    folder, slash, name = path.rpartition("/")
    name = name.rpartition(".")[0] or name
    labels = parse_name(name)
    if labels is not None:
        return NoteName(_bounded(name, room), labels)
    return NoteName(_bounded(_key(folder + slash + name), room), {"note_str": path_text(folder + slash + name)})


def segment_key(key: str, number: int) -> str:
    """The key of a segment of the recording with this key."""
    return f"{key}-{number:0{SEGMENT_DIGITS}d}"


def segment_number(key: str) -> int:
    """Undo `segment_key`: the segment's number. Raises ValueError: not the key of a segment."""
    digits = key[-SEGMENT_DIGITS:]
    if not (digits.isascii() and digits.isdigit() and key[-SUFFIX:-SEGMENT_DIGITS] == "-"):
        raise ValueError(f"{key}: has no number of a segment")
    return int(digits)


def _key(path: str) -> str:
    path = path_bytes(path).decode("utf-8", "surrogateescape")  # the same letters in all locales
    letters = unicodedata.normalize("NFC", path)  # macOS stores accents as letters of their own, others do not
    return "".join(letter if letter.isalnum() or letter in "_-" else _replacement(letter) for letter in letters)


def _bounded(key: str, room: int) -> str:
    if len(key) <= LONGEST - room and len(key.encode()) <= MOST_BYTES - room:
        return key
    start = key[: LONGEST - room - HASH - 1].encode()[: MOST_BYTES - room - HASH - 1].decode(errors="ignore")
    return f"{start}-{hashlib.sha256(key.encode()).hexdigest()[:HASH]}"


def _replacement(letter: str) -> str:
    """A surrogate escape becomes its byte in hexadecimal, any other letter that a key cannot have `_`."""
    return f"x{ord(letter) - 0xDC00:02X}" if 0xDC80 <= ord(letter) <= 0xDCFF else "_"
