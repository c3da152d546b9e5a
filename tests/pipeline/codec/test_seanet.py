"""pipeline.codec.seanet: the package's encoder to rounding, for any length, and wherever a note is cut into pieces."""

from typing import Any

import pytest
import torch

from pipeline.codec import seanet
from pipeline.codec.loaded import load_codec
from pipeline.codec.model import MINI_FILTERS
from pipeline.codec.seanet import encode_in_pieces
from pipeline.codec.spec import HOP

LENGTHS = (1, 3, 100, HOP - 1, HOP, HOP + 1, 4 * HOP, 4 * HOP + 1, 9 * HOP - 1)  # samples


@pytest.fixture(scope="module")
def encoder() -> Any:
    torch.set_num_threads(1)
    return load_codec("encodec_mini").model.encoder


@pytest.mark.parametrize("hops", [2, 3, 4, 100])
@pytest.mark.parametrize("kernel", [0, 1_000, seanet.SMALL_KERNEL, 10_000_000])  # none, some or all layers in pieces
@torch.inference_mode()
def test_pieces_of_any_size_give_what_the_package_gives(
    encoder: Any, hops: int, kernel: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(seanet, "PIECE_VALUES", hops * HOP * MINI_FILTERS)
    monkeypatch.setattr(seanet, "SMALL_KERNEL", kernel)
    for length in LENGTHS:
        samples = 0.3 * torch.randn(1, 1, length, generator=torch.Generator().manual_seed(length))
        expected = encoder(samples)
        assert torch.allclose(encode_in_pieces(encoder, samples), expected, atol=1e-5 * float(expected.abs().max()))


@torch.inference_mode()
def test_notes_beside_each_other_do_not_mix(encoder: Any) -> None:
    samples = 0.3 * torch.randn(3, 1, 5 * HOP, generator=torch.Generator().manual_seed(0))
    together = encode_in_pieces(encoder, samples)
    for note, latents in zip(samples.split(1), together.split(1), strict=True):
        assert torch.allclose(encode_in_pieces(encoder, note), latents, atol=1e-5 * float(latents.abs().max()))
    assert torch.equal(samples, 0.3 * torch.randn(3, 1, 5 * HOP, generator=torch.Generator().manual_seed(0)))


@torch.inference_mode()
def test_bfloat16_latents_are_those_that_torchs_elu_gives(encoder: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    samples = 0.3 * torch.randn(2, 1, 50 * HOP, generator=torch.Generator().manual_seed(0))
    with torch.autocast("cpu", torch.bfloat16):
        latents = encode_in_pieces(encoder, samples)
        calls: list[torch.dtype] = []

        def plain(x: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
            calls.append(x.dtype)
            return out.copy_(torch.nn.functional.elu(x))

        monkeypatch.setattr("pipeline.codec.bfloat16_elu.fast_elu", plain)
        assert torch.equal(encode_in_pieces(encoder, samples), latents)
    assert calls and set(calls) == {torch.bfloat16}
