"""Samples -> pictures: a spectrogram as PNG bytes and a waveform as an SVG path, for whoever shows a note.

Axes, text and colours around them belong to the page. Knows nothing of files, notes or HTML.
"""

import io

import numpy as np

COLUMNS, ROWS = 480, 176  # pixels of a spectrogram
WINDOW = 2_048  # samples of one spectrum: 85 ms at 24 kHz tells the partials of a guitar's lowest string apart
PADDED = 2 * WINDOW  # zeros around it, for smooth rows where partials are close
LOWEST, HIGHEST = 55.0, 11_000.0  # Hz, at the picture's bottom and top; the rows between are in equal intervals
RANGE = 66.0  # dB below the loudest point that are shown; the rest is ground colour
GROUND, COLOURS = "#0d1319", ("#0d1319", "#0c2f36", "#0b6e75", "#4f9c77", "#d98a1f", "#f7bf57", "#fff6e6")

STEPS = 180  # points of a waveform's outline
WIDTH, HEIGHT = 480.0, 100.0  # units of the outline's box


def spectrogram(samples: np.ndarray, sample_rate: int) -> bytes:
    """A PNG of COLUMNS x ROWS pixels: time to the right, pitch upwards, (sample,) -> bytes.

    Each picture has its own loudest point, so quiet notes show as much as loud ones.
    """
    from matplotlib.colors import LinearSegmentedColormap
    from matplotlib.image import imsave

    padded = np.pad(samples.astype(np.float64), WINDOW // 2)
    starts = np.linspace(0, max(len(padded) - WINDOW, 0), COLUMNS).astype(int)
    pieces = np.lib.stride_tricks.sliding_window_view(padded, WINDOW)[starts] * np.hanning(WINDOW)
    power = np.abs(np.fft.rfft(pieces, PADDED)) ** 2  # (column, bin)
    frequencies = np.geomspace(LOWEST, HIGHEST, ROWS)
    bins = np.minimum(frequencies * PADDED / sample_rate, power.shape[1] - 1.001)
    below = bins.astype(int)
    share = bins - below
    rows = power[:, below] * (1 - share) + power[:, below + 1] * share  # (column, row)
    level = 10 * np.log10(rows + 1e-20)
    loudest = max(float(level.max()), -80.0)  # silence is not made to look like noise
    picture = np.clip((level - loudest) / RANGE + 1, 0, 1).T[::-1]  # (row, column), lowest row last
    file = io.BytesIO()
    imsave(file, picture, cmap=LinearSegmentedColormap.from_list("note", COLOURS), vmin=0, vmax=1, format="png")
    return file.getvalue()


def waveform(samples: np.ndarray) -> str:
    """The outline of the samples as the `d` of an SVG path in a box of WIDTH x HEIGHT units, (sample,) -> path.

    Height is the root of the amplitude, so that a quiet note is still to be seen beside a loud one.
    """
    edges = np.linspace(0, len(samples), STEPS + 1).astype(int)[:-1]
    highest = np.maximum.reduceat(samples, edges) if len(samples) >= STEPS else np.zeros(STEPS)
    lowest = np.minimum.reduceat(samples, edges) if len(samples) >= STEPS else np.zeros(STEPS)
    x = np.linspace(0, WIDTH, STEPS)
    top, bottom = (HEIGHT / 2 * (1 - _root(side)) for side in (np.maximum(highest, 0), np.minimum(lowest, 0)))
    there = [f"{a:.1f} {b:.1f}" for a, b in zip(x, top - 0.4, strict=True)]
    back = [f"{a:.1f} {b:.1f}" for a, b in zip(x[::-1], bottom[::-1] + 0.4, strict=True)]
    return f"M{'L'.join(there + back)}Z"


def frequency_height(frequency: float) -> float:
    """Where a frequency lies in a spectrogram, from 0 (bottom) to 1 (top)."""
    return float(np.log(frequency / LOWEST) / np.log(HIGHEST / LOWEST))


def _root(amplitude: np.ndarray) -> np.ndarray:
    return np.sign(amplitude) * np.sqrt(np.minimum(np.abs(amplitude), 1.0))
