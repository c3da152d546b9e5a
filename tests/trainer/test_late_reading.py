"""Losses that are read late, as from a GPU: the run is the same, and no step waits for a number from the device."""

import math
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from shards.metrics import read_metrics
from tests.support.gpu import as_if_on_gpu, only_on_device
from tests.support.shard_sets import random_note, write_set
from tests.trainer.test_train import NO_DROPOUT, Clock, equal, losses, tiny, weights
from trainer.checkpoint import newest_checkpoint, saved_steps
from trainer.errors import TrainError
from trainer.model import NoteModel
from trainer.optim import state_tensors
from trainer.run import read_run
from trainer.runtime import to_device
from trainer.train import READ_EVERY, Training, train

SPEEDS = {"tokens_per_second", "data_wait", "mfu", "seconds"}  # which no two trainings share


def lines(run: Path) -> list[tuple[str, int, dict[str, float]]]:
    """All lines of the metrics without the speeds."""
    return [
        (line.kind, line.step, {name: value for name, value in line.values.items() if name not in SPEEDS})
        for line in read_metrics(run).lines
    ]


@pytest.fixture
def trainings(monkeypatch: pytest.MonkeyPatch) -> list[Training]:
    """The trainings that `train` makes, to look into their memory."""
    made: list[Training] = []
    fit = Training.fit
    monkeypatch.setattr(Training, "fit", lambda self, *arguments: (made.append(self), fit(self, *arguments))[1])
    return made


def break_step(monkeypatch: pytest.MonkeyPatch, number: int, break_nll: Callable[[torch.Tensor], torch.Tensor]) -> None:
    """Change the losses of the step with this number."""
    original, calls = NoteModel.forward, []

    def broken(self: NoteModel, *batch: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        calls.append(1)
        nll, hits = original(self, *batch)
        return break_nll(nll) if len(calls) == number else nll, hits

    monkeypatch.setattr(NoteModel, "forward", broken)


def infinite_gradient(nll: torch.Tensor) -> torch.Tensor:
    nll.register_hook(lambda gradient: gradient * math.inf)
    return nll


@pytest.mark.parametrize("changes", [("optimizer=adamw", "micro_batch=3"), ("optimizer=muon", "ema=0.9")])
def test_losses_that_are_read_late_make_the_same_run(
    make_set: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: tuple[str, ...]
) -> None:
    folder = make_set(train=[6, 3], valid=[2])
    config = tiny(*changes, "steps=11", "evaluate_every=6", "checkpoint_every=4", "dropout=0.1", "keep=9", "samples=0")
    train(folder, tmp_path / "at once", config)
    monkeypatch.setitem(READ_EVERY, "cpu", 3)
    train(folder, tmp_path / "late", config)
    assert lines(tmp_path / "late") == lines(tmp_path / "at once")
    assert saved_steps(tmp_path / "late") == saved_steps(tmp_path / "at once") == [4, 6, 8, 11]
    for step in (4, 11):
        assert equal(weights(tmp_path / "late", step), weights(tmp_path / "at once", step))
    speeds = [line.values["tokens_per_second"] for line in read_metrics(tmp_path / "late").of("train")]
    assert [speeds[index] == speeds[index + 1] for index in range(5)] == [True, True, False, False, True]


@pytest.mark.parametrize("every", [1, 8])
@pytest.mark.parametrize(
    ("break_nll", "says"),
    [
        (lambda nll: nll * torch.nan, "the loss is nan and the gradient's norm nan"),
        (infinite_gradient, r"the loss is \d.* and the gradient's norm (inf|nan)"),
    ],
    ids=["loss", "gradient"],
)
@pytest.mark.parametrize("optimizer", ["adam", "adamw", "muon"])
def test_weights_stay_those_before_a_loss_or_gradient_that_is_not_finite(
    make_set: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    trainings: list[Training],
    optimizer: str,
    break_nll: Callable[[torch.Tensor], torch.Tensor],
    says: str,
    every: int,
) -> None:
    folder, settings = make_set(train=[5]), (f"optimizer={optimizer}", "schedule=constant", "ema=0.9", *NO_DROPOUT)
    train(folder, tmp_path / "short", tiny(*settings, "steps=2"))
    monkeypatch.setitem(READ_EVERY, "cpu", every)
    break_step(monkeypatch, 3, break_nll)
    with pytest.raises(TrainError, match=rf"step 3: {says}, so the step was not made; its notes: train_0_\d"):
        train(folder, tmp_path / "run", tiny(*settings, "evaluate_every=9"))
    expected, stopped = trainings
    assert stopped.step == 2
    assert equal(stopped._weights(), expected._weights())
    assert equal(state_tensors(stopped.optimizers), state_tensors(expected.optimizers))
    assert losses(tmp_path / "run") == losses(tmp_path / "short")
    assert not saved_steps(tmp_path / "run")


def test_the_notes_of_an_unread_step_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_set(tmp_path / "set", {"train": [[random_note(f"n{index}") for index in range(8)]]})
    monkeypatch.setitem(READ_EVERY, "cpu", 9)
    keys: list[list[str]] = []
    update = Training._update
    monkeypatch.setattr(
        Training, "_update", lambda self, batch, *rest: (keys.append(batch.keys), update(self, batch, *rest))[1]
    )
    break_step(monkeypatch, 4, lambda nll: nll * torch.nan)
    with pytest.raises(TrainError) as caught:
        train(tmp_path / "set", tmp_path / "run", tiny("evaluate_every=7"))
    assert len(keys) == 7  # the evaluation reads first
    assert f"its notes: {', '.join(keys[3])};" in caught.value.message
    assert newest_checkpoint(tmp_path / "run") is None


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_where_torch_has_no_flag_for_an_update_it_is_read_before(
    make_set: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    trainings: list[Training],
    optimizer: str,
) -> None:
    monkeypatch.setattr("trainer.optim.FUSED", ("cuda",))  # as on MPS
    folder, settings = make_set(train=[5]), (f"optimizer={optimizer}", "schedule=constant", *NO_DROPOUT)
    train(folder, tmp_path / "short", tiny(*settings, "steps=2"))
    break_step(monkeypatch, 3, lambda nll: nll * torch.nan)
    with pytest.raises(TrainError, match="step 3: the loss is nan"):
        train(folder, tmp_path / "run", tiny(*settings))
    expected, stopped = trainings
    assert equal(stopped._weights(), expected._weights())


def test_a_signal_has_the_unread_steps_read_and_saved(
    make_set: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_set(train=[6, 3])
    train(folder, tmp_path / "whole", tiny())
    monkeypatch.setitem(READ_EVERY, "cpu", 100)
    with monkeypatch.context() as patch:
        break_step(patch, 3, lambda nll: (os.kill(os.getpid(), signal.SIGTERM), nll)[1])
        outcome = train(folder, tmp_path / "run", tiny("evaluate_every=9"))
    assert (outcome.signal, saved_steps(tmp_path / "run")) == (signal.SIGTERM, [outcome.step])
    assert [step for step, _ in losses(tmp_path / "run")] == list(range(1, outcome.step + 1))
    train(folder, tmp_path / "run", tiny())
    assert losses(tmp_path / "run") == losses(tmp_path / "whole")
    assert equal(weights(tmp_path / "run"), weights(tmp_path / "whole"))


def test_minutes_are_as_many_steps_when_losses_are_read_late(
    make_set: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trainer.train.time", Clock())  # a step takes a second, here too
    monkeypatch.setitem(READ_EVERY, "cpu", 4)
    outcome = train(make_set(train=[6, 3]), tmp_path / "run", tiny("minutes=1", "samples=0"))
    assert outcome.step == outcome.steps == pytest.approx(60, abs=2)
    assert all(steps == pytest.approx(60, abs=2) for _, steps in read_run(tmp_path / "run").plans)


@pytest.mark.parametrize(
    "changes",
    [
        ("optimizer=muon", "ema=0.9", "micro_batch=3", "dropout=0.1", "code_dropout=0.2"),
        ("optimizer=adam", "position=token", "flash=false", "clip=0"),
        ("optimizer=adamw", "labels=pitch,seconds"),
    ],
)
def test_no_step_waits_for_the_device(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trainings: list[Training], changes: tuple[str, ...]
) -> None:
    notes = [random_note(f"n{index}", 6 + index % 3) for index in range(12)]  # some end in the window
    write_set(tmp_path / "set", {"train": [notes]})
    with as_if_on_gpu(monkeypatch, steps=100), pytest.raises(NotImplementedError, match="no data"):
        train(tmp_path / "set", tmp_path / "run", tiny(*changes, "evaluate_every=99", "steps=4"))
    [training] = trainings
    assert training.step == 3  # of 4: before the last, losses are read, and that fails


@pytest.mark.parametrize(
    "wait",
    [
        lambda numbers: float(numbers.sum()),
        lambda numbers: bool(numbers.any()),
        lambda numbers: numbers.tolist(),
        lambda numbers: numbers.cpu(),
        lambda numbers: numbers.nonzero(),
        lambda numbers: numbers[numbers > 0],
        lambda numbers: numbers.equal(numbers),
        lambda numbers: numbers + torch.ones(2),
        lambda numbers: torch.tensor([1.0, 2.0]).to(numbers.device),
        lambda numbers: numbers.index_put_([numbers > 0], numbers),
    ],
)
def test_the_stand_in_for_a_gpu_finds_what_waits(wait: Callable[[torch.Tensor], Any]) -> None:
    numbers = torch.ones(2, device="meta")
    with pytest.raises((RuntimeError, NotImplementedError)), only_on_device():
        wait(numbers)


def test_a_gpu_copies_from_pinned_memory_while_the_process_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    pinned: list[torch.Tensor] = []
    copies: list[dict[str, Any]] = []
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda self: (pinned.append(self), self)[1])
    with monkeypatch.context() as patch:
        patch.setattr(torch.Tensor, "to", lambda self, device, **options: (copies.append(options), self)[1])
        part = to_device(np.arange(12, dtype=np.int16).reshape(3, 4)[:, :2], torch.device("cuda"))
    assert copies == [{"non_blocking": True}]
    assert part.tolist() == [[0, 1], [4, 5], [8, 9]] and pinned[0].is_contiguous()
