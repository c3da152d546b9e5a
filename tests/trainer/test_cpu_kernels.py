"""Compiled loops, each against numpy or torch."""

import numpy as np
import pytest
import torch
from numba import njit

from trainer.cached_decoder import to_numpy
from trainer.cpu_kernels import add_product, attend, exp_shifted, gelu, pack, to_dtype_of, to_float32

WIDTH, HEADS, POSITIONS = 12, 2, 7  # not multiples of four or eight


@njit
def round_trip(numbers: np.ndarray, stored: np.ndarray) -> None:
    """Store the numbers in an array of another dtype, and read them back."""
    for index in range(len(numbers)):
        stored[index] = to_dtype_of(numbers[index], stored)
        numbers[index] = to_float32(stored[index])


def test_bfloat16_is_torch_s() -> None:
    bits = np.random.default_rng(0).integers(0, 2**32, size=100_000, dtype=np.uint32)
    numbers = bits.view(np.float32)
    halves = np.arange(2**16, dtype=np.uint32) << 16 | 0x8000  # halfway between two neighbours
    numbers = np.concatenate([numbers, halves.view(np.float32), np.array([0.0, -0.0, np.inf, -np.inf], np.float32)])
    numbers = numbers[~np.isnan(numbers)]
    expected = torch.from_numpy(numbers.copy()).bfloat16()
    stored = np.empty(len(numbers), np.uint16)
    round_trip(numbers, stored)
    assert np.array_equal(stored, to_numpy(expected))
    assert np.array_equal(numbers, expected.float().numpy())


def test_float32_stays_as_it_is() -> None:
    numbers = np.random.default_rng(0).normal(size=100).astype(np.float32)
    stored = np.empty(100, np.float32)
    round_trip(numbers, stored)
    assert np.array_equal(numbers, stored)


@pytest.mark.parametrize("shift", [-1e4, 0.0, 1e4])
def test_exponentials_are_as_exact_as_float32(shift: float) -> None:
    numbers = (np.linspace(-86, 0, 4_321) + shift).astype(np.float32)
    expected = np.exp(numbers.astype(np.float64) - float(numbers.max()))
    total = exp_shifted(numbers)
    assert np.allclose(numbers, expected, rtol=1e-6, atol=0)
    assert total == pytest.approx(expected.sum(), rel=1e-6)


def test_exponentials_of_what_is_far_below_are_nothing() -> None:
    numbers = np.array([-np.inf, -3e38, -200.0, 0.0], np.float32)
    assert exp_shifted(numbers) == pytest.approx(1)
    assert numbers[:3].max() < 1e-37


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


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("notes", [1, 3, 8, 21])
def test_products_are_torch_s(dtype: torch.dtype, notes: int) -> None:
    torch.manual_seed(0)
    x, matrix, out = torch.randn(notes, 13), torch.randn(7, 13).to(dtype), torch.randn(notes, 7)
    expected = out + x @ matrix.float().T
    add_product(x.numpy(), pack(to_numpy(matrix)), out.numpy())
    assert torch.allclose(out, expected, atol=1e-5)


def test_gelu_is_torch_s() -> None:
    numbers = torch.linspace(-30, 30, 60_001)
    expected = torch.nn.functional.gelu(numbers.double())
    gelu(numbers.numpy())
    assert torch.allclose(numbers.double(), expected, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_product_of_a_note_is_the_same_in_any_batch(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    x, packed = torch.randn(7, 300), pack(to_numpy(torch.randn(90, 300).to(dtype)))
    together = np.zeros((7, 90), np.float32)
    add_product(x.numpy(), packed, together)
    for note in range(7):
        alone = np.zeros((1, 90), np.float32)
        add_product(x[note : note + 1].numpy(), packed, alone)
        assert np.array_equal(alone[0], together[note])
