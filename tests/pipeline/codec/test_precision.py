"""pipeline.codec.precision: bfloat16 is chosen by name, nearly the same as float32, and never mixed with it."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from pipeline.__main__ import main
from pipeline.codec.loaded import load_codec
from pipeline.codec.model import untrained_24khz
from pipeline.codec.precision import with_precision
from pipeline.encode.settings import Settings
from shards.errors import UserError
from shards.manifest import read_manifest
from tests.support.notes import nsynth_folder, tone


def test_bfloat16_changes_few_codes() -> None:
    torch.set_num_threads(1)
    codec = load_codec("encodec_mini")
    assert with_precision(codec, "float32") is codec
    samples = torch.from_numpy(tone(50, 0.4, 24_000))[None]  # (note, sample)
    reference, other = codec.encode(samples), with_precision(codec, "bfloat16").encode(samples)
    assert reference.shape == other.shape and other.dtype == torch.int64
    assert (reference == other).float().mean() > 0.8


@pytest.mark.parametrize("name", ["encodec_mini", "encodec_24khz"])
def test_bfloat16_latents_are_within_a_hundredth(name: str, tmp_path: Path) -> None:
    weights = None
    if name == "encodec_24khz":
        torch.manual_seed(0)
        weights = tmp_path / "random.th"
        torch.save(untrained_24khz().state_dict(), weights)
    codec = load_codec(name, weights=weights)
    samples = torch.from_numpy(tone(50, 0.4, 24_000))[None]  # (note, sample)
    with torch.inference_mode():
        reference, latents = codec.latents(samples), with_precision(codec, "bfloat16").latents(samples)
    assert latents.dtype == torch.float32
    assert 0 < (latents - reference).norm() < 0.01 * reference.norm()


def test_a_precision_that_nobody_has_is_refused() -> None:
    settings = Settings(load_codec("encodec_mini").spec)
    with pytest.raises(UserError, match="precision float8: choose from float32, bfloat16"):
        replace(settings, precision="float8")


def test_a_set_of_bfloat16_says_so_and_is_not_mixed_with_float32(tmp_path: Path) -> None:
    root = nsynth_folder(tmp_path / "audio", train=2, valid=1)
    arguments = ["encode", str(root), "--out", str(tmp_path / "set"), "--codec", "encodec_mini", "--duration", "0.2"]
    arguments += ["--device", "cpu", "--workers", "1"]
    result = CliRunner().invoke(main, [*arguments, "--precision", "bfloat16"])
    assert result.exit_code == 0, result.output
    assert "bfloat16: codes equal to float32's, by codebook: " in result.output
    assert read_manifest(tmp_path / "set").audio["precision"] == "bfloat16"
    refused = CliRunner().invoke(main, arguments)
    assert refused.exit_code == 2
    assert "made with precision bfloat16, and this is float32" in refused.output
