"""How long a run is: a number of steps, or as many as fit in some minutes by the speed of this machine.

Speed is not known before a run begins, and changes when others use the machine, so minutes become steps anew at each
tenth of the time. What was planned is kept with the step from which it holds: a run that goes on from a checkpoint
takes the same steps at the same learning rates. Knows nothing of models and files.
"""

from collections.abc import Sequence

Plans = tuple[tuple[int, int], ...]  # (from this step on, so many steps in all)

FIRST = 0.02  # share of the minutes after which their number of steps is first known
AGAIN = 0.1  # and after which it is worked out again


def planned(plans: Plans, step: int) -> int | None:
    """Steps in all, as planned when `step` steps were made; None if nothing was planned yet."""
    return next((steps for since, steps in reversed(plans) if since <= step), None)


class Pace:
    """When there is something to plan, and what, from the time that steps have taken."""

    def __init__(self, minutes: float, step: int, seconds: float) -> None:
        """`seconds` of training have led to `step`."""
        self._whole = minutes * 60
        self._step, self._seconds = step, seconds

    def proposal(self, plans: Sequence[tuple[int, int]], step: int, seconds: float) -> int:
        """Steps in all, if it is time to plan; 0 if not.

        It is after a share of the minutes, or when the run would end with that much left.
        """
        steps, took, left = step - self._step, seconds - self._seconds, self._whole - seconds
        if not self._whole or not steps or (plans and step <= plans[-1][0]):
            return 0  # the last: planned already, before the run was interrupted
        share = self._whole * (AGAIN if plans else FIRST)
        is_ending = bool(plans) and step + 1 >= plans[-1][1] and left >= share
        if took < share and not is_ending:
            return 0
        self._step, self._seconds = step, seconds
        return step + max(1, round(left / (took / steps)))
