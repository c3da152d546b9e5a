"""Optimizers: AdamW, Adam or Muon, the moving average of the weights, and the optimizers' state as plain tensors.

Muon updates a matrix along the nearest orthogonal one, so that all its directions learn at the same rate: Jordan et
al., 2024, https://kellerjordan.github.io/posts/muon; scaled so that a step has the root mean square of one of Adam's
and both share a learning rate and a decay (Liu et al., 2025, https://arxiv.org/abs/2502.16982). torch has a Muon too,
but it computes in bfloat16, matrix by matrix: many times slower on a CPU without units for that. Here matrices of one
shape are updated together, in float32. Knows nothing of data and files.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from trainer.config import TrainConfig
from trainer.model import NoteModel

BETA1 = 0.9
MOMENTUM = 0.95
ADAM_RMS = 0.2  # root mean square of a step of Adam, as a share of the learning rate
QUINTIC = (3.4445, -4.7750, 2.0315)  # Jordan's coefficients: singular values go to about 1 in five rounds
ROUNDS = 5


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
    fused = rest[0].device.type in ("cpu", "cuda")
    optimizers: list[torch.optim.Optimizer] = [kind(groups, lr=config.lr, betas=(BETA1, config.beta2), fused=fused)]
    if matrices:
        optimizers.append(Muon(matrices, config.lr, config.weight_decay))
    return optimizers


class Muon(torch.optim.Optimizer):
    """Muon, for matrices only."""

    def __init__(self, matrices: Iterable[nn.Parameter], lr: float, weight_decay: float) -> None:
        super().__init__([{"params": list(matrices)}], {"lr": lr, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            by_shape: dict[torch.Size, list[nn.Parameter]] = {}
            for weight in group["params"]:
                if weight.grad is not None:
                    by_shape.setdefault(weight.shape, []).append(weight)
            for shape, weights in by_shape.items():
                size = ADAM_RMS * max(shape) ** 0.5
                for weight, direction in zip(weights, orthogonalize(self._momenta(weights)), strict=True):
                    weight.mul_(1 - group["lr"] * group["weight_decay"])
                    weight.sub_(direction, alpha=group["lr"] * size)

    def _momenta(self, weights: list[nn.Parameter]) -> Tensor:
        """Nesterov's momentum of each gradient: (matrix, row, column)."""
        momenta = []
        for weight in weights:
            state = self.state[weight]
            if not state:
                state["momentum"] = torch.zeros_like(weight)
            assert weight.grad is not None
            state["momentum"].lerp_(weight.grad, 1 - MOMENTUM)
            momenta.append(torch.lerp(weight.grad, state["momentum"], MOMENTUM))
        return torch.stack(momenta)


def orthogonalize(matrices: Tensor) -> Tensor:
    """Approximate U V^T of each matrix U S V^T by a Newton-Schulz iteration: (matrix, row, column) -> the same shape.

    Each round multiplies a matrix by a polynomial of its Gram matrix. Only the Gram matrix and the product of the
    polynomials go from round to round: they are square and small, and the matrix is long.
    """
    is_tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if is_tall else matrices
    x = x / (torch.linalg.matrix_norm(x, keepdim=True) + 1e-7)
    gram = x @ x.mT
    product = polynomial = _polynomial(gram)
    for _ in range(ROUNDS - 1):
        gram = polynomial @ gram @ polynomial
        polynomial = _polynomial(gram)
        product = polynomial @ product
    x = product @ x
    return x.mT if is_tall else x


def _polynomial(gram: Tensor) -> Tensor:
    """The factor of one round: a I + b gram + c gram^2, with the coefficients (a, b, c) of QUINTIC."""
    first, third, fifth = QUINTIC
    polynomial = torch.baddbmm(gram, gram, gram, beta=third, alpha=fifth)
    polynomial.diagonal(dim1=1, dim2=2).add_(first)
    return polynomial


@torch.no_grad()
def update_ema(ema_model: nn.Module, model: nn.Module, decay: float, step: int) -> None:
    """Move the exponential moving average of the weights towards them, after `step` other updates.

    The decay grows to `decay`, so that the first weights are soon forgotten.
    """
    decay = min(decay, (1 + step) / (10 + step))
    update: Callable[..., None] = get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]
    update(list(ema_model.parameters()), list(model.parameters()), None)


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
