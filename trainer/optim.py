"""Optimizers: AdamW, Adam or Muon, the moving average of the weights, and the optimizers' state as plain tensors.

Muon updates a matrix along the nearest orthogonal one, so that all its directions learn at the same rate: Jordan et
al., 2024, https://kellerjordan.github.io/posts/muon; scaled so that a step has the root mean square of one of Adam's
and both share a learning rate and a decay (Liu et al., 2025, https://arxiv.org/abs/2502.16982). torch has a Muon too,
but it computes in bfloat16, matrix by matrix: many times slower on a CPU without units for that. Here matrices of one
shape are updated together, in the dtype in which the model is trained.

A loss or a gradient that is not finite must stop an update, and a GPU must not be waited for to know it. So the update
takes `found_inf`, a tensor () on the device, and changes nothing while that is 1: torch's fused optimizers have it for
their gradient scaler. Knows nothing of data and files.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from trainer.config import TrainConfig
from trainer.model import NoteModel
from trainer.runtime import resolve_dtype

BETA1 = 0.9
MOMENTUM = 0.95
ADAM_RMS = 0.2  # root mean square of a step of Adam, as a share of the learning rate
QUINTIC = (3.4445, -4.7750, 2.0315)  # Jordan's coefficients: singular values go to about 1 in five rounds
ROUNDS = 5
FUSED = ("cpu", "cuda")  # devices of which torch's fused optimizers take `found_inf`; that of MPS ignores it


def make_optimizers(model: NoteModel, config: TrainConfig) -> list[torch.optim.Optimizer]:
    """Make AdamW that decays matrices only, or Adam, or Muon for the matrices between embeddings and heads and AdamW
    for the rest. `fused` updates all parameters in one call, on CPUs and GPUs alike."""
    matrices = model.hidden_matrices() if config.optimizer == "muon" else []
    matrix_ids = set(map(id, matrices))
    rest = [parameter for parameter in model.parameters() if id(parameter) not in matrix_ids]
    groups = [
        {"params": [p for p in rest if p.ndim >= 2], "weight_decay": config.weight_decay},
        {"params": [p for p in rest if p.ndim < 2], "weight_decay": 0.0},
    ]
    kind = torch.optim.Adam if config.optimizer == "adam" else torch.optim.AdamW
    fused = rest[0].device.type in FUSED
    optimizers: list[torch.optim.Optimizer] = [kind(groups, lr=config.lr, betas=(BETA1, config.beta2), fused=fused)]
    if matrices:
        device = matrices[0].device
        optimizers.append(Muon(matrices, config.lr, config.weight_decay, resolve_dtype(config.dtype, device)))
    return optimizers


def update_weights(optimizers: Sequence[torch.optim.Optimizer], lr: float, found_inf: Tensor) -> None:
    """Make the optimizers' update with this learning rate, unless `found_inf`, float32 (), is 1."""
    is_fused = found_inf.device.type in FUSED
    if not is_fused and found_inf.item():
        return
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = lr
        if is_fused:
            optimizer.found_inf = found_inf  # type: ignore[attr-defined]  # where torch's gradient scaler sets it
        optimizer.step()


class Muon(torch.optim.Optimizer):
    """Muon, for matrices only."""

    def __init__(
        self, matrices: Iterable[nn.Parameter], lr: float, weight_decay: float, dtype: torch.dtype = torch.float32
    ) -> None:
        """dtype: as in `orthogonalize`."""
        matrices = list(matrices)
        self.dtype = dtype
        super().__init__([{"params": matrices}], {"lr": lr, "weight_decay": weight_decay})
        self.found_inf = torch.zeros((), device=matrices[0].device)

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            by_shape: dict[torch.Size, list[Tensor]] = {}
            for weight in group["params"]:
                if weight.grad is not None:
                    by_shape.setdefault(weight.shape, []).append(weight)
            decay = _unless(self.found_inf, 1 - group["lr"] * group["weight_decay"], otherwise=1)
            for shape, weights in by_shape.items():
                size = ADAM_RMS * max(shape) ** 0.5
                directions = orthogonalize(self._momenta(weights), self.dtype).masked_fill_(self.found_inf.bool(), 0)
                _each("mul_", weights, decay)
                _each("sub_", weights, directions.unbind(), alpha=group["lr"] * size)

    def _momenta(self, weights: list[Tensor]) -> Tensor:
        """Nesterov's momentum of each gradient: (matrix, row, column)."""
        for weight in weights:
            if not self.state[weight]:
                self.state[weight]["momentum"] = torch.zeros_like(weight)
        momenta = [self.state[weight]["momentum"] for weight in weights]
        gradients = torch.stack([weight.grad for weight in weights if weight.grad is not None])
        gradients.masked_fill_(self.found_inf.bool(), 0)  # a momentum moves by no share of it, but 0 times NaN is NaN
        _move(momenta, gradients.unbind(), _unless(self.found_inf, 1 - MOMENTUM, otherwise=0))
        _each("lerp_", gradients.unbind(), momenta, MOMENTUM)
        return gradients


def orthogonalize(matrices: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """Approximate U V^T of each matrix U S V^T by a Newton-Schulz iteration: (matrix, row, column) -> the same shape.

    Each round multiplies a matrix by a polynomial of its Gram matrix. dtype: of these products. In float32 only the
    Gram matrix and the product of the polynomials go from round to round: they are square and small, and the matrix is
    long. In bfloat16 that would lose the small singular values, so there the matrix goes through all rounds.
    """
    is_tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if is_tall else matrices
    x = x / (torch.linalg.matrix_norm(x, keepdim=True) + 1e-7)
    x = _iterate_gram(x) if dtype == torch.float32 else _iterate(x.to(dtype)).to(x.dtype)
    return x.mT if is_tall else x


def _iterate(x: Tensor) -> Tensor:
    """The rounds on the matrices themselves, as they are published."""
    first, third, fifth = QUINTIC
    for _ in range(ROUNDS):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=third, alpha=fifth), x, beta=first)
    return x


def _iterate_gram(x: Tensor) -> Tensor:
    """The rounds on the Gram matrices, with the same result."""
    gram = x @ x.mT
    product = polynomial = _polynomial(gram)
    for _ in range(ROUNDS - 1):
        gram = polynomial @ gram @ polynomial
        polynomial = _polynomial(gram)
        product = polynomial @ product
    return product @ x


def _polynomial(gram: Tensor) -> Tensor:
    """The factor of one round: a I + b gram + c gram^2, with the coefficients (a, b, c) of QUINTIC."""
    first, third, fifth = QUINTIC
    polynomial = torch.baddbmm(gram, gram, gram, beta=third, alpha=fifth)
    polynomial.diagonal(dim1=1, dim2=2).add_(first)
    return polynomial


@torch.no_grad()
def update_ema(ema_model: nn.Module, model: nn.Module, decay: float, step: int, found_inf: Tensor) -> None:
    """Move the exponential moving average of the weights towards them, after `step` other updates; not at all if
    `found_inf` is 1.

    The decay grows to `decay`, so that the first weights are soon forgotten.
    """
    share = _unless(found_inf, 1 - min(decay, (1 + step) / (10 + step)), otherwise=0)
    _move(list(ema_model.parameters()), list(model.parameters()), share)


def _move(tensors: Sequence[Tensor], targets: Sequence[Tensor], share: Tensor) -> None:
    """Move each tensor towards its target by this share of the way, in place."""
    _each("lerp_", tensors, targets, [share] * len(tensors))


def _each(operation: str, tensors: Sequence[Tensor], *arguments: Any, **options: Any) -> None:
    """Call an in-place operation of each tensor, with its part of the arguments that are sequences: in one call, which
    is one kernel on a GPU, where this torch has that (it is private, so it may go)."""
    together = getattr(torch, f"_foreach_{operation}", None)
    if together is not None:
        together(tensors, *arguments, **options)
        return
    for index, tensor in enumerate(tensors):
        own = (each[index] if isinstance(each, list | tuple) else each for each in arguments)
        getattr(tensor, operation)(*own, **options)


def _unless(found_inf: Tensor, value: float, otherwise: float) -> Tensor:
    """One of two numbers, as a tensor on the device, float32 ()."""
    return torch.full_like(found_inf, value).masked_fill_(found_inf.bool(), otherwise)


def state_tensors(optimizers: Sequence[torch.optim.Optimizer]) -> dict[str, Tensor]:
    """The optimizers' state as tensors, named OPTIMIZER.PARAMETER.MOMENT."""
    return {
        f"{number}.{index}.{name}": tensor
        for number, optimizer in enumerate(optimizers)
        for index, moments in optimizer.state_dict()["state"].items()
        for name, tensor in moments.items()
    }


def expected_state(optimizers: Sequence[torch.optim.Optimizer]) -> dict[str, Tensor]:
    """Tensors with the names, shapes and types of those that `state_tensors` returns after a step."""
    expected: dict[str, Tensor] = {}
    for number, optimizer in enumerate(optimizers):
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        for index, parameter in enumerate(parameters):
            moments = ("momentum",) if isinstance(optimizer, Muon) else ("exp_avg", "exp_avg_sq")
            expected |= {f"{number}.{index}.{name}": parameter.detach() for name in moments}
            if not isinstance(optimizer, Muon):
                expected[f"{number}.{index}.step"] = torch.zeros(())
    return expected


def restore_state(optimizers: Sequence[torch.optim.Optimizer], tensors: Mapping[str, Tensor]) -> None:
    """Undo `state_tensors`."""
    states: list[dict[int, dict[str, Tensor]]] = [{} for _ in optimizers]
    for key, tensor in tensors.items():
        number, index, name = key.split(".")
        states[int(number)].setdefault(int(index), {})[name] = tensor
    for optimizer, state in zip(optimizers, states, strict=True):
        optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
