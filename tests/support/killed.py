"""A call that ends at an fsync or a rename, as if its process were killed there."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


class KilledError(Exception):
    """Stands for the end of the process."""


def is_killed(call: Callable[[], object], point: int) -> bool:
    """End the call at the fsync or rename that comes after `point` others; False if it makes no more than these."""
    left = point

    def counted(step: Callable[..., Any]) -> Callable[..., Any]:
        def wrapper(*arguments: Any) -> Any:
            nonlocal left
            if left == 0:
                raise KilledError
            left -= 1
            return step(*arguments)

        return wrapper

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", counted(os.fsync))
        patch.setattr(Path, "replace", counted(Path.replace))
        try:
            call()
        except KilledError:
            return True
    return False
