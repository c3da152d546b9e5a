"""Draws by torch and by the compiled loops: both the distribution's, and the same."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from trainer.cpu.draw import log_likelihoods as log_likelihoods_compiled
from trainer.cpu.generate import draw_codes as draw_compiled
from trainer.sampling import draw_codes, log_likelihoods

Draw = Callable[[Tensor, Tensor], Tensor]
DRAWS = pytest.mark.parametrize("draw", [draw_codes, draw_compiled])


def random_uniforms(notes: int, seed: int = 0) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).random(notes))


@DRAWS
@given(st.integers(0, 2**32 - 1))
def test_nothing_but_codes_can_be_drawn_whatever_the_logits(draw: Draw, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    worst = torch.tensor([torch.inf, -torch.inf, torch.nan, 3e38, -3e38, 0.0])
    logits = worst[torch.randint(len(worst), (20, 70), generator=generator)]
    codes = draw(logits, random_uniforms(20))
    assert codes.min() >= 0 and codes.max() < 70


@given(st.integers(1, 200), st.floats(0, 100), st.integers(0, 2**32 - 1))
def test_compiled_draws_are_torch_s(codes: int, scale: float, seed: int) -> None:
    logits = scale * torch.randn(50, codes, generator=torch.Generator().manual_seed(seed))
    uniforms = random_uniforms(50, seed)
    drawn, expected = draw_compiled(logits, uniforms), draw_codes(logits, uniforms)
    cumulative = logits.double().softmax(-1).cumsum(-1)
    between = (cumulative - uniforms[:, None]).abs().amin(-1)
    assert torch.equal(drawn[between > 1e-5], expected[between > 1e-5])
    likelihoods = torch.from_numpy(log_likelihoods_compiled(logits.numpy(), drawn.numpy()))
    assert torch.allclose(likelihoods, log_likelihoods(logits, drawn), atol=1e-4)


@DRAWS
def test_drawn_codes_follow_the_distribution(draw: Draw) -> None:
    logits = torch.tensor([0.1, 0.2, 0.7]).log().repeat(20_000, 1)
    drawn = draw(logits, random_uniforms(20_000))
    assert np.allclose(torch.bincount(drawn, minlength=3) / 20_000, [0.1, 0.2, 0.7], atol=0.01)


@DRAWS
@given(st.floats(0, 1, exclude_max=True), st.integers(0, 2**32 - 1))
def test_a_code_without_probability_is_never_drawn(draw: Draw, uniform: float, seed: int) -> None:
    logits = torch.randn(1, 69, generator=torch.Generator().manual_seed(seed))
    logits[0, ::2] = -torch.inf
    assert int(draw(logits, torch.tensor([uniform], dtype=torch.float64))) % 2 == 1
