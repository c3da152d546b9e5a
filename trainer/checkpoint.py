"""Checkpoint: a run's state at a step as one safetensors file of tensors and a JSON block, whole or not at all.

`step-00000500.safetensors` in the run's `checkpoints/`; never a pickle. Knows nothing of models or optimizers but
their tensors.
"""

import json
import logging
import re
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import msgspec
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from shards.console import quote
from shards.errors import first_line, writing
from shards.files import PART, atomic_write, utf8_path
from shards.parse import json_object, to_dataclass
from trainer.errors import TrainError

log = logging.getLogger(__name__)

FOLDER = "checkpoints"
EXPORTED = "model.safetensors"  # the weights of an exported run, which has no other
NAME = re.compile(r"step-(\d{8,15})\.safetensors")
DAMAGED = ".damaged"  # ending of a file that is renamed aside
LARGEST_STEP = 10**15
LAST, BEST = "last", "best"  # names of a run's newest checkpoint, and of that with the lowest valid loss


@dataclass(frozen=True)
class Checkpoint:
    """The state of a run at one step."""

    step: int  # updates made
    tensors: dict[str, Tensor]
    facts: dict[str, Any]  # JSON: valid loss, the best step so far ...


@dataclass(frozen=True)
class _Facts:
    step: Annotated[int, msgspec.Meta(ge=0, le=LARGEST_STEP)]


@dataclass(frozen=True)
class Best:
    """The evaluation with the lowest loss."""

    step: int
    loss: float


@dataclass(frozen=True)
class Facts:
    """The numbers of a checkpoint."""

    seconds: Annotated[float, msgspec.Meta(ge=0)]  # of training until then
    valid: dict[str, float]  # of the last evaluation; empty if there was none
    best: Best | None

    def __post_init__(self) -> None:
        if self.valid and "loss" not in self.valid:
            raise ValueError("valid has no loss")

    @classmethod
    def of(cls, run: Path, checkpoint: Checkpoint) -> "Facts":
        """The facts of a checkpoint of `run`. Raises TrainError: damaged."""
        source = f"{checkpoint_path(run, checkpoint.step)}:"
        return to_dataclass(cls, checkpoint.facts, source, "delete it to go on from the one before", TrainError)


class DamagedError(TrainError):
    """A checkpoint whose bytes are not those that were written."""


def write_checkpoint(run: Path, checkpoint: Checkpoint) -> Path:
    """Write the state; the name appears when all of it is on the disk."""
    return _write(checkpoint_path(run, checkpoint.step), checkpoint)


def write_weights(folder: Path, checkpoint: Checkpoint) -> Path:
    """Write the weights of an exported run, as `write_checkpoint`."""
    return _write(folder / EXPORTED, checkpoint, format="pt")  # which the Hub's libraries ask for


def _write(path: Path, checkpoint: Checkpoint, **metadata: str) -> Path:
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in checkpoint.tensors.items()}
    facts = json.dumps({"step": checkpoint.step, **checkpoint.facts})
    data = save(tensors, {"facts": facts, "crc32": str(_checksum(tensors)), **metadata})
    with atomic_write(path) as file:
        file.write(data)
    return path


def read_checkpoint(path: Path, prefix: str = "") -> Checkpoint:
    """Undo `write_checkpoint`. With a `prefix`, only the tensors with it in their names, which lose it.

    Raises:
        DamagedError: damaged.
        TrainError: missing, or it cannot be read.
    """
    try:
        with utf8_path(path) as readable, safe_open(readable, "pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        is_intact = _checksum(tensors) == int(metadata["crc32"])
        facts = json_object(metadata["facts"], f"{path}: facts", DamagedError, has_nan=True)
    except FileNotFoundError as error:
        raise TrainError(f"{path}: no such checkpoint") from error
    except PermissionError as error:
        raise TrainError(f"{path}: cannot be read ({error.strerror})") from error
    except (SafetensorError, OSError, KeyError, ValueError, RuntimeError, MemoryError) as error:
        raise DamagedError(f"{path}: is not a whole checkpoint ({first_line(error)})") from error
    if not is_intact:
        raise DamagedError(f"{path}: is damaged, its checksum does not fit")
    step = to_dataclass(_Facts, facts, f"{path}:", "train again from the one before", DamagedError).step
    del facts["step"]
    name = NAME.fullmatch(path.name)
    if name and int(name[1]) != step:
        raise DamagedError(f"{path}: is of step {step}, so another file was copied over it")
    tensors = {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
    return Checkpoint(step, tensors, facts)


def newest_checkpoint(
    run: Path, prefix: str = "", on_damaged: Callable[[Path], object] = lambda path: None
) -> Checkpoint | None:
    """Read the last intact checkpoint of the run, or None if it has none; warn of each damaged one.

    prefix: as in `read_checkpoint`. on_damaged: called with the path of each damaged one.

    Raises:
        TrainError: one that cannot be read, intact or not.
    """
    for step in reversed(saved_steps(run)):
        path = checkpoint_path(run, step)
        try:
            return read_checkpoint(path, prefix)
        except DamagedError as error:
            log.warning("%s. Falling back to the checkpoint before it.", error.message)
            on_damaged(path)
    return None


def set_aside(path: Path) -> None:
    """Rename a damaged checkpoint, so that it is not counted among those that are pruned. Raises UserError."""
    with writing(path):
        path.replace(path.with_name(path.name + DAMAGED))


def check_tensors(path: Path, tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    """Refuse tensors of a checkpoint that are not those of its run.

    Raises:
        TrainError: names a tensor that is missing, unknown, or of another shape or type.
    """
    fact = ""
    if missing := expected.keys() - tensors.keys():
        fact = f"{min(missing)} is missing"
    elif unknown := tensors.keys() - expected.keys():
        fact = f"{min(unknown)} is unknown"
    for name in sorted(expected) if not fact else ():
        ours, theirs = tensors[name], expected[name]
        if (ours.shape, ours.dtype) != (theirs.shape, theirs.dtype):
            fact = f"{name} is {_describe(ours)}, not {_describe(theirs)}"
            break
    if fact:
        raise TrainError(f"{path}: does not fit the settings in the run's run.json: {fact}; is it of another run?")


def _describe(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} of shape {[*tensor.shape]}"


def find_checkpoint(run: Path, checkpoint: int | str = LAST) -> Path:
    """The file of a checkpoint: of a step, as a number or its text, LAST or BEST. An exported run has one alone.

    Raises:
        TrainError: the run has no such checkpoint.
    """
    steps = saved_steps(run)
    if not steps and (run / EXPORTED).is_file():
        return run / EXPORTED
    if not steps:
        raise TrainError(
            f"{run}: has no checkpoint yet; `python -m trainer train --shards SET --run {quote(run)}` makes them"
        )
    texts = {str(step): step for step in steps} | {LAST: steps[-1]}
    text = str(_best_step(run)) if checkpoint == BEST else str(checkpoint)
    if text not in texts:
        raise TrainError(f"{run}: has no checkpoint of step {text}, only of {', '.join(map(str, steps))}")
    return checkpoint_path(run, texts[text])


def _best_step(run: Path) -> int:
    newest = newest_checkpoint(run)
    best = Facts.of(run, newest).best if newest else None
    if best is None:
        raise TrainError(f"{run}: no valid loss says which checkpoint is best; take the last, or name a step")
    return best.step


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
