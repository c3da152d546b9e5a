"""Which pitch, and how loud: what a listener would say of a note, measured.

Knows nothing of files, codes or what was asked for.

de Cheveigné & Kawahara, "YIN, a fundamental frequency estimator for speech and music", 2002; here librosa's.
"""

import numpy as np

LOWEST, HIGHEST = 60.0, 1_600.0  # Hz: below a guitar's low E, above its highest fret
HEARD = (0.05, 1.5)  # seconds of a note that its pitch is taken from: after the pick's noise, before it has died away
FRAME, HOP = 2_048, 512  # samples
TROUGH = 0.15  # YIN's threshold
SEMITONE = 100  # cents
IN_TUNE = 50.0  # cents: nearer to the pitch asked for than to any other key of the piano


def fundamental(samples: np.ndarray, sample_rate: int) -> float | None:
    """The fundamental of one note in Hz, (sample,) -> scalar; None if there is nothing to hear.

    The median of YIN's frames, each weighted by its level, so that a quiet tail has no say.
    """
    import librosa

    heard = samples[int(HEARD[0] * sample_rate) : int(HEARD[1] * sample_rate)].astype(np.float32)
    if len(heard) < FRAME or not np.any(heard):
        return None
    tracked = librosa.yin(
        heard, fmin=LOWEST, fmax=HIGHEST, sr=sample_rate, frame_length=FRAME, hop_length=HOP, trough_threshold=TROUGH
    )
    level = librosa.feature.rms(y=heard, frame_length=FRAME, hop_length=HOP)[0][: len(tracked)]
    order = np.argsort(tracked)
    weight = np.cumsum(level[order])
    return float(tracked[order][np.searchsorted(weight, weight[-1] / 2)])


def cents(hertz: float, other: float) -> float:
    """How far `hertz` lies above `other`."""
    return float(12 * SEMITONE * np.log2(hertz / other))


def hertz_of(pitch: float) -> float:
    """The frequency of a MIDI pitch."""
    return float(440.0 * 2.0 ** ((pitch - 69) / 12))


def pitch_of(hertz: float) -> float:
    """Undo `hertz_of`."""
    return float(69 + 12 * np.log2(hertz / 440.0))


def loudness(samples: np.ndarray, sample_rate: int) -> float:
    """The level of a note's first second in dB against full scale, (sample,) -> scalar."""
    first = samples[:sample_rate].astype(np.float64)
    return float(10 * np.log10(np.mean(first**2) + 1e-12)) if len(first) else -120.0
