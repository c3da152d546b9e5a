"""Compiled attention, against torch's."""

import numpy as np
import pytest
import torch
from torch import Tensor

from trainer.cpu.attention import attend, cache_shapes, fill
from trainer.cpu.decoder import to_numpy

NOTES, HEADS = 2, 3
DTYPES = pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 0.02)])


def caches(positions: int, width: int, dtype: torch.dtype) -> list[np.ndarray]:
    """Keys and values that are not written yet."""
    shapes = cache_shapes(positions, width, dtype.itemsize)
    return [to_numpy(torch.full((NOTES, HEADS, *shape), torch.nan).to(dtype)) for shape in shapes]


def rotated(features: Tensor, angles: Tensor) -> Tensor:
    pairs = torch.view_as_complex(features.unflatten(-1, (-1, 2)).contiguous())  # type: ignore[no-untyped-call]
    return torch.view_as_real(pairs * torch.polar(torch.ones_like(angles), angles)).flatten(-2)


@DTYPES
@pytest.mark.parametrize("width", [2, 12, 32, 70])
def test_attention_is_torch_s_at_every_position(width: int, dtype: torch.dtype, tolerance: float) -> None:
    torch.manual_seed(0)
    positions = 67  # blocks and words that are whole and that are not
    qkv = torch.randn(positions, NOTES, 3, HEADS, width)
    angles = torch.rand(positions, width // 2)
    keys, values = caches(positions, width, dtype)
    past = torch.empty(2, NOTES, HEADS, 0, width)
    for position in range(positions):
        out = np.empty((NOTES, HEADS, width), np.float32)
        rotary = torch.stack([angles[position].cos(), angles[position].sin()], dim=1)
        attend(qkv[position].numpy(), rotary.numpy(), keys, values, position, out)
        query, key = rotated(qkv[position, :, :2], angles[position]).unbind(1)
        past = torch.cat([past, torch.stack([key, qkv[position, :, 2]])[:, :, :, None].to(dtype).float()], dim=3)
        expected = torch.nn.functional.scaled_dot_product_attention(query[:, :, None], *past)[:, :, 0]
        assert torch.allclose(torch.from_numpy(out), expected, atol=tolerance)


@DTYPES
@pytest.mark.parametrize("positions", [1, 31, 33, 64])
def test_what_was_filled_in_is_as_what_was_taken_one_by_one(
    positions: int, dtype: torch.dtype, tolerance: float
) -> None:
    torch.manual_seed(0)
    width = 12
    qkv = torch.randn(positions + 1, NOTES, 3, HEADS, width)
    unrotated = torch.tensor([[1.0, 0.0]]).repeat(width // 2, 1).numpy()
    results = []
    for is_filled in (False, True):
        keys, values = caches(positions + 1, width, dtype)
        if is_filled:
            past = qkv[:positions, :, 1:].permute(2, 1, 3, 0, 4)  # keys and values, note, head, position, feature
            fill(to_numpy(past.to(dtype).contiguous()), keys, values)
        for position in range(positions if is_filled else 0, positions + 1):
            out = np.empty((NOTES, HEADS, width), np.float32)
            attend(qkv[position].numpy(), unrotated, keys, values, position, out)
        results.append(out)
    assert np.array_equal(*results)
