"""shards.events: TensorBoard reads the numbers, whatever the folder's name, and a full disk is one line."""

import os
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

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


def test_tensorboard_reads_settings_as_text_and_in_its_table(tmp_path: Path) -> None:
    with EventWriter(tmp_path) as writer:
        writer.add_settings("run", {"model": {"width": 16, "labels": ["pitch"]}, "set": "demo"}, 5)
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    text = events.Tensors("run")[0]
    assert text.step == 5 and '"width": 16' in text.tensor_proto.string_val[0].decode()
    content = events.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    hparams = HParamsPluginData.FromString(content).session_start_info.hparams
    assert {name: value.WhichOneof("kind") for name, value in hparams.items()} == {
        "model.width": "number_value",
        "model.labels": "string_value",
        "set": "string_value",
    }


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
