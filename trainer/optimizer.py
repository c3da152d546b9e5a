"""How weights move: parameter groups, the schedule of the learning rate, the moving average of the weights, and the
optimizer's state as plain tensors."""

import math

import torch
from torch import Tensor, nn

from trainer.config import TrainConfig

MOMENTS = ("step", "exp_avg", "exp_avg_sq")  # what Adam keeps of each parameter
BETA1 = 0.9


def make_optimizer(model: nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    """AdamW that decays matrices only, or Adam. `fused` does all parameters in one call, on CPUs and GPUs alike."""
    parameters = list(model.parameters())
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": config.weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    kind = {"adamw": torch.optim.AdamW, "adam": torch.optim.Adam}[config.optimizer]
    fused = parameters[0].device.type in ("cpu", "cuda")
    return kind(groups, lr=config.lr, betas=(BETA1, config.beta2), fused=fused)


def learning_rate(config: TrainConfig, step: int, steps: int) -> float:
    """Of the update after `step` others of `steps` in all: a straight warm-up, then constant or half a cosine."""
    if step < config.warmup:
        return config.lr * (step + 1) / config.warmup
    if config.schedule == "constant":
        return config.lr
    done = (step - config.warmup) / max(1, steps - config.warmup)
    return config.lr * (config.final_lr + (1 - config.final_lr) * (1 + math.cos(math.pi * min(1.0, done))) / 2)


@torch.no_grad()
def follow(average: nn.Module, model: nn.Module, decay: float, step: int) -> None:
    """Move an average of the weights towards them, after `step` other updates.

    The decay grows to what is asked for, so that the first weights are soon forgotten.
    """
    decay = min(decay, (1 + step) / (10 + step))
    torch._foreach_lerp_(list(average.parameters()), list(model.parameters()), 1 - decay)


def state_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimizer's memory, by parameter and moment."""
    state = optimizer.state_dict()["state"]
    return {f"{index}.{name}": moments[name] for index, moments in state.items() for name in MOMENTS}


def restore_state(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """Undo `state_tensors`."""
    state: dict[int, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        index, _, name = key.partition(".")
        state.setdefault(int(index), {})[name] = tensor
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
