"""Run -> token files: their names, labels and contents, prompts, and requests that are refused."""

import itertools
import json
import math
import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from shards.errors import UserError
from shards.manifest import read_manifest
from shards.note import read_token_file
from shards.sample_list import SampleList, read_sample_list
from tests.support.shard_sets import CODEC, random_note, write_set
from trainer import batch_size
from trainer import sample as sample_module
from trainer.checkpoint import find_checkpoint
from trainer.config import load_config
from trainer.cpu.decoder import CpuDecoder, CpuWeights
from trainer.data import NoteReader
from trainer.errors import ConfigError, TrainError
from trainer.generate import generate
from trainer.model import NoteModel
from trainer.run import read_run
from trainer.sample import SampleRequest, sample, uniforms
from trainer.sampling import Sampling
from trainer.train import train

TINY = ["width=16", "depth=1", "heads=2", "head_width=8", "batch=4", "workers=0", "warmup=2", "steps=2", "samples=0"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sample")
    write_set(folder / "set", {"train": [[random_note(f"n{index}", 6) for index in range(12)]]})
    train(folder / "set", folder / "run", load_config("small", TINY))
    return folder / "run"


def made(run: Path, out: Path, count: int | None = 3, seed: int = 0, *options: str) -> list[dict[str, object]]:
    files = sample(run, out, SampleRequest(count, seed, labels=options)).files
    return [json.loads(path.with_suffix(".json").read_text()) for path in files]


def test_sampled_files_are_token_files_of_the_runs_codec(run: Path, tmp_path: Path) -> None:
    sampled = sample(run, tmp_path, SampleRequest(5, sampling=Sampling(temperature=0.9, top_k=50)))
    assert len(sampled.files) == 5 == len(set(sampled.files))
    for path in sampled.files:
        file = read_token_file(path)
        assert file.codec == CODEC
        assert len(file.note.tokens) == read_run(run).window == 12


def test_a_file_holds_all_that_made_it(run: Path, tmp_path: Path) -> None:
    *_, last = made(run, tmp_path, 3, 7)
    by = last["sampled"]
    assert isinstance(by, dict)
    assert (by["run"], by["step"], by["seed"], by["index"], by["temperature"]) == (str(run), 2, 7, 2, 1.0)
    assert by["log_likelihood"] < 0
    assert {"pitch", "velocity"} <= set(last)


def test_the_same_seed_gives_the_same_samples_whatever_their_number(run: Path, tmp_path: Path) -> None:
    few = sample(run, tmp_path / "few", SampleRequest(2, seed=3)).files
    many = sample(run, tmp_path / "many", SampleRequest(4, seed=3)).files
    other = sample(run, tmp_path / "other", SampleRequest(2, seed=4)).files
    assert [path.read_bytes() for path in few] == [path.read_bytes() for path in many[:2]]
    assert [path.read_bytes() for path in few] != [path.read_bytes() for path in other]


def test_labels_without_an_option_go_together_as_on_train_notes(run: Path, tmp_path: Path) -> None:
    combinations = {values[:2] for values, _ in read_run(run).combinations}  # of pitch and velocity
    sampled = [(labels["pitch"], labels["velocity"]) for labels in made(run, tmp_path, 20)]
    assert set(sampled) <= combinations
    assert len(set(sampled)) > 1
    pitch = sampled[0][0]
    assert {labels["velocity"] for labels in made(run, tmp_path, 5, 0, f"pitch={pitch}")} <= {
        v for p, v in combinations if p == pitch
    }


def test_a_sweep_arrives_in_the_files(tmp_path: Path) -> None:
    write_set(tmp_path / "set", {"train": [[random_note(f"n{index}", 2) for index in range(200)]]})
    train(tmp_path / "set", tmp_path / "run", load_config("small", TINY))
    labels = made(tmp_path / "run", tmp_path / "out", None, 0, "pitch=40:52:4", "velocity=25", "velocity=100")
    assert [(note["pitch"], note["velocity"]) for note in labels] == [
        (pitch, velocity) for pitch in (40, 44, 48, 52) for velocity in (25, 100)
    ]
    names = sorted(path.name for path in (tmp_path / "out").glob("*.npy"))
    assert names[0] == "sample_0000-040-025.npy"


def test_a_label_can_be_left_out(run: Path, tmp_path: Path) -> None:
    assert all("pitch" not in labels for labels in made(run, tmp_path, 2, 0, "pitch=none"))


@pytest.mark.parametrize(
    ("option", "says"),
    [
        ("pitch", "is not NAME=VALUE"),
        ("mood=sad", "was not trained on the label mood; it knows only pitch, velocity"),
        ("pitch=12", "--label pitch=12: no note that the run was trained on has it"),
        ("pitch=50:40:2", "FROM up to TO"),
        ("pitch=40:50:0", "FROM up to TO"),
        ("velocity=loud", "--label velocity=loud"),
    ],
)
def test_labels_that_the_run_does_not_know_are_refused(run: Path, tmp_path: Path, option: str, says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        made(run, tmp_path / "out", 1, 0, option)
    assert says in caught.value.message
    assert not (tmp_path / "out").exists()


def test_a_run_that_is_not_there_is_refused(tmp_path: Path, run: Path) -> None:
    with pytest.raises(TrainError, match="no such run"):
        made(tmp_path / "nothing", tmp_path / "out")
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "run.json").write_bytes((run / "run.json").read_bytes())
    with pytest.raises(TrainError, match="no checkpoint yet"):
        made(tmp_path / "empty", tmp_path / "out")
    with pytest.raises(TrainError, match="no checkpoint of step 9"):
        sample(run, tmp_path, SampleRequest(1, checkpoint=9))


def test_the_newest_intact_checkpoint_is_sampled_and_none_is_renamed(run: Path, tmp_path: Path) -> None:
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    newest = find_checkpoint(copy)
    shutil.copy(newest, newest.with_name("step-00000001.safetensors"))  # of another step than its name says
    shutil.copy(newest, newest.with_name("step-00000009.safetensors"))
    (newest.with_name("step-00000007.safetensors")).write_bytes(newest.read_bytes()[:-9])
    names = sorted(path.name for path in newest.parent.iterdir())
    assert sample(copy, tmp_path / "out", SampleRequest(1)).step == 2
    assert sorted(path.name for path in newest.parent.iterdir()) == names
    for step in (1, 7, 9):
        with pytest.raises(TrainError, match=f"step-0000000{step}.safetensors"):
            sample(copy, tmp_path / "out", SampleRequest(1, checkpoint=step))
    newest.unlink()
    with pytest.raises(TrainError, match="none of its checkpoints is intact"):
        sample(copy, tmp_path / "out", SampleRequest(1))


@pytest.mark.parametrize("step", [":999999999999", ":9999999999999999999999", ":999999999999:1"])
def test_a_sweep_ends_at_the_first_value_that_is_unknown(run: Path, tmp_path: Path, step: str) -> None:
    pitch = read_run(run).vocabulary.labels[0][1][0]
    with pytest.raises(ConfigError, match="no note that the run was trained on has it"):
        sample(run, tmp_path, SampleRequest(labels=(f"pitch={pitch}{step}",)))


@pytest.mark.parametrize("seconds", [math.nan, math.inf, -math.inf, 1e-40, -1.0, 1e300])
def test_a_length_of_a_prompt_that_makes_no_sense_is_refused(
    make_set: Callable[..., Path], run: Path, tmp_path: Path, seconds: float
) -> None:
    folder = make_set(train=[2])
    key = read_all_keys(folder)[0]
    with pytest.raises(ConfigError, match="--prompt-seconds"):
        sample(run, tmp_path / "out", SampleRequest(1, prompt=f"{folder}:{key}", prompt_seconds=seconds))


def read_all_keys(folder: Path) -> list[str]:
    return [note.key for note in NoteReader(folder, read_manifest(folder), "train").read_all()]


def test_random_streams_differ_and_begin_alike_at_any_length() -> None:
    assert np.array_equal(uniforms((0, 5), 10), uniforms((0, 5), 20)[:10])
    assert not np.array_equal(uniforms((0, 5), 10), uniforms((0, 6), 10))
    assert not np.array_equal(uniforms((0, 5), 10), uniforms((1, 5), 10))


def test_a_run_without_labels_is_sampled(make_set: Callable[..., Path], tmp_path: Path) -> None:
    train(make_set(train=[3]), tmp_path / "run", load_config("small", [*TINY, "labels="]))
    (labels,) = made(tmp_path / "run", tmp_path / "out", 1)
    assert set(labels) == {"sampled", "codec"}
    assert (tmp_path / "out" / "sample_0000.npy").is_file()


def test_without_a_number_sixteen_are_made(run: Path, tmp_path: Path) -> None:
    assert len(made(run, tmp_path, None)) == 16


def test_a_prompt_is_what_samples_begin_with(run: Path, tmp_path: Path) -> None:
    set_folder = run.parent / "set"
    note = random_note("n3", 6)
    request = SampleRequest(2, prompt=f"{set_folder}:n3", prompt_seconds=2 / 75)
    for path in sample(run, tmp_path, request).files:
        file = read_token_file(path)
        sampled = file.note
        assert np.array_equal(sampled.tokens[:4], note.tokens[:4])
        assert len(sampled.tokens) == 12
        assert sampled.labels["pitch"] == note.labels["pitch"]
        assert file.sampled is not None and file.sampled.prompt_tokens == 4
    again = sample(run, tmp_path / "again", SampleRequest(1, prompt=str(path), prompt_seconds=4 / 75)).files[0]
    assert np.array_equal(read_token_file(again).note.tokens[:8], sampled.tokens[:8])


def test_a_label_option_overrides_the_prompts_label(run: Path, tmp_path: Path) -> None:
    pitch = next(
        values[0] for values, _ in read_run(run).combinations if values[0] != random_note("n3", 6).labels["pitch"]
    )
    request = SampleRequest(1, labels=(f"pitch={pitch}",), prompt=f"{run.parent / 'set'}:n3", prompt_seconds=2 / 75)
    assert read_token_file(sample(run, tmp_path, request).files[0]).note.labels["pitch"] == pitch


@pytest.mark.parametrize(
    ("prompt", "seconds", "says"),
    [
        ("set", 0.01, "is neither SET:KEY"),
        ("{set}:nobody", 0.01, "has no note of this name"),
        ("{set}:n3", 9.0, "less than the run's 0.08 s"),
        ("{set}:n3", 0.0, "must be more than 0"),
        ("{other}:n3", 0.02, "its codes are of encodec_24khz"),
        ("{damaged}:n3", 0.02, "damaged: n3: codes from 1 to 2000, but a codebook has 0 to 1023"),
        ("{damaged}:n4", 0.02, "damaged: n4: 3 tokens are no multiple"),
    ],
)
def test_a_prompt_that_does_not_fit_is_refused(
    run: Path, tmp_path: Path, prompt: str, seconds: float, says: str
) -> None:
    other = replace(CODEC, name="encodec_24khz")
    write_set(tmp_path / "other", {"train": [[random_note("n3", 6)]]}, other)
    out_of_range = replace(random_note("n3"), tokens=np.array([1, 2_000, 5, 7], np.int16))
    half_a_frame = replace(random_note("n4"), tokens=np.array([1, 2, 3], np.int16))
    write_set(tmp_path / "damaged", {"train": [[out_of_range, half_a_frame]]})
    text = prompt.format(set=run.parent / "set", other=tmp_path / "other", damaged=tmp_path / "damaged")
    with pytest.raises(UserError) as caught:
        sample(run, tmp_path / "out", SampleRequest(1, prompt=text, prompt_seconds=seconds))
    assert says in caught.value.message


def test_each_call_lists_its_files(run: Path, tmp_path: Path) -> None:
    made(run, tmp_path, 5, 0)
    files = sample(run, tmp_path, SampleRequest(3, seed=1)).files
    assert read_sample_list(tmp_path) == SampleList(3, tuple(path.stem for path in files))


def test_a_call_that_is_interrupted_lists_what_it_has_written(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sample_module, "BATCH", 2)
    earlier = read_list_after(lambda: sample(run, tmp_path, SampleRequest(5)), tmp_path)
    assert len(earlier.keys) == earlier.count == 5

    def interrupt_at(call: int) -> Callable[..., tuple[torch.Tensor, torch.Tensor]]:
        calls = itertools.count(1)

        def interrupted(*arguments: Any) -> tuple[torch.Tensor, torch.Tensor]:
            if next(calls) == call:
                raise KeyboardInterrupt
            return generate(*arguments)

        return interrupted

    monkeypatch.setattr(sample_module, "generate", interrupt_at(1))
    assert read_list_after(lambda: sample(run, tmp_path, SampleRequest(5, seed=1)), tmp_path) == earlier
    monkeypatch.setattr(sample_module, "generate", interrupt_at(2))
    interrupted = read_list_after(lambda: sample(run, tmp_path, SampleRequest(5, seed=1)), tmp_path)
    assert (interrupted.count, len(interrupted.keys)) == (5, 2)
    monkeypatch.setattr(sample_module, "generate", generate)
    monkeypatch.setattr(sample_module, "write_token_file", interrupt_at(1))
    assert read_list_after(lambda: sample(run, tmp_path, SampleRequest(5, seed=2)), tmp_path) == SampleList(5, ())


def test_notes_at_once_are_as_many_as_fit(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    info = read_run(run)
    model, _ = sample_module.load_model(run, info, "last", torch.device("cpu"))
    cache, window = batch_size.cache_bytes(model), batch_size.window_bytes(model)
    decoder = CpuDecoder(CpuWeights(model), 1)
    assert decoder.keys.nbytes + decoder.values.nbytes <= cache
    note = 2 * (cache + window + 1_024 * batch_size.BYTES_A_LOGIT) + 12 * batch_size.BYTES_A_TOKEN

    def at_once(free: float, is_guided: bool = True) -> int:
        monkeypatch.setattr(batch_size, "free_memory", lambda device: int(free / batch_size.SHARE) + 1)
        return batch_size.notes_at_once(model, 12, is_guided, 64)

    assert [at_once(notes * note) for notes in (0, 0.5, 1, 1.5, 7, 63.9, 64, 1e6)] == [1, 1, 1, 1, 7, 63, 64, 64]
    assert at_once(7 * note, is_guided=False) in (13, 14)
    monkeypatch.setattr(batch_size, "free_memory", lambda device: None)
    assert batch_size.notes_at_once(model, 12, True, 64) == 64


def test_the_free_memory_of_a_gpu_counts_what_torch_has_reserved(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.mem_get_info", lambda device: (5_000, 10_000))
    monkeypatch.setattr("torch.cuda.memory_reserved", lambda device: 900)
    monkeypatch.setattr("torch.cuda.memory_allocated", lambda device: 200)
    assert batch_size.free_memory(torch.device("cuda")) == 5_700


def test_the_free_memory_of_a_cpu_is_what_the_system_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch_size, "MEMINFO", tmp_path / "meminfo")
    assert batch_size.free_memory(torch.device("cpu")) is None
    (tmp_path / "meminfo").write_text("MemTotal:  9000 kB\nMemFree:  1 kB\nMemAvailable:     7000 kB\n")
    assert batch_size.free_memory(torch.device("cpu")) == 7_000 * 1024
    assert batch_size.free_memory(torch.device("mps")) is None


def test_little_memory_changes_no_sample(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    many = sample(run, tmp_path / "many", SampleRequest(5, seed=3, dtype="float32")).files
    sizes: list[int] = []

    def counting(model: NoteModel, labels: torch.Tensor, *others: Any) -> tuple[torch.Tensor, torch.Tensor]:
        sizes.append(len(labels))
        return generate(model, labels, *others)

    monkeypatch.setattr(sample_module, "generate", counting)
    monkeypatch.setattr(sample_module, "notes_at_once", lambda *arguments: 2)
    few = sample(run, tmp_path / "few", SampleRequest(5, seed=3, dtype="float32")).files
    assert sizes == [2, 2, 1]
    assert [path.read_bytes() for path in few] == [path.read_bytes() for path in many]


def test_a_full_device_is_one_line(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has ...\nMore lines")

    monkeypatch.setattr(sample_module, "generate", fail)
    with pytest.raises(UserError) as caught:
        sample(run, tmp_path, SampleRequest(2))
    assert caught.value.message.startswith("not enough memory (CUDA out of memory. Tried to allocate 2.00 GiB.")
    assert caught.value.message.endswith("; free some that other programs use, or take another --device")
    assert "\n" not in caught.value.message


def read_list_after(call: Callable[[], object], folder: Path) -> SampleList:
    with suppress(KeyboardInterrupt):
        call()
    listed = read_sample_list(folder)
    assert listed is not None
    return listed
