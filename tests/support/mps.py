"""A stand-in for MPS on a CPU: it has no float64."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class _NoFloat64(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func is torch.ops.aten.lift_fresh.default:  # numbers of numpy, which are not on the device yet
            return result
        if any(isinstance(leaf, torch.Tensor) and leaf.dtype == torch.float64 for leaf in tree_leaves(result)):
            raise TypeError(f"{func}: MPS has no float64")
        return result


@contextmanager
def as_if_on_mps(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Run the block as on MPS: whatever makes a float64 tensor fails. In one thread."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    for module in ("trainer.sample", "trainer.train", "trainer.evaluate"):
        monkeypatch.setattr(f"{module}.widest_float", lambda device: torch.float32)
    monkeypatch.setattr("trainer.generate.is_compiled", lambda device: False)
    try:
        with _NoFloat64():
            yield
    finally:
        torch.set_num_threads(before)
