"""The whole way with codecs of transformers: encode, check, train, sample, decode, score, page."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from pipeline.codec.loaded import load_codec
from pipeline.decode.run import decode_notes
from shards.note import read_token_file
from tests.support.hugging_face import SMALL, save_small
from tests.support.notes import nsynth_folder
from tests.test_end_to_end import TINY, run

pytestmark = pytest.mark.usefixtures("without_workers")


@pytest.mark.parametrize("name", SMALL)
def test_every_stage_takes_the_codec_that_the_set_names(tmp_path: Path, name: str) -> None:
    codec = f"hf:{save_small(name, tmp_path / 'codec')}"
    shards, samples = tmp_path / "set", tmp_path / "samples"
    audio = nsynth_folder(tmp_path / "audio", train=6, valid=2)
    run("pipeline", "encode", audio, "--out", shards, "--codec", codec, "--duration", 0.5)
    assert "8 notes in 2 shards, finished before" in run(
        "pipeline", "encode", audio, "--out", shards, "--codec", codec, "--duration", 0.5
    )
    assert "8 notes encoded again" in run("pipeline", "verify", shards, "--reencode", 8)
    block = json.loads((shards / "manifest.json").read_text())["codec"]
    assert block["name"] == codec and "frame_rate" not in block and ("bandwidth" in block) == (name == "encodec")
    assert codec in run("shards", "inspect", shards)
    run("trainer", "train", "--shards", shards, "--run", tmp_path / "run", *TINY)
    run("trainer", "sample", "--run", tmp_path / "run", "--out", samples / "tokens", "--count", 2)
    assert "index.html" in run("pipeline", "listen", samples, "--notes", 2)

    spec = load_codec(codec).spec
    frames = -(-round(0.5 * spec.sample_rate) // spec.hop)
    for path in (samples / "tokens").glob("*.npy"):
        file = read_token_file(path)
        assert file.codec == spec and len(file.note.tokens) == frames * spec.codebooks
        [(_, waveform)] = decode_notes([file.note], load_codec(codec))
        sound, rate = soundfile.read(samples / f"{path.stem}.wav")
        assert (len(sound), rate) == (frames * spec.hop, spec.sample_rate)
        assert np.abs(sound - waveform / max(1, np.abs(waveform).max())).max() < 1e-3


def test_precisions_and_files_of_encodecs_own_are_refused(tmp_path: Path, refused: Callable[..., str]) -> None:
    codec = f"hf:{save_small('dac', tmp_path / 'codec')}"
    audio = nsynth_folder(tmp_path / "audio")
    words = ("encode", audio, "--out", tmp_path / "set", "--codec", codec)
    assert f"precision bfloat16: {codec} has float32 alone" in refused(*words, "--precision", "bfloat16")
    assert not (tmp_path / "set").exists()
    run("pipeline", *words, "--bandwidth", 1.38)
    block = json.loads((tmp_path / "set" / "manifest.json").read_text())["codec"]
    assert (block["codebooks"], block["bandwidth"]) == (2, 1.38)  # of three
    says = refused("decode", tmp_path / "set", "--out", tmp_path / "wav", "--ecdc")
    assert f"{codec}: the encodec package reads .ecdc files of encodec_24khz only" in says
    (tmp_path / "codec").rename(tmp_path / "moved")
    says = refused("decode", tmp_path / "set", "--out", tmp_path / "wav")
    assert says.endswith("name the folder of its files with --weights FOLDER\n")
    run("pipeline", "decode", tmp_path / "set", "--out", tmp_path / "wav", "--weights", tmp_path / "moved")


@pytest.fixture
def refused() -> Callable[..., str]:
    """Run a command of the pipeline that ends with one line and a code that is not 0; return the line."""
    from click.testing import CliRunner

    from pipeline.__main__ import main

    def call(*words: object) -> str:
        result = CliRunner().invoke(main, [*map(str, words)])
        assert result.exit_code == 2 and result.stderr.count("\n") == 1, result.output
        return result.stderr

    return call
