"""Compiled attention, against torch's."""

import numpy as np
import pytest
import torch

from trainer.cpu.attention import attend
from trainer.cpu.decoder import to_numpy

WIDTH, HEADS, POSITIONS = 12, 2, 7  # not multiples of four or eight


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("notes", [1, 3])
def test_attention_is_torch_s(dtype: torch.dtype, notes: int) -> None:
    torch.manual_seed(0)
    cache = torch.randn(2, notes, HEADS, POSITIONS, WIDTH).to(dtype)
    qkv = torch.randn(notes, 3, HEADS, WIDTH)
    angles = torch.rand(WIDTH // 2)
    out = np.empty((notes, HEADS, WIDTH), np.float32)
    rotary = torch.stack([angles.cos(), angles.sin()], dim=1)
    attend(qkv.numpy(), rotary.numpy(), to_numpy(cache), POSITIONS - 1, out)
    rotated = torch.view_as_complex(qkv[:, :2].unflatten(-1, (-1, 2)).contiguous())  # type: ignore[no-untyped-call]
    queries, keys = torch.view_as_real(rotated * torch.polar(torch.ones_like(angles), angles)).flatten(-2).unbind(1)
    assert torch.allclose(cache[0, :, :, -1].float(), keys.to(dtype).float(), rtol=2**-7)
    assert torch.equal(cache[1, :, :, -1], qkv[:, 2].to(dtype))
    past = cache.float()
    expected = torch.nn.functional.scaled_dot_product_attention(queries[:, :, None], past[0], past[1])[:, :, 0]
    assert torch.allclose(torch.from_numpy(out), expected, atol=1e-5)
