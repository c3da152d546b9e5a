"""shards.events: TensorBoard reads the numbers, whatever the folder's name, and a full disk is one line."""

import os
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from shards.errors import UserError
from shards.events import EventWriter


def numbers(folder: Path) -> list[tuple[int, float]]:
    events = EventAccumulator(str(folder))
    events.Reload()
    return [(event.step, event.value) for event in events.Scalars("train/loss")]


def test_tensorboard_reads_the_numbers_but_those_that_a_later_file_replaces(tmp_path: Path) -> None:
    with EventWriter(tmp_path) as writer:
        for step in (1, 2, 3):
            writer.add_scalar("train/loss", step / 2, step)
    assert numbers(tmp_path) == [(1, 0.5), (2, 1.0), (3, 1.5)]
    with EventWriter(tmp_path, purge_step=3) as writer:
        writer.add_scalar("train/loss", 7.0, 3)
    assert numbers(tmp_path) == [(1, 0.5), (2, 1.0), (3, 7.0)]


def test_a_folder_need_not_be_utf_8(tmp_path: Path) -> None:
    folder = tmp_path / os.fsdecode(b"caf\xe9")
    with EventWriter(folder) as writer:
        writer.add_scalar("train/loss", 0.5, 1)
    assert numbers(folder.rename(tmp_path / "ascii")) == [(1, 0.5)]


def test_a_full_disk_is_one_line_that_names_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path_open = Path.open
    monkeypatch.setattr(Path, "open", lambda _, mode: path_open(Path("/dev/full"), mode))
    with pytest.raises(UserError, match=r"events\.out.*: cannot be written \(No space left on device\)"):
        EventWriter(tmp_path)
