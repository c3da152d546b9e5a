"""Curves of runs as a picture."""

import json
from pathlib import Path

import pytest

from trainer.curves import plot_curves
from trainer.errors import TrainError


def make_run(folder: Path, evaluations: int) -> Path:
    folder.mkdir()
    lines = [
        {"kind": "valid", "step": step, "seconds": 60.0 * step, "loss_first_125_frames": 5.0 - step}
        for step in range(evaluations)
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


@pytest.mark.parametrize(("name", "begins"), [("c.png", b"\x89PNG"), ("c.svg", b"<?xml")])
def test_curves_are_drawn(tmp_path: Path, name: str, begins: bytes) -> None:
    plot_curves([make_run(tmp_path / "a", 3), make_run(tmp_path / "b", 2)], tmp_path / name)
    assert (tmp_path / name).read_bytes().startswith(begins)


def test_what_cannot_be_drawn_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TrainError, match="no evaluation to draw"):
        plot_curves([make_run(tmp_path / "a", 0)], tmp_path / "c.png")
    with pytest.raises(TrainError, match="neither a"):
        plot_curves([make_run(tmp_path / "b", 2)], tmp_path / "c.doc")
    assert not list(tmp_path.glob("c.*"))
