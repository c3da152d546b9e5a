"""Decoding: the files hold the codec's own round trip, for token files and shard sets alike."""

import json
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from click.testing import CliRunner

from pipeline.__main__ import main
from pipeline.codec.loaded import load_codec
from pipeline.codec.model import EnCodec
from pipeline.codec.spec import CodecError
from pipeline.decode.run import BATCH, decode_folder, decode_notes
from shards.errors import ShardError, UserError
from shards.note import Note, flatten, write_token_file
from tests.support.notes import Silent, tone
from tests.support.shard_sets import random_note, write_set

WAV_STEP = 1 / 32_767


@cache
def codec() -> EnCodec:
    torch.set_num_threads(1)
    return load_codec("encodec_mini")


@pytest.fixture
def tokens(tmp_path: Path) -> Path:
    """A folder of three token files of two lengths."""
    for name, frames in [("a", 9), ("b", 12), ("c", 9)]:
        write_token_file(tmp_path / "tokens", random_note(name, frames, codec().spec), codec().spec)
    return tmp_path / "tokens"


def decode(folder: Path, out: Path, **options: Any) -> Any:
    return decode_folder(folder, out, Silent(), device="cpu", **options)


def read_wav(path: Path) -> np.ndarray:
    samples, rate = soundfile.read(path, dtype="float32")
    assert rate == 24_000
    return samples


def test_encoding_and_decoding_is_the_codecs_own_round_trip(tmp_path: Path) -> None:
    samples = torch.from_numpy(np.stack([tone(pitch, 0.4, 24_000, 0.3) for pitch in (50, 57)]))  # (note, sample)
    codes = codec().encode(samples)
    for key, note in zip("ab", codes.numpy(), strict=True):
        write_token_file(tmp_path / "tokens", Note(key, flatten(note)), codec().spec)
    decode(tmp_path / "tokens", tmp_path / "out")
    model: Any = codec().model
    with torch.no_grad():
        expected = model(samples[:, None])[:, 0].numpy()
    for key, note in zip("ab", expected, strict=True):
        assert np.abs(read_wav(tmp_path / "out" / f"{key}.wav") - note).max() <= WAV_STEP


def test_a_shard_set_and_token_files_of_the_same_codes_sound_the_same(tokens: Path, tmp_path: Path) -> None:
    spec = codec().spec
    notes = [random_note("a", 9, spec), random_note("b", 12, spec), random_note("c", 9, spec)]
    write_set(tmp_path / "set", {"train": [notes[:2]], "valid": [notes[2:]]}, spec)
    assert decode(tmp_path / "set", tmp_path / "from_set").notes == decode(tokens, tmp_path / "from_files").notes == 3
    for key, frames in [("a", 9), ("b", 12), ("c", 9)]:
        of_set, of_files = (read_wav(tmp_path / folder / f"{key}.wav") for folder in ("from_set", "from_files"))
        assert len(of_set) == frames * spec.hop
        assert np.array_equal(of_set, of_files)


def test_notes_of_one_length_share_a_call_and_none_is_lost() -> None:
    calls: list[int] = []

    def counted(codes: torch.Tensor) -> torch.Tensor:
        calls.append(len(codes))
        return codec().decode(codes)

    notes = [random_note(f"n{index}", 3 + index % 2, codec().spec) for index in range(2 * BATCH + 3)]
    decoded = {note.key: waveform for note, waveform in decode_notes(notes, replace_decode(codec(), counted))}
    assert decoded.keys() == {note.key for note in notes}
    assert {note.key: len(note.tokens) // 2 * 320 for note in notes} == {
        key: len(samples) for key, samples in decoded.items()
    }
    assert calls == [BATCH, BATCH, 2, 1]


def test_a_note_that_peaks_above_full_scale_is_scaled_and_reported(
    tokens: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steady = torch.sin(torch.arange(2_880) / 10)[None]  # (note, sample), peak 1
    loud = replace_decode(codec(), lambda codes: steady.repeat(len(codes), 1) * (1.5 if codes.shape[2] == 12 else 0.5))
    monkeypatch.setattr("pipeline.decode.source.load_codec", lambda *_: loud)
    result = CliRunner().invoke(main, ["decode", str(tokens), "--out", str(tmp_path / "out")])
    assert result.exit_code == 0, result.output
    assert "b: peaked at 1.50 of full scale, scaled down to fit" in result.output
    assert "a: peaked" not in result.output
    assert np.abs(read_wav(tmp_path / "out/b.wav")).max() == pytest.approx(1.0, abs=1e-4)


def test_a_file_is_reused_until_its_codes_change(tokens: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert decode(tokens, out).reused == 0
    whole = {path.name: read_wav(path) for path in out.iterdir()}
    (out / "a.wav").unlink()  # a run that was stopped
    (out / "b.wav").write_bytes(b"RIFF")  # something else under the name
    assert decode(tokens, out).reused == 1
    for name, samples in whole.items():  # a step: notes that are decoded side by side share a sum's order
        assert np.abs(read_wav(out / name) - samples).max() <= WAV_STEP
    files = {path.name: path.read_bytes() for path in out.iterdir()}
    write_token_file(tokens, random_note("c", 9, codec().spec, seed=1), codec().spec)
    assert decode(tokens, out).reused == 2
    assert [name for name, data in files.items() if (out / name).read_bytes() != data] == ["c.wav"]


def test_flac_holds_the_samples_of_wav(tokens: Path, tmp_path: Path) -> None:
    decode(tokens, tmp_path / "out")
    decode(tokens, tmp_path / "out", form="flac")
    for key in "abc":
        assert soundfile.info(tmp_path / f"out/{key}.flac").format == "FLAC"
        assert np.array_equal(read_wav(tmp_path / f"out/{key}.flac"), read_wav(tmp_path / f"out/{key}.wav"))


def edit(path: Path, **changes: Any) -> None:
    value = json.loads(path.read_text())
    value["codec"].update(changes)
    path.write_text(json.dumps(value))


def no_codec_block(folder: Path) -> None:
    (folder / "b.json").write_text("{}")


def out_of_range(folder: Path) -> None:
    np.save(folder / "b.npy", np.full(24, 1024, np.int16))


def odd_length(folder: Path) -> None:
    np.save(folder / "b.npy", np.zeros(23, np.int16))


def of_floats(folder: Path) -> None:
    np.save(folder / "b.npy", np.zeros(24))


def no_tokens(folder: Path) -> None:
    np.save(folder / "b.npy", np.zeros(0, np.int16))


def no_labels(folder: Path) -> None:
    (folder / "b.json").unlink()


def other_weights(folder: Path) -> None:
    for name in "abc":
        edit(folder / f"{name}.json", weights_sha256="f" * 64)


def mixed_codecs(folder: Path) -> None:
    edit(folder / "b.json", weights_sha256="f" * 64)


def unknown_codec(folder: Path) -> None:
    for name in "abc":
        edit(folder / f"{name}.json", name="encodec_48khz")


def other_geometry(folder: Path) -> None:
    for name in "abc":
        edit(folder / f"{name}.json", hop=480)


@pytest.mark.parametrize(
    ("damage", "fact"),
    [
        (no_codec_block, r"b\.json: its codec block is damaged"),
        (out_of_range, r"b\.npy: codes from 1024 to 1024"),
        (odd_length, r"b\.npy: 23 tokens are no multiple"),
        (of_floats, r"b\.npy: is not a whole \.npy file of flat int16 codes"),
        (no_tokens, r"b\.npy: holds 0 tokens"),
        (no_labels, r"b\.json: missing"),
        (other_weights, r"weights_sha256 ffffffffffff and .*--weights"),
        (mixed_codecs, r"b\.npy: has another codec than a\.npy"),
        (unknown_codec, "encodec_48khz: not supported"),
        (other_geometry, "hop 480 and 320"),
    ],
)
def test_codes_that_cannot_be_decoded_are_refused_in_one_line_and_nothing_is_written(
    tokens: Path, tmp_path: Path, damage: Callable[[Path], None], fact: str
) -> None:
    damage(tokens)
    with pytest.raises(UserError, match=fact) as caught:
        decode(tokens, tmp_path / "out")
    assert "\n" not in caught.value.message
    assert not (tmp_path / "out").exists()


def test_a_folder_with_nothing_to_decode_is_refused(tmp_path: Path, make_set: Callable[..., Path]) -> None:
    with pytest.raises(ShardError, match="no such folder"):
        decode(tmp_path / "missing", tmp_path / "out")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ShardError, match="neither token files"):
        decode(tmp_path / "empty", tmp_path / "out")
    unfinished = make_set(train=[2])
    (unfinished / "manifest.json").unlink()
    with pytest.raises(ShardError, match="unfinished"):
        decode(unfinished, tmp_path / "out")


def replace_decode(codec: EnCodec, decode: Callable[[torch.Tensor], torch.Tensor]) -> EnCodec:
    """Return the codec with another `decode`."""
    other = EnCodec(replace(codec.spec), codec.device, codec.model)
    other.decode = decode  # type: ignore[method-assign]
    return other


def test_weights_that_decode_to_no_numbers_are_named_and_nothing_is_written(
    tokens: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decode_codes = EnCodec.decode
    monkeypatch.setattr(EnCodec, "decode", lambda self, codes: decode_codes(self, codes) * torch.nan)
    with pytest.raises(CodecError, match="encodec_mini: its weights decode a to numbers that are not finite"):
        decode(tokens, tmp_path / "out")
    assert not (tmp_path / "out").exists()
