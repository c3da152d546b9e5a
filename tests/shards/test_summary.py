"""shards.summary and `inspect`: the figures are those of the notes."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from shards.__main__ import main
from shards.note import Note
from shards.summary import perplexity, summarize
from tests.support.shard_sets import CODEC, random_note, write_set


@pytest.mark.parametrize("codes", [1, 2, 1024])
def test_the_perplexity_of_codes_used_equally_is_their_number(codes: int) -> None:
    uses = np.zeros(1024, np.int64)
    uses[:codes] = 7
    assert perplexity(uses) == pytest.approx(codes)


def test_a_summary_counts_what_is_there(tmp_path: Path) -> None:
    train = [
        Note("a", np.array([5, 9, 5, 8], np.int16), {"pitch": 60}),
        Note("b", np.array([6, 9], np.int16), {"pitch": 60}),
    ]
    write_set(tmp_path, {"train": [train], "valid": [[random_note("v", frames=75)]]})
    summary = summarize(tmp_path)
    assert summary["splits"]["train"] == {
        "shards": 1,
        "notes": 2,
        "tokens": 6,
        "bytes": (tmp_path / "train-00000.tar").stat().st_size,
    }
    assert summary["hours"] == pytest.approx((6 + 150) / CODEC.tokens_per_second / 3600)
    assert sum(summary["codebooks"][0]["uses"]) == 3 + 75
    assert summary["labels"]["pitch"][60] >= 2
    assert summary["labels"]["seconds"] == {0.013: 1, 0.027: 1, 1.0: 1}


def test_inspect_prints_what_json_holds(make_set: Callable[..., Path], tmp_path: Path) -> None:
    folder = make_set(train=[4, 3], valid=[2])
    plot = tmp_path / "usage.png"
    text = CliRunner().invoke(main, ["inspect", str(folder), "--plot", str(plot)])
    assert text.exit_code == 0, text.output
    assert "9 notes" in text.output
    assert plot.read_bytes().startswith(b"\x89PNG")
    other = CliRunner().invoke(main, ["inspect", str(folder), "--plot", str(tmp_path / "usage.doc")])
    assert other.exit_code == 2 and "usage.doc: must end in .png or .svg" in other.output
    value = json.loads(CliRunner().invoke(main, ["inspect", str(folder), "--json"]).output)
    assert value["ledger"] == {"inputs": 9, "encoded": 9, "rejected": 0}
    assert value["splits"]["train"]["notes"] == 7
    assert "seconds" not in value["labels"]  # all notes are as long
