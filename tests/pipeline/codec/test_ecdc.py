"""pipeline.codec.ecdc: the `encodec` package reads what we write, code for code and sample for sample."""

import importlib
import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from pipeline.__main__ import main
from pipeline.codec.ecdc import write_ecdc
from pipeline.codec.loaded import load_codec
from pipeline.codec.model import untrained_24khz
from shards.note import Codec, unflatten, write_token_file
from tests.support.shard_sets import CODEC, random_note

FULL_SIZE = replace(CODEC, name="encodec_24khz")


@pytest.fixture(scope="module")
def package() -> Any:
    """`encodec.compress`, which the package hides behind a function of that name."""
    untrained_24khz()  # imports the package as the program does
    return importlib.import_module("encodec.compress")


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights of EnCodec's shapes."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "full.th"
    torch.save(untrained_24khz().state_dict(), path)
    return path


@pytest.mark.parametrize("bandwidth", [1.5, 6.0])
def test_the_package_decompresses_to_the_samples_that_we_decode(
    package: Any, weights: Path, tmp_path: Path, bandwidth: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    codec = load_codec("encodec_24khz", bandwidth, weights)
    model: Any = codec.model
    monkeypatch.setitem(package.MODELS, "encodec_24khz", lambda: model)
    write_token_file(tmp_path / "tokens", random_note("a", 12, codec.spec), codec.spec)
    words = ["decode", str(tmp_path / "tokens"), "--out", str(tmp_path), "--ecdc", "--weights", str(weights)]
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 0, result.output
    samples, rate = package.decompress((tmp_path / "a.ecdc").read_bytes())
    codes = unflatten(random_note("a", 12, codec.spec).tokens, codec.spec.codebooks).astype(np.int64)
    assert rate == codec.spec.sample_rate
    assert torch.equal(samples[0], codec.decode(torch.from_numpy(codes)[None])[0])


@given(frames=st.integers(1, 700), codebooks=st.sampled_from([2, 4, 8]))
def test_the_package_reads_back_every_code_at_any_length(
    package: Any, frames: int, codebooks: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    codec = replace(FULL_SIZE, codebooks=codebooks)
    note = random_note("a", frames, codec)
    path = tmp_path_factory.mktemp("ecdc") / "a.ecdc"
    write_ecdc(path, note, codec)
    assert np.array_equal(codes_in(path.read_bytes(), codec, package), unflatten(note.tokens, codebooks))


def codes_in(data: bytes, codec: Codec, package: Any) -> np.ndarray:
    """The codes that the package would decode: (codebook, frame)."""
    decoded: list[torch.Tensor] = []

    class Recorder:
        segment_length = segment_stride = None
        normalize = False
        sample_rate, frame_rate, bits_per_codebook = codec.sample_rate, codec.frame_rate, 10

        def to(self, device: str) -> "Recorder":
            return self

        def decode(self, frames: list[tuple[torch.Tensor, None]]) -> torch.Tensor:
            decoded.append(frames[0][0][0])
            return torch.zeros(1, 1, 1)

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(package.MODELS, "encodec_24khz", Recorder)
        package.decompress_from_file(io.BytesIO(data))
    return decoded[0].numpy()


def test_a_codec_that_the_package_does_not_know_is_refused(tmp_path: Path) -> None:
    codec = load_codec("encodec_mini")
    write_token_file(tmp_path / "tokens", random_note("a", 3, codec.spec), codec.spec)
    result = CliRunner().invoke(main, ["decode", str(tmp_path / "tokens"), "--out", str(tmp_path / "out"), "--ecdc"])
    assert result.exit_code == 2
    assert "leave --ecdc out" in result.output
    assert not (tmp_path / "out").exists()
