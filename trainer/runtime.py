"""Runtime of a process: its device, copies to it, its precision, its memory, and the ranks that `torchrun` started.

Knows nothing of what is computed.
"""

import os
import resource
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from shards import device as devices
from shards.errors import first_line
from trainer.errors import TrainError

TORCHRUN = ("RANK", "MASTER_ADDR", "MASTER_PORT")  # variables that it sets beside WORLD_SIZE and LOCAL_RANK


@dataclass(frozen=True)
class Ranks:
    """This process among all of the training."""

    rank: int = 0
    world: int = 1

    @property
    def is_main(self) -> bool:
        """Only this process writes files and reports."""
        return self.rank == 0

    def all_reduce(self, tensor: torch.Tensor) -> torch.Tensor:
        """Sum over all ranks, in place."""
        if self.world > 1:
            dist.all_reduce(tensor)
        return tensor

    def sum(self, numbers: Sequence[int]) -> list[int]:
        """Sum each of some numbers over all ranks. No GPU takes part, so none is waited for."""
        return list(numbers) if self.world == 1 else self.all_reduce(torch.tensor(numbers)).tolist()

    def all_gather(self, value: Any) -> list[Any]:
        """The value of each rank."""
        values = [value] * self.world
        if self.world > 1:
            dist.all_gather_object(values, value)
        return values

    def barrier(self) -> None:
        """Wait until all ranks are here."""
        if self.world > 1:
            dist.barrier()


@contextmanager
def join_ranks(device: torch.device) -> Iterator[Ranks]:
    """Join the ranks that `torchrun` started, if it did, until the block ends."""
    world = _whole_number("WORLD_SIZE")
    if world in (None, 1):
        yield Ranks()
        return
    needed = (*TORCHRUN, "LOCAL_RANK") if device.type == "cuda" else TORCHRUN
    if missing := [name for name in needed if not os.environ.get(name)]:
        raise TrainError(
            f"WORLD_SIZE={world} is set, but {', '.join(missing)} not: start ranks by torchrun, or unset WORLD_SIZE"
        )
    if device.type == "cuda":
        torch.cuda.set_device(device)
    try:
        dist.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo")
    except (RuntimeError, ValueError) as error:
        reason = f"rank {os.environ['RANK']}: cannot join the other ranks ({first_line(error)})"
        raise TrainError(f"{reason}; start torchrun again") from error
    ranks = Ranks(dist.get_rank(), dist.get_world_size())
    try:
        yield ranks
        ranks.barrier()  # a rank that exits while gloo's thread frees its last tensor is aborted
    finally:
        dist.destroy_process_group()


def resolve_device(name: str) -> torch.device:
    """The device of `--device`; "auto" is the fastest one there is. Under `torchrun` each rank has a GPU of its own.

    Raises:
        UserError: a device that this machine does not have, or an index under `torchrun`.
    """
    local_rank = _whole_number("LOCAL_RANK")
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    return torch.device(devices.resolve_device(name, gpus, torch.backends.mps.is_available(), local_rank))


def to_device(array: np.ndarray, device: torch.device) -> torch.Tensor:
    """Copy an array to the device. A GPU copies from pinned memory while this process goes on."""
    tensor = torch.from_numpy(array)
    if device.type != "cuda":
        return tensor.to(device)
    return tensor.contiguous().pin_memory().to(device, non_blocking=True)


def _whole_number(name: str) -> int | None:
    """A variable of the environment; None if it is not set or empty. Raises TrainError."""
    text = os.environ.get(name, "")
    if text and not (text.isdecimal() and len(text) < 10):
        raise TrainError(f"{name}={text}: is no whole number; start ranks by torchrun, or unset it")
    return int(text) if text else None


def resolve_dtype(name: str, device: torch.device) -> torch.dtype:
    """The dtype of matrix products or, when a CPU samples, of weights and cache; "auto" is bfloat16 where the hardware
    has units for it."""
    return getattr(torch, devices.resolve_precision(name, _has_bfloat16(device)))


def widest_float(device: torch.device) -> torch.dtype:
    """The dtype of sums on this device: float64, which MPS does not have."""
    return torch.float32 if device.type == "mps" else torch.float64


def _has_bfloat16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "cpu":  # without AMX or AVX512-BF16 bfloat16 is emulated, several times slower than float32
        checks = ("_is_amx_tile_supported", "_is_avx512_bf16_supported")  # private, so they may go
        return any(getattr(torch.cpu, check, lambda: False)() for check in checks)
    return False


def peak_memory(device: torch.device) -> int:
    """The most memory that this process has used so far on its device, in bytes."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # Linux counts in KiB
