"""trainer.preview: a training samples the same notes at each evaluation, and is the same training without them."""

from pathlib import Path

import pytest
import torch

from shards.note import read_token_file
from tests.support.shard_sets import random_note, write_set
from trainer.checkpoint import newest_checkpoint
from trainer.config import load_config
from trainer.train import train

TINY = ["width=16", "depth=1", "heads=2", "head_width=8", "batch=4", "workers=0", "warmup=2", "steps=4"]


@pytest.fixture
def notes(tmp_path: Path) -> Path:
    train_notes = [random_note(f"n{index}", 6) for index in range(12)]
    write_set(tmp_path / "set", {"train": [train_notes], "valid": [[random_note("v", 6)]]})
    return tmp_path / "set"


def test_each_evaluation_samples_the_same_notes(notes: Path, tmp_path: Path) -> None:
    train(notes, tmp_path / "run", load_config("small", [*TINY, "evaluate_every=2"]))
    folders = sorted((tmp_path / "run/samples").iterdir())
    assert [folder.name for folder in folders] == ["step-00000002", "step-00000004"]
    first, second = ([read_token_file(path) for path in sorted(folder.glob("*.npy"))] for folder in folders)
    assert len(first) == 4
    assert [file.note.labels for file in first] == [file.note.labels for file in second]
    assert len({file.note.labels["pitch"] for file in first}) > 1
    for file in second:
        assert file.sampled is not None
        assert (file.sampled.step, file.sampled.checkpoint) == (4, "step-00000004.safetensors")


def test_the_training_is_the_same_without_them(notes: Path, tmp_path: Path) -> None:
    for name, samples in (("with", 4), ("without", 0)):
        train(notes, tmp_path / name, load_config("small", [*TINY, f"samples={samples}", "dropout=0.1"]))
    checkpoints = [newest_checkpoint(tmp_path / name) for name in ("with", "without")]
    assert checkpoints[0] is not None and checkpoints[1] is not None
    for name, tensor in checkpoints[0].tensors.items():
        assert torch.equal(tensor, checkpoints[1].tensors[name]), name
    assert not (tmp_path / "without/samples").exists()


def test_a_set_with_few_notes_gives_as_many_previews(tmp_path: Path) -> None:
    write_set(tmp_path / "set", {"train": [[random_note("a", 6), random_note("b", 6)]]})
    train(tmp_path / "set", tmp_path / "run", load_config("small", TINY))
    assert {len(list(folder.glob("*.npy"))) for folder in (tmp_path / "run/samples").iterdir()} == {2}
