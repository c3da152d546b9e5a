"""Compiled functions of numbers, against numpy and torch."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from trainer.cpu.functions import exp_shifted, gelu, layer_norm, maximum


@given(st.lists(st.floats(width=32, allow_nan=False), min_size=1, max_size=50))
def test_maximum_is_python_s(numbers: list[float]) -> None:
    assert maximum(np.array(numbers, np.float32)) == max(numbers)


@pytest.mark.parametrize("shift", [-1e4, 0.0, 1e4])
def test_exponentials_are_as_exact_as_float32(shift: float) -> None:
    numbers = (np.linspace(-86, 0, 4_321) + shift).astype(np.float32)
    expected = np.exp(numbers.astype(np.float64) - float(numbers.max()))
    total = exp_shifted(numbers, maximum(numbers))
    assert np.allclose(numbers, expected, rtol=1e-6, atol=0)
    assert total == pytest.approx(expected.sum(), rel=1e-6)


def test_exponentials_of_what_is_far_below_are_nothing() -> None:
    numbers = np.array([-np.inf, -3e38, -200.0, 0.0], np.float32)
    assert exp_shifted(numbers, maximum(numbers)) == pytest.approx(1)
    assert numbers[:3].max() < 1e-37


def test_gelu_is_torch_s() -> None:
    numbers = torch.linspace(-30, 30, 60_001)
    expected = torch.nn.functional.gelu(numbers.double())
    gelu(numbers.numpy())
    assert torch.allclose(numbers.double(), expected, atol=1e-6, rtol=1e-6)


def test_layer_norm_is_torch_s() -> None:
    torch.manual_seed(0)
    x, scale, out = 5 * torch.randn(3, 37) + 2, torch.randn(37), np.empty((3, 37), np.float32)
    layer_norm(x.numpy(), scale.numpy(), out)
    assert torch.allclose(torch.from_numpy(out), torch.nn.functional.layer_norm(x, (37,), scale), atol=1e-5)
