"""pipeline.instrument.octaves: an instrument may sound octaves off its keys; a few notes that do are no reason."""

import numpy as np
import pytest

from pipeline.instrument.octaves import describe_octaves, sounding_octaves
from pipeline.score.timbre import RealNote

OWN, OTHER = "harmonics", "steel"


def real(pitch: int, cents: float | None, instrument: str = OWN) -> RealNote:
    return RealNote(f"{instrument}-{pitch}", instrument, pitch, 100, np.zeros(12), cents)


@pytest.mark.parametrize(
    ("cents", "octave"),
    [
        ((2399.0, 2410.0, 2380.0), 2),
        ((-1200.0, -1190.0, -1230.0), -1),
        ((3.0, -8.0, 20.0), 0),
        ((1200.0, 1200.0, 2400.0), 1),
        ((1200.0, 2400.0, 0.0), 0),  # they disagree
        ((1200.0, 1200.0, 600.0, 300.0), 0),  # half of them are in tune with no octave
        ((700.0, 1251.0, None), 0),
        ((), 0),
    ],
)
def test_most_notes_near_a_key_say_its_octave(cents: tuple[float | None, ...], octave: int) -> None:
    notes = [real(60 + index % 3, each) for index, each in enumerate(cents)]
    others = [real(60, 1200.0, OTHER) for _ in range(9)]
    assert sounding_octaves([*notes, *others], OWN, [61]).get(61, 0) == octave


def test_each_key_follows_the_real_notes_near_it_or_else_the_nearest_ones() -> None:
    notes = [real(pitch, 2400.0 if pitch < 50 else 1200.0) for pitch in range(40, 60, 3)]
    octaves = sounding_octaves(notes, OWN, [30, 41, 56, 80])
    assert octaves == {30: 2, 41: 2, 56: 1, 80: 1}
    line = describe_octaves(octaves, OWN, 5)
    assert line is not None and "1 octave above 2 of 5 keys and 2 octaves above 2 of 5 keys" in line
    assert describe_octaves({}, OWN, 5) is None
    assert sounding_octaves(notes, None, [41]) == {}
