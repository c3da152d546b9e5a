"""Run -> model: the weights of one of its checkpoints, for sampling and for another run to start from.

Knows no data.
"""

from pathlib import Path

import torch

from trainer.checkpoint import (
    EXPORTED,
    LAST,
    Checkpoint,
    check_tensors,
    checkpoint_path,
    find_checkpoint,
    newest_checkpoint,
    read_checkpoint,
)
from trainer.errors import TrainError
from trainer.model import NoteModel
from trainer.run import RunInfo


def load_model(run: Path, info: RunInfo, checkpoint: int | str, device: torch.device) -> tuple[NoteModel, int]:
    """The model of a checkpoint, with the moving average of its weights where the run has one, and its step.

    checkpoint: for `find_checkpoint`. If the last is damaged, it is the last intact one.

    Raises:
        TrainError: no such checkpoint, or one that does not fit the run.
    """
    prefix = "average." if info.config.train.ema else "model."
    path = find_checkpoint(run, checkpoint)
    is_exported = path.name == EXPORTED
    if is_exported:
        state: Checkpoint | None = read_checkpoint(path)
    else:
        state = newest_checkpoint(run, prefix) if checkpoint == LAST else read_checkpoint(path, prefix)
    if state is None:
        raise TrainError(f"{run}: none of its checkpoints is intact; train it again")
    if is_exported and str(checkpoint) not in (LAST, str(state.step)):
        raise TrainError(f"{run}: is an exported run, which has the weights of step {state.step} alone")
    with torch.device("meta"):  # without memory, for settings that were changed
        expected = NoteModel(info.config.model, info.vocabulary, info.window).state_dict()
    check_tensors(path if is_exported else checkpoint_path(run, state.step), state.tensors, expected)
    model = NoteModel(info.config.model, info.vocabulary, info.window)
    model.load_state_dict(state.tensors)
    return model.to(device).eval(), state.step
