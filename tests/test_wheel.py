"""The wheel holds all of the three programs, and they work from it: installed, away from the checkout."""

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.long

ROOT = Path(__file__).parent.parent
PROGRAMS = ("pipeline", "shards", "trainer")


def run(*command: object, cwd: Path) -> str:
    """Run a command in a folder, without a path to the checkout in its environment; return what it printed."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    result = subprocess.run([*map(str, command)], cwd=cwd, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def program_files() -> set[str]:
    """Return the files of the three programs in the checkout, without the shard sets that lie in `shards`."""
    deep = [path for program in ("pipeline", "trainer") for path in (ROOT / program).rglob("*")]
    files = [path for path in (*deep, *(ROOT / "shards").glob("*")) if path.is_file()]
    return {str(path.relative_to(ROOT)) for path in files if "__pycache__" not in path.parts}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the wheel from a copy of the checkout, which leaves no `build` folder in it."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    for name in (*program_files(), "pyproject.toml", "README.md", "LICENSE"):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, source / name)
    (source / "shards" / "demo").mkdir()  # a shard set is no package
    (source / "shards" / "demo" / "train-00000.tar").touch()
    run(sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-w", folder, source, cwd=folder)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Python that has the wheel, and its dependencies from the environment of the tests."""
    folder = tmp_path_factory.mktemp("installed") / "venv"
    venv.create(folder)
    interpreter = folder / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--python", interpreter, "install", "--quiet", "--no-deps", "--no-index"]
    run(*pip, wheel, cwd=folder)
    (packages,) = folder.glob("lib/python*/site-packages")
    # A line of a .pth file adds a folder but not its .pth files, so the checkout's editable install stays unknown.
    (packages / "dependencies.pth").write_text(f"{sysconfig.get_path('purelib')}\n")
    return interpreter


def test_the_wheel_holds_every_file_of_the_programs_and_nothing_else(wheel: Path) -> None:
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert names == program_files()
    assert {"pipeline/codec/encodec_mini.safetensors", "pipeline/page/template.html"} < names
    assert "trainer/presets/small.toml" in names


def test_every_stage_works_from_the_wheel(python: Path, tmp_path: Path) -> None:
    where = run(
        python, "-c", f"import {','.join(PROGRAMS)}; print({'.__file__, '.join(PROGRAMS)}.__file__)", cwd=tmp_path
    )
    assert [str(python.parent.parent) in path for path in where.split()] == [True] * 3

    def stage(*words: object) -> str:
        return run(python, "-m", *words, cwd=tmp_path)

    tiny = [word for setting in ("steps=3", "width=32", "depth=1") for word in ("--set", setting)]
    stage("pipeline", "demo-notes", "notes", "--velocities", 1, "--pitches", 60, 62)
    stage("pipeline", "encode", "notes", "--out", "set", "--codec", "encodec_mini")
    assert "24 notes, every byte" in stage("shards", "verify", "set")
    stage("trainer", "train", "--shards", "set", "--run", "run", *tiny)
    stage("trainer", "sample", "--run", "run", "--out", "samples/tokens", "--count", 2)
    assert "2 WAV" in stage("pipeline", "decode", "samples/tokens", "--out", "samples")
    assert "Pitch matches the label" in stage("pipeline", "score", "samples")
    assert "index.html" in stage("pipeline", "page", "samples")
    assert (tmp_path / "samples" / "index.html").is_file()
    shutil.copytree(tmp_path / "samples" / "tokens", tmp_path / "again" / "tokens")
    assert "index.html" in stage("pipeline", "listen", "again")
    assert (tmp_path / "again" / "index.html").read_bytes()


def test_console_scripts_teach_and_print_commands_by_their_own_names(python: Path, tmp_path: Path) -> None:
    def script(name: str, *words: object) -> str:
        return run(python.with_name(name), *words, cwd=tmp_path)

    for name in ("note-tokens", "note-shards", "note-trainer"):
        assert script(name, "--help").startswith(f"Usage: {name} ")
    assert "note-tokens encode demo-notes" in script("note-tokens", "encode", "--help")
    script("note-tokens", "demo-notes", "notes", "--velocities", 1, "--pitches", 60, 62)
    *_, following = script("note-tokens", "encode", "notes", "--out", "set", "--codec", "encodec_mini").splitlines()
    assert following.startswith("Next: note-trainer train --shards set")
    assert "python -m" not in following
