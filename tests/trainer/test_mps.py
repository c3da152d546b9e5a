"""On MPS, which has no float64, training and sampling make no tensor of it. Nothing is run on a Mac here."""

from pathlib import Path

import numpy as np
import pytest

from shards.note import read_token_file
from tests.support.mps import as_if_on_mps
from tests.support.shard_sets import random_note, write_set
from trainer.config import load_config
from trainer.sample import SampleRequest, sample
from trainer.sampling import Sampling
from trainer.train import train

TINY = ["width=16", "depth=1", "heads=2", "head_width=8", "batch=4", "workers=0", "warmup=2", "steps=2", "samples=1"]


def test_a_run_is_trained_and_sampled_without_float64(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    notes = [[random_note(f"n{index}", 6) for index in range(12)]]
    write_set(tmp_path / "set", {"train": notes, "valid": [[random_note("v", 6)]]})
    request = SampleRequest(8, sampling=Sampling(top_p=0.9, guidance=2.0), dtype="float32")
    with as_if_on_mps(monkeypatch):
        train(tmp_path / "set", tmp_path / "run", load_config("small", [*TINY, "ema=0.9"]), "cpu")
        sampled = sample(tmp_path / "run", tmp_path / "narrow", request, "cpu").files
    monkeypatch.undo()
    sample(tmp_path / "run", tmp_path / "wide", request, "cpu")
    tokens, expected = (
        np.stack([read_token_file(tmp_path / folder / path.name).note.tokens for path in sampled])
        for folder in ("narrow", "wide")
    )
    assert (tokens == expected).mean() > 0.9  # a draw near the border of two codes may fall on the other side
