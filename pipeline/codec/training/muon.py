"""Optimizer of the codec: Muon for matrices and convolution kernels, Adam for the other weights.

Muon (Jordan et al., 2024, https://kellerjordan.github.io/posts/muon) steps along the orthogonal matrix nearest to the
momentum, so that all directions move alike. Of a kernel, all dimensions but the first become the matrix's columns. A
step has the root mean square of a step of Adam, so both share a learning rate (Liu et al., 2025,
https://arxiv.org/abs/2502.16982). torch's own Muon takes matrices only.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

MOMENTUM = 0.95
BETAS = (0.8, 0.99)  # of Adam
EPSILON = 1e-8
ADAM_RMS = 0.2  # root mean square of a step of Adam, relative to the learning rate
MIN_SIZE = 8  # rows and columns at least, to take part in Muon
QUINTIC = (3.4445, -4.7750, 2.0315)  # Jordan's coefficients: singular values reach about 1 in five rounds
ROUNDS = 5


class Muon(torch.optim.Optimizer):
    """Muon and Adam at one learning rate; a group's `share` scales it."""

    def __init__(self, groups: Iterable[dict[str, Any]]) -> None:
        super().__init__(groups, {"lr": 0.0, "share": 1.0})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            rate = group["lr"] * group["share"]
            for weight in group["params"]:
                if weight.grad is not None:
                    weight.sub_(rate * self._direction(weight, weight.grad))

    def _direction(self, weight: Tensor, gradient: Tensor) -> Tensor:
        state = self.state[weight]
        if weight.ndim > 1 and min(len(weight), weight[0].numel()) >= MIN_SIZE:
            if not state:
                state["momentum"] = torch.zeros_like(weight)
            state["momentum"].lerp_(gradient, 1 - MOMENTUM)
            matrix = torch.lerp(gradient, state["momentum"], MOMENTUM).flatten(1)  # Nesterov's momentum
            return orthogonalize(matrix).view_as(weight) * (ADAM_RMS * max(matrix.shape) ** 0.5)
        if not state:
            state["step"] = torch.zeros(())
            state["mean"], state["square"] = torch.zeros_like(weight), torch.zeros_like(weight)
        state["step"] += 1
        state["mean"].lerp_(gradient, 1 - BETAS[0])
        state["square"].lerp_(gradient.square(), 1 - BETAS[1])
        mean, square = (
            state[key] / (1 - beta ** float(state["step"])) for key, beta in zip(("mean", "square"), BETAS, strict=True)
        )
        return mean / (square.sqrt() + EPSILON)


def orthogonalize(matrix: Tensor) -> Tensor:
    """Approximate U V^T of the matrix U S V^T by a Newton-Schulz iteration: (row, column) -> (row, column).

    Each round multiplies the matrix by a polynomial of its Gram matrix. The rounds compute only the Gram matrix and the
    product of the polynomials, which are square and small, and multiply the long matrix once.
    """
    x = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    x = x / (x.norm() + 1e-7)
    gram = x @ x.T
    product = polynomial = _polynomial(gram)
    for _ in range(ROUNDS - 1):
        gram = polynomial @ gram @ polynomial
        polynomial = _polynomial(gram)
        product = polynomial @ product
    x = product @ x
    return x if matrix.shape[0] <= matrix.shape[1] else x.T


def _polynomial(gram: Tensor) -> Tensor:
    """Polynomial of one round, (row, row)."""
    first, third, fifth = QUINTIC
    polynomial = torch.addmm(gram, gram, gram, beta=third, alpha=fifth)
    polynomial.diagonal().add_(first)
    return polynomial
