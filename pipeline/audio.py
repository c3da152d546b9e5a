"""Audio file -> samples at a codec's rate; samples -> WAV or FLAC file.

Reads the formats of libsndfile (MP3, WAV, FLAC, OGG), mixes to mono, resamples, pads or trims. A damaged file raises an
`AudioError` that says what is wrong with it; a file that crashes or hangs libsndfile is left to the caller.
Knows nothing of codecs, names or shards.
"""

import math
import os
from pathlib import Path

import numpy as np

from shards.errors import UserError
from shards.files import atomic_write

SUFFIXES = frozenset({".mp3", ".wav", ".flac", ".ogg"})  # in any case
RESAMPLER = "soxr HQ"

MAX_CHANNELS = 2
RATES = (1_000, 768_000)  # Hz; a header that says otherwise is damaged
MAX_PEAK = 10.0  # peak, where 1 is full scale; more is a damaged float file, or one scaled like integers
SHORTEST = 0.02  # seconds of sound in the file; anything less is no note
LONGEST = 120.0  # seconds of a note that keeps its length: a codec's memory grows with it
TAIL = 0.1  # seconds read beyond what is kept, so that resampling has no edge there

FULL_SCALE = 1.0  # peak of samples that fit into a file
PCM_PEAK = 32_767  # of 16-bit samples
PCM_READ_SCALE = 32_768  # libsndfile divides 16-bit samples by this


class AudioError(UserError):
    """A file without usable samples: `reason` is one of a few phrases to count by, `detail` this file's numbers."""

    def __init__(self, path: Path, reason: str, detail: str) -> None:
        super().__init__(f"{path}: {reason} ({detail})")
        self.reason = reason
        self.detail = detail


def load(path: Path, sample_rate: int, duration: float | None = None) -> np.ndarray:
    """Read one file as mono: (sample,) float32 at `sample_rate`.

    With a `duration` in seconds the result is cut or padded with zeros to it; without, it has the file's length.

    Raises:
        AudioError: not audio, too many channels, damaged, no or hardly any samples, NaN or absurd ones, or
            too many to keep.
    """
    samples, rate = load_at_file_rate(path) if duration is None else _read(path, duration + TAIL)
    samples = resample(samples, rate, sample_rate)
    return samples if duration is None else fit(samples, round(duration * sample_rate))


def load_at_file_rate(path: Path) -> tuple[np.ndarray, int]:
    """Read one whole file as mono: (sample,) float32, and the file's own rate in Hz. Raises AudioError."""
    samples, rate = _read(path, LONGEST)
    if len(samples) > LONGEST * rate:
        raise AudioError(path, "too long", f"more than {LONGEST:g} s; cut it, or give a duration in seconds")
    return samples, rate


def resample(samples: np.ndarray, sample_rate: int, new_rate: int) -> np.ndarray:
    """Resample (sample,) to another rate; equal rates return the same array."""
    import soxr

    return samples if sample_rate == new_rate else soxr.resample(samples, sample_rate, new_rate, quality="HQ")


def fit(samples: np.ndarray, length: int) -> np.ndarray:
    """Trim, or pad with zeros at the end: (any,) -> (length,)."""
    return np.pad(samples[:length], (0, max(0, length - len(samples))))


def _read(path: Path, seconds: float) -> tuple[np.ndarray, int]:
    """Read up to `seconds` and one sample more of a file: (sample,) float32, and the file's own rate."""
    import soundfile

    try:
        file = soundfile.SoundFile(os.fsencode(path))  # bytes, because a name need not be UTF-8
    except (soundfile.SoundFileError, OSError, TypeError) as error:
        raise AudioError(path, "not audio", _reason(error)) from error
    with file:
        rate, channels = file.samplerate, file.channels
        if channels > MAX_CHANNELS:
            raise AudioError(path, "too many channels", f"{channels}, at most {MAX_CHANNELS}")
        if not RATES[0] <= rate <= RATES[1]:
            raise AudioError(path, "not audio", f"its header says {rate} Hz")
        # a buffer of our own size, because the length in a header is a guess (MP3) or wrong (damage)
        frames = np.empty((math.ceil(seconds * rate) + 1, channels), np.float32)  # (sample, channel)
        try:
            frames = file.read(out=frames)
        except soundfile.SoundFileError as error:
            raise AudioError(path, "damaged", _reason(error)) from error
    if not len(frames):
        raise AudioError(path, "decodes to nothing", "no samples")
    if len(frames) < SHORTEST * rate:
        raise AudioError(path, "too short", f"{len(frames) / rate * 1000:.2g} ms, at least {SHORTEST * 1000:g}")
    if not np.isfinite(frames).all():
        raise AudioError(path, "non-finite samples", f"{int((~np.isfinite(frames)).sum())} are NaN or infinite")
    peak = float(np.abs(frames).max())
    if peak > MAX_PEAK:
        raise AudioError(path, "too loud", f"its peak is {peak:.3g} times full scale")
    return frames.mean(axis=1), rate


def _reason(error: Exception) -> str:
    text = getattr(error, "error_string", str(error))  # libsndfile's own words, without the path
    return text.strip().rstrip(".") or type(error).__name__


def save(path: Path, samples: np.ndarray, sample_rate: int, comment: str = "") -> float:
    """Write (sample,) float samples in 16 bits, whole or not at all, in the format of `path`'s suffix;
    return their peak.

    A peak above full scale (1.0) is neither wrapped nor clipped: the whole note is scaled down to fit, and the caller
    can report it. `comment` goes into the file's own field for it, where `read_comment` reads it.

    Raises:
        AudioError: samples that are NaN or infinite.
        UserError: the file cannot be written.
    """
    import soundfile

    if not np.isfinite(samples).all():
        raise AudioError(path, "non-finite samples", "nothing was written")
    peak = float(np.abs(samples).max(initial=0.0))
    pcm = _to_pcm(samples)
    form = path.suffix.removeprefix(".").upper()
    with (
        atomic_write(path) as file,
        soundfile.SoundFile(file, "w", sample_rate, channels=1, format=form, subtype="PCM_16") as sound,
    ):
        if comment:
            sound.comment = comment
        sound.write(pcm)
    return peak


def round_to_pcm(samples: np.ndarray) -> np.ndarray:
    """Return what `load` reads from a 16-bit file of `samples`, bit for bit: (sample,) -> (sample,) float32."""
    return _to_pcm(samples).astype(np.float32) / np.float32(PCM_READ_SCALE)


def _to_pcm(samples: np.ndarray) -> np.ndarray:
    peak = float(np.abs(samples).max(initial=0.0))
    return np.rint(samples / max(peak, FULL_SCALE) * PCM_PEAK).astype(np.int16)


def read_comment(path: Path) -> str:
    """Read the comment that `save` has written; empty if there is none, or no file, or no audio."""
    import soundfile

    try:
        with soundfile.SoundFile(os.fsencode(path)) as file:
            return str(file.comment)
    except (soundfile.SoundFileError, OSError):
        return ""
