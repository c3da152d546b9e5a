"""Fundamental frequency and loudness of one note.

Knows nothing of files, codes and labels.

de Cheveigné & Kawahara, "YIN, a fundamental frequency estimator for speech and music", 2002; here librosa's.
"""

import numpy as np

from shards.numba_cache import make_cache_robust

MIN_HERTZ, MAX_HERTZ = 60.0, 1_600.0  # below a guitar's low E, above its highest fret
PITCH_START, PITCH_END = 0.05, 1.5  # seconds: after the pick's noise, before the note has died away
FRAME, HOP = 2_048, 512  # samples
TROUGH = 0.15  # YIN's threshold
SEMITONE = 100  # cents
IN_TUNE = 50.0  # cents: closer to the pitch of the label than to any other key of the piano
DECAYED = 40.0  # dB below a note's loudest frame
POWER_FLOOR = 1e-12  # added before the logarithm: silence is -120 dB


def fundamental(samples: np.ndarray, sample_rate: int) -> float | None:
    """Return the fundamental of one note in Hz, (sample,) -> scalar; None if it is silent or too short.

    The median of YIN's frames, each weighted by its level, so that a quiet tail has no influence.
    """
    make_cache_robust()
    import librosa

    window = samples[int(PITCH_START * sample_rate) : int(PITCH_END * sample_rate)].astype(np.float32)
    if len(window) < FRAME:
        return None
    level = librosa.feature.rms(y=window, frame_length=FRAME, hop_length=HOP)[0]  # (frame,)
    if not level.any():
        return None
    hertz = librosa.yin(
        window, fmin=MIN_HERTZ, fmax=MAX_HERTZ, sr=sample_rate, frame_length=FRAME, hop_length=HOP,
        trough_threshold=TROUGH,
    )  # (frame,)  # fmt: skip
    return float(np.quantile(hertz, 0.5, weights=level, method="inverted_cdf"))


def cents(hertz: float, other: float) -> float:
    """Return the interval from `other` up to `hertz`."""
    return float(12 * SEMITONE * np.log2(hertz / other))


def hertz_of(pitch: float) -> float:
    """Return the frequency of a MIDI pitch."""
    return float(440.0 * 2.0 ** ((pitch - 69) / 12))


def pitch_of(hertz: float) -> float:
    """Undo `hertz_of`."""
    return float(69 + 12 * np.log2(hertz / 440.0))


def sounding_frames(samples: np.ndarray, hop: int) -> int:
    """Return the number of frames of `hop` samples up to where a note has decayed, (sample,) -> scalar."""
    frames = samples[: len(samples) // hop * hop].reshape(-1, hop).astype(np.float64)
    level = 10 * np.log10(np.mean(frames**2, axis=1) + POWER_FLOOR)  # (frame,)
    loud = np.flatnonzero(level > level.max(initial=-np.inf) - DECAYED)
    return int(loud.max(initial=0)) + 1


def loudness(samples: np.ndarray, sample_rate: int) -> float:
    """Return the level of a note's first second in dB against full scale, (sample,) -> scalar."""
    first = samples[:sample_rate].astype(np.float64)
    return float(10 * np.log10(np.mean(first**2) + POWER_FLOOR)) if len(first) else -120.0
