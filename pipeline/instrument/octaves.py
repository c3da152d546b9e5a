"""Octaves between an instrument's keys and its sound: harmonics of a guitar sound one or two above the keys that their
labels name. Opens no file.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from pipeline.score.pitch import IN_TUNE, SEMITONE
from pipeline.score.timbre import RealNote
from shards.console import counted

OCTAVE = 12 * SEMITONE  # cents
NEAR = 2  # semitones on each side of a key whose real notes say how it sounds
AGREEING = 2 / 3  # of these notes, at least


def sounding_octaves(real: Sequence[RealNote], instrument: str | None, keys: Iterable[int]) -> dict[int, int]:
    """Octaves above each key at which most of the instrument's real notes near to it sound; 0 is left out.

    A key without real notes near to it sounds as the nearest ones do.
    """
    own = [note for note in real if note.instrument == instrument and note.cents is not None]
    octaves = {}
    for key in keys if own else ():
        reach = max(NEAR, min(abs(note.pitch - key) for note in own))
        near = [note.cents for note in own if note.cents is not None and abs(note.pitch - key) <= reach]
        found = Counter(number for cents in near if (number := _octave(cents)) is not None)
        number, count = max(found.items(), key=lambda item: item[1], default=(0, 0))
        if number and count >= AGREEING * len(near):
            octaves[key] = number
    return octaves


def describe_octaves(octaves: Mapping[int, int], instrument: str | None, keys: int) -> str | None:
    """A line for the user; None if all sounds are at their keys."""
    if not octaves:
        return None
    counts = sorted(Counter(octaves.values()).items())
    text = " and ".join(f"{octave_text(number)} {count} of {counted(keys, 'key')}" for number, count in counts)
    return f"The real notes of {instrument} sound {text}; a candidate is in tune if it does too."


def octave_text(number: int) -> str:
    """`2 octaves above`, for instance."""
    return f"{counted(abs(number), 'octave')} {'above' if number > 0 else 'below'}"


def _octave(cents: float) -> int | None:
    """The octave that an interval is in tune with; None if it is with none."""
    number = round(cents / OCTAVE)
    return number if abs(cents - number * OCTAVE) <= IN_TUNE else None
