"""NSynth's names: what a note's file name says of it, and which split a folder's name puts it in.

Names only: opens nothing but an `examples.json`, knows no audio and no codes.

Engel et al., "Neural Audio Synthesis of Musical Notes with WaveNet Autoencoders", 2017, https://arxiv.org/abs/1704.01279
"""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from shards.errors import UserError
from shards.storage import read_bytes

Labels = dict[str, Any]

EXAMPLES = "examples.json"  # NSynth's own labels, one object a note, above its folder of audio
SPLITS = ("train", "valid", "test")
MIDI_MAX = 127  # of MIDI pitches and velocities

NOTE = re.compile(
    r"(?P<instrument_str>(?P<instrument_family_str>[a-z]+(?:_[a-z]+)*)"
    r"_(?P<instrument_source_str>acoustic|electronic|synthetic)_[0-9]{3})"
    r"-(?P<pitch>[0-9]{3})-(?P<velocity>[0-9]{3})"
)


def parse_name(name: str) -> Labels | None:
    """What `guitar_acoustic_000-040-025` says of its note, in NSynth's field names; None for any other name."""
    match = NOTE.fullmatch(name)
    if match is None:
        return None
    words = match.groupdict()
    return {"note_str": name, **words, "pitch": int(words["pitch"]), "velocity": int(words["velocity"])}


def contradiction(labels: Labels, known: Mapping[str, Any]) -> str | None:
    """How the labels in a name contradict MIDI, or what `known` (the note's entry in an `examples.json`) says."""
    for field in ("pitch", "velocity"):
        if labels[field] > MIDI_MAX:
            return f"{field} {labels[field]} is above MIDI's {MIDI_MAX}"
    for field, value in labels.items():
        if field in known and known[field] != value:
            return f"{field} is {value!r} in the name and {known[field]!r} in {EXAMPLES}"
    return None


def split_of(folders: Sequence[str]) -> str | None:
    """The split that the names of the folders above a note give it (`*-train`, `*-valid`, `*-test`), nearest first."""
    for folder in reversed(folders):
        for split in SPLITS:
            if folder.endswith(f"-{split}"):
                return split
    return None


def read_examples(path: Path) -> dict[str, Labels]:
    """An `examples.json`: note_str -> its labels.

    Raises:
        UserError: it cannot be read, or is no object of objects.
    """
    try:
        examples = json.loads(read_bytes(path))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read ({error}); mend it, or move it away to go by the names") from error
    if not isinstance(examples, dict) or not all(isinstance(labels, dict) for labels in examples.values()):
        raise UserError(f"{path}: is not NSynth's object of labels a note; move it away to go by the names")
    return examples
