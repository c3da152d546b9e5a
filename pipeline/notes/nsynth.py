"""NSynth's conventions: note names with their labels, folder names with their split, and numbers that notes share.

Reads names and `examples.json` files; knows nothing of audio and codes.

Engel et al., "Neural Audio Synthesis of Musical Notes with WaveNet Autoencoders", 2017, https://arxiv.org/abs/1704.01279
"""

import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from shards.errors import UserError
from shards.parse import read_object

Labels = dict[str, Any]

EXAMPLES = "examples.json"  # NSynth's own labels, one object a note, above its folder of audio
SPLIT = re.compile(r"(?:.*[-_])?(?:(?P<train>train)|(?P<valid>val|valid|validation)|(?P<test>test))", re.IGNORECASE)
MIDI_MAX = 127  # highest pitch and velocity
VELOCITIES = (25, 50, 75, 100, MIDI_MAX)  # the five of NSynth
NSYNTH_SECONDS = 4.0  # of each note
NSYNTH_RATE = 16_000  # samples/s

NOTE = re.compile(
    r"(?P<instrument_str>(?P<instrument_family_str>[a-z]+(?:_[a-z]+)*)"
    r"_(?P<instrument_source_str>acoustic|electronic|synthetic)_[0-9]{3})"
    r"-(?P<pitch>[0-9]{3})-(?P<velocity>[0-9]{3})"
)


def parse_name(name: str) -> Labels | None:
    """Parse a name such as `guitar_acoustic_000-040-025` to labels in NSynth's field names; None for any other name."""
    match = NOTE.fullmatch(name)
    if match is None:
        return None
    words = {field: sys.intern(word) for field, word in match.groupdict().items()}  # notes share their instrument's
    return {"note_str": name, **words, "pitch": int(words["pitch"]), "velocity": int(words["velocity"])}


def midi(labels: Mapping[str, Any], name: str) -> int | None:
    """The value of a label that is a whole number from 0 to 127; None if it is another value, or there is none."""
    value = labels.get(name)
    return value if type(value) is int and 0 <= value <= MIDI_MAX else None


def contradiction(labels: Labels, row: Mapping[str, Any], source: str = EXAMPLES) -> str | None:
    """Find where the labels of a name contradict MIDI or the note's row in a file of labels; None if nowhere."""
    for field in ("pitch", "velocity"):
        if labels[field] > MIDI_MAX:
            return f"{field} {labels[field]} is above MIDI's {MIDI_MAX}"
    for field, value in labels.items():
        if field in row and row[field] != value:
            return f"{field} is {value!r} in the name and {row[field]!r} in {source}"
    return None


def split_folder(path: str) -> tuple[str, str] | None:
    """Find the innermost folder above a note whose name is, or ends in, the name of a split: its path and the split."""
    folder = path
    while "/" in folder:
        folder = folder.rpartition("/")[0]
        match = SPLIT.fullmatch(folder.rpartition("/")[2])
        if match is not None and match.lastgroup is not None:
            return folder, match.lastgroup
    return None


def read_examples(path: Path) -> dict[str, Labels]:
    """Read an `examples.json`: note_str -> its labels.

    Raises:
        UserError: it cannot be read, or is no object of objects.
    """
    try:
        examples = read_object(path, "")
    except (OSError, UserError) as error:
        raise UserError(
            f"{path}: cannot be read ({error}); repair it, or move it away to use the names alone"
        ) from error
    if not all(isinstance(labels, dict) for labels in examples.values()):
        raise UserError(f"{path}: is not NSynth's object of labels per note; move it away to use the names alone")
    return examples
