"""pipeline.audio: files of all kinds give samples of exactly the form a codec wants, or say why not."""

import os
from pathlib import Path

import numpy as np
import pytest
import soundfile
import soxr

from pipeline.audio import LONGEST, AudioError, fit, load, save
from shards.errors import UserError
from tests.support.disk import largest_file
from tests.support.notes import RATE, tone, write_note

CODEC_RATE = 24_000  # Hz


@pytest.mark.parametrize("name", ["a.mp3", "a.wav", "a.flac", "a.ogg"])
def test_every_format_gives_mono_float32_at_the_codecs_rate(tmp_path: Path, name: str) -> None:
    path = write_note(tmp_path / name, tone(seconds=1.0))
    samples = load(path, CODEC_RATE, 1.0)
    assert (samples.dtype, samples.shape) == (np.float32, (CODEC_RATE,))
    expected = soxr.resample(tone(seconds=1.0), RATE, CODEC_RATE)
    assert np.abs(samples - expected).max() < (0.1 if name in ("a.mp3", "a.ogg") else 1e-3)  # two of them lose some


def test_an_upper_case_ending_makes_no_difference(tmp_path: Path) -> None:
    path = write_note(tmp_path / "a.wav")
    os.link(path, tmp_path / "A.WAV")
    assert np.array_equal(load(path, CODEC_RATE, 1.0), load(tmp_path / "A.WAV", CODEC_RATE, 1.0))


@pytest.mark.parametrize("seconds", [0.1, 0.5, 0.73])
@pytest.mark.parametrize("rate", [8_000, 22_050, 24_000, 44_100])
def test_a_duration_is_met_to_the_sample(tmp_path: Path, seconds: float, rate: int) -> None:
    path = write_note(tmp_path / "a.wav", tone(seconds=0.4, rate=rate), rate)
    samples = load(path, CODEC_RATE, seconds)
    assert len(samples) == round(seconds * CODEC_RATE)
    sound = round(0.4 * CODEC_RATE)
    assert not samples[sound + 100 :].any()  # padded with silence, after the resampler has rung out
    whole = load(path, CODEC_RATE)
    assert len(whole) == pytest.approx(sound, abs=1)
    both = min(len(samples), len(whole))
    assert np.abs(samples[:both] - whole[:both]).max() < 1e-4  # what was not read leaves no edge


def test_without_resampling_samples_are_the_files_own(tmp_path: Path) -> None:
    sound = tone(rate=CODEC_RATE)
    path = write_note(tmp_path / "a.wav", sound, CODEC_RATE, subtype="FLOAT")
    assert np.array_equal(load(path, CODEC_RATE), sound)
    assert np.array_equal(load(path, CODEC_RATE, 1.0), fit(sound, CODEC_RATE))


def test_stereo_is_mixed_by_the_mean(tmp_path: Path) -> None:
    left, right = tone(60, rate=CODEC_RATE), tone(64, rate=CODEC_RATE)
    path = write_note(tmp_path / "a.wav", np.stack([left, right], axis=1), CODEC_RATE, subtype="FLOAT")
    assert np.allclose(load(path, CODEC_RATE), (left + right) / 2, atol=1e-7)


def both(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Two channels: (sample, channel)."""
    return np.stack([left, right], axis=1)


@pytest.mark.parametrize("right", [-tone(), -0.9 * tone(), -tone() + 0.01 * tone(61)])
def test_channels_that_cancel_are_refused_by_name(tmp_path: Path, right: np.ndarray) -> None:
    path = write_note(tmp_path / "a.wav", both(tone(), right), subtype="FLOAT")
    with pytest.raises(AudioError) as caught:
        load(path, RATE, 4.0)
    assert caught.value.reason == "channels cancel"


@pytest.mark.parametrize("right", [tone(), 0 * tone(), -0.5 * tone(), tone(61), -0.8 * tone()])
def test_channels_that_hardly_cancel_are_mixed(tmp_path: Path, right: np.ndarray) -> None:
    path = write_note(tmp_path / "a.wav", both(tone(), right), subtype="FLOAT")
    assert np.allclose(load(path, RATE), (tone() + right) / 2, atol=1e-7)


def late_note(path: Path, silence: float, floor: float = 0.0, peak: float = 0.5) -> Path:
    """A note behind seconds of silence, or of noise."""
    noise = np.random.default_rng(0).uniform(-floor, floor, round(silence * RATE))
    return write_note(path, np.concatenate([noise, tone(peak=peak)]), subtype="FLOAT")


@pytest.mark.parametrize("floor", [0.0, 2e-4, 4e-3])
def test_a_note_that_begins_after_the_duration_is_refused_with_the_second_at_which_it_begins(
    tmp_path: Path, floor: float
) -> None:
    with pytest.raises(AudioError) as caught:
        load(late_note(tmp_path / "a.wav", 5.0, floor), CODEC_RATE, 4.0)
    assert caught.value.reason == "begins late"
    assert caught.value.detail.startswith("at 5.00 s")


@pytest.mark.parametrize(
    ("silence", "floor", "peak"),
    [(0.9, 0.0, 0.5), (5.0, 0.02, 0.5), (5.0, 6e-3, 0.5), (5.0, 1e-5, 5e-4), (5.0, 0.0, 0.0)],
)
def test_a_quiet_beginning_is_not_a_late_one(tmp_path: Path, silence: float, floor: float, peak: float) -> None:
    path = late_note(tmp_path / "a.wav", silence, floor, peak)
    assert np.array_equal(load(path, RATE, 1.0), soundfile.read(path, dtype="float32")[0][:RATE])


@pytest.mark.parametrize("duration", [1.0, None])
@pytest.mark.parametrize("silence", [0.0, 0.3, 5.0, 130.0])
def test_trimming_leaves_the_note_and_what_follows(tmp_path: Path, silence: float, duration: float | None) -> None:
    path = late_note(tmp_path / "a.wav", silence, 1e-4)
    onset = np.flatnonzero(np.abs(tone()) >= 0.005)[0]
    trimmed = load(path, RATE, duration, trim=True)
    assert np.array_equal(trimmed[: len(tone()) - onset], tone()[onset:])


def test_trimming_leaves_silence_alone(tmp_path: Path) -> None:
    path = write_note(tmp_path / "a.wav", np.zeros(RATE))
    assert len(load(path, RATE, trim=True)) == RATE


@pytest.mark.parametrize(
    ("samples", "how", "reason"),
    [
        (np.zeros((0,)), {}, "decodes to nothing"),
        (np.ones(10) * 0.1, {}, "too short"),
        (np.full(8_000, np.nan), {"subtype": "FLOAT"}, "non-finite samples"),
        (np.full(8_000, np.inf), {"subtype": "FLOAT"}, "non-finite samples"),
        (tone(peak=30_000.0), {"subtype": "FLOAT"}, "too loud"),
        (np.zeros((8_000, 3)), {}, "too many channels"),
    ],
)
def test_samples_that_are_no_use_are_refused_with_the_reason(
    tmp_path: Path, samples: np.ndarray, how: dict[str, str], reason: str
) -> None:
    path = write_note(tmp_path / "a.wav", samples, **how)
    with pytest.raises(AudioError) as caught:
        load(path, CODEC_RATE, 4.0)
    assert caught.value.reason == reason
    assert str(path) in caught.value.message


@pytest.mark.parametrize("content", [b"no sound in here\n" * 100, b"RIFF\x00\x00\x00\x00WAVE", b"\xff\xfb"])
def test_a_file_that_is_not_audio_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.mp3"
    path.write_bytes(content)
    with pytest.raises(AudioError) as caught:
        load(path, CODEC_RATE, 4.0)
    assert caught.value.reason in ("not audio", "decodes to nothing")


def test_a_header_that_promises_the_moon_costs_no_memory(tmp_path: Path) -> None:
    path = write_note(tmp_path / "a.wav", tone(rate=CODEC_RATE), CODEC_RATE)
    data = bytearray(path.read_bytes())
    data[40:44] = b"\xf0\xff\xff\x7f"  # the data chunk claims 2 GB
    path.write_bytes(data)
    assert len(load(path, CODEC_RATE, 4.0)) == 4 * CODEC_RATE


def test_a_note_that_is_too_long_to_keep_can_be_cut(tmp_path: Path) -> None:
    rate = 1_000
    path = write_note(tmp_path / "a.wav", np.full(round((LONGEST + 1) * rate), 0.1), rate)
    with pytest.raises(AudioError, match="too long"):
        load(path, CODEC_RATE)
    assert len(load(path, CODEC_RATE, 1.0)) == CODEC_RATE


def test_a_name_that_is_not_utf8_is_read(tmp_path: Path) -> None:
    path = write_note(tmp_path / "a.wav")
    other = tmp_path / os.fsdecode(b"\xe9t\xe9.wav")
    path.rename(other)
    assert len(load(other, CODEC_RATE, 1.0)) == CODEC_RATE


def test_a_saved_file_has_the_samples_to_16_bits(tmp_path: Path) -> None:
    sound = tone(rate=CODEC_RATE)
    peak = save(tmp_path / "a.wav", sound, CODEC_RATE)
    assert peak == pytest.approx(0.5)
    samples, rate = soundfile.read(tmp_path / "a.wav", dtype="float32")
    assert rate == CODEC_RATE
    assert np.abs(samples - sound).max() < 1 / 32_000


def test_a_peak_above_full_scale_is_scaled_and_neither_wrapped_nor_clipped(tmp_path: Path) -> None:
    sound = tone(rate=CODEC_RATE, peak=1.7)
    assert save(tmp_path / "a.wav", sound, CODEC_RATE) == pytest.approx(1.7)
    samples, _ = soundfile.read(tmp_path / "a.wav", dtype="float32")
    assert np.abs(samples - sound / 1.7).max() < 1 / 16_000


def test_samples_that_are_not_finite_are_not_saved(tmp_path: Path) -> None:
    with pytest.raises(AudioError, match="nothing was written"):
        save(tmp_path / "a.wav", np.array([0.0, np.nan]), CODEC_RATE)
    assert not list(tmp_path.iterdir())


def test_an_error_is_the_users_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        load(tmp_path / "missing.wav", CODEC_RATE)
    assert "\n" not in caught.value.message


@pytest.mark.parametrize("ending", ["wav", "flac"])
def test_a_full_disk_is_one_line_and_leaves_nothing(
    ending: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with largest_file(500), pytest.raises(UserError, match=rf"a\.{ending}: cannot be written"):
        save(tmp_path / f"a.{ending}", tone(), RATE, "a comment")
    assert capfd.readouterr().err == ""
    assert list(tmp_path.iterdir()) == []
