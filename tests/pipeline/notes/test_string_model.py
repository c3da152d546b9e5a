"""A plucked string: in tune, louder and brighter with velocity, dying away, and released at three seconds."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.notes.demo import INSTRUMENTS, PITCHES
from pipeline.notes.nsynth import NSYNTH_RATE, NSYNTH_SECONDS, VELOCITIES
from pipeline.notes.string_model import RELEASE, Instrument, pluck

ALL = {name: instrument for split in INSTRUMENTS.values() for name, instrument in split.items()}
PLAIN = Instrument(pick=0.2, hardness=5_000, scrape=0.0, decay=10.0, brightness=2.0, detune=0.0)

instruments = st.sampled_from(sorted(ALL)).map(ALL.__getitem__)
pitches = st.integers(*PITCHES)


def play(instrument: Instrument, pitch: int, velocity: int, seed: int = 0) -> np.ndarray:
    return pluck(instrument, pitch, velocity, np.random.default_rng(seed))


def level(sound: np.ndarray, start: float, end: float) -> float:
    """Root mean square from `start` to `end` seconds, in dB."""
    return 10 * np.log10(np.mean(sound[int(start * NSYNTH_RATE) : int(end * NSYNTH_RATE)] ** 2.0) + 1e-20)


def centroid(sound: np.ndarray) -> float:
    """Centre of gravity of the magnitude spectrum, Hz."""
    magnitude = np.abs(np.fft.rfft(sound[: NSYNTH_RATE // 2]))
    return float((magnitude * np.fft.rfftfreq(NSYNTH_RATE // 2, 1 / NSYNTH_RATE)).sum() / magnitude.sum())


def cents_off(sound: np.ndarray, pitch: int) -> float:
    """Distance of the strongest of the first three partials from its frequency at `pitch`, in cents."""
    seconds = 1.2
    piece = sound[: int(seconds * NSYNTH_RATE)] * np.hanning(int(seconds * NSYNTH_RATE))
    spectrum = np.abs(np.fft.rfft(piece, 1 << 19))
    bin_width = NSYNTH_RATE / (1 << 19)
    fundamental = 440 * 2 ** ((pitch - 69) / 12)
    off = []
    for partial in (1, 2, 3):
        low, high = (int(partial * fundamental * 2 ** (side / 12) / bin_width) for side in (-0.8, 0.8))
        peak = (low + spectrum[low:high].argmax()) * bin_width / partial
        off.append((spectrum[low:high].max(), 1200 * np.log2(peak / fundamental)))
    return max(off)[1]


@settings(max_examples=40, deadline=None)
@given(instruments, pitches, st.sampled_from(VELOCITIES), st.integers(0, 100))
def test_every_instrument_is_within_five_cents_of_the_pitch(instrument, pitch, velocity, seed):
    assert abs(cents_off(play(instrument, pitch, velocity, seed), pitch)) < 5


@pytest.mark.parametrize("pitch", [40, 52, 64, 76])
def test_a_pitch_tracker_agrees(pitch):
    import librosa

    sound = play(PLAIN, pitch, 100)[int(0.1 * NSYNTH_RATE) : int(1.25 * NSYNTH_RATE)]
    tracked = np.median(librosa.yin(sound, fmin=60, fmax=1_500, sr=NSYNTH_RATE, frame_length=1_024))
    assert abs(1200 * np.log2(tracked / librosa.midi_to_hz(pitch))) < 10


@settings(max_examples=15, deadline=None)
@given(instruments, pitches, st.integers(0, 100))
def test_a_harder_pluck_is_louder_and_brighter(instrument, pitch, seed):
    notes = [play(instrument, pitch, velocity, seed) for velocity in VELOCITIES]
    levels = [level(note, 0, 0.5) for note in notes]
    assert levels == sorted(levels) and levels[-1] - levels[0] > 12
    assert centroid(notes[-1]) > centroid(notes[0])


@settings(max_examples=15, deadline=None)
@given(instruments, pitches, st.sampled_from(VELOCITIES))
def test_a_note_dies_away_and_the_finger_ends_it(instrument, pitch, velocity):
    note = play(instrument, pitch, velocity)
    assert note.shape == (NSYNTH_SECONDS * NSYNTH_RATE,) and note.dtype == np.float32
    assert np.abs(note).max() <= 1 and note[-1] == 0
    assert level(note, 0.1, 0.4) > level(note, 1.0, 1.3) > level(note, 2.6, 2.9)
    before, after = level(note, RELEASE - 0.3, RELEASE), level(note, RELEASE + 0.5, NSYNTH_SECONDS)
    assert after < max(before - 30, -90)


def test_a_higher_string_dies_sooner():
    falls = [
        level(note, 0, 0.2) - level(note, 1.5, 1.7) for note in (play(PLAIN, pitch, 100) for pitch in (40, 58, 76))
    ]
    assert falls == sorted(falls)


def test_a_pick_in_the_middle_leaves_out_the_even_partials():
    spectrum = np.abs(np.fft.rfft(play(replace(PLAIN, pick=0.5), 45, 127)[:NSYNTH_RATE])) ** 2  # 1 Hz a bin
    odd, even = spectrum[105:116].sum() + spectrum[325:336].sum(), spectrum[215:226].sum()
    assert even < odd / 30


def test_instruments_differ_more_than_two_plucks_of_one():
    def colour(sound):
        spectrum = np.abs(np.fft.rfft(sound[:NSYNTH_RATE])) ** 2
        bands = np.add.reduceat(spectrum, np.geomspace(60, 7_000, 12).astype(int))
        return 10 * np.log10(bands / bands.sum() + 1e-9)

    def distance(a, b):
        return np.abs(colour(a) - colour(b)).mean()

    first = {name: play(instrument, 52, 100, 0) for name, instrument in ALL.items()}
    again = {name: play(instrument, 52, 100, 1) for name, instrument in ALL.items()}
    same = float(np.mean([distance(first[name], again[name]) for name in ALL]))
    other = min(distance(first[a], first[b]) for a in ALL for b in ALL if a != b)
    assert other > 1.5 * same
