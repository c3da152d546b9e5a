"""Names of devices and precisions, by one rule for both programs.

The caller says what the machine has, so that this needs no torch.
"""

from shards.errors import UserError

DEVICE_HELP = "auto (the fastest there is), cpu, mps, cuda, or one GPU of several, such as cuda:1."


def resolve_device(name: str, cuda_devices: int, has_mps: bool, local_rank: int | None = None) -> str:
    """The device that `name` means, for torch: "cpu", "mps", "cuda" or "cuda:1".

    cuda_devices: GPUs that the machine has. local_rank: of this process among those that torchrun started here; each
    has a GPU of its own.

    Raises:
        UserError: no such device on this machine, or an index under torchrun, which gives each rank its own.
    """
    if name == "auto":
        name = "cuda" if cuda_devices else "mps" if has_mps else "cpu"
    kind, colon, index = name.partition(":")
    devices = {"cpu": 1, "cuda": cuda_devices, "mps": int(has_mps)}
    if not devices.get(kind) or (colon and (kind != "cuda" or not index.isdecimal() or int(index) >= cuda_devices)):
        existing = [device for device, count in devices.items() if count]
        existing += [f"cuda:{number}" for number in range(cuda_devices)]
        raise UserError(f"--device {name}: not on this machine, which has {', '.join(existing)}")
    if kind != "cuda" or local_rank is None:
        return name
    if colon:
        raise UserError(f"--device {name}: torchrun gives each rank its own GPU; use --device cuda")
    if local_rank >= cuda_devices:
        raise UserError(
            f"--device cuda: rank {local_rank} has no GPU, this machine has {cuda_devices}; start fewer ranks"
        )
    return f"cuda:{local_rank}"


def resolve_precision(name: str, has_bfloat16: bool) -> str:
    """The precision that `name` means, "float32" or "bfloat16"; auto is bfloat16 where the hardware has units for it.

    Raises:
        UserError: another name.
    """
    if name not in ("auto", "float32", "bfloat16"):
        raise UserError(f"precision {name}: must be auto, float32 or bfloat16")
    return ("bfloat16" if has_bfloat16 else "float32") if name == "auto" else name
