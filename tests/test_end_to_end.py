"""The whole way, as a person goes it: each stage is its command line, and each takes what the one before has left."""

import importlib
import json
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import soundfile
from click.testing import CliRunner

ROOT = Path(__file__).parent.parent


def run(*words: object) -> str:
    """Run `python -m WORDS` in the project's root; return what it reported."""
    command = [sys.executable, "-m", *map(str, words)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which every stage has run once, on a tiny scale."""
    place = tmp_path_factory.mktemp("demo")
    samples = place / "samples"
    assert "24 notes" in run("pipeline", "demo-notes", place / "notes", "--velocities", 1, "--pitches", 60, 62)
    assert "24 notes" in run("pipeline", "encode", place / "notes", "--out", place / "set", "--codec", "encodec_mini")
    assert "24 notes, every byte" in run("shards", "verify", place / "set")
    tiny = [word for setting in ("steps=3", "width=32", "depth=1") for word in ("--set", setting)]
    assert "Next: " in run("trainer", "train", "--shards", place / "set", "--run", place / "run", *tiny)
    assert "Next: " in run("trainer", "sample", "--run", place / "run", "--out", samples / "tokens", "--count", 2)
    assert "2 WAV" in run("pipeline", "decode", samples / "tokens", "--out", samples)
    assert "index.html" in run("pipeline", "page", samples)
    return place


def test_samples_are_four_seconds_of_sound(place: Path) -> None:
    wavs = sorted((place / "samples").glob("*.wav"))
    assert len(wavs) == 2
    for wav in wavs:
        sound, rate = soundfile.read(wav)
        assert (len(sound), rate) == (4 * 24_000, 24_000)
        assert np.isfinite(sound).all()
        assert np.abs(sound).max() > 0


def test_token_files_say_all_that_made_them(place: Path) -> None:
    for path in (place / "samples" / "tokens").glob("*.json"):
        made = json.loads(path.read_text())
        assert {"codec", "pitch", "velocity", "sampled"} <= made.keys()
        assert {"run", "step", "seed", "index", "temperature"} <= made["sampled"].keys()


class Sources(HTMLParser):
    """Collects what a page loads."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.found: list[str] = []
        self.feed(page.read_text())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found += [value for name, value in attrs if name == "src" and value and not value.startswith("data:")]


def test_all_that_the_page_loads_lies_beside_it(place: Path) -> None:
    page = place / "samples" / "index.html"
    sources = Sources(page).found
    assert len(sources) >= 4
    for source in sources:
        assert (page.parent / source).is_file(), source


def test_a_second_time_every_stage_reuses_what_is_there(place: Path) -> None:
    def state() -> dict[Path, int]:
        made = [path for ending in ("mp3", "tar", "safetensors") for path in place.rglob(f"*.{ending}")]
        return {path: path.stat().st_mtime_ns for path in made}

    before = state()
    run("pipeline", "demo-notes", place / "notes", "--velocities", 1, "--pitches", 60, 62)
    run("pipeline", "encode", place / "notes", "--out", place / "set", "--codec", "encodec_mini")
    tiny = [word for setting in ("steps=3", "width=32", "depth=1") for word in ("--set", setting)]
    run("trainer", "train", "--shards", place / "set", "--run", place / "run", *tiny)
    assert state() == before


def test_one_set_serves_another_run_and_decodes_itself(place: Path) -> None:
    settings = [word for setting in ("steps=2", "width=32", "depth=1", "batch=4") for word in ("--set", setting)]
    run("trainer", "train", "--shards", place / "set", "--run", place / "tutorial", "--preset", "tutorial", *settings)
    run("pipeline", "decode", place / "set", "--out", place / "heard")
    assert len(list((place / "heard").rglob("*.wav"))) == 24


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
def test_a_mistake_is_one_line_and_leaves_nothing(place: Path, words: list[str], fact: str) -> None:
    package = importlib.import_module(f"{words[0]}.__main__")
    result = CliRunner().invoke(package.main, [word.format(place) for word in words[1:]])
    assert result.exit_code == 2, result.output
    line = result.output.strip().splitlines()[-1]
    assert line.startswith("Error: ")
    assert fact in line
    assert not (place / "x").exists()
