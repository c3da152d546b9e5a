"""pipeline.container: a file is read to its end, whatever its header states, or is known to lack its end."""

import io
import shutil
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from pipeline.audio import AudioError, load, load_at_file_rate
from tests.support.notes import tone, write_note

RATE = 16_000  # Hz
DELAY = 1_105  # samples of silence that an MP3 encoder and decoder put before the sound, unless a header says so
FRAME = 576  # samples of an MP3 frame at this rate


def mp3(seconds: float = 2.0, variable: bool = True) -> bytes:
    """An MP3 with a Xing or Info header: noise behind quiet, so that frames of a variable rate differ in size."""
    sound = tone(seconds=seconds, rate=RATE)
    sound[: len(sound) // 2] *= 1e-3
    sound[len(sound) // 2 :] += np.random.default_rng(0).normal(0, 0.1, len(sound) - len(sound) // 2)
    buffer = io.BytesIO()
    mode = "VARIABLE" if variable else "CONSTANT"
    soundfile.write(buffer, sound, RATE, format="MP3", bitrate_mode=mode, compression_level=0.5)
    return buffer.getvalue()


def header_frame(content: bytes) -> tuple[int, int]:
    """Where the frame with the Xing or Info header begins and ends."""
    tag = max(content.find(b"Xing"), content.find(b"Info"))
    start = content.rfind(b"\xff\xf3", 0, tag)
    return start, content.find(b"\xff\xf3", start + 2)


def set_count(content: bytes, frames: Callable[[int], int]) -> bytes:
    """Let the header state another number of frames."""
    tag = max(content.find(b"Xing"), content.find(b"Info"))
    [count] = struct.unpack(">I", content[tag + 8 : tag + 12])
    return content[: tag + 8] + struct.pack(">I", frames(count)) + content[tag + 12 :]


def read(folder: Path, name: str, content: bytes) -> np.ndarray:
    (folder / name).write_bytes(content)
    return load_at_file_rate(folder / name)[0]


def refusal(folder: Path, name: str, content: bytes, duration: float | None = None) -> str:
    (folder / name).write_bytes(content)
    with pytest.raises(AudioError) as caught:
        load(folder / name, RATE, duration)
    return f"{caught.value.reason} ({caught.value.detail})"


def without_header(content: bytes) -> bytes:
    start, end = header_frame(content)
    return content[:start] + content[end:]


def test_an_mp3_of_variable_rate_without_a_length_is_read_to_its_end_without_a_shift(tmp_path: Path) -> None:
    whole = read(tmp_path, "whole.mp3", mp3())
    content = without_header(mp3())
    with soundfile.SoundFile(io.BytesIO(content)) as file:
        assert abs(file.frames - len(whole)) > RATE / 4  # libsndfile's guess is far off
    streamed = read(tmp_path, "streamed.mp3", content)
    assert len(streamed) % FRAME == 0 and 0 < len(streamed) - len(whole) < 4 * FRAME
    assert np.abs(streamed[DELAY : DELAY + len(whole)] - whole).max() < 1e-6


def test_a_header_of_fraunhofers_encoder_is_no_sound(tmp_path: Path) -> None:
    content = mp3()
    start, end = header_frame(content)
    frame = bytearray(end - start)
    frame[:4] = content[start : start + 4]
    frame[36:40] = b"VBRI"
    streamed = read(tmp_path, "streamed.mp3", without_header(content))
    assert np.array_equal(read(tmp_path, "vbri.mp3", content[:start] + bytes(frame) + content[end:]), streamed)


def test_an_mp3_that_holds_more_than_its_header_states_is_read_to_its_end(tmp_path: Path) -> None:
    whole = read(tmp_path, "whole.mp3", mp3())
    longer = read(tmp_path, "longer.mp3", set_count(mp3(), lambda count: count // 3))
    assert abs(len(longer) - len(whole)) < 2 * FRAME
    assert np.abs(longer[: len(whole) - 2 * FRAME] - whole[: len(longer)][: len(whole) - 2 * FRAME]).max() < 1e-6


def test_an_mp3_of_constant_rate_without_a_length_gives_libsndfiles_samples(tmp_path: Path) -> None:
    content = without_header(mp3(variable=False))
    assert np.array_equal(read(tmp_path, "a.mp3", content), soundfile.read(io.BytesIO(content), dtype="float32")[0])


def test_tags_and_junk_around_the_frames_do_not_change_an_mp3(tmp_path: Path) -> None:
    content = without_header(mp3())
    plain = read(tmp_path, "plain.mp3", content)
    id3 = b"ID3\4\0\0" + bytes([0, 0, 2, 0]) + b"\xff\xfb\x90\x00" * 64  # what looks like frames in a picture
    tagged = id3 + content + b"APETAGEX" + b"\xff" * 200 + b"TAG" + bytes(125)
    assert np.array_equal(read(tmp_path, "tagged.mp3", tagged)[: len(plain)], plain)


@pytest.mark.parametrize("share", [0.2, 0.5, 0.9])
def test_an_mp3_that_was_cut_is_damaged_if_its_header_says_so(tmp_path: Path, share: float) -> None:
    content = mp3()
    assert "damaged (" in (text := refusal(tmp_path, "a.mp3", content[: round(share * len(content))]))
    assert f" of {2 * RATE:,} samples)" in text


def flac(seconds: float = 2.0) -> bytearray:
    buffer = io.BytesIO()
    soundfile.write(buffer, tone(seconds=seconds, rate=RATE), RATE, format="FLAC")
    return bytearray(buffer.getvalue())


def set_total(content: bytearray, samples: int) -> bytes:
    total = int.from_bytes(content[21:26]) & ~0xF_FFFF_FFFF | samples
    return bytes(content[:21] + total.to_bytes(5) + content[26:])


@pytest.mark.parametrize("stated", [0, 5_000])
def test_a_flac_of_unknown_or_understated_length_is_read_to_its_end(tmp_path: Path, stated: int) -> None:
    whole = read(tmp_path, "whole.flac", flac())
    assert len(whole) == 2 * RATE
    assert np.array_equal(read(tmp_path, "a.flac", set_total(flac(), stated)), whole)


def test_an_id3_tag_at_either_end_of_a_flac_does_no_harm(tmp_path: Path) -> None:
    tagged = b"ID3\4\0\0" + bytes([0, 0, 0, 100]) + bytes(100) + bytes(flac()) + b"TAG" + bytes(125)
    assert np.array_equal(read(tmp_path, "a.flac", tagged), read(tmp_path, "b.flac", flac()))


@pytest.mark.parametrize("share", [0.3, 0.8])
def test_a_flac_that_was_cut_is_damaged(tmp_path: Path, share: float) -> None:
    content = bytes(flac())
    assert refusal(tmp_path, "a.flac", content[: round(share * len(content))]).endswith(f" of {2 * RATE:,} samples)")


def wav(subtype: str = "PCM_16", form: str = "WAV", seconds: float = 2.0) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, tone(seconds=seconds, rate=RATE), RATE, format=form, subtype=subtype)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("subtype", "form"),
    [("PCM_16", "WAV"), ("PCM_24", "WAV"), ("FLOAT", "WAV"), ("ULAW", "WAV"), ("IMA_ADPCM", "WAV"), ("PCM_16", "RF64")],
)
def test_a_wav_that_was_cut_is_damaged_and_a_whole_one_is_not(tmp_path: Path, subtype: str, form: str) -> None:
    content = wav(subtype, form)
    samples = len(read(tmp_path, "whole.wav", content))
    text = refusal(tmp_path, "cut.wav", content[: len(content) // 4])
    assert text.startswith("damaged (") and text.endswith(f" of {samples:,} samples)")


def test_a_cut_behind_the_window_is_not_looked_for(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    path.write_bytes(wav()[: RATE * 3])  # 1.5 of 2 s
    assert len(load(path, RATE, 1.0)) == RATE
    assert refusal(tmp_path, "b.wav", wav()[: RATE * 3], 1.6).startswith("damaged (")


@pytest.mark.parametrize("size", [0, 0x7FFF_FFFF, 0xFFFF_FFFF, 0x7FFF_F000])
def test_a_wav_from_a_pipe_is_read_to_its_end(tmp_path: Path, size: int) -> None:
    content = bytearray(wav())
    content[40:44] = struct.pack("<I", size)
    content[4:8] = struct.pack("<I", size and 0xFFFF_FFFF)
    assert np.array_equal(read(tmp_path, "a.wav", bytes(content)), read(tmp_path, "b.wav", wav()))


def ogg(pitch: int = 60, rate: int = RATE) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, tone(pitch, seconds=1.0, rate=rate), rate, format="OGG", subtype="VORBIS")
    return buffer.getvalue()


def test_an_ogg_without_its_last_page_is_damaged(tmp_path: Path) -> None:
    last = ogg().rfind(b"OggS")
    for content in (ogg()[:last], ogg()[:-100], ogg()[: last + 10]):
        assert refusal(tmp_path, "a.ogg", content) == "damaged (no last page)"


def test_a_chained_ogg_is_read_to_the_end_of_its_last_stream(tmp_path: Path) -> None:
    first, second = read(tmp_path, "a.ogg", ogg(60)), read(tmp_path, "b.ogg", ogg(72))
    assert np.array_equal(read(tmp_path, "chained.ogg", ogg(60) + ogg(72)), np.concatenate([first, second]))
    assert refusal(tmp_path, "c.ogg", ogg(60) + ogg(72, 8_000)) == "damaged (its streams differ in rate or channels)"
    assert refusal(tmp_path, "d.ogg", ogg(60) + ogg(72)[:-100]) == "damaged (no last page)"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"\0\0\0\x20ftypM4A ", "M4A"),
        (b"\xff\xf1\x50\x80" * 500, "AAC"),
        (bytes.fromhex("3026b2758e66cf11"), "WMA"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        (b"<!DOCTYPE html><html>", "HTML"),
        (b"PK\3\4" + mp3(), "ZIP"),
        (bytes(1_000), "zeros"),
        (b"some words", "no kind that is known"),
    ],
)
@pytest.mark.parametrize("suffix", ["mp3", "wav"])
def test_what_is_not_audio_is_named(tmp_path: Path, content: bytes, words: str, suffix: str) -> None:
    text = refusal(tmp_path, f"a.{suffix}", content)
    assert text.startswith("not audio") and words in text


FORMATS = {
    "mp3": ["", "-q:a 4", "-b:a 64k -write_xing 0"],
    "wav": ["", "-c:a pcm_u8", "-c:a pcm_s24le", "-c:a pcm_f32le", "-c:a adpcm_ms", "-c:a pcm_mulaw", "-rf64 always"],
    "flac": ["", "-compression_level 0 -sample_fmt s32"],
    "ogg": ["-c:a libvorbis", "-c:a libopus"],
    **{suffix: [""] for suffix in ("aac", "ac3", "aiff", "au", "caf", "m4a", "mp2", "mp4", "opus", "tta", "wma", "wv")},
    "webm": ["-c:a libopus", "-c:a libvorbis"],
    "mka": ["-c:a aac", "-c:a flac", "-c:a libmp3lame"],
    "oga": ["-c:a flac"],
}
PIPED = {"mp3": "-f mp3 -q:a 4", "wav": "-f wav", "flac": "-f flac", "ogg": "-f ogg -c:a libvorbis", "aac": "-f adts"}


@pytest.mark.long
@pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="ffmpeg is not installed")
@pytest.mark.parametrize(("rate", "channels"), [(44_100, 1), (48_000, 2), (16_000, 1), (22_050, 2)])
def test_what_ffmpeg_writes_is_read_as_ffmpeg_reads_it(tmp_path: Path, rate: int, channels: int) -> None:
    source = tmp_path / "source.wav"
    write_note(source, np.repeat(tone(seconds=3.0, rate=rate)[:, None], channels, axis=1), rate)
    ffmpeg = ["ffmpeg", "-v", "error", "-y"]
    for suffix, how, is_piped in [
        *((suffix, how, False) for suffix, ways in FORMATS.items() for how in ways),
        *((suffix, how, True) for suffix, how in PIPED.items()),
    ]:
        path = tmp_path / f"a.{suffix}"
        output = "pipe:1" if is_piped else str(path)
        made = subprocess.run([*ffmpeg, "-i", str(source), *how.split(), output], capture_output=True, check=True)
        if is_piped:
            path.write_bytes(made.stdout)
        samples, own_rate = load_at_file_rate(path)
        raw = ["-f", "f32le", "-ar", str(own_rate), "pipe:1"]
        decoded = subprocess.run([*ffmpeg, "-i", str(path), *raw], capture_output=True, check=True)
        expected = np.frombuffer(decoded.stdout, np.float32).reshape(-1, channels).mean(axis=1)
        name = f"{suffix} {how} {'piped' if is_piped else ''} {rate} Hz"
        assert abs(len(samples) - len(expected)) <= 0.05 * own_rate, name
        level = np.sqrt(np.mean(np.square(samples)) / np.mean(np.square(expected)))
        assert level == pytest.approx(1, abs=0.03), name
