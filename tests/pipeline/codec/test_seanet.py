"""pipeline.codec.seanet: the package's encoder to rounding, for any length, and wherever a note is cut into pieces."""

from typing import Any

import pytest
import torch

from pipeline.codec import seanet
from pipeline.codec.loaded import load_codec
from pipeline.codec.model import MINI_FILTERS
from pipeline.codec.seanet import CPUEncoder
from pipeline.codec.spec import HOP

LENGTHS = (1, 3, 100, HOP - 1, HOP, HOP + 1, 4 * HOP, 4 * HOP + 1, 9 * HOP - 1)  # samples


@pytest.fixture(scope="module")
def encoder() -> Any:
    torch.set_num_threads(1)
    return load_codec("encodec_mini").model.encoder


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 2e-2)])
@pytest.mark.parametrize("hops", [2, 3, 4, 100])
@pytest.mark.parametrize("kernel", [0, 1_000, seanet.SMALL_KERNEL, 10_000_000])  # none, some or all layers in pieces
@torch.inference_mode()
def test_pieces_of_any_size_give_what_the_package_gives(
    encoder: Any, hops: int, kernel: int, dtype: torch.dtype, tolerance: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(seanet, "PIECE_VALUES", hops * HOP * MINI_FILTERS)
    monkeypatch.setattr(seanet, "SMALL_KERNEL", kernel)
    in_pieces = CPUEncoder(encoder, dtype)
    for length in LENGTHS:
        samples = 0.3 * torch.randn(1, length, generator=torch.Generator().manual_seed(length))
        expected = encoder(samples[:, None])
        latents = in_pieces(samples)
        assert latents.dtype == torch.float32
        assert torch.allclose(latents, expected, rtol=tolerance, atol=tolerance * float(expected.abs().max()))


@torch.inference_mode()
def test_notes_beside_each_other_do_not_mix(encoder: Any) -> None:
    samples = 0.3 * torch.randn(3, 5 * HOP, generator=torch.Generator().manual_seed(0))
    in_pieces = CPUEncoder(encoder)
    together = in_pieces(samples)
    for note, latents in zip(samples.split(1), together.split(1), strict=True):
        assert torch.allclose(in_pieces(note), latents, atol=1e-5 * float(latents.abs().max()))
    assert torch.equal(samples, 0.3 * torch.randn(3, 5 * HOP, generator=torch.Generator().manual_seed(0)))


def test_the_packages_encoder_keeps_its_weights(encoder: Any) -> None:
    before = [weight.clone() for weight in encoder.parameters()]
    CPUEncoder(encoder, torch.bfloat16)
    for weight, expected in zip(encoder.parameters(), before, strict=True):
        assert weight.dtype == torch.float32 and torch.equal(weight, expected)
