"""Training: it learns, it stops anywhere and goes on exactly, and it refuses settings that do not fit."""

import errno
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner, Result

from shards.errors import ShardError, UserError
from shards.metrics import read_metrics
from shards.note import Note
from tests.support import ROOT
from tests.support.processes import children_of
from tests.support.shard_sets import CODEC, random_note, write_set
from trainer.__main__ import main as trainer_main
from trainer.checkpoint import LAST, find_checkpoint, newest_checkpoint, read_checkpoint, saved_steps, write_checkpoint
from trainer.config import Config, load_config
from trainer.errors import ConfigError, TrainError
from trainer.run import lock_run, read_run
from trainer.sample import SampleRequest, sample
from trainer.train import train

TINY = [
    "width=16",
    "depth=1",
    "heads=2",
    "head_width=8",
    "batch=4",
    "workers=0",
    "warmup=2",
    "lr=1e-2",
    "dtype=float32",
    "samples=0",  # of its evaluations: tests/trainer/test_preview.py
]


NO_DROPOUT = ("dropout=0", "code_dropout=0")  # which is drawn anew for each part of a batch


def tiny(*changes: str) -> Config:
    return load_config("small", [*TINY, "steps=10", "evaluate_every=4", *changes])


def losses(run: Path) -> list[tuple[int, float]]:
    return [(line.step, line.values["loss"]) for line in read_metrics(run).of("train")]


def weights(run: Path, step: int | str = LAST) -> dict[str, torch.Tensor]:
    return read_checkpoint(find_checkpoint(run, step)).tensors


def equal(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> bool:
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def command(folder: Path, run: Path, *changes: str, ranks: int = 1) -> list[str]:
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"] if ranks > 1 else []
    module = ["-m", *["--"] * bool(launcher), "trainer"]  # else torchrun would take --run for one of its own
    settings = [part for change in [*TINY, *changes] for part in ("--set", change)]
    return [sys.executable, *launcher, *module, "train", "--shards", str(folder), "--run", str(run), *settings]


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}


def train_here(arguments: list[str], when: Callable[[], bool], then: Callable[[], object]) -> Result:
    """Run the training of `command` in this process, which starts in no time; `then` is called as soon as `when`."""

    def watch() -> None:
        while not (is_over.wait(0.01) or when()):
            pass
        if not is_over.is_set():
            then()

    is_over = threading.Event()
    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        return CliRunner().invoke(trainer_main, arguments[arguments.index("train") :])
    finally:
        is_over.set()
        watcher.join()


def test_a_run_learns_and_leaves_its_numbers(make_set: Callable[..., Path], tmp_path: Path) -> None:
    folder, run = make_set(train=[6, 3], valid=[2]), tmp_path / "run"
    outcome = train(folder, run, tiny("steps=30", "evaluate_every=10"))
    assert (outcome.step, outcome.checkpoint.is_file(), saved_steps(run)[-1]) == (30, True, 30)
    steps = losses(run)
    assert [step for step, _ in steps] == list(range(1, 31))
    assert steps[-1][1] < steps[0][1] - 0.1
    evaluations = read_metrics(run).of("valid")
    assert [line.step for line in evaluations] == [10, 20, 30]
    assert {"loss", "loss_first_125_frames", "loss_codebook_1", "accuracy_codebook_0", "bits_per_second"} <= set(
        evaluations[0].values
    )
    assert outcome.best is not None
    assert outcome.best.loss == min(line.values["loss"] for line in evaluations)
    assert list((run / "tensorboard").iterdir())


def test_no_step_is_faster_than_the_peak_even_if_it_was_measured_on_a_busy_machine(
    make_set: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trainer.train.measure_peak", lambda device, dtype: 1.0)
    train(make_set(train=[6, 3]), tmp_path / "run", tiny("steps=3"))
    shares = [line.values["mfu"] for line in read_metrics(tmp_path / "run").of("train")]
    assert max(shares) == 1 and min(shares) > 0


def test_the_run_holds_all_its_settings(make_set: Callable[..., Path], tmp_path: Path) -> None:
    folder, run = make_set(train=[6, 3]), tmp_path / "run"
    train(folder, run, tiny("steps=0", "epochs=2", "labels=pitch,instrument_str"))
    info = read_run(run)
    assert (info.plans, info.window, info.codec) == (((0, 6),), 24, CODEC)
    assert info.config.model.labels == ("pitch", "instrument_str")
    assert info.vocabulary.labels[1] == ("instrument_str", ("guitar_acoustic_000",))


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_a_run_that_stopped_goes_on_exactly(make_set: Callable[..., Path], tmp_path: Path, optimizer: str) -> None:
    folder = make_set(train=[6, 3], valid=[2])
    settings = ("dropout=0.1", f"optimizer={optimizer}")
    train(folder, tmp_path / "whole", tiny(*settings))
    # `steps` shapes the cosine, so the first part must be cut short by something else than a smaller number of steps.
    train(folder, tmp_path / "cut", tiny(*settings, "keep=9"))
    for path in (tmp_path / "cut" / "checkpoints").iterdir():
        if path.name > "step-00000004.safetensors":
            path.unlink()
    train(folder, tmp_path / "cut", tiny(*settings, "keep=9"))
    assert losses(tmp_path / "cut") == losses(tmp_path / "whole")
    assert equal(weights(tmp_path / "cut"), weights(tmp_path / "whole"))


def test_a_finished_run_does_nothing_more_and_more_steps_go_on(make_set: Callable[..., Path], tmp_path: Path) -> None:
    folder, run = make_set(train=[5]), tmp_path / "run"
    train(folder, run, tiny())
    before = weights(run)
    assert train(folder, run, tiny()).step == 10
    assert equal(weights(run), before)
    assert train(folder, run, tiny("steps=12")).step == 12
    assert [step for step, _ in losses(run)] == list(range(1, 13))


class Clock:
    """Stands in for `time`: a step takes a second, the first ones twenty, as on a machine that others use."""

    def __init__(self, slow: int = 0) -> None:
        self.now, self.calls, self.slow = 0.0, 0, slow

    def perf_counter(self) -> float:
        self.calls += 1  # three times a step
        self.now += 10.0 if self.calls <= 3 * self.slow else 0.5
        return self.now


@pytest.mark.parametrize("slow", [0, 3])
def test_minutes_become_as_many_steps_as_fit(
    make_set: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, slow: int
) -> None:
    monkeypatch.setattr("trainer.train.time", Clock(slow))
    folder, run = make_set(train=[6, 3]), tmp_path / "run"
    rarely = "evaluate_every=100"  # each evaluation writes a checkpoint
    outcome = train(folder, run, tiny("minutes=2", rarely))
    assert outcome.step == outcome.steps == pytest.approx(120 - 20 * slow + slow, abs=2)
    assert train(folder, run, tiny("minutes=2", rarely)).step == outcome.step
    assert train(folder, run, tiny("minutes=3", rarely)).step == pytest.approx(outcome.step + 60, abs=2)


def test_a_run_of_minutes_that_stopped_goes_on_as_it_was_planned(
    make_set: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, run = make_set(train=[6, 3], valid=[2]), tmp_path / "run"
    settings = tiny("minutes=1", "evaluate_every=8", "keep=99")
    monkeypatch.setattr("trainer.train.time", Clock(slow=1))
    outcome = train(folder, run, settings)
    expected_losses, expected_weights = losses(run), weights(run)
    assert len(read_run(run).plans) > 3
    for step in saved_steps(run)[1:]:
        find_checkpoint(run, step).unlink()
    monkeypatch.setattr("trainer.train.time", Clock())
    assert train(folder, run, settings).step == outcome.step
    assert losses(run) == expected_losses
    assert equal(weights(run), expected_weights)


def test_accumulated_gradients_are_those_of_the_large_batch(make_set: Callable[..., Path], tmp_path: Path) -> None:
    folder = make_set(train=[6, 3])
    train(folder, tmp_path / "large", tiny(*NO_DROPOUT))
    train(folder, tmp_path / "small", tiny(*NO_DROPOUT, "micro_batch=3"))
    for (_, ours), (_, theirs) in zip(losses(tmp_path / "small"), losses(tmp_path / "large"), strict=True):
        assert ours == pytest.approx(theirs, abs=1e-4)


def test_padding_does_not_weigh(tmp_path: Path) -> None:
    """The loss is the mean over real tokens, however notes of different lengths come together."""
    notes = [random_note(f"n{index}", frames=3 + 4 * index) for index in range(4)]
    write_set(tmp_path / "set", {"train": [notes]})
    train(tmp_path / "set", tmp_path / "together", tiny(*NO_DROPOUT, "label_dropout=0"))
    train(tmp_path / "set", tmp_path / "alone", tiny(*NO_DROPOUT, "label_dropout=0", "micro_batch=1"))
    assert losses(tmp_path / "together")[0][1] == pytest.approx(losses(tmp_path / "alone")[0][1], abs=1e-5)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ("seed=1", "train.seed = 0, not 1"),
        ("batch=5", "data.batch = 4, not 5"),
        ("width=24", "model.width = 16, not 24"),
        ("lr=0.5", "train.lr = 0.01, not 0.5"),
        ("labels=pitch", "model.labels"),
    ],
)
def test_a_run_does_not_go_on_under_other_settings(
    make_set: Callable[..., Path], tmp_path: Path, change: str, says: str
) -> None:
    folder, run = make_set(train=[5]), tmp_path / "run"
    train(folder, run, tiny("steps=1"))
    with pytest.raises(TrainError) as caught:
        train(folder, run, tiny("steps=2", change))
    assert says in caught.value.message


def test_a_run_does_not_go_on_with_other_notes(make_set: Callable[..., Path], tmp_path: Path) -> None:
    run = tmp_path / "run"
    train(make_set(train=[5]), run, tiny("steps=1"))
    with pytest.raises(TrainError, match="other notes"):
        train(make_set("other", train=[6]), run, tiny("steps=2"))


def test_settings_that_change_no_update_may_change(make_set: Callable[..., Path], tmp_path: Path) -> None:
    folder = make_set(train=[6, 3])
    train(folder, tmp_path / "whole", tiny())
    train(folder, tmp_path / "run", tiny("steps=10", "checkpoint_every=3", "keep=9"))
    for path in (tmp_path / "run" / "checkpoints").iterdir():
        if path.name > "step-00000003.safetensors":
            path.unlink()
    train(folder, tmp_path / "run", tiny("workers=2", "keep=1", "evaluate_every=5"))
    assert losses(tmp_path / "run") == losses(tmp_path / "whole")


def test_a_damaged_newest_checkpoint_costs_only_the_way_from_the_one_before(
    make_set: Callable[..., Path], tmp_path: Path
) -> None:
    folder = make_set(train=[6, 3])
    train(folder, tmp_path / "whole", tiny())
    train(folder, tmp_path / "run", tiny())
    newest = find_checkpoint(tmp_path / "run")
    newest.write_bytes(newest.read_bytes()[:-100])
    train(folder, tmp_path / "run", tiny())
    assert losses(tmp_path / "run") == losses(tmp_path / "whole")
    assert equal(weights(tmp_path / "run"), weights(tmp_path / "whole"))


@pytest.mark.parametrize("damaged", [1, 2, 3])
def test_damaged_checkpoints_are_set_aside_and_do_not_count(
    make_set: Callable[..., Path], tmp_path: Path, damaged: int
) -> None:
    folder, run = make_set(train=[6, 3]), tmp_path / "run"
    settings = ("checkpoint_every=2", "keep=3")
    train(folder, run, tiny(*settings))
    steps = saved_steps(run)
    before = {path: path.read_bytes() for path in (run / "checkpoints").iterdir()}
    for step in steps[-damaged:]:
        path = find_checkpoint(run, step)
        path.write_bytes(before[path][:-100])
    fallen_back = (steps[:-damaged] or [0])[-1]
    outcome = train(folder, run, tiny(*settings, f"steps={fallen_back + 2}", "keep=2"))
    assert outcome.checkpoint.is_file() and outcome.step == fallen_back + 2  # below the damaged ones
    assert newest_step(run) == outcome.step
    names = {path.name for path in (run / "checkpoints").iterdir()}
    assert {f"step-{step:08d}.safetensors.damaged" for step in steps[-damaged:]} <= names


def newest_step(run: Path) -> int:
    newest = newest_checkpoint(run)
    assert newest is not None
    return newest.step


def change_checkpoint(run: Path, change: Callable[[dict[str, torch.Tensor], dict[str, Any]], object]) -> Path:
    """Write the newest checkpoint again, changed, with a checksum that fits."""
    checkpoint = newest_checkpoint(run)
    assert checkpoint is not None
    change(checkpoint.tensors, checkpoint.facts)
    return write_checkpoint(run, checkpoint)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda tensors, facts: tensors.pop("model.heads.0.weight"), "model.heads.0.weight is missing"),
        (lambda tensors, facts: tensors.update({"model.more": torch.zeros(1)}), "model.more is unknown"),
        (lambda tensors, facts: tensors.update({"other": torch.zeros(1)}), "other is unknown"),
        (lambda tensors, facts: tensors.update({"optimizer.0.exp_avg": torch.zeros(1)}), "optimizer.0.exp_avg is unkn"),
        (lambda tensors, facts: tensors.pop("optimizer.0.0.exp_avg"), "optimizer.0.0.exp_avg is missing"),
        (
            lambda tensors, facts: tensors.update({"model.heads.0.weight": torch.zeros(3, 4)}),
            r"model.heads.0.weight is float32 of shape \[3, 4\], not float32 of shape \[1024, 16\]",
        ),
        (
            lambda tensors, facts: tensors.update({"optimizer.0.0.exp_avg": torch.zeros(3, 4)}),
            "optimizer.0.0.exp_avg is float32 of shape",
        ),
        (lambda tensors, facts: facts.pop("seconds"), "is damaged .*seconds"),
        (lambda tensors, facts: facts.update(valid=[1]), "is damaged .*valid"),
        (lambda tensors, facts: facts.update(best={"step": 1}), "is damaged .*loss"),
    ],
)
def test_a_checkpoint_that_does_not_fit_its_run_is_named_with_what_differs(
    make_set: Callable[..., Path], tmp_path: Path, change: Callable[..., object], says: str
) -> None:
    folder, run = make_set(train=[4]), tmp_path / "run"
    train(folder, run, tiny("steps=2"))
    path = change_checkpoint(run, change)
    with pytest.raises(TrainError, match=says) as caught:
        train(folder, run, tiny("steps=4"))
    assert str(path) in caught.value.message and "\n" not in caught.value.message
    if says.startswith("model"):
        with pytest.raises(TrainError, match=says.removeprefix("model.")):
            sample(run, tmp_path / "out", SampleRequest(1))


def test_a_second_training_in_a_run_folder_is_refused(make_set: Callable[..., Path], tmp_path: Path) -> None:
    folder, run = make_set(train=[4]), tmp_path / "run"
    train(folder, run, tiny("steps=2"))
    with lock_run(run):  # a lock is of a process: another one is needed to meet it
        second = subprocess.run(
            command(folder, run, "steps=4"), env=environment(), capture_output=True, text=True, timeout=120
        )
    assert second.returncode == 2
    assert (
        second.stderr.splitlines()[-1] == f"Error: {run}: another training is writing into it; wait for it, or stop it"
    )
    assert saved_steps(run) == [2]


def test_a_loader_process_that_is_killed_ends_the_training_with_one_line(
    make_set: Callable[..., Path], tmp_path: Path
) -> None:
    folder, run = make_set(train=[40]), tmp_path / "run"
    others = set(children_of(os.getpid()))
    killed: list[int] = []

    def kill() -> None:
        killed.extend(child for child in children_of(os.getpid()) if child not in others)
        os.kill(killed[-1], signal.SIGKILL)

    arguments = command(folder, run, "steps=1000000", "workers=2", "checkpoint_every=5", "evaluate_every=1000000")
    result = train_here(arguments, when=lambda: bool(saved_steps(run)), then=kill)
    assert result.exit_code == 2, result.output
    # torch has two sentences for it, of which the one is said that its signal handler or its queue comes to first
    assert re.match(
        rf"Error: data\.workers: DataLoader worker \(pid(\(s\))? {killed[-1]}\) (is killed|exited)", result.stderr
    )
    assert result.stderr.count("\n") == 1 and saved_steps(run)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_shard_that_goes_away_ends_the_training_with_one_line(
    make_set: Callable[..., Path], tmp_path: Path, workers: int
) -> None:
    folder, run = make_set(train=[40]), tmp_path / "run"
    tar = folder / "train-00000.tar"
    arguments = command(folder, run, "steps=1000000", f"workers={workers}", "checkpoint_every=5")
    result = train_here(arguments, when=lambda: bool(saved_steps(run)), then=tar.unlink)
    assert result.exit_code == 2, result.output
    assert result.stderr.startswith(f"Error: {tar}: cannot be read any more (No such file or directory)")
    assert result.stderr.count("\n") == 1 and saved_steps(run)


def test_without_semaphores_notes_are_read_in_the_training_process(
    make_set: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse() -> None:  # as without /dev/shm
        raise OSError(errno.ENOENT, os.strerror(errno.ENOENT))

    monkeypatch.setattr("multiprocessing.Lock", refuse)
    assert train(make_set(train=[4]), tmp_path / "run", tiny("steps=2", "workers=2")).step == 2
    assert "data.workers: no semaphores here" in caplog.text


@pytest.mark.parametrize(
    ("variables", "says"),
    [
        (
            {"WORLD_SIZE": "2"},
            "WORLD_SIZE=2 is set, but RANK, MASTER_ADDR, MASTER_PORT not: start ranks by torch",
        ),
        ({"WORLD_SIZE": "x"}, "WORLD_SIZE=x: is no whole number"),
        ({"LOCAL_RANK": "first"}, "LOCAL_RANK=first: is no whole number"),
        ({"WORLD_SIZE": "", "LOCAL_RANK": ""}, ""),
        ({"WORLD_SIZE": "1"}, ""),
    ],
)
def test_variables_of_ranks_that_are_not_all_there_are_named(
    make_set: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    variables: dict[str, str],
    says: str,
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(TrainError) if says else nullcontext() as caught:
        train(make_set(train=[4]), tmp_path / "run", tiny("steps=2"))
    assert caught is None or caught.value.message.startswith(says)


def test_a_run_is_trained_where_locks_do_not_exist(
    make_set: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr("fcntl.lockf", refuse)
    assert train(make_set(train=[4]), tmp_path / "run", tiny("steps=2")).step == 2


def test_a_training_that_cannot_begin_leaves_no_folder(make_set: Callable[..., Path], tmp_path: Path) -> None:
    folder = make_set(train=[4])
    for path in folder.glob("train*"):
        path.unlink()
    with pytest.raises(ShardError, match="missing"):
        train(folder, tmp_path / "run", tiny())
    assert not (tmp_path / "run").exists()


def test_damaged_metrics_are_left_out_and_counted_when_a_run_goes_on(
    make_set: Callable[..., Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder, run = make_set(train=[4]), tmp_path / "run"
    train(folder, run, tiny("steps=2"))
    damaged = (
        b'\xff\xfe\n{"kind": "train", "step": "x"}\n[]\n'
        + b"[" * 100_000
        + b'\n{"kind": "train", "step": 1, "l": {}}\n'
    )
    with (run / "metrics.jsonl").open("ab") as file:
        file.write(damaged)
    train(folder, run, tiny("steps=4"))
    assert [step for step, _ in losses(run)] == [1, 2, 3, 4] and read_metrics(run).damaged == 0
    assert "metrics.jsonl: 5 damaged lines are left out" in caplog.text


def test_a_loss_that_is_no_number_stops_before_the_update_and_names_the_notes(
    make_set: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from trainer.model import NoteModel

    original, calls = NoteModel.forward, []

    def broken(self: NoteModel, *batch: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        calls.append(1)
        nll, hits = original(self, *batch)
        return nll * (torch.nan if len(calls) == 3 else 1), hits

    monkeypatch.setattr(NoteModel, "forward", broken)
    with pytest.raises(TrainError, match=r"step 3: the loss is nan .*train_0_\d"):
        train(make_set(train=[5]), tmp_path / "run", tiny("checkpoint_every=1"))
    newest = newest_checkpoint(tmp_path / "run")
    assert newest is not None and newest.step == 2
    assert all(tensor.isfinite().all() for tensor in newest.tensors.values())


def test_what_cannot_be_trained_is_refused(make_set: Callable[..., Path], tmp_path: Path) -> None:
    with pytest.raises(TrainError, match="no train split"):
        train(make_set("a", valid=[3]), tmp_path / "run", tiny())
    with pytest.raises(ConfigError, match="not a multiple of the set's 2 codebooks"):
        train(make_set("b", train=[3]), tmp_path / "run", tiny("window=3"))
    with pytest.raises(ConfigError, match="has the label mood; they have instrument_source_str, instrument_str, pitch"):
        train(make_set("d", train=[3]), tmp_path / "run", tiny("labels=pitch,mood"))
    with pytest.raises(UserError, match="--device abacus"):
        train(make_set("c", train=[3]), tmp_path / "run", tiny(), "abacus")
    assert not (tmp_path / "run").exists()


def test_a_set_without_a_valid_split_is_trained(make_set: Callable[..., Path], tmp_path: Path) -> None:
    outcome = train(make_set(train=[3]), tmp_path / "run", tiny())
    assert (outcome.valid, outcome.best) == ({}, None)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_leaves_one_checkpoint_and_the_same_command_goes_on(
    make_set: Callable[..., Path], tmp_path: Path, number: signal.Signals
) -> None:
    folder, run = make_set(train=[6, 3]), tmp_path / "run"
    metrics = run / "metrics.jsonl"
    result = train_here(
        command(folder, run, "steps=100000", "evaluate_every=100000", "workers=2"),
        when=lambda: metrics.is_file() and metrics.stat().st_size > 0,
        then=lambda: os.kill(os.getpid(), number),
    )
    assert result.exit_code == 128 + number, result.output
    assert "goes on from there" in result.stdout
    (step,) = saved_steps(run)
    assert f"Stopped at step {step} of 100000" in result.stdout
    assert "Traceback" not in result.stderr


@pytest.mark.long
def test_a_run_killed_at_random_moments_ends_as_if_it_had_not_been(
    make_set: Callable[..., Path], tmp_path: Path
) -> None:
    folder = make_set(train=[6, 3], valid=[2])
    settings = ["steps=200", "evaluate_every=50", "checkpoint_every=2", "dropout=0.1"]
    train(folder, tmp_path / "whole", load_config("small", [*TINY, *settings]))
    rng, run, kills = random.Random(0), tmp_path / "run", 0
    while True:
        process = subprocess.Popen(command(folder, run, *settings), env=environment(), stderr=subprocess.DEVNULL)
        steps = saved_steps(run)
        begun = steps[-1] if steps else 0
        while kills < 20 and process.poll() is None and (saved_steps(run) or [0])[-1] < begun + 2:
            time.sleep(0.001)
        if kills < 20 and process.poll() is None:
            time.sleep(rng.random() * 0.05)
            process.kill()
            kills += 1
        if process.wait() == 0:
            break
    assert kills == 20
    assert losses(run) == losses(tmp_path / "whole")
    assert equal(weights(run), weights(tmp_path / "whole"))


@pytest.mark.parametrize("ranks", [2, pytest.param(3, marks=pytest.mark.long)])
def test_ranks_make_the_same_run_as_one_process(make_set: Callable[..., Path], tmp_path: Path, ranks: int) -> None:
    folder = make_set(train=[6, 3], valid=[5])
    settings = ["steps=8", "evaluate_every=4", "batch=6", *NO_DROPOUT]
    train(folder, tmp_path / "alone", load_config("small", [*TINY, *settings]))
    subprocess.run(
        command(folder, tmp_path / "ranks", *settings, ranks=ranks), env=environment(), check=True, capture_output=True
    )
    for kind in ("train", "valid"):
        ours, theirs = (read_metrics(tmp_path / name).of(kind) for name in ("ranks", "alone"))
        assert [line.step for line in ours] == [line.step for line in theirs]
        assert [line.values["loss"] for line in ours] == pytest.approx(
            [line.values["loss"] for line in theirs], abs=1e-4
        )


@pytest.mark.long
def test_a_signal_to_one_rank_stops_all_of_them_at_one_step(make_set: Callable[..., Path], tmp_path: Path) -> None:
    folder, run = make_set(train=[6, 3]), tmp_path / "run"
    endless = command(folder, run, "steps=100000", "evaluate_every=100000", "workers=1", ranks=2)
    process = subprocess.Popen(endless, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    metrics = run / "metrics.jsonl"
    while process.poll() is None and not (metrics.is_file() and metrics.stat().st_size):
        time.sleep(0.05)
    children = children_of(process.pid)
    os.kill(children[-1], signal.SIGTERM)
    process.communicate(timeout=60)
    assert len(saved_steps(run)) == 1


def test_notes_of_other_labels_do_not_disturb(tmp_path: Path) -> None:
    bare = [Note(f"n{index}", random_note(f"n{index}").tokens, {}) for index in range(4)]
    write_set(tmp_path / "set", {"train": [bare]})
    train(tmp_path / "set", tmp_path / "run", tiny())
    assert read_run(tmp_path / "run").vocabulary.labels == ()


def test_a_moving_average_is_evaluated_saved_and_sampled(make_set: Callable[..., Path], tmp_path: Path) -> None:
    folder = make_set(train=[6, 3], valid=[2])
    train(folder, tmp_path / "plain", tiny())
    train(folder, tmp_path / "whole", tiny("ema=0.9", "keep=9"))
    assert losses(tmp_path / "whole") == losses(tmp_path / "plain")  # it follows, and changes nothing
    whole, plain = (read_metrics(tmp_path / name).of("valid")[0] for name in ("whole", "plain"))
    assert whole.values["loss"] != plain.values["loss"]
    saved = weights(tmp_path / "whole")
    averaged = {name: tensor for name, tensor in saved.items() if name.startswith("average.")}
    assert averaged
    assert not any(
        torch.equal(tensor, saved[f"model.{name[8:]}"]) for name, tensor in averaged.items() if tensor.ndim > 1
    )
    find_checkpoint(tmp_path / "whole", 10).unlink()
    train(folder, tmp_path / "whole", tiny("ema=0.9", "keep=9"))  # goes on from step 8
    assert equal(weights(tmp_path / "whole"), saved)
    sample(tmp_path / "whole", tmp_path / "own", SampleRequest(2))
    sample(tmp_path / "plain", tmp_path / "other", SampleRequest(2))
    own, other = ({path.name: path.read_bytes() for path in (tmp_path / n).glob("*.npy")} for n in ("own", "other"))
    assert own.keys() == other.keys()
    assert own != other


def test_metrics_go_to_weights_and_biases_with_wandb(
    make_set: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    folder, run = make_set(train=[6, 3], valid=[2]), tmp_path / "run"
    for _ in range(2):  # the second goes on where the first has ended: nothing is left to do
        train(folder, run, tiny("steps=20"), wandb_project="notes")
    [log] = (run / "wandb").glob("offline-run-*/*.wandb")
    assert all(name in log.read_bytes() for name in (b"train/loss", b"valid/loss_codebook_1", b"label_dropout"))


def test_weights_and_biases_that_cannot_be_reached_or_is_not_installed_is_named(
    make_set: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / os.fsdecode(b"caf\xe9")
    with pytest.raises(ConfigError, match="notes: it takes no path that is not UTF-8; rename the folder"):
        train(make_set(train=[6]), folder, tiny(), wandb_project="notes")

    def refuse(**options: object) -> None:
        raise ValueError("API key must have 40 characters\nat least")

    monkeypatch.setattr("wandb.init", refuse)
    with pytest.raises(ConfigError, match=r"notes: API key .* characters; WANDB_MODE=offline .*, or leave --wandb out"):
        train(make_set(train=[6]), tmp_path / "run", tiny(), wandb_project="notes")
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ConfigError, match="pip install wandb"):
        train(make_set(train=[6]), tmp_path / "run", tiny(), wandb_project="notes")
