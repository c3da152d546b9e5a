"""Pictures of a waveform: a spectrogram has partials in the right rows, an outline stays inside its box."""

import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from pipeline.page.plots import COLUMNS, HEIGHT, ROWS, WIDTH, frequency_height, outline, spectrogram

RATE = 24_000


def tone(hertz, seconds=1.0, level=0.5):
    return (level * np.sin(2 * np.pi * hertz * np.arange(int(seconds * RATE)) / RATE)).astype(np.float32)


def brightness(png):
    """PNG bytes -> (row, column), row 0 at the bottom."""
    from matplotlib.image import imread

    return imread(io.BytesIO(png), format="png")[::-1, :, :3].sum(axis=2)


@pytest.mark.parametrize("hertz", [110, 440, 3_000])
def test_a_tone_is_a_line_at_its_frequency(hertz):
    picture = brightness(spectrogram(tone(hertz), RATE))
    assert picture.shape == (ROWS, COLUMNS)
    row = picture[:, COLUMNS // 4 : -COLUMNS // 4].mean(axis=1).argmax()
    assert abs(row / (ROWS - 1) - frequency_height(hertz)) < 0.02


def test_a_quiet_note_has_the_same_picture_as_a_loud_note():
    loud, quiet = (brightness(spectrogram(tone(440, level=level), RATE)) for level in (0.8, 0.01))
    assert np.abs(loud - quiet).max() < 0.05


@pytest.mark.parametrize("length", [0, 1, 100, 5_000])
def test_silence_and_very_short_waveforms_have_pictures(length):
    picture = brightness(spectrogram(np.zeros(length, np.float32), RATE))
    assert picture.shape == (ROWS, COLUMNS) and np.ptp(picture) == 0
    assert outline(np.zeros(length, np.float32)).startswith("M")


@given(arrays.arrays(np.float32, st.integers(0, 2_000), elements=st.floats(-2, 2, width=32)))
def test_an_outline_stays_in_its_box(waveform):
    points = [tuple(map(float, point.split())) for point in outline(waveform)[1:-1].split("L")]
    assert all(0 <= x <= WIDTH and -1 <= y <= HEIGHT + 1 for x, y in points)
