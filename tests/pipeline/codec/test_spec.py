"""pipeline.codec.spec: a codec is described without loading it, in the words of the loaded codec."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from pipeline.codec import spec
from pipeline.codec.loaded import load_codec
from pipeline.codec.model import untrained_24khz
from pipeline.codec.spec import BANDWIDTHS, CODEBOOK_SIZE, HOP, SAMPLE_RATE, codec_spec, torch_cache
from tests.support import ROOT


@pytest.mark.parametrize("bandwidth", BANDWIDTHS["encodec_24khz"])
def test_the_spec_is_the_packages_geometry_at_every_bandwidth(tmp_path: Path, bandwidth: float) -> None:
    path = tmp_path / "any.th"
    path.write_bytes(b"any bytes: they are hashed, not read")
    model = untrained_24khz()
    described = codec_spec("encodec_24khz", bandwidth, path)
    assert described.codebooks == model.quantizer.get_num_quantizers_for_bandwidth(model.frame_rate, bandwidth)
    assert (described.frame_rate, described.sample_rate) == (model.frame_rate, model.sample_rate)
    assert (described.codebook_size, described.hop) == (model.quantizer.bins, model.encoder.hop_length)
    assert (SAMPLE_RATE, CODEBOOK_SIZE, HOP) == (24_000, 1024, 320)


def test_a_codec_that_is_loaded_with_its_spec_is_not_hashed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    described = codec_spec("encodec_mini")

    def refuse(path: Path) -> str:
        raise AssertionError(f"{path} is hashed again")

    monkeypatch.setattr(spec, "sha256_of", refuse)
    assert load_codec("encodec_mini", spec=described).spec is described


@pytest.mark.parametrize(
    "variables",
    [{}, {"TORCH_HOME": "/a/b"}, {"TORCH_HOME": "~/c"}, {"TORCH_HOME": ""}, {"XDG_CACHE_HOME": "/d"},
     {"XDG_CACHE_HOME": "~/e/"}, {"XDG_CACHE_HOME": ""}, {"TORCH_HOME": "f", "XDG_CACHE_HOME": "/g"}],
)  # fmt: skip
def test_the_cache_is_torchs_own(monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]) -> None:
    for name in ("TORCH_HOME", "XDG_CACHE_HOME", "TORCH_HUB"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert torch_cache() == Path(torch.hub.get_dir()) / "checkpoints"


def test_a_spec_needs_no_torch() -> None:
    program = (
        "import sys; from pipeline.codec.spec import codec_spec; "
        "print(codec_spec('encodec_mini').codebooks, 'torch' in sys.modules)"
    )
    said = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert said.split() == ["2", "False"]
