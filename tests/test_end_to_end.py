"""The whole way by the command line: each stage takes what the stage before has written.

Commands run in this process, which has torch loaded already; `make demo` and `test_wheel.py` start each as a program.
"""

import importlib
import json
import os
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import soundfile
from click.testing import CliRunner

ROOT = Path(__file__).parent.parent
TINY = ("--set", "steps=3", "--set", "width=32", "--set", "depth=1")


def run(program: str, *words: object) -> str:
    """Run a command of `python -m PROGRAM` in this process; return what it reported."""
    main = importlib.import_module(f"{program}.__main__").main
    result = CliRunner().invoke(main, [*map(str, words)], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout  # a slow machine shows progress in between, on stderr


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which every stage has run once, on a tiny scale; no program may stumble over its name."""
    folder = tmp_path_factory.mktemp("demo") / os.fsdecode(b"caf\xe9 #1")
    samples = folder / "samples"
    assert "24 notes" in run("pipeline", "demo-notes", folder / "notes", "--velocities", 1, "--pitches", 60, 62)
    assert "24 notes" in run("pipeline", "encode", folder / "notes", "--out", folder / "set", "--codec", "encodec_mini")
    assert "24 notes, every byte" in run("shards", "verify", folder / "set")
    assert "3 notes encoded again" in run("pipeline", "verify", folder / "set", "--reencode", 3)
    check_next(run("shards", "inspect", folder / "set", "--plot", folder / "usage.png"), folder / "set")
    check_next(run("trainer", "train", "--shards", folder / "set", "--run", folder / "run", *TINY), folder / "run")
    assert "Drew" in run("trainer", "curves", folder / "run", "--out", folder / "curves.svg")
    sampled = run("trainer", "sample", "--run", folder / "run", "--out", samples / "tokens", "--count", 2)
    check_next(sampled, samples)
    assert "2 WAV" in run("pipeline", "decode", samples / "tokens", "--out", samples)
    check_next(run("pipeline", "score", samples, "--notes", 2), samples)
    assert "index.html" in run("pipeline", "page", samples)
    return folder


def check_next(report: str, path: Path) -> None:
    """The report ends with a command that the programs take, about `path`."""
    command = report.splitlines()[-1].removeprefix("Next: ")
    printed = subprocess.run(["bash", "-c", f"printf '%s\\0' {command}"], capture_output=True, check=True).stdout
    python, option, program, name, *words = os.fsdecode(printed).split("\0")[:-1]
    assert (python, option) == ("python", "-m") and str(path) in words
    main = importlib.import_module(f"{program}.__main__").main
    main.commands[name].make_context(name, words)


def test_samples_are_four_seconds_of_sound(folder: Path) -> None:
    wavs = sorted((folder / "samples").glob("*.wav"))
    assert len(wavs) == 2
    for wav in wavs:
        sound, rate = soundfile.read(os.fsencode(wav))
        assert (len(sound), rate) == (4 * 24_000, 24_000)
        assert np.isfinite(sound).all()
        assert np.abs(sound).max() > 0


@pytest.mark.parametrize("program", ["pipeline", "shards", "trainer"])
def test_each_program_is_started_with_python_m(program: str) -> None:
    command = [sys.executable, "-m", program, "--help"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith(f"Usage: python -m {program} ")


def test_token_files_say_all_that_made_them(folder: Path) -> None:
    for path in (folder / "samples" / "tokens").glob("*.npy"):
        made = json.loads(path.with_suffix(".json").read_text())
        assert {"codec", "pitch", "velocity", "sampled"} <= made.keys()
        assert {"run", "step", "seed", "index", "temperature"} <= made["sampled"].keys()


class Sources(HTMLParser):
    """The files that a page loads."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.names: list[str] = []
        self.feed(page.read_text())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names += [value for name, value in attrs if name == "src" and value and not value.startswith("data:")]


def test_all_that_the_page_loads_lies_beside_it(folder: Path) -> None:
    page = folder / "samples" / "index.html"
    sources = Sources(page).names
    assert len(sources) >= 4
    for source in sources:
        assert (page.parent / source).is_file(), source


def test_a_second_time_every_stage_reuses_what_is_there(folder: Path) -> None:
    def modification_times() -> dict[Path, int]:
        files = [path for ending in ("mp3", "tar", "safetensors") for path in folder.rglob(f"*.{ending}")]
        return {path: path.stat().st_mtime_ns for path in files}

    before = modification_times()
    run("pipeline", "demo-notes", folder / "notes", "--velocities", 1, "--pitches", 60, 62)
    run("pipeline", "encode", folder / "notes", "--out", folder / "set", "--codec", "encodec_mini")
    run("trainer", "train", "--shards", folder / "set", "--run", folder / "run", *TINY)
    assert modification_times() == before


def test_one_set_serves_another_run_and_decodes_itself(folder: Path) -> None:
    settings = [word for setting in ("steps=2", "width=32", "depth=1", "batch=4") for word in ("--set", setting)]
    run("trainer", "train", "--shards", folder / "set", "--run", folder / "tutorial", "--preset", "tutorial", *settings)
    run("pipeline", "decode", folder / "set", "--out", folder / "decoded")
    assert len(list((folder / "decoded").rglob("*.wav"))) == 24


@pytest.mark.parametrize(
    ("words", "fact"),
    [
        (["pipeline", "encode", "nowhere", "--out", "{}/x", "--codec", "encodec_mini"], "nowhere"),
        (["pipeline", "encode", "{}/samples/tokens", "--out", "{}/x", "--codec", "encodec_mini"], "tokens"),
        (["pipeline", "decode", "nowhere", "--out", "{}/x"], "nowhere"),
        (["pipeline", "page", "nowhere"], "nowhere"),
        (["shards", "inspect", "{}/notes"], "unfinished"),
        (["trainer", "train", "--shards", "nowhere", "--run", "{}/x"], "nowhere"),
        (["trainer", "train", "--shards", "{}/set", "--run", "{}/x", "--set", "widht=3"], "width"),
        (["trainer", "sample", "--run", "nowhere", "--out", "{}/x"], "nowhere"),
    ],
)
def test_a_mistake_is_one_line_and_leaves_nothing(folder: Path, words: list[str], fact: str) -> None:
    package = importlib.import_module(f"{words[0]}.__main__")
    result = CliRunner().invoke(package.main, [word.format(folder) for word in words[1:]])
    assert result.exit_code == 2, result.output
    line = result.output.strip().splitlines()[-1]
    assert line.startswith("Error: ")
    assert fact in line
    assert not (folder / "x").exists()
