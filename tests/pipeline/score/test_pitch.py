"""Pitch and loudness of a note, measured: right on tones and plucks, silent on silence."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.notes.demo import INSTRUMENTS
from pipeline.notes.nsynth import NSYNTH_RATE
from pipeline.notes.string_model import pluck
from pipeline.score.pitch import cents, fundamental, hertz_of, loudness, pitch_of
from tests.support.notes import tone

RATE = 24_000


@settings(max_examples=25)
@given(st.floats(40, 88))
def test_a_tone_has_its_pitch(pitch):
    assert abs(cents(fundamental(tone(pitch, 1.6, RATE), RATE), hertz_of(pitch))) < 10


@pytest.mark.parametrize("velocity", [25, 127])
@pytest.mark.parametrize("instrument", [name for split in INSTRUMENTS.values() for name in split])
def test_every_pluck_has_its_pitch(instrument, velocity):
    guitar = next(split[instrument] for split in INSTRUMENTS.values() if instrument in split)
    for pitch in (40, 58, 76):
        sound = pluck(guitar, pitch, velocity, np.random.default_rng(pitch))
        assert abs(cents(fundamental(sound, NSYNTH_RATE), hertz_of(pitch))) < 10


@pytest.mark.parametrize("length", [0, 100, RATE])
def test_silence_has_no_pitch(length):
    assert fundamental(np.zeros(length, np.float32), RATE) is None
    assert loudness(np.zeros(length, np.float32), RATE) == -120


@given(st.floats(20, 5_000))
def test_pitch_of_undoes_hertz_of(hertz):
    assert hertz_of(pitch_of(hertz)) == pytest.approx(hertz)
    assert cents(2 * hertz, hertz) == pytest.approx(1_200)


def test_ten_decibels_are_ten_decibels():
    assert loudness(tone(60, peak=0.5), RATE) - loudness(tone(60, peak=0.05), RATE) == pytest.approx(20, abs=0.01)
