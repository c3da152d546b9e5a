"""Recordings -> segments of equal length, read in blocks: memory does not grow with the recording.

The recording is resampled as a whole, so the segments, joined, are what `pipeline.audio.load` gives of it, bit for bit.
Knows nothing of codecs, keys or shards.
"""

from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.audio import LONGEST, AudioError, check_length, check_levels, check_mix, open_audio

MOST_SEGMENTS = 10_000  # of a recording: keys end in four digits
LONGEST_RECORDING = 12 * 3600.0  # seconds: all codes of a recording are in memory


def check_segment(seconds: Any) -> float:
    """Return the length of a segment, from a file, as a number. Raises ValueError: it is none."""
    if not isinstance(seconds, int | float) or not 0.001 <= seconds <= LONGEST:
        raise ValueError(f"segments of {seconds!r} s")
    return float(seconds)


def load_segments(path: Path, sample_rate: int, seconds: float, shortest: int) -> Iterator[np.ndarray]:
    """Read one file as mono in segments of `seconds`: each (sample,) float32 at `sample_rate`.

    The last one is shorter, if anything is left over; less than `shortest` samples are left out.

    Raises:
        AudioError: as `pipeline.audio.load`, or a recording that is too long. Faults that only the whole file shows are
            raised behind the last segment, so who stops earlier does not hear of them.
    """
    length = round(seconds * sample_rate)
    with open_audio(path) as (rate, blocks):
        longest = min(LONGEST_RECORDING, MOST_SEGMENTS * seconds)
        mono = _mix_blocks(path, blocks, rate, longest)
        yield from _cut(_resample_blocks(mono, rate, sample_rate), length, shortest)


def load_segment(path: Path, sample_rate: int, seconds: float, number: int) -> np.ndarray:
    """Read one of the segments of `load_segments`, and nothing behind it. Raises AudioError."""
    for segment in islice(load_segments(path, sample_rate, seconds, shortest=1), number, number + 1):
        return segment
    raise AudioError(path, "too short", f"it has no segment {number} of {seconds:g} s")


def _mix_blocks(path: Path, blocks: Iterable[np.ndarray], rate: int, longest: float) -> Iterator[np.ndarray]:
    """Mix (sample, channel) to mono, and check what `load` checks."""
    count, power, mix_power = 0, 0.0, 0.0  # sums over the samples
    for frames in blocks:
        count += len(frames)
        if count > longest * rate:
            raise AudioError(path, "too long", f"more than {longest:g} s; cut it into several files")
        check_levels(path, frames)
        mono = frames.mean(axis=1)
        power += float(np.square(frames, dtype=np.float64).sum()) / frames.shape[1]
        mix_power += float(np.square(mono, dtype=np.float64).sum())
        yield mono
    check_length(path, count, rate)
    check_mix(path, power / count, mix_power / count)


def _resample_blocks(blocks: Iterable[np.ndarray], sample_rate: int, new_rate: int) -> Iterator[np.ndarray]:
    """Resample blocks of one signal without seams between them."""
    import soxr

    if sample_rate == new_rate:
        yield from blocks
        return
    stream = soxr.ResampleStream(sample_rate, new_rate, 1, dtype="float32", quality="HQ")
    for block in blocks:
        yield stream.resample_chunk(block)
    yield stream.resample_chunk(np.zeros(0, np.float32), last=True)


def _cut(blocks: Iterable[np.ndarray], length: int, shortest: int) -> Iterator[np.ndarray]:
    """Cut a signal into parts of `length` samples, and what is left over."""
    parts, count = [np.zeros(0, np.float32)], 0
    for block in blocks:
        parts.append(block)
        count += len(block)
        if count >= length:
            samples = np.concatenate(parts)
            count %= length
            end = len(samples) - count
            yield from samples[:end].reshape(-1, length)
            parts = [samples[end:]]
    if count >= shortest:
        yield np.concatenate(parts)
