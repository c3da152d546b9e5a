"""trainer.start: a run that begins with the weights of another one, whose notes and labels may differ."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from shards.note import Note
from tests.support.shard_sets import CODEC, random_note, write_set
from trainer.checkpoint import find_checkpoint, read_checkpoint, saved_steps
from trainer.config import Config, ModelConfig, load_config
from trainer.errors import TrainError
from trainer.model import NoteModel
from trainer.run import read_run
from trainer.start import fit_embeddings
from trainer.train import train
from trainer.vocabulary import Vocabulary

TINY = ["width=16", "depth=1", "heads=2", "head_width=8", "batch=4", "warmup=1", "samples=0", "dtype=float32"]
OLD = (("pitch", (40, 41, 42)), ("velocity", (25, 100)), ("source", ("a", "b")))
NEW = (("mood", ("dark", "bright")), ("pitch", (41, 42, 43)), ("source", ("b",)))


def settings(*changes: str) -> Config:
    return load_config("small", [*TINY, "steps=2", *changes])


def write_notes(folder: Path, pitches: range, **labels: str) -> None:
    notes = [Note(f"n{pitch}", random_note(f"n{pitch}", 6).tokens, {"pitch": pitch, **labels}) for pitch in pitches]
    write_set(folder, {"train": [notes], "valid": [notes[:2]]})


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the set `old`, the run `base` that was trained on it, and the set `new`, of other notes."""
    folder = tmp_path_factory.mktemp("start")
    write_notes(folder / "old", range(40, 48), source="a")
    write_notes(folder / "new", range(44, 52), mood="dark")
    train(folder / "old", folder / "base", settings("labels=pitch,source"))
    return folder


@pytest.mark.parametrize("position", ["frame", "token"])
def test_logits_are_the_same_where_labels_are_shared(position: str) -> None:
    """A label that is gone counts as none before, a new label as anything, a new value as none."""
    torch.manual_seed(0)
    config = ModelConfig(width=16, depth=1, heads=2, head_width=8, position=position)  # type: ignore[arg-type]
    old, new = (NoteModel(config, Vocabulary(2, 8, labels=labels), 12).eval() for labels in (OLD, NEW))
    tensors = old.state_dict()
    key = "net.token_emb.emb.weight"
    tensors[key] = fit_embeddings(tensors[key], old.vocabulary, new.vocabulary, new.group)
    new.load_state_dict(tensors)
    codes = torch.randint(0, 8, (1, 12))

    def logits(model: NoteModel, **labels: object) -> torch.Tensor:
        return model.logits(torch.tensor([model.vocabulary.label_ids(labels)]), codes)

    for ours, theirs in (
        ({"pitch": 41, "source": "b"}, {"pitch": 41, "source": "b"}),
        ({"pitch": 42, "mood": "dark"}, {"pitch": 42}),
        ({"mood": "bright"}, {}),
        ({"pitch": 43, "source": "b"}, {"source": "b"}),
    ):
        assert torch.allclose(logits(new, **ours), logits(old, **theirs), atol=1e-6)
    assert not torch.allclose(logits(new, pitch=41), logits(new, pitch=42), atol=1e-4)


def test_a_run_begins_with_the_weights_of_another_and_records_it(
    base: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = base / "tuned"
    train(base / "new", run, settings("labels=pitch,mood", "lr=1e-9"), start=str(base / "base"))
    assert f"Starts from step 2 of {base / 'base'}. Labels: pitch has 4 of 8 values, mood is new, source is gone." in (
        capsys.readouterr().err
    )
    ours, theirs = (read_checkpoint(find_checkpoint(path), "model.").tensors for path in (run, base / "base"))
    assert all(torch.allclose(ours[name], theirs[name], atol=1e-6) for name in ours if "token_emb" not in name)
    assert any((ours[name] != theirs[name]).any() for name in ours if ours[name].shape == theirs[name].shape)
    start = read_run(run).start
    assert start is not None and (start.run, start.step) == (str(base / "base"), 2)
    assert start.vocabulary == read_run(base / "base").vocabulary
    assert "start" not in json.loads((base / "base" / "run.json").read_text())


def test_a_run_goes_on_from_its_own_checkpoint_without_the_other_run(base: Path, tmp_path: Path) -> None:
    shutil.copytree(base / "base", tmp_path / "base")
    start = str(tmp_path / "base")
    train(base / "new", tmp_path / "run", settings(), start=start)
    shutil.rmtree(start)
    for option in (start, f"{start}:2", f"{start}:best", None):
        train(base / "new", tmp_path / "run", settings("steps=4"), start=option)
    assert saved_steps(tmp_path / "run")[-1] == 4
    for option, began in ((f"{start}:1", "step 2 of"), (str(base / "base"), "step 2 of")):
        with pytest.raises(TrainError, match=f"began with {began}.*leave out --start, or use another --run"):
            train(base / "new", tmp_path / "run", settings("steps=4"), start=option)
    with pytest.raises(TrainError, match="began with random weights"):
        train(base / "old", base / "base", settings("labels=pitch,source"), start=start)
    find_checkpoint(tmp_path / "run").unlink()
    find_checkpoint(tmp_path / "run").unlink()
    with pytest.raises(TrainError, match=f"{start}: no such run"):
        train(base / "new", tmp_path / "run", settings("steps=4"))


def test_the_moving_average_is_what_is_taken(base: Path, tmp_path: Path) -> None:
    train(base / "old", tmp_path / "average", settings("ema=0.9", "steps=6"))
    train(base / "old", tmp_path / "run", settings("ema=0.5", "steps=1", "lr=1e-9"), start=str(tmp_path / "average"))
    path = find_checkpoint(tmp_path / "average")
    average, last = (read_checkpoint(path, prefix).tensors for prefix in ("average.", "model."))
    for prefix in ("average.", "model."):
        ours = read_checkpoint(find_checkpoint(tmp_path / "run"), prefix).tensors
        assert all(torch.allclose(ours[name], average[name], atol=1e-6) for name in ours)
    assert any(not torch.allclose(last[name], average[name], atol=1e-4) for name in last)


@pytest.mark.parametrize(
    ("changes", "option", "says"),
    [
        (["width=32", "head_width=16"], "base", "make yours alike: --set width=16 --set head_width=8"),
        (["depth=2"], "base", "make yours alike: --set depth=1"),
        (["position=token"], "base", "make yours alike: --set position=frame"),
        (["position=token", "shared_vocabulary=true", "labels="], "base", "--set shared_vocabulary=false"),
        ([], "none", "none: no such run"),
        ([], "base:9", "no checkpoint of step 9, only of 1, 2"),
    ],
)
def test_a_start_that_does_not_fit_is_one_line_and_leaves_nothing(
    base: Path, tmp_path: Path, changes: list[str], option: str, says: str
) -> None:
    with pytest.raises(TrainError, match=says) as error:
        train(base / "old", tmp_path / "run", settings(*changes), start=str(base / option))
    assert "\n" not in error.value.message and not (tmp_path / "run").exists()


def test_a_set_of_another_codec_is_refused_by_the_field_that_differs(base: Path, tmp_path: Path) -> None:
    codec = replace(CODEC, bandwidth=3.0)
    write_set(tmp_path / "set", {"train": [[random_note(f"n{index}", 6) for index in range(4)]]}, codec)
    with pytest.raises(TrainError, match=r"its codec has bandwidth 1\.5, that of the shard set 3\.0"):
        train(tmp_path / "set", tmp_path / "run", settings(), start=str(base / "base"))


def test_a_run_whose_set_has_grown_is_given_the_option(base: Path, tmp_path: Path) -> None:
    write_notes(tmp_path / "grown", range(40, 50), source="a")
    with pytest.raises(TrainError, match=f"begins with its weights: --run NEW --start {base / 'base'}"):
        train(tmp_path / "grown", base / "base", settings("labels=pitch,source"))


def test_a_start_is_checked_like_all_that_a_run_file_holds(base: Path, tmp_path: Path) -> None:
    train(base / "old", tmp_path / "run", settings(), start=str(base / "base"))
    file = tmp_path / "run" / "run.json"
    value = json.loads(file.read_text())
    for start in (1, {}, {"run": 1, "step": 2, "vocabulary": value["vocabulary"]}, {**value["start"], "step": -1}):
        file.write_text(json.dumps({**value, "start": start}))
        with pytest.raises(TrainError, match=r"run\.json.*start another run"):
            read_run(tmp_path / "run")
    value["start"]["vocabulary"]["codebooks"] = 3
    file.write_text(json.dumps(value))
    with pytest.raises(TrainError, match="start do not fit"):
        read_run(tmp_path / "run")
