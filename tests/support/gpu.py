"""A stand-in for a GPU on a CPU: torch's meta device. It has no data, so whatever reads a number from it fails, and an
operation with a tensor of the CPU fails here too: on a GPU it would be a copy that waits for all that is queued."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from importlib import import_module
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from trainer.train import READ_EVERY, Training


class _OnDevice(TorchDispatchMode):
    """Operations on tensors of the device alone."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        name = func.name()
        tensors = [leaf for leaf in tree_leaves((args, kwargs, result)) if isinstance(leaf, torch.Tensor)]
        has_mask = name.startswith("aten::index") and any(leaf.dtype == torch.bool for leaf in tensors[1:])
        if has_mask or any(leaf.device.type != "meta" for leaf in tensors):
            raise RuntimeError(f"{name}: a GPU would be waited for")
        return result


@contextmanager
def only_on_device() -> Iterator[None]:
    """Fail at the first operation in the block for which a GPU would be waited for."""
    with _OnDevice():
        yield


def _copy(array: np.ndarray, device: torch.device) -> torch.Tensor:
    """Stand in for `to_device`, which waits for nothing."""
    return torch.empty(array.shape, dtype=getattr(torch, array.dtype.name), device=device)


@contextmanager
def as_if_on_gpu(monkeypatch: pytest.MonkeyPatch, steps: int) -> Iterator[None]:
    """Train in the block on a stand-in for a GPU, of which losses are read every so many steps; reading fails."""
    update = Training._update

    def guarded(*arguments: Any) -> None:
        with only_on_device():
            update(*arguments)

    with monkeypatch.context() as patch:
        patch.setitem(READ_EVERY, "meta", steps)
        patch.setattr(Training, "_update", guarded)
        patch.setattr("trainer.train.resolve_device", lambda name: torch.device("meta"))
        patch.setattr("trainer.train.to_device", _copy)
        patch.setattr("trainer.evaluate.to_device", _copy)
        patch.setattr("trainer.train.measure_peak", lambda device, dtype: 1.0)
        patch.setattr("trainer.optim.FUSED", ("meta",))
        adam = import_module("torch.optim.adam")  # which torch.optim hides behind a function of this name
        # torch refuses fused optimizers and autocast of a device that computes nothing
        patch.setattr(adam, "_device_dtype_check_for_fused", lambda parameter: None)
        patch.setattr("trainer.train.torch.autocast", lambda *arguments, **options: nullcontext())
        patch.setattr("x_transformers.x_transformers.autocast", lambda *arguments, **options: nullcontext())
        yield
