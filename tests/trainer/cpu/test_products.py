"""Compiled products, against torch's."""

import numpy as np
import pytest
import torch

from trainer.cpu.decoder import to_numpy
from trainer.cpu.products import add_product, input_of, pack


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("notes", [1, 3, 8, 18, 21])
def test_products_are_torch_s(dtype: torch.dtype, notes: int) -> None:
    torch.manual_seed(0)
    x, matrix, out = torch.randn(notes, 13), torch.randn(7, 13).to(dtype), torch.randn(notes, 7)
    expected = out + x.to(dtype).float() @ matrix.float().T
    packed = pack(to_numpy(matrix))
    add_product(input_of(x.numpy(), packed), packed, out.numpy())
    assert torch.allclose(out, expected, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_product_of_a_note_is_the_same_in_any_batch(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    x, packed = torch.randn(10, 300), pack(to_numpy(torch.randn(90, 300).to(dtype)))
    together = np.zeros((10, 90), np.float32)
    add_product(input_of(x.numpy(), packed), packed, together)
    for note in range(10):
        alone = np.zeros((1, 90), np.float32)
        add_product(input_of(x[note : note + 1].numpy(), packed), packed, alone)
        assert np.array_equal(alone[0], together[note])
