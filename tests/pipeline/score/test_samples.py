"""A folder of samples: what is decoded is what its WAVs hold, and each file is read once."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.audio import AudioError, load, save
from pipeline.codec.loaded import load_codec
from pipeline.codec.model import EnCodec
from pipeline.decode.run import decode_folder
from pipeline.score import samples as samples_module
from pipeline.score.measure import measure
from pipeline.score.references import open_shard_set
from pipeline.score.run import score_folders
from pipeline.score.samples import decode_samples, read_samples
from shards.errors import ShardError, UserError
from shards.note import write_token_file
from shards.sample_info import SampleInfo
from shards.sample_list import LIST, SampleList
from tests.support.listening import RATE, make_listening_set, sound_of
from tests.support.notes import Silent
from tests.support.shard_sets import random_note


@pytest.fixture(scope="module")
def codec() -> EnCodec:
    torch.set_num_threads(1)
    return load_codec("encodec_mini")


@pytest.fixture
def folder(tmp_path: Path, codec: EnCodec) -> Path:
    """Three token files, not decoded yet; the first is of one frame, too short for a WAV that can be measured."""
    for name, frames in (("a", 1), ("b", 30), ("c", 60)):
        info = SampleInfo(run="runs/x", shards="shards/x", index=frames)
        write_token_file(tmp_path / "samples" / "tokens", random_note(name, frames, codec.spec), codec.spec, info)
    return tmp_path / "samples"


def test_decoded_waveforms_are_those_that_the_files_hold_bit_for_bit(
    folder: Path, codec: EnCodec, monkeypatch: pytest.MonkeyPatch
) -> None:
    decode = codec.decode
    monkeypatch.setattr(codec, "decode", lambda codes: decode(codes) * (30 if codes.shape[2] == 60 else 1))  # above 1
    samples = read_samples(folder)
    assert "c" in decode_samples(samples, codec, Silent()).scaled
    for sample in [*samples][1:]:
        from_file = load(sample.wav, RATE)
        sample.wav.unlink()
        waveform, rate = sample.waveform()
        assert rate == RATE and waveform.dtype == np.float32 and np.array_equal(waveform, from_file)
    with pytest.raises(AudioError, match="too short"):
        samples.samples[0].waveform()


def test_decoding_reuses_files_as_decode_folder_does(folder: Path, codec: EnCodec) -> None:
    decode_folder(folder / "tokens", folder, Silent(), device="cpu")
    assert decode_samples(read_samples(folder), codec, Silent()).reused == 3


def test_a_wav_is_read_once_up_to_the_limit_of_memory(
    folder: Path, codec: EnCodec, monkeypatch: pytest.MonkeyPatch
) -> None:
    decode_samples(read_samples(folder), codec, Silent())
    monkeypatch.setattr(samples_module, "MAX_CACHED", 2)
    reads: list[str] = []
    monkeypatch.setattr(
        samples_module, "load_at_file_rate", lambda path: (reads.append(path.stem), (np.zeros(9), RATE))[1]
    )
    samples = read_samples(folder)
    for _ in range(2):
        for sample in samples:
            sample.waveform()
    assert reads == ["a", "b", "c", "c"]


def test_a_wav_without_tokens_does_not_stop_decoding(folder: Path, codec: EnCodec) -> None:
    save(folder / "other.wav", sound_of(60), RATE)
    assert decode_samples(read_samples(folder), codec, Silent()).notes == 3


@pytest.mark.parametrize(
    ("damage", "fact"),
    [
        (lambda tokens: (tokens / "b.npy").write_bytes(b""), "b.npy"),
        (lambda tokens: (tokens / "b.json").unlink(), "b.json: missing"),
        (lambda tokens: [path.unlink() for path in tokens.iterdir()], "no token files"),
    ],
)
def test_damaged_token_files_are_refused_before_anything_is_written(folder, codec, damage, fact):
    save(folder / "other.wav", sound_of(60), RATE)
    damage(folder / "tokens")
    with pytest.raises(ShardError, match=fact):
        decode_samples(read_samples(folder), codec, Silent())
    assert [path.name for path in folder.glob("*.wav")] == ["other.wav"]


def test_what_token_files_have_in_common(folder: Path, codec: EnCodec) -> None:
    samples = read_samples(folder)
    assert samples.common() == SampleInfo(run="runs/x", shards="shards/x")
    assert samples.shards_folders() == (Path("shards/x"),) and samples.codec() == codec.spec
    other = SampleInfo(run="runs/x", shards="shards/y")
    write_token_file(folder / "tokens", random_note("d", 3, codec.spec), codec.spec, other)
    with pytest.raises(UserError, match="--shards"):
        read_samples(folder).shards_folders()


def test_samples_of_a_run_of_several_sets_are_compared_with_the_set_in_their_label_or_with_all(
    tmp_path: Path, codec: EnCodec
) -> None:
    def add(name: str, **labels: str) -> tuple[Path, ...]:
        info = SampleInfo(run="runs/x", shards=("shards/a", "shards/b", "shards/c"))
        note = replace(random_note(name, 3, codec.spec), labels=labels)
        write_token_file(tmp_path / "tokens", note, codec.spec, info)
        return read_samples(tmp_path).shards_folders()

    assert add("0", set="b") == (Path("shards/b"),)
    assert add("1", set="a") == (Path("shards/a"), Path("shards/b"))
    assert add("2") == (Path("shards/a"), Path("shards/b"), Path("shards/c"))


def test_decoding_and_scoring_in_one_process_gives_the_figures_of_two(
    folder: Path, codec: EnCodec, tmp_path: Path
) -> None:
    world = make_listening_set(tmp_path / "world")
    shutil.copytree(folder, tmp_path / "copy")
    samples = read_samples(folder)
    decode_samples(samples, codec, Silent())
    scores = measure(samples, open_shard_set(world, codec=codec), notes=2)
    decode_folder(tmp_path / "copy" / "tokens", tmp_path / "copy", Silent(), device="cpu")
    assert score_folders([tmp_path / "copy"], world, notes=2, device="cpu").folders[str(tmp_path / "copy")] == scores


def test_samples_of_an_earlier_call_are_neither_decoded_nor_scored(
    folder: Path, codec: EnCodec, tmp_path: Path
) -> None:
    world = make_listening_set(tmp_path / "world")
    decode_folder(folder / "tokens", folder, Silent(), device="cpu")
    SampleList(1, ("b",)).write(folder / "tokens")
    save(folder / "c.wav", sound_of(60), RATE)
    samples = read_samples(folder)
    assert [sample.name for sample in samples] == ["b"] and "(a, c)" in samples.left_out
    decoded = decode_folder(folder / "tokens", tmp_path / "out", Silent(), device="cpu")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["b.wav"] and decoded.notes == 1
    report = score_folders([folder], world, notes=2, device="cpu")
    assert [*report.folders[str(folder)].samples] == ["b"]
    for lines in (decoded.lines(), report.lines()):
        assert sum("left out: 2 samples of other calls" in line for line in lines) == 1
    (folder / "tokens" / LIST).unlink()
    assert [sample.name for sample in read_samples(folder)] == ["a", "b", "c"]
