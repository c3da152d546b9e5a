"""Operations of a step against torch's own count, and the measured peak of a device."""

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from trainer.config import load_config
from trainer.flops import TrainFlops, measure_peak
from trainer.model import NoteModel
from trainer.vocabulary import Vocabulary


@pytest.mark.parametrize(
    "changes", [("position=frame",), ("position=token",), ("position=token", "shared_vocabulary=true", "labels=")]
)
def test_operations_are_those_that_torch_counts(changes: tuple[str, ...]) -> None:
    settings = ("width=16", "depth=2", "heads=3", "head_width=8", "flash=false")  # torch counts no flash of a CPU
    config = load_config("small", [*settings, *changes]).model
    model = NoteModel(config, Vocabulary(3, 32, shared=config.shared_vocabulary), window=24)
    labels, codes = torch.empty((2, 0), dtype=torch.long), torch.zeros((2, 24), dtype=torch.int16)
    with FlopCounterMode(display=False) as counter:
        nll, _ = model(labels, codes, torch.tensor([24, 24]))
        nll.sum().backward()
    flops = TrainFlops(model, config)
    assert flops.of(np.array([24, 24])) == counter.get_total_flops()
    longer, shorter = (flops.of(np.array([tokens])) for tokens in (24, 12))
    assert 2 * shorter < longer < 4 * shorter  # attention grows with the square of the length, all else with the length


def test_a_measured_peak_changes_no_random_numbers() -> None:
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    measure_peak.cache_clear()
    assert measure_peak(torch.device("cpu"), torch.float32) > 0
    assert torch.equal(torch.rand(3), expected)
