"""Checkpoints: whole or not at all, and data only."""

import logging
import pickle
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from trainer.checkpoint import (
    Checkpoint,
    find_checkpoint,
    newest_checkpoint,
    prune_checkpoints,
    read_checkpoint,
    saved_steps,
    write_checkpoint,
)
from trainer.errors import TrainError


def state(step: int) -> Checkpoint:
    tensors = {"model.weight": torch.arange(12.0).view(3, 4) + step, "optimizer.0.step": torch.tensor(float(step))}
    return Checkpoint(step, tensors, {"best": None, "seconds": 1.5})


def test_what_is_written_is_read(tmp_path: Path) -> None:
    read = read_checkpoint(write_checkpoint(tmp_path, state(7)))
    assert (read.step, read.facts) == (7, {"best": None, "seconds": 1.5})
    for name, tensor in state(7).tensors.items():
        assert torch.equal(read.tensors[name], tensor)


def test_tensors_of_a_prefix_are_read_without_it(tmp_path: Path) -> None:
    read = read_checkpoint(write_checkpoint(tmp_path, state(7)), "model.")
    assert list(read.tensors) == ["weight"]


def test_the_newest_intact_checkpoint_is_read(tmp_path: Path) -> None:
    assert newest_checkpoint(tmp_path) is None
    for step in (5, 20, 100):
        write_checkpoint(tmp_path, state(step))
    newest = newest_checkpoint(tmp_path)
    assert newest is not None and newest.step == 100


@pytest.mark.parametrize("damage", ["cut", "empty", "flipped", "pickle"])
def test_a_damaged_newest_falls_back_to_the_one_before(
    tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    write_checkpoint(tmp_path, state(5))
    path = write_checkpoint(tmp_path, state(6))
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes({"cut": data[:-9], "empty": b"", "flipped": data, "pickle": pickle.dumps(data)}[damage])
    with caplog.at_level(logging.WARNING):
        newest = newest_checkpoint(tmp_path)
    assert newest is not None and newest.step == 5
    assert "step-00000006.safetensors" in caplog.text and "before it" in caplog.text


def test_old_checkpoints_are_pruned_but_the_best_and_other_files(tmp_path: Path) -> None:
    for step in range(1, 7):
        write_checkpoint(tmp_path, state(step))
    (tmp_path / "checkpoints" / "step-00000009.safetensors.part").write_bytes(b"half")
    (tmp_path / "checkpoints" / "mine.safetensors").write_bytes(b"")
    prune_checkpoints(tmp_path, keep=2, best=3)
    assert saved_steps(tmp_path) == [3, 5, 6]
    assert (tmp_path / "checkpoints" / "mine.safetensors").exists()
    assert not list((tmp_path / "checkpoints").glob("*.part"))


def test_a_checkpoint_that_is_not_there_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(TrainError, match="has no checkpoint yet"):
        find_checkpoint(tmp_path)
    write_checkpoint(tmp_path, state(5))
    assert find_checkpoint(tmp_path).name == "step-00000005.safetensors"
    with pytest.raises(TrainError, match="no checkpoint of step 6, only of 5"):
        find_checkpoint(tmp_path, 6)


def test_a_checkpoint_is_named_by_its_step_or_as_the_last_or_the_best(tmp_path: Path) -> None:
    for step in (5, 10, 15):
        write_checkpoint(
            tmp_path, replace(state(step), facts={"best": {"step": 10, "loss": 2.5}, "seconds": 1.5, "valid": {}})
        )
    names = {name: find_checkpoint(tmp_path, name).name for name in ("last", "best", "5", 5)}
    assert names == {name: f"step-{step:08d}.safetensors" for name, step in zip(names, (15, 10, 5, 5), strict=True)}
    for bad in ("first", "05", "-5", "5 "):
        with pytest.raises(TrainError, match=f"no checkpoint of step {bad}, only of 5, 10, 15"):
            find_checkpoint(tmp_path, bad)
    write_checkpoint(tmp_path, replace(state(20), facts={"best": None, "seconds": 1.5, "valid": {}}))
    with pytest.raises(TrainError, match="no valid loss says which checkpoint is best"):
        find_checkpoint(tmp_path, "best")
