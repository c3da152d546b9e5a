"""The Hugging Face Hub: exported runs, dataset cards, and sets that are read from there."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import datasets
import pytest
import torch
from click.testing import CliRunner
from safetensors import safe_open

from pipeline.codec.spec import codec_spec
from shards.card import write_card
from shards.errors import UserError
from shards.scores import Figure, Score, Scores, write_scores
from shards.storage import parse_path
from tests.support import ROOT
from tests.support.hub import REPOSITORY, hub_server
from tests.support.hugging_face import save_small
from trainer.__main__ import main
from trainer.config import load_config
from trainer.errors import TrainError
from trainer.export import export, from_pretrained
from trainer.run import read_run
from trainer.sample import SampleRequest, sample
from trainer.train import train
from trainer.weights import load_model

TINY = ["width=16", "depth=1", "heads=2", "head_width=8", "batch=4", "workers=0", "warmup=2", "steps=4", "samples=0"]


@pytest.fixture
def run(make_set: Callable[..., Path], tmp_path: Path) -> Path:
    train(
        make_set(train=[8], valid=[2]),
        tmp_path / "run",
        load_config("small", [*TINY, "evaluate_every=2", "checkpoint_every=2"]),
    )
    return tmp_path / "run"


@pytest.mark.parametrize("ema", [0.0, 0.9])
def test_an_exported_run_samples_the_same_and_starts_others(
    make_set: Callable[..., Path], tmp_path: Path, ema: float
) -> None:
    run, out = tmp_path / "run", tmp_path / "out"
    folder = make_set(train=[8], valid=[2])
    config = load_config("small", [*TINY, f"ema={ema}"])
    train(folder, run, config)
    assert export(run, out).step == 4
    for path in (run, out):
        sample(path, tmp_path / path.name / "samples", SampleRequest(2))
    for ours in (tmp_path / "run/samples").glob("*.npy"):
        assert ours.read_bytes() == (tmp_path / "out/samples" / ours.name).read_bytes()
    train(folder, tmp_path / "tuned", config, start=str(out))
    start = read_run(tmp_path / "tuned").start
    assert start is not None and (start.run, start.step) == (str(out), 4)


def test_the_folder_holds_weights_alone_and_no_path_of_this_machine(run: Path, tmp_path: Path) -> None:
    export(run, tmp_path / "out")
    with safe_open(tmp_path / "out/model.safetensors", "pt") as file:
        names = [*file.keys()]
        assert (file.metadata() or {})["format"] == "pt"
    model, _ = load_model(run, read_run(run), "last", torch.device("cpu"))
    assert sorted(names) == sorted(model.state_dict())
    assert not any(str(tmp_path) in (tmp_path / "out" / name).read_text() for name in ("config.json", "README.md"))
    loaded, info = from_pretrained(str(tmp_path / "out"))
    assert info.vocabulary == read_run(run).vocabulary
    assert all(torch.equal(tensor, model.state_dict()[name]) for name, tensor in loaded.state_dict().items())


def test_a_step_can_be_exported_and_an_export_has_no_other(run: Path, tmp_path: Path) -> None:
    assert export(run, tmp_path / "out", "2").step == 2
    with pytest.raises(TrainError, match="is an exported run, which has the weights of step 2 alone"):
        sample(tmp_path / "out", tmp_path / "x", SampleRequest(1, checkpoint="best"))
    assert export(run, tmp_path / "out").step == 4  # anew
    export(tmp_path / "out", tmp_path / "again")
    (first, info), (second, again) = (from_pretrained(str(tmp_path / name)) for name in ("out", "again"))
    assert info == again
    assert all(torch.equal(tensor, second.state_dict()[name]) for name, tensor in first.state_dict().items())


def test_the_card_has_data_codec_licence_and_figures(run: Path, tmp_path: Path) -> None:
    figure = Figure("samples", 0.75, 8)
    scores = Scores("f", "set", (Score("pitch", "Pitch matches", "meaning", "share", (figure,)),))
    (tmp_path / "samples").mkdir()
    write_scores(tmp_path / "samples", scores)
    export(run, tmp_path / "demo", samples=tmp_path / "samples", license_id="cc-by-4.0")
    card = (tmp_path / "demo/README.md").read_text()
    assert card.startswith('---\nlibrary_name: note-tokens\nlicense: "cc-by-4.0"\n')
    info = read_run(run)
    for text in (
        "# demo",
        "shard set set",
        info.notes_sha256,
        info.codec.weights_sha256,
        "- label pitch: ",
        "Valid loss",
    ):
        assert text in card
    assert "| Pitch matches | samples | 75 % | 8 |" in card


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--run", "{}/run", "--out", "{}/run"], "run: has other files; name a new folder"),
        (["--run", "{}/nowhere", "--out", "{}/x"], "nowhere: no such run"),
        (["--run", "{}/run", "--out", "{}/x", "--checkpoint", "3"], "has no checkpoint of step 3"),
        (["--run", "{}/run", "--out", "{}/x", "--scores", "{}"], "has no scores.json; `python -m pipeline score"),
    ],
)
def test_what_cannot_be_exported_is_one_line_and_leaves_nothing(
    run: Path, tmp_path: Path, words: list[str], says: str
) -> None:
    before = sorted(run.rglob("*"))
    result = CliRunner().invoke(main, ["export", *(word.format(tmp_path) for word in words)])
    assert result.exit_code == 2 and says in result.output and result.output.count("\n") == 1
    assert sorted(run.rglob("*")) == before and not (tmp_path / "x").exists()


def test_a_training_does_not_go_on_in_an_export(run: Path, make_set: Callable[..., Path], tmp_path: Path) -> None:
    export(run, tmp_path / "out")
    with pytest.raises(TrainError, match="is an exported run; begin with its weights: --run NEW --start"):
        train(make_set("other", train=[8]), tmp_path / "out", load_config("small", TINY))
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "README.md",
        "config.json",
        "model.safetensors",
    ]


def test_a_name_that_the_hub_does_not_know_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match="nobody/nothing: is no folder, and cannot be fetched from the Hub") as caught:
        from_pretrained("nobody/nothing")
    assert "\n" not in caught.value.message


def test_load_dataset_finds_splits_and_types_by_the_card(
    make_set: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    folder = make_set(train=[3, 2], valid=[2])
    write_card(folder, "cc-by-4.0")
    write_card(folder)  # anew
    read = datasets.load_dataset(str(folder), cache_dir=str(tmp_path / "cache"))
    assert {split: len(notes) for split, notes in read.items()} == {"train": 5, "validation": 2}
    assert read["train"].features["npy"] == datasets.List(datasets.Value("int16"))
    assert read["train"].features["json"]["pitch"] == datasets.Value("int64")


def test_a_readme_of_another_hand_stays(make_set: Callable[..., Path]) -> None:
    folder = make_set(train=[3])
    (folder / "README.md").write_text("mine")
    with pytest.raises(UserError, match=r"README\.md: was not written by this program; rename it"):
        write_card(folder)
    assert (folder / "README.md").read_text() == "mine"


def test_a_set_of_the_hub_is_read_as_a_folder_is(make_set: Callable[..., Path], tmp_path: Path) -> None:
    """In other processes, because huggingface_hub reads the environment when it is imported."""
    folder = make_set(train=[5, 4], valid=[2])
    url = f"hf://datasets/{REPOSITORY}"
    settings = [word for setting in (*TINY, "dtype=float32") for word in ("--set", setting)]
    with hub_server(folder) as endpoint:
        environment = {**os.environ, "HF_ENDPOINT": endpoint, "XDG_CACHE_HOME": str(tmp_path / "cache")}

        def call(*words: str) -> str:
            command = [sys.executable, "-m", *words]
            result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
            assert result.returncode == 0, result.stderr
            return result.stdout

        assert "11 notes, every byte as written" in call("shards", "verify", url)
        call("trainer", "train", "--shards", url, "--run", str(tmp_path / "theirs"), *settings)
    train(folder, tmp_path / "ours", load_config("small", [*TINY, "dtype=float32"]))
    ours, theirs = (
        load_model(tmp_path / name, read_run(tmp_path / name), "last", torch.device("cpu"))[0].state_dict()
        for name in ("ours", "theirs")
    )
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in ours.items())


@pytest.mark.parametrize("program", [pytest.param("codec", marks=pytest.mark.long), "run"])
def test_a_model_of_the_hub_is_fetched_by_its_id(run: Path, tmp_path: Path, program: str) -> None:
    """In another process, as above: a codec of transformers, and an exported run."""
    programs = {
        "codec": f"from pipeline.codec.spec import codec_spec; print(codec_spec('hf:{REPOSITORY}').weights_sha256)",
        "run": f"from trainer.export import *; print(from_pretrained('{REPOSITORY}')[1].codec.weights_sha256)",
    }
    folder = tmp_path / "model"
    if program == "codec":
        expected = codec_spec(f"hf:{save_small('dac', folder)}").weights_sha256
    else:
        export(run, folder)
        expected = read_run(run).codec.weights_sha256
    with hub_server(folder, "models") as endpoint:
        environment = {**os.environ, "HF_ENDPOINT": endpoint, "HF_HOME": str(tmp_path / "cache")}
        command = [sys.executable, "-c", programs[program]]
        result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert result.stdout.split() == [expected]


def test_nothing_is_written_to_the_hub(tmp_path: Path) -> None:
    from pipeline.encode.ranks import lock_set

    with (
        pytest.raises(UserError, match=r"hf://.*: is only read from"),
        lock_set(parse_path("hf://datasets/a/b"), False),
    ):
        pass
