"""Pictures of a waveform: a spectrogram as PNG bytes and an outline as an SVG path.

Axes, text and surrounding colours belong to the page. Knows nothing of files, notes or HTML.
"""

import io

import numpy as np

COLUMNS, ROWS = 480, 176  # pixels of a spectrogram
WINDOW = 2_048  # samples of one spectrum: 85 ms at 24 kHz separates the partials of a guitar's lowest string
FFT_SIZE = 2 * WINDOW  # zero-padded, for smooth rows where partials are close
MIN_HERTZ, MAX_HERTZ = 55.0, 11_000.0  # at the bottom and top row; the rows between are in equal musical intervals
RANGE_DB = 66.0  # below the loudest point; anything quieter has the background colour
COLOURS = ("#0d1319", "#0c2f36", "#0b6e75", "#4f9c77", "#d98a1f", "#f7bf57", "#fff6e6")  # quiet to loud
SILENCE_DB = -80.0  # a note whose loudest point is below this is not amplified until its noise shows

POINTS = 180  # of a waveform's outline
WIDTH, HEIGHT = 480.0, 100.0  # units of the outline's box


def spectrogram(waveform: np.ndarray, sample_rate: int) -> bytes:
    """Draw a PNG of COLUMNS x ROWS pixels, time to the right and pitch upwards: (sample,) -> bytes.

    The colours are relative to the note's own loudest point, so a quiet note shows as much as a loud note.
    """
    from matplotlib.colors import LinearSegmentedColormap
    from matplotlib.image import imsave

    padded = np.pad(waveform.astype(np.float64), WINDOW // 2)
    starts = np.linspace(0, max(len(padded) - WINDOW, 0), COLUMNS).astype(int)
    windows = np.lib.stride_tricks.sliding_window_view(padded, WINDOW)[starts] * np.hanning(WINDOW)
    power = np.abs(np.fft.rfft(windows, FFT_SIZE)) ** 2  # (column, bin)
    frequencies = np.geomspace(MIN_HERTZ, MAX_HERTZ, ROWS)
    bins = np.minimum(frequencies * FFT_SIZE / sample_rate, power.shape[1] - 1.001)
    lower = bins.astype(int)
    fraction = bins - lower
    rows = power[:, lower] * (1 - fraction) + power[:, lower + 1] * fraction  # (column, row)
    level = 10 * np.log10(rows + 1e-20)
    loudest = max(float(level.max()), SILENCE_DB)
    picture = np.clip((level - loudest) / RANGE_DB + 1, 0, 1).T[::-1]  # (row, column), lowest frequency in the last row
    file = io.BytesIO()
    imsave(file, picture, cmap=LinearSegmentedColormap.from_list("note", COLOURS), vmin=0, vmax=1, format="png")
    return file.getvalue()


def outline(waveform: np.ndarray) -> str:
    """Draw a waveform as the `d` attribute of an SVG path in a box of WIDTH x HEIGHT units: (sample,) -> path.

    Height is the square root of the amplitude, so that a quiet note stays visible beside a loud note.
    """
    edges = np.linspace(0, len(waveform), POINTS + 1).astype(int)[:-1]
    highest = np.maximum.reduceat(waveform, edges) if len(waveform) >= POINTS else np.zeros(POINTS)
    lowest = np.minimum.reduceat(waveform, edges) if len(waveform) >= POINTS else np.zeros(POINTS)
    x = np.linspace(0, WIDTH, POINTS)
    top, bottom = (HEIGHT / 2 * (1 - _signed_sqrt(side)) for side in (np.maximum(highest, 0), np.minimum(lowest, 0)))
    upper = [f"{a:.1f} {b:.1f}" for a, b in zip(x, top - 0.4, strict=True)]
    lower = [f"{a:.1f} {b:.1f}" for a, b in zip(x[::-1], bottom[::-1] + 0.4, strict=True)]
    return f"M{'L'.join(upper + lower)}Z"


def frequency_height(frequency: float) -> float:
    """Return a frequency's height in a spectrogram, from 0 (bottom) to 1 (top)."""
    return float(np.log(frequency / MIN_HERTZ) / np.log(MAX_HERTZ / MIN_HERTZ))


def _signed_sqrt(amplitude: np.ndarray) -> np.ndarray:
    return np.sign(amplitude) * np.sqrt(np.minimum(np.abs(amplitude), 1.0))
