"""Audio file -> samples at a codec's rate; samples -> WAV or FLAC file.

Reads the formats of libsndfile (MP3, WAV, FLAC, OGG) to their end, and with the package `av` those of FFmpeg, mixes to
mono, resamples, pads or trims. A damaged file raises an `AudioError` that says what is wrong with it; a file that
crashes or hangs a decoder is left to the caller. Knows nothing of codecs, names or shards.
"""

import importlib.util
import io
import math
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.container import Contents, describe_content, find_contents
from shards.console import counted
from shards.errors import UserError
from shards.files import atomic_write

SUFFIXES = frozenset({".mp3", ".wav", ".flac", ".ogg"})  # in any case
FFMPEG_SUFFIXES = frozenset(
    {
        *(
            ".3gp",
            ".aac",
            ".ac3",
            ".aif",
            ".aifc",
            ".aiff",
            ".amr",
            ".ape",
            ".au",
            ".caf",
            ".m4a",
            ".m4b",
            ".mka",
            ".mp2",
        ),
        *(".mp4", ".oga", ".opus", ".spx", ".tta", ".webm", ".wma", ".wv"),
    }
)
RESAMPLER = "soxr HQ"

MAX_CHANNELS = 2
RATES = (1_000, 768_000)  # Hz; a header that says otherwise is damaged
MAX_PEAK = 10.0  # peak, where 1 is full scale; more is a damaged float file, or one scaled like integers
SHORTEST = 0.02  # seconds of sound in the file; anything less is no note
LONGEST = 120.0  # seconds of a note that keeps its length: a codec's memory grows with it
TAIL = 0.1  # seconds read beyond what is kept, so that resampling has no edge there
BLOCK = 1 << 17  # samples decoded at a time

INDEXED = frozenset({"aiff", "ape", "asf", "au", "caf", "matroska", "mov", "tta", "wv"})  # state their length
CODEC_DELAY = 0.2  # seconds by which a length that FFmpeg states may differ from the samples of a whole file

CANCELLED = 100.0  # 20 dB: channels that have so much more power than their mix cancel each other
ONSET = 0.01  # a note begins where it reaches this share of its peak, or of full scale if that is less

FULL_SCALE = 1.0  # peak of samples that fit into a file
PCM_PEAK = 32_767  # of 16-bit samples
PCM_READ_SCALE = 32_768  # libsndfile divides 16-bit samples by this


def has_ffmpeg() -> bool:
    """True if the package that brings FFmpeg's decoders is installed."""
    return importlib.util.find_spec("av") is not None


class AudioError(UserError):
    """A file without usable samples: `reason` is one of a few phrases to count by, `detail` this file's numbers."""

    def __init__(self, path: Path, reason: str, detail: str) -> None:
        super().__init__(f"{path}: {reason} ({detail})")
        self.reason = reason
        self.detail = detail


def load(path: Path, sample_rate: int, duration: float | None = None, trim: bool = False) -> np.ndarray:
    """Read one file as mono: (sample,) float32 at `sample_rate`.

    With a `duration` in seconds the result is cut or padded with zeros to it, and no more of the file is read and
    judged; without, it has the file's length. `trim`: leave out the silence before the note begins.

    Raises:
        AudioError: not audio, too many channels or channels that cancel, damaged, no or hardly any samples, NaN or
            absurd ones, too many to keep, or a note that begins after the duration.
    """
    if duration is None:
        return resample(*load_at_file_rate(path, trim), sample_rate)
    samples, rate = _read(path, duration + TAIL, _find_onset(path)[0] if trim else 0)
    window = samples[: math.ceil(duration * rate)]
    if not trim and len(window) < len(samples) and peak_of(window) < ONSET * FULL_SCALE:
        onset, level = _find_onset(path)
        if peak_of(window) < level:
            detail = f"at {onset / rate:.2f} s of which the first {duration:g} s are kept; cut its start, or use --trim"
            raise AudioError(path, "begins late", detail)
    return fit(resample(samples, rate, sample_rate), round(duration * sample_rate))


def load_at_file_rate(path: Path, trim: bool = False) -> tuple[np.ndarray, int]:
    """Read one whole file as mono: (sample,) float32, and the file's own rate in Hz. Raises AudioError."""
    samples, rate = _read(path, LONGEST, _find_onset(path)[0] if trim else 0)
    if len(samples) > LONGEST * rate:
        raise AudioError(
            path, "too long", f"more than {LONGEST:g} s; cut it, or encode it with --segment or --duration"
        )
    return samples, rate


def stated_seconds(path: Path) -> float:
    """The length of a file that can be read, as its header states it or lets guess; 0 if it does not."""
    if path.suffix.lower() in FFMPEG_SUFFIXES:
        import av

        with path.open("rb") as file, av.open(file, mode="r") as container:
            return (container.duration or 0) / av.time_base
    import soundfile

    return float(soundfile.info(os.fsencode(path)).duration)


def resample(samples: np.ndarray, sample_rate: int, new_rate: int) -> np.ndarray:
    """Resample (sample,) to another rate; equal rates return the same array."""
    import soxr

    return samples if sample_rate == new_rate else soxr.resample(samples, sample_rate, new_rate, quality="HQ")


def fit(samples: np.ndarray, length: int) -> np.ndarray:
    """Trim, or pad with zeros at the end: (any,) -> (length,)."""
    return np.pad(samples[:length], (0, max(0, length - len(samples))))


def _read(path: Path, seconds: float, start: int) -> tuple[np.ndarray, int]:
    """Read up to `seconds` and one sample more from sample `start` on: (sample,) float32, and the file's own rate."""
    with open_audio(path) as (rate, blocks):
        stop = start + math.ceil(seconds * rate) + 1
        read, count = [np.zeros((0, 1), np.float32)], 0
        for block in blocks:
            read.append(block[max(0, start - count) : stop - count])
            count += len(block)
            if count >= stop:
                break
    frames = np.concatenate(read[1:] or read)  # (sample, channel)
    check_length(path, len(frames), rate)
    check_levels(path, frames)
    mono = frames.mean(axis=1)
    check_mix(path, float(np.square(frames).mean()), float(np.square(mono).mean()))
    return mono, rate


def check_length(path: Path, count: int, rate: int) -> None:
    """Raise AudioError unless `count` samples are enough for a note."""
    if not count:
        raise AudioError(path, "decodes to nothing", "no samples")
    if count < SHORTEST * rate:
        raise AudioError(path, "too short", f"{count / rate * 1000:.2g} ms, at least {SHORTEST * 1000:g}")


def check_levels(path: Path, frames: np.ndarray) -> None:
    """Raise AudioError if samples, (sample, channel), are not finite or absurdly loud."""
    if not np.isfinite(frames).all():
        raise AudioError(path, "non-finite samples", f"{int((~np.isfinite(frames)).sum())} are NaN or infinite")
    if (peak := peak_of(frames)) > MAX_PEAK:
        raise AudioError(path, "too loud", f"its peak is {peak:.3g} times full scale")


def check_mix(path: Path, power: float, mix_power: float) -> None:
    """Raise AudioError if the channels, of this mean power, cancel each other in their mix."""
    if power > 0 and power >= CANCELLED * mix_power:
        decibels = 10 * math.log10(power / mix_power) if mix_power else math.inf
        raise AudioError(path, "channels cancel", f"their mix is {decibels:.0f} dB below them; swap one channel's sign")


def _find_onset(path: Path) -> tuple[int, float]:
    """The sample at which the note begins, and the level that it reaches there. Reads the whole file."""
    first, peaks = 0, [(0, 0.0)]  # running maxima: (sample, peak)
    with open_audio(path) as (_, blocks):
        for block in blocks:
            maxima = np.fmax.accumulate(np.abs(block.mean(axis=1)))
            steps = np.flatnonzero(np.diff(maxima, prepend=np.float32(peaks[-1][1])) > 0)
            peaks += [(first + int(index), float(maxima[index])) for index in steps if maxima[index] > peaks[-1][1]]
            first += len(block)
    level = ONSET * min(FULL_SCALE, peaks[-1][1])
    return next(sample for sample, peak in peaks if peak >= level), level


def peak_of(samples: np.ndarray) -> float:
    """The largest absolute value of samples of any shape; 0 if there are none."""
    return float(np.abs(samples).max(initial=0.0))


@contextmanager
def open_audio(path: Path) -> Iterator[tuple[int, Iterator[np.ndarray]]]:
    """The file's rate in Hz, and its samples in blocks: (sample, channel) float32.

    An end that is missing raises behind the last block, so who stops earlier does not hear of it.
    """
    if path.suffix.lower() in FFMPEG_SUFFIXES:
        with _open_by_ffmpeg(path) as opened:
            yield opened
        return
    import soundfile

    with ExitStack() as stack:
        try:
            file = stack.enter_context(soundfile.SoundFile(os.fsencode(path)))  # bytes: a name need not be UTF-8
            if file.format == "MP3" and (description := describe_content(path)):
                raise AudioError(path, "not audio", description)  # the decoder finds MP3 frames in anything
            _check_form(path, file.samplerate, file.channels)
            contents = find_contents(path, file.format, file.frames)
            parts = [stack.enter_context(part) for part in contents.parts]
            files = [stack.enter_context(soundfile.SoundFile(part)) for part in parts] or [file]
        except (soundfile.SoundFileError, OSError, TypeError) as error:
            raise _unopened(path, error) from error
        if {(part.samplerate, part.channels) for part in files} != {(file.samplerate, file.channels)}:
            raise AudioError(path, "damaged", "its streams differ in rate or channels")
        yield file.samplerate, _decode(path, files, contents)


def _decode(path: Path, files: list[Any], contents: Contents) -> Iterator[np.ndarray]:
    import soundfile

    count = -contents.skip  # samples
    error = None
    for file in files:
        file.seekable = lambda: False  # else soundfile seeks behind each read, which a patched FLAC cannot at its end
        size = BLOCK
        while size == BLOCK and error is None:
            block = np.full((BLOCK, file.channels), np.nan, np.float32)
            try:
                size = len(file.read(out=block))
            except soundfile.SoundFileError as caught:
                error = _reason(caught)
                size = int((~np.isnan(block[:, 0])).sum())  # the block is filled up to the error
            yield block[max(0, -count) : size]
            count += size
    _check_end(path, count, contents.stated, contents.fault or (error if contents.stated is None else None))


@contextmanager
def _open_by_ffmpeg(path: Path) -> Iterator[tuple[int, Iterator[np.ndarray]]]:
    try:
        import av
    except ImportError as error:
        raise UserError(f"{path}: is read by FFmpeg; pip install '.[audio]'") from error
    with ExitStack() as stack:
        try:
            container = stack.enter_context(av.open(stack.enter_context(path.open("rb"))))
        except (av.FFmpegError, OSError, ValueError) as error:
            raise AudioError(path, "damaged", _reason(error)) from error
        if not container.streams.audio:
            raise AudioError(path, "not audio", "there is no sound in it")
        stream = container.streams.audio[0]
        _check_form(path, stream.rate or 0, stream.channels)
        yield stream.rate, _decode_by_ffmpeg(path, container, stream)


def _decode_by_ffmpeg(path: Path, container: Any, stream: Any) -> Iterator[np.ndarray]:
    import av

    count, fault = 0, None
    resampler = av.AudioResampler("flt", stream.layout, stream.rate)  # another format, the same rate
    try:
        for frame in container.decode(stream):
            for converted in resampler.resample(frame):
                block = converted.to_ndarray().reshape(-1, stream.channels)
                yield block
                count += len(block)
    except (av.FFmpegError, ValueError) as caught:
        fault = _reason(caught)
    stated = None
    formats = set(container.format.name.split(","))
    if "ogg" in formats:
        fault = find_contents(path, "OGG", count).fault
    if INDEXED & formats and container.duration:
        seconds = container.duration / av.time_base
        stated, fault = round(seconds * stream.rate), None
        if count / stream.rate > seconds - CODEC_DELAY:
            return
    _check_end(path, count, stated, fault)


def _check_end(path: Path, count: int, stated: int | None, fault: str | None) -> None:
    """Raise AudioError if a file of `count` samples, whose header states another number, has lost its end."""
    if fault is not None:
        raise AudioError(path, "damaged", fault)
    if stated is not None and count < stated:
        raise AudioError(path, "damaged", f"{count} of {counted(stated, 'sample')}")


def _check_form(path: Path, rate: int, channels: int) -> None:
    if channels > MAX_CHANNELS:
        raise AudioError(path, "too many channels", f"{channels}, at most {MAX_CHANNELS}")
    if not RATES[0] <= rate <= RATES[1]:
        raise AudioError(path, "not audio", f"its header says {rate} Hz")


def _unopened(path: Path, error: Exception) -> AudioError:
    try:
        return AudioError(path, "not audio", describe_content(path) or _reason(error))
    except OSError as unreadable:
        return AudioError(path, "unreadable", unreadable.strerror or str(unreadable))


def _reason(error: Exception) -> str:
    text = getattr(error, "error_string", None) or getattr(error, "strerror", None) or str(error)  # without the path
    if "File does not exist" in text or "not recognised" in text:  # the first is what libsndfile says of MP3s
        return "it is of no kind that is known"
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
    data = io.BytesIO()  # soundfile shows a traceback when it cannot write to a file
    with soundfile.SoundFile(data, "w", sample_rate, channels=1, format=form, subtype="PCM_16") as sound:
        if comment:
            sound.comment = comment
        sound.write(pcm)
    with atomic_write(path) as file:
        file.write(data.getbuffer())
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
