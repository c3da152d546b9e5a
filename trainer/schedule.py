"""Schedule of a run: its number of steps, and for each the learning rate and the share of dropout.

A run is a number of steps long, or as many as fit in some minutes. The speed of this machine is unknown before a run
begins and changes when others use it, so the number of steps is estimated again at each tenth of the time. Each
estimate is saved with the step from which it holds: a run that goes on from a checkpoint takes the same steps at the
same learning rates. Knows nothing of models and files.
"""

import math
from typing import Annotated

from msgspec import Meta

from trainer.config import LARGEST, TrainConfig

Step = Annotated[int, Meta(ge=0, le=LARGEST**2)]
Plans = tuple[tuple[Step, Step], ...]  # (from this step on, so many steps in all)

FIRST_ESTIMATE = 0.02  # share of the minutes after which the number of steps is first estimated
NEXT_ESTIMATE = 0.1  # share of the minutes between estimates


def planned_steps(plans: Plans, step: int) -> int | None:
    """Steps in all by the plan that holds at `step`; None before the first plan."""
    return next((steps for since, steps in reversed(plans) if since <= step), None)


def learning_rate(config: TrainConfig, step: int, steps: int | None) -> float:
    """Learning rate after `step` of `steps` updates: linear warm-up, then constant or half a cosine.

    While the number of steps is unknown, the peak rate holds.
    """
    if step < config.warmup:
        return config.lr * (step + 1) / config.warmup
    if config.schedule == "constant" or steps is None:
        return config.lr
    done = (step - config.warmup) / max(1, steps - config.warmup)
    return config.lr * (config.final_lr + (1 - config.final_lr) * (1 + math.cos(math.pi * min(1.0, done))) / 2)


def dropout_share(dropout_epochs: float, steps_per_epoch: int, steps: int | None) -> float:
    """Share of the model's dropout that a training of `steps` updates has, from 0 to 1.

    While the number of steps is unknown, it has none.
    """
    if not dropout_epochs:
        return 1.0
    return min(1.0, (steps or 0) / steps_per_epoch / dropout_epochs)


class StepEstimator:
    """Estimates how many steps fit in the minutes of a run, from the seconds that its last steps took."""

    def __init__(self, minutes: float, step: int, seconds: float) -> None:
        """`seconds` of training have led to `step`."""
        self._limit = minutes * 60  # seconds; 0: the run has a fixed number of steps
        self._step, self._seconds = step, seconds

    def propose(self, plans: Plans, step: int, seconds: float) -> int:
        """Steps in all, if it is time for an estimate; otherwise 0.

        It is time after a share of the minutes, or when the run would end with that share left.
        """
        steps, elapsed, left = step - self._step, seconds - self._seconds, self._limit - seconds
        if not self._limit or not steps or (plans and step <= plans[-1][0]):
            return 0  # the last condition: this step was planned before the run was interrupted
        share = self._limit * (NEXT_ESTIMATE if plans else FIRST_ESTIMATE)
        is_ending = bool(plans) and step + 1 >= plans[-1][1] and left >= share
        if elapsed < share and not is_ending:
            return 0
        self._step, self._seconds = step, seconds
        return step + max(1, round(left / (elapsed / steps)))
