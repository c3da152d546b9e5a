"""Muon: updates of matrices along the nearest orthogonal one, so that all their directions learn alike.

Jordan et al., 2024, https://kellerjordan.github.io/posts/muon; scaled so that a step has the root mean square of one of
Adam's and both share a learning rate and a decay (Liu et al., 2025, https://arxiv.org/abs/2502.16982). torch has a Muon
too, but it computes in bfloat16, matrix by matrix: many times slower on a CPU without units for that. Here matrices of
one shape go together, in float32.
"""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

MOMENTUM = 0.95
ADAM_RMS = 0.2  # root mean square of a step of Adam, as a share of the learning rate
QUINTIC = (3.4445, -4.7750, 2.0315)  # Jordan's coefficients: singular values go to about 1 in five rounds
ROUNDS = 5


class Muon(torch.optim.Optimizer):
    """For matrices alone."""

    def __init__(self, matrices: Iterable[nn.Parameter], lr: float, weight_decay: float) -> None:
        super().__init__([{"params": list(matrices)}], {"lr": lr, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            alike: dict[torch.Size, list[nn.Parameter]] = {}
            for weight in group["params"]:
                if weight.grad is not None:
                    alike.setdefault(weight.shape, []).append(weight)
            for shape, weights in alike.items():
                size = ADAM_RMS * max(shape) ** 0.5
                for weight, direction in zip(weights, orthogonal(self._momenta(weights)), strict=True):
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


def orthogonal(matrices: Tensor) -> Tensor:
    """About U V^T of each matrix U S V^T, by a Newton-Schulz iteration: (matrix, row, column) -> the same shape.

    Each round multiplies a matrix by a polynomial of its Gram matrix. Only the Gram matrix and the product of the
    polynomials are carried from round to round: they are square and small, where the matrix is long.
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
    """What a round multiplies by."""
    first, third, fifth = QUINTIC
    polynomial = torch.baddbmm(gram, gram, gram, beta=third, alpha=fifth)
    polynomial.diagonal(dim1=1, dim2=2).add_(first)
    return polynomial
