"""pipeline.page.boards: TensorBoard and Weights & Biases get the sounds of each evaluation, once."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from pipeline.codec.loaded import load_codec
from pipeline.page.boards import SENT, send_sounds
from pipeline.page.learning import Evaluation, decode_evaluations
from shards.weights_and_biases import open_wandb
from tests.pipeline.page.test_learning import make_run
from tests.support import ROOT


def decode(folder: Path, run: Path) -> tuple[Evaluation, ...]:
    return decode_evaluations(folder / "page", run, load_codec("encodec_mini")).evaluations


def sounds(run: Path) -> dict[str, list[int]]:
    """The steps of each sound that TensorBoard reads."""
    events = EventAccumulator(str(run / "tensorboard/samples"))
    events.Reload()
    return {tag: [event.step for event in events.Audio(tag)] for tag in events.Tags()["audio"]}


def test_tensorboard_gets_the_sounds_of_each_step_once(tmp_path: Path) -> None:
    run = make_run(tmp_path, 5, 10)
    rows = decode(tmp_path, run)
    assert send_sounds(run, rows[:1]) == (f"TensorBoard: the sounds of 1 evaluation of {run} were added.",)
    assert sounds(run) == {"samples/0 C4": [5], "samples/1 E4": [5]}
    assert len(send_sounds(run, rows)) == 1
    assert send_sounds(run, rows) == ()
    assert sounds(run) == {"samples/0 C4": [5, 10], "samples/1 E4": [5, 10]}
    events = EventAccumulator(str(run / "tensorboard/samples"))
    events.Reload()
    event = events.Audio("samples/1 E4")[1]
    assert event.encoded_audio_string == rows[1].wavs[1].read_bytes()
    assert (event.sample_rate, event.content_type) == (24_000, "audio/wav")
    assert not {*events.Tags()["images"]} & {*events.Tags()["audio"]}  # TensorBoard would show one of them
    pictures = events.Images("samples/1 E4 spectrogram")
    assert [(picture.step, picture.width, picture.height) for picture in pictures] == [(5, 480, 176), (10, 480, 176)]
    assert pictures[1].encoded_image_string == rows[1].wavs[1].with_suffix(".png").read_bytes()


def test_a_folder_need_not_be_utf_8(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / os.fsdecode(b"caf\xe9")
    run = make_run(folder, 5)
    (run / "wandb-id.txt").write_text("123abc\nmine\n")
    monkeypatch.setenv("WANDB_MODE", "offline")
    added, not_added = send_sounds(run, decode(folder, run))
    assert added.startswith("TensorBoard: the sounds of 1 evaluation")
    assert "takes no path that is not UTF-8" in not_added
    assert list(sounds(run.rename(tmp_path / "run"))) == ["samples/0 C4", "samples/1 E4"]


def test_a_damaged_list_of_steps_costs_no_more_than_sending_again(tmp_path: Path) -> None:
    run = make_run(tmp_path, 5)
    rows = decode(tmp_path, run)
    for damaged in ("", "[]", '{"TensorBoard": ["5"]}'):
        (run / SENT).write_text(damaged)
        assert len(send_sounds(run, rows)) == 1
        assert send_sounds(run, rows) == ()


def test_a_board_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    run = make_run(tmp_path, 5)
    (run / "tensorboard").write_text("a file")
    [line] = send_sounds(run, decode(tmp_path, run))
    assert line.startswith(f"TensorBoard: the sounds of {run} were not added: {run}/tensorboard/samples")
    assert not (run / SENT).exists()


def logs(run: Path) -> bytes:
    """All that Weights & Biases keeps on this machine."""
    return b"".join(path.read_bytes() for path in sorted((run / "wandb").glob("offline-run-*/*.wandb")))


def test_weights_and_biases_gets_them_if_the_run_was_trained_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(tmp_path, 5, 10)
    train = f"from pathlib import Path; from shards.weights_and_biases import *; open_wandb(Path({str(run)!r}), 'mine')"
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.delenv("WANDB_SERVICE", raising=False)  # of this process: a training has its own
    subprocess.run([sys.executable, "-c", train], cwd=ROOT, check=True, capture_output=True)
    lines = send_sounds(run, decode(tmp_path, run))
    assert lines[1] == f"Weights & Biases: the sounds of 2 evaluations of {run} were added."
    assert len([*(run / "wandb").glob("offline-run-*/files/media/audio/samples/*.wav")]) == 4
    log = logs(run)
    assert log.count(b"samples/1 E4") >= 2 and b"samples/step" in log and log.count(b"mine") >= 2
    run_id, project = (run / "wandb-id.txt").read_text().split()
    assert project == "mine" and log.count(run_id.encode()) >= 2  # both are of one page
    assert send_sounds(run, decode(tmp_path, run)) == ()


def test_weights_and_biases_that_is_not_installed_or_cannot_be_reached_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import wandb

    run = make_run(tmp_path, 5)
    (run / "wandb-id.txt").write_text("123abc\nmine\n")
    rows = decode(tmp_path, run)

    def refuse(**options: object) -> None:
        raise wandb.errors.CommError("no answer\nat all")

    monkeypatch.setattr(wandb, "init", refuse)
    assert send_sounds(run, rows)[1] == (
        f"Weights & Biases: the sounds of {run} were not added: no answer; "
        "WANDB_MODE=offline needs no account and no network"
    )
    monkeypatch.setitem(sys.modules, "wandb", None)
    [line] = send_sounds(run, rows)
    assert "pip install wandb" in line


def test_the_id_of_a_page_without_a_project_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import wandb

    (tmp_path / "wandb-id.txt").write_text("123abc")
    opened: list[dict[str, object]] = []
    monkeypatch.setattr(wandb, "init", lambda **options: opened.append(options))
    open_wandb(tmp_path, "mine", config={})
    assert opened[0]["id"] == "123abc" and opened[0]["project"] == "mine"
    assert (tmp_path / "wandb-id.txt").read_text() == "123abc\nmine\n"
