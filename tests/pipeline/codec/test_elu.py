"""pipeline.codec.elu: torch's ELU, of every bfloat16 and of float32 to its last bits."""

import numpy as np
import torch

from pipeline.codec.elu import elu


def test_every_bfloat16_has_torchs_elu() -> None:
    x = torch.from_numpy(np.arange(1 << 16, dtype=np.uint16)).view(torch.bfloat16).view(2, -1)  # all that there are
    results = elu(x, torch.empty_like(x))
    assert torch.equal(results.isnan(), x.isnan())
    assert torch.equal(results.nan_to_num(), torch.nn.functional.elu(x).nan_to_num())


def test_float32_has_elu_to_its_last_bits() -> None:
    x = torch.cat([torch.linspace(-30, 3, 1_000_001), -torch.logspace(-30, 2, 100_001), torch.tensor([torch.inf])])
    x = torch.cat([x, -x[-1:], torch.zeros(1)])
    exact = torch.nn.functional.elu(x.double())
    results = elu(x, torch.empty_like(x))
    assert torch.allclose(results.double(), exact, rtol=2 * torch.finfo(torch.float32).eps, atol=0)
    assert elu(torch.tensor([torch.nan]), torch.empty(1)).isnan().all()
