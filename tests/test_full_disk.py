"""Every command that writes says in one line that it cannot, names the file, and leaves no half of one."""

import importlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from pipeline.codec.spec import codec_spec
from shards.note import write_token_file
from tests.support.disk import fill, make_read_only, mounted_disk
from tests.support.notes import nsynth_folder
from tests.support.shard_sets import random_note

pytestmark = pytest.mark.usefixtures("without_workers")
TINY = [
    word for setting in ("width=16", "depth=1", "heads=2", "head_width=8", "batch=4") for word in ("--set", setting)
]
TINY += ["--set", "evaluate_every=1", "--set", "data.workers=0"]
CODEC = ["--codec", "encodec_mini", "--duration", "0.2", "--device", "cpu", "--workers", "1"]


def run(program: str, *words: object) -> Result:
    main = importlib.import_module(f"{program}.__main__").main
    return CliRunner().invoke(main, [*map(str, words)])


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Audio, a set, a run and token files, on a disk with room."""
    folder = tmp_path_factory.mktemp("sources")
    nsynth_folder(folder / "audio", train=3, valid=1)
    assert run("pipeline", "encode", folder / "audio", "--out", folder / "set", *CODEC).exit_code == 0
    trained = run("trainer", "train", "--shards", folder / "set", "--run", folder / "run", *TINY, "--set", "steps=2")
    assert trained.exit_code == 0
    for name in ("a", "b"):
        write_token_file(folder / "tokens", random_note(name, 15), codec_spec("encodec_mini"))
    return folder


@pytest.fixture(params=["full", "read-only"])
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    with mounted_disk(tmp_path / "disk", "64k") as folder:
        (fill if request.param == "full" else make_read_only)(folder)
        yield folder


COMMANDS: dict[str, Callable[[Path, Path], list[object]]] = {
    "demo-notes": lambda _, disk: ["pipeline", "demo-notes", disk / "notes", "--velocities", 1, "--pitches", 60, 60],
    "encode": lambda source, disk: ["pipeline", "encode", source / "audio", "--out", disk / "set", *CODEC],
    "decode": lambda source, disk: ["pipeline", "decode", source / "tokens", "--out", disk / "wavs"],
    "inspect": lambda source, disk: ["shards", "inspect", source / "set", "--plot", disk / "usage.png"],
    "train": lambda source, disk: ["trainer", "train", "--shards", source / "set", "--run", disk / "run", *TINY],
    "curves": lambda source, disk: ["trainer", "curves", source / "run", "--out", disk / "curves.svg"],
    "sample": lambda source, disk: ["trainer", "sample", "--run", source / "run", "--out", disk / "tokens"],
    "train-codec": lambda source, disk: [
        *("pipeline", "train-codec", source / "audio", "--start", "encodec_mini", "--steps", 1),
        *("--out", disk / "codec.safetensors"),
    ],
    "download": lambda _, disk: ["pipeline", "download", "--out", disk / "data"],
}


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_that_cannot_write_says_so_in_one_line_and_leaves_no_part(
    name: str, sources: Path, disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.notes.download._fetch_once", fetch_some)
    result = run(*COMMANDS[name](sources, disk))
    assert result.exit_code == 2 and isinstance(result.exception, SystemExit)
    [line] = [line for line in result.stderr.splitlines() if "Error" in line]
    assert str(disk) in line and ("No space left" in line or "Read-only" in line)
    assert "Traceback" not in result.output
    assert name == "download" or not list(disk.rglob("*.part"))  # a download goes on from its part


def fetch_some(archive: object, part: Path, offset: int, progress: object) -> int:
    with part.open("wb") as file:
        return file.write(bytes(100_000))


@pytest.mark.parametrize("room", ["24k", "40k", "100k"])
def test_a_disk_that_fills_while_a_run_trains_ends_it_in_one_line(room: str, sources: Path, tmp_path: Path) -> None:
    with mounted_disk(tmp_path / "disk", room) as disk:
        result = run("trainer", "train", "--shards", sources / "set", "--run", disk / "run", *TINY, "--set", "steps=9")
        assert result.exit_code == 2 and isinstance(result.exception, SystemExit)
        assert str(disk) in result.stderr.splitlines()[-1]
