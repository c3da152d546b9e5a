"""Fixtures and settings that all tests share."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import settings

from tests.support.shard_sets import random_note, write_set

# A claim is about what the code does, not how long a busy machine takes over it.
settings.register_profile("no deadline", deadline=None)
settings.load_profile("no deadline")

# What tests compute is small, and threads that wait for each other make a machine that others use many times slower.
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture
def without_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Encode in this process: what workers add is tested in files of their own."""
    import torch

    from tests.support.notes import encode_in_this_process

    torch.set_num_threads(1)
    monkeypatch.setattr("pipeline.encode.run.encode_batches", encode_in_this_process)


@pytest.fixture
def make_set(tmp_path: Path) -> Callable[..., Path]:
    """Make a set of random notes: `make_set(train=[5, 5], valid=[3])` gives shards of so many notes each."""

    def make(name: str = "set", frames: int = 12, **splits: list[int]) -> Path:
        folder = tmp_path / name
        numbered = {
            split: [
                [random_note(f"{split}_{shard}_{index}", frames) for index in range(count)]
                for shard, count in enumerate(counts)
            ]
            for split, counts in splits.items()
        }
        write_set(folder, numbered)
        return folder

    return make
