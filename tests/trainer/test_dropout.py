"""trainer.dropout: as many zeros as asked for, each element by itself, and gradients of what is left."""

import pytest
import torch
from torch import nn

from trainer.config import load_config
from trainer.dropout import LEVELS, FastDropout
from trainer.model import NoteModel
from trainer.vocabulary import Vocabulary

SHAPE = (7, 101, 301)  # of an odd number of elements


@pytest.mark.parametrize("p", [0.1, 0.5, 0.93])
def test_the_share_of_zeros_and_the_mean_are_those_of_torchs(p: float) -> None:
    torch.manual_seed(0)
    ours, theirs = FastDropout(p)(torch.ones(SHAPE)), nn.Dropout(p)(torch.ones(SHAPE))
    for dropped in (ours, theirs):
        assert float((dropped == 0).double().mean()) == pytest.approx(p, abs=0.003)
        assert float(dropped.double().mean()) == pytest.approx(1, abs=0.03)
    assert ours.unique().tolist() == pytest.approx([0, 1 / (1 - p)], rel=2 / LEVELS / (1 - p))


def test_neighbours_are_dropped_independently() -> None:
    torch.manual_seed(0)
    zeros = (FastDropout(0.5)(torch.ones(1 << 18)) == 0).double()
    for distance in range(1, 9):  # elements that share a number, and those of the next
        both = float((zeros[:-distance] * zeros[distance:]).mean())
        assert both == pytest.approx(0.25, abs=0.005)


def test_the_seed_decides_and_gradients_are_those_of_what_is_left() -> None:
    layer, x = FastDropout(0.25), torch.randn(SHAPE, dtype=torch.bfloat16, requires_grad=True)
    torch.manual_seed(1)
    first = layer(x)
    torch.manual_seed(1)
    assert first.dtype == torch.bfloat16 and torch.equal(layer(x), first) and not torch.equal(layer(x), first)
    first.float().sum().backward()
    assert x.grad is not None and torch.equal(x.grad == 0, (first == 0) & (x != 0))


def test_nothing_is_dropped_in_evaluation_or_at_probability_0() -> None:
    x = torch.randn(SHAPE)
    assert torch.equal(FastDropout(0.5).eval()(x), x) and torch.equal(FastDropout(0.0)(x), x)


def test_a_model_has_no_other_dropout() -> None:
    model = NoteModel(load_config("tutorial").model, Vocabulary(2, 32, shared=True), 12)
    dropouts = [module for module in model.modules() if isinstance(module, nn.Dropout)]
    assert len(dropouts) > 6 and all(isinstance(module, FastDropout) for module in dropouts)
