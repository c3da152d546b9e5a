"""How weights move: parameter groups, the schedule of the learning rate, the moving average of the weights, and the
optimizer's state as plain tensors."""

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from trainer.config import TrainConfig
from trainer.model import NoteModel
from trainer.muon import Muon

BETA1 = 0.9


def make_optimizers(model: NoteModel, config: TrainConfig) -> list[torch.optim.Optimizer]:
    """AdamW that decays matrices only, or Adam, or Muon for the matrices between embeddings and heads and AdamW for the
    rest. `fused` does all parameters in one call, on CPUs and GPUs alike."""
    matrices = model.hidden_matrices() if config.optimizer == "muon" else []
    known = set(map(id, matrices))
    rest = [parameter for parameter in model.parameters() if id(parameter) not in known]
    groups = [
        {"params": [p for p in rest if p.ndim >= 2], "weight_decay": config.weight_decay},
        {"params": [p for p in rest if p.ndim < 2], "weight_decay": 0.0},
    ]
    kind = torch.optim.Adam if config.optimizer == "adam" else torch.optim.AdamW
    fused = rest[0].device.type in ("cpu", "cuda")
    found: list[torch.optim.Optimizer] = [kind(groups, lr=config.lr, betas=(BETA1, config.beta2), fused=fused)]
    if matrices:
        found.append(Muon(matrices, config.lr, config.weight_decay))
    return found


def learning_rate(config: TrainConfig, step: int, steps: int | None) -> float:
    """Of the update after `step` others of `steps` in all: a straight warm-up, then constant or half a cosine.

    As long as nobody knows how many there will be, it is as at the beginning.
    """
    if step < config.warmup:
        return config.lr * (step + 1) / config.warmup
    if config.schedule == "constant" or steps is None:
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


def state_tensors(optimizers: Sequence[torch.optim.Optimizer]) -> dict[str, Tensor]:
    """What optimizers remember, by optimizer, parameter and moment."""
    return {
        f"{place}.{index}.{name}": tensor
        for place, optimizer in enumerate(optimizers)
        for index, moments in optimizer.state_dict()["state"].items()
        for name, tensor in moments.items()
    }


def restore_state(optimizers: Sequence[torch.optim.Optimizer], tensors: Mapping[str, Tensor]) -> None:
    """Undo `state_tensors`."""
    states: list[dict[int, dict[str, Tensor]]] = [{} for _ in optimizers]
    for key, tensor in tensors.items():
        place, index, name = key.split(".")
        states[int(place)].setdefault(int(index), {})[name] = tensor
    for optimizer, state in zip(optimizers, states, strict=True):
        optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
