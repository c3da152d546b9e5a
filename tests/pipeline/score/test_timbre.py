"""pipeline.score.timbre: distances know the instrument, and neither level nor what comes after the first second."""

import numpy as np
import pytest

from pipeline.notes.demo import INSTRUMENTS
from pipeline.notes.nsynth import NSYNTH_RATE
from pipeline.notes.string_model import pluck
from pipeline.score.timbre import (
    RealNote,
    TimbreScale,
    comparable_notes,
    distance,
    nearest_note,
    timbre_of,
    timbre_scale,
)
from tests.support.notes import tone

BRIGHT = "guitar_electronic_001"
DULL = "guitar_acoustic_000"


def sound(instrument: str, pitch: int, velocity: int = 100) -> np.ndarray:
    return pluck(INSTRUMENTS["train"][instrument], pitch, velocity, np.random.default_rng(pitch))


def real(instrument: str, pitch: int, velocity: int = 100) -> RealNote:
    timbre = timbre_of(sound(instrument, pitch, velocity), NSYNTH_RATE)
    return RealNote(f"{instrument}-{pitch}", instrument, pitch, velocity, timbre)


def test_level_and_tail_have_no_part_in_it_and_the_rate_hardly_any() -> None:
    note = sound(BRIGHT, 50)
    timbre = timbre_of(note, NSYNTH_RATE)
    assert timbre.shape == (12,)
    assert distance(timbre, timbre_of(0.01 * note, NSYNTH_RATE)) < 1e-3
    assert distance(timbre, timbre_of(np.concatenate([note[:NSYNTH_RATE], note]), NSYNTH_RATE)) < 1e-6
    fast = tone(50, 1.5, 24_000)
    assert distance(timbre_of(fast, 24_000), timbre_of(tone(50, 1.5, NSYNTH_RATE), NSYNTH_RATE)) < 0.2


def test_neighbours_of_one_instrument_are_nearer_than_those_of_two() -> None:
    notes = [real(instrument, pitch) for instrument in (BRIGHT, DULL) for pitch in range(48, 54)]
    scale = timbre_scale(notes, 100)
    assert scale is not None and scale.different > 2 * scale.same
    assert (scale.share(scale.same), scale.share(scale.different)) == (0, 1)
    assert timbre_scale(notes, 25) is None
    assert timbre_scale(notes[:6], 100) is None  # one instrument alone


def test_neighbours_are_two_semitones_apart_where_none_are_closer() -> None:
    notes = [real(instrument, pitch) for instrument in (BRIGHT, DULL) for pitch in (48, 50, 52)]
    assert isinstance(timbre_scale(notes, 100), TimbreScale)
    assert timbre_scale([real(name, pitch) for name in (BRIGHT, DULL) for pitch in (48, 51)], 100) is None


@pytest.mark.parametrize("instrument", [BRIGHT, DULL])
def test_the_nearest_note_is_of_its_own_instrument_and_at_about_its_pitch(instrument: str) -> None:
    notes = [real(name, pitch) for name in (BRIGHT, DULL) for pitch in (47, 60)]
    found = nearest_note(timbre_of(sound(instrument, 48), NSYNTH_RATE), comparable_notes(48, 100, notes))
    assert found is not None and (found.instrument, found.pitch) == (instrument, 47)
    assert nearest_note(notes[0].timbre, comparable_notes(90, 100, notes)) is None
