"""Optimizers: Muon against its definition, the groups of each, the moving average, and state restored exactly."""

import pytest
import torch
from torch import nn

from trainer.config import TrainConfig, load_config
from trainer.model import NoteModel
from trainer.optim import (
    ADAM_RMS,
    MOMENTUM,
    QUINTIC,
    ROUNDS,
    Muon,
    make_optimizers,
    orthogonalize,
    restore_state,
    state_tensors,
    update_ema,
)
from trainer.vocabulary import Vocabulary


def slow_orthogonal(matrix: torch.Tensor) -> torch.Tensor:
    """The iteration as it is published, on one matrix."""
    a, b, c = QUINTIC
    x = matrix / matrix.norm()
    for _ in range(ROUNDS):
        x = a * x + b * (x @ x.T) @ x + c * (x @ x.T) @ (x @ x.T) @ x
    return x


@pytest.mark.parametrize("shape", [(8, 8), (8, 30), (30, 8), (1, 5)])
def test_many_matrices_at_once_become_what_each_becomes_alone(shape: tuple[int, int]) -> None:
    matrices = torch.randn(3, *shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for fast, matrix in zip(orthogonalize(matrices), matrices, strict=True):
        assert torch.allclose(fast, slow_orthogonal(matrix), atol=1e-6)


@pytest.mark.parametrize("shape", [(64, 64), (48, 160), (160, 48)])
def test_small_directions_of_a_matrix_survive_bfloat16(shape: tuple[int, int]) -> None:
    random = torch.Generator().manual_seed(0)
    left, right = (torch.linalg.qr(torch.randn(3, side, min(shape), generator=random)).Q for side in shape)
    matrices = left * torch.logspace(0, -2, min(shape)) @ right.mT  # singular values from 1 to 0.01
    wide, narrow = orthogonalize(matrices), orthogonalize(matrices, torch.bfloat16)
    assert narrow.dtype == torch.float32
    assert (narrow - wide).norm() < 0.05 * wide.norm()


def test_all_directions_of_an_orthogonal_matrix_are_alike() -> None:
    matrices = (
        torch.randn(4, 16, 48, generator=torch.Generator().manual_seed(0)) * torch.logspace(-2, 2, 4)[:, None, None]
    )
    values = torch.linalg.svdvals(orthogonalize(matrices))
    assert values.min() > 0.6
    assert values.max() < 1.3


def test_a_step_decays_and_moves_along_the_momentum() -> None:
    weight = nn.Parameter(torch.randn(6, 12, generator=torch.Generator().manual_seed(0)))
    muon = Muon([weight], lr=0.1, weight_decay=0.5)
    expected, momentum = weight.detach().clone(), torch.zeros_like(weight)
    for seed in range(3):
        weight.grad = torch.randn(6, 12, generator=torch.Generator().manual_seed(seed + 1))
        muon.step()
        momentum = MOMENTUM * momentum + (1 - MOMENTUM) * weight.grad
        direction = slow_orthogonal(MOMENTUM * momentum + (1 - MOMENTUM) * weight.grad)
        expected = expected * (1 - 0.1 * 0.5) - 0.1 * ADAM_RMS * 12**0.5 * direction
    assert torch.allclose(weight, expected, atol=1e-5)


def model() -> NoteModel:
    shape = load_config("small", ["width=16", "depth=2", "heads=2", "head_width=8"]).model
    return NoteModel(shape, Vocabulary(2, 32, labels=(("pitch", (40, 41)),)), window=12)


@pytest.mark.parametrize("name", ["adam", "adamw", "muon"])
def test_every_weight_has_one_optimizer_and_only_matrices_decay(name: str) -> None:
    net = model()
    optimizers = make_optimizers(net, TrainConfig(steps=1, optimizer=name, weight_decay=0.1))
    groups = [group for optimizer in optimizers for group in optimizer.param_groups]
    owned = [id(weight) for group in groups for weight in group["params"]]
    assert sorted(owned) == sorted(map(id, net.parameters()))
    for group in groups:
        assert all((weight.ndim >= 2) == (group["weight_decay"] > 0) for weight in group["params"])


def test_muon_has_the_matrices_between_embeddings_and_heads() -> None:
    net = model()
    _, muon = make_optimizers(net, TrainConfig(steps=1, optimizer="muon"))
    owned = {id(weight) for group in muon.param_groups for weight in group["params"]}
    names = {name for name, weight in net.named_parameters() if id(weight) in owned}
    assert len(names) == 2 * 6 + 2  # four of attention and two of feed-forward a layer; two within a frame
    assert not any("emb" in name or "heads" in name for name in names)


@pytest.mark.parametrize("name", ["adam", "adamw", "muon"])
def test_restored_state_makes_the_same_next_step(name: str) -> None:
    config = TrainConfig(steps=1, optimizer=name, lr=0.1)

    def stepped(net: NoteModel, optimizers: list[torch.optim.Optimizer], seed: int) -> None:
        torch.manual_seed(seed)
        for weight in net.parameters():
            weight.grad = torch.randn_like(weight)
        for optimizer in optimizers:
            optimizer.step()

    first, second = model(), model()
    optimizers = make_optimizers(first, config)
    stepped(first, optimizers, 1)
    second.load_state_dict(first.state_dict())
    restored = make_optimizers(second, config)
    restore_state(restored, {name: tensor.clone() for name, tensor in state_tensors(optimizers).items()})
    stepped(first, optimizers, 2)
    stepped(second, restored, 2)
    for ours, theirs in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_without_torchs_private_functions_a_step_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    def weights_after_steps() -> list[torch.Tensor]:
        torch.manual_seed(0)
        net, ema_model = model(), model()
        optimizers = make_optimizers(net, TrainConfig(steps=1, optimizer="muon", lr=0.1))
        for step in range(2):
            for weight in net.parameters():
                weight.grad = torch.randn_like(weight)
            for optimizer in optimizers:
                optimizer.step()
            update_ema(ema_model, net, 0.9, step, torch.zeros(()))
        return [weight.detach() for weight in (*net.parameters(), *ema_model.parameters())]

    expected = weights_after_steps()
    for name in ("mul_", "sub_", "lerp_"):
        monkeypatch.delattr(torch, f"_foreach_{name}")
    assert all(map(torch.equal, weights_after_steps(), expected))


def test_an_average_follows_the_weights_and_soon_forgets_the_first() -> None:
    ema_model, weights = nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False)
    nn.init.constant_(ema_model.weight, 5.0)
    expected = 5.0
    for step in range(300):
        nn.init.constant_(weights.weight, step / 100)
        update_ema(ema_model, weights, 0.9, step, torch.zeros(()))
        decay = min(0.9, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * step / 100
    assert float(ema_model.weight.detach()) == pytest.approx(expected, abs=1e-4)
    assert expected == pytest.approx(2.9, abs=0.02)  # 0.9 a step: ten steps behind
