"""pipeline.segments: joined, the segments of a recording are the recording, whatever its rate and format."""

import itertools
import tracemalloc
from collections import deque
from pathlib import Path

import numpy as np
import pytest

from pipeline import audio, segments
from pipeline.audio import AudioError, load
from pipeline.segments import check_segment, load_segment, load_segments
from tests.support.notes import tone, write_note

RATE = 24_000  # Hz, of the codec


def recording(path: Path, seconds: float = 3.1, rate: int = 44_100) -> Path:
    """Write two channels that differ."""
    left = tone(60, seconds, rate)
    return write_note(path, np.stack([left, left[::-1]], axis=1), rate)


@pytest.mark.parametrize("name", ["a.wav", "a.flac", "a.mp3", "a.ogg", "a.aiff"])
@pytest.mark.parametrize(("rate", "seconds"), [(44_100, 0.5), (22_050, 0.013), (24_000, 0.77), (16_000, 5.0)])
def test_joined_segments_are_the_whole_file_resampled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, rate: int, seconds: float
) -> None:
    monkeypatch.setattr(audio, "BLOCK", 10_000)
    path = recording(tmp_path / name, rate=rate)
    whole = load(path, RATE)
    parts = list(load_segments(path, RATE, seconds, shortest=1))
    assert np.array_equal(np.concatenate(parts), whole)
    length = round(seconds * RATE)
    assert [len(part) for part in parts[:-1]] == [length] * (len(whole) // length - (len(whole) % length == 0))
    assert all(part.dtype == np.float32 for part in parts)
    assert np.array_equal(load_segment(path, RATE, seconds, len(parts) // 2), parts[len(parts) // 2])


@pytest.mark.parametrize(("samples", "lengths"), [(960, [480, 480]), (1279, [480, 480]), (1280, [480, 480, 320])])
def test_what_is_left_over_is_a_segment_if_it_is_long_enough(tmp_path: Path, samples: int, lengths: list[int]) -> None:
    path = write_note(tmp_path / "a.wav", tone(rate=RATE)[:samples], RATE)
    assert [len(part) for part in load_segments(path, RATE, 0.02, shortest=320)] == lengths


def test_memory_does_not_grow_with_the_recording(tmp_path: Path) -> None:
    path = write_note(tmp_path / "a.wav", np.tile(tone(seconds=1.0, rate=44_100), 180), 44_100)  # 32 MB as float32
    list(load_segments(path, RATE, 1.0, 320))  # what is imported and allocated once
    tracemalloc.start()
    count = sum(1 for _ in load_segments(path, RATE, 1.0, 320))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == 180 and peak < 5_000_000


def fault(path: Path, seconds: float = 0.1) -> tuple[str, int]:
    """The reason for which a recording is rejected, and the number of segments before it is known."""
    numbers = itertools.count()
    with pytest.raises(AudioError) as caught:
        deque(zip(load_segments(path, RATE, seconds, shortest=320), numbers, strict=False), maxlen=0)
    assert "\n" not in caught.value.message
    return caught.value.reason, next(numbers)


def test_faults_are_those_of_a_note_that_is_read_whole(tmp_path: Path) -> None:
    sound = tone(seconds=1.0)
    for name, samples, subtype in [
        ("nan.wav", np.where(np.arange(16_000) == 9_000, np.nan, sound), "FLOAT"),
        ("loud.wav", sound * 100, "FLOAT"),
        ("cancel.wav", np.stack([sound, -sound], axis=1), "FLOAT"),
        ("short.wav", sound[:100], "PCM_16"),
        ("none.wav", sound[:0], "PCM_16"),
        ("surround.wav", np.stack([sound] * 6, axis=1), "PCM_16"),
    ]:
        path = write_note(tmp_path / name, samples, subtype=subtype)
        with pytest.raises(AudioError) as caught:
            load(path, RATE)
        assert fault(path)[0] == caught.value.reason, name


def test_a_recording_without_its_end_is_damaged_and_its_first_segments_can_be_read(tmp_path: Path) -> None:
    path = recording(tmp_path / "a.wav")
    first = load_segment(path, RATE, 0.5, 0)
    path.write_bytes(path.read_bytes()[:-1000])
    assert fault(path, 0.5) == ("damaged", 6)
    assert np.array_equal(load_segment(path, RATE, 0.5, 0), first)


def test_a_recording_has_a_longest_length(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = recording(tmp_path / "a.wav", 0.4)
    monkeypatch.setattr(segments, "MOST_SEGMENTS", 4)
    assert len(list(load_segments(path, RATE, 0.1, 320))) == 4
    assert fault(recording(tmp_path / "b.wav", 0.41), 0.1)[0] == "too long"
    monkeypatch.setattr(segments, "LONGEST_RECORDING", 0.3)
    assert fault(path, 0.1)[0] == "too long"


def test_a_segment_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(AudioError, match=r"too short \(it has no segment 7 of 0.5 s\)"):
        load_segment(recording(tmp_path / "a.wav"), RATE, 0.5, 7)


@pytest.mark.parametrize("value", [None, "4", [4], 0, -1, float("nan"), float("inf"), 1e-9, 1e9])
def test_a_length_that_a_stranger_wrote_is_a_number_of_seconds(value: object) -> None:
    with pytest.raises(ValueError, match="segments of"):
        check_segment(value)
