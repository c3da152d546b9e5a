"""Where a run computes, and in which precision."""

import resource
import sys

import torch

from trainer.errors import ConfigError

DEVICES = ("auto", "cpu", "cuda", "mps")


def resolve_device(name: str) -> torch.device:
    """The device that is meant; "auto" is the fastest one there is.

    Raises:
        ConfigError: a device that this machine does not have.
    """
    has = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if name == "auto":
        name = next(known for known in ("cuda", "mps", "cpu") if has[known])
    if not has.get(name):
        raise ConfigError(f"--device {name}: not on this machine, which has {', '.join(k for k in has if has[k])}")
    return torch.device(name)


def resolve_dtype(name: str, device: torch.device) -> torch.dtype:
    """What matrix products are computed in, or, when sampling on a CPU, what weights and cache are kept in.

    "auto" is bfloat16 where the hardware has units for it.
    """
    if name != "auto":
        return {"float32": torch.float32, "bfloat16": torch.bfloat16}[name]
    return torch.bfloat16 if _has_bfloat16(device) else torch.float32


def peak_memory(device: torch.device) -> int:
    """The most bytes that this process has held so far, on the device that it computes on."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # Linux counts in KiB


def _has_bfloat16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "cpu":  # without AMX or AVX512-BF16 bfloat16 is emulated, several times slower than float32
        return torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()
    return False
