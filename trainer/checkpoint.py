"""Checkpoint: a run's state at a step as one safetensors file of tensors and a JSON block, whole or not at all.

`step-00000500.safetensors` in the run's `checkpoints/`; never a pickle. Knows nothing of models or optimizers but
their tensors.
"""

import json
import logging
import re
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from shards.console import quote
from shards.files import PART, atomic_write, utf8_path
from trainer.errors import TrainError

log = logging.getLogger(__name__)

FOLDER = "checkpoints"
NAME = re.compile(r"step-(\d{8,})\.safetensors")


@dataclass(frozen=True)
class Checkpoint:
    """The state of a run at one step."""

    step: int  # updates made
    tensors: dict[str, Tensor]
    facts: dict[str, Any]  # JSON: valid loss, the best step so far ...


def write_checkpoint(run: Path, checkpoint: Checkpoint) -> Path:
    """Write the state; the name appears when all of it is on the disk."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in checkpoint.tensors.items()}
    facts = json.dumps({"step": checkpoint.step, **checkpoint.facts})
    data = save(tensors, {"facts": facts, "crc32": str(_checksum(tensors))})
    path = checkpoint_path(run, checkpoint.step)
    with atomic_write(path) as file:
        file.write(data)
    return path


def read_checkpoint(path: Path, prefix: str = "") -> Checkpoint:
    """Undo `write_checkpoint`. With a `prefix`, only the tensors with it in their names, which lose it.

    Raises:
        TrainError: missing or damaged.
    """
    try:
        with utf8_path(path) as readable, safe_open(readable, "pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        facts = json.loads(metadata["facts"])
        is_intact = _checksum(tensors) == int(metadata["crc32"])
    except FileNotFoundError as error:
        raise TrainError(f"{path}: no such checkpoint") from error
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise TrainError(f"{path}: is not a whole checkpoint ({str(error).splitlines()[0]})") from error
    if not is_intact:
        raise TrainError(f"{path}: is damaged, its checksum does not fit; delete it to go on from the one before")
    tensors = {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
    return Checkpoint(facts.pop("step"), tensors, facts)


def newest_checkpoint(run: Path) -> Checkpoint | None:
    """Read the last intact checkpoint of the run, or None if it has none; warn of each damaged one."""
    for step in reversed(saved_steps(run)):
        try:
            return read_checkpoint(checkpoint_path(run, step))
        except TrainError as error:
            log.warning("%s Falling back to the checkpoint before it.", error.message)
    return None


def find_checkpoint(run: Path, step: int | None) -> Path:
    """The file of a step; of the newest if `step` is None.

    Raises:
        TrainError: the run has no such checkpoint.
    """
    steps = saved_steps(run)
    if not steps:
        raise TrainError(
            f"{run}: has no checkpoint yet; `python -m trainer train --shards SET --run {quote(run)}` makes them"
        )
    if step is not None and step not in steps:
        raise TrainError(f"{run}: has no checkpoint of step {step}, only of {', '.join(map(str, steps))}")
    return checkpoint_path(run, steps[-1] if step is None else step)


def prune_checkpoints(run: Path, keep: int, best: int | None) -> None:
    """Delete all but the newest `keep` and the best, and the parts of interrupted writes."""
    for step in saved_steps(run)[:-keep]:
        if step != best:
            checkpoint_path(run, step).unlink()
    for part in (run / FOLDER).glob(f"*{PART}"):
        part.unlink()


def saved_steps(run: Path) -> list[int]:
    """The steps that have a checkpoint, in order."""
    names = (NAME.fullmatch(path.name) for path in (run / FOLDER).glob("step-*"))
    return sorted(int(name[1]) for name in names if name)


def checkpoint_path(run: Path, step: int) -> Path:
    return run / FOLDER / f"step-{step:08d}.safetensors"


def _checksum(tensors: Mapping[str, Tensor]) -> int:
    """CRC-32 of all names and bytes: a file of the right length can still be damaged."""
    total = 0
    for name in sorted(tensors):
        flat = tensors[name].reshape(-1).view(torch.uint8)
        total = zlib.crc32(flat.numpy().data, zlib.crc32(name.encode(), total))
    return total
