"""pipeline.codec.bfloat16_elu: torch's ELU of every bfloat16, to the bit."""

import torch
from torch.nn.functional import elu

from pipeline.codec.bfloat16_elu import NUMBERS, fast_elu


def test_every_number_has_torchs_elu_also_in_place() -> None:
    x = NUMBERS.repeat(2).view(2, 1, -1)
    expected = elu(x).view(torch.uint16)  # bits: some numbers are NaN
    assert torch.equal(fast_elu(x, torch.empty_like(x)).view(torch.uint16), expected)
    assert fast_elu(x, x) is x and torch.equal(x.view(torch.uint16), expected)
    assert len(NUMBERS.view(torch.uint16).int().unique()) == 1 << 16
