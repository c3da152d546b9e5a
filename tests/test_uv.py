"""A fresh clone is installed by `uv sync`, and works through `uv run` and `make`."""

import re
import subprocess
import sys
from importlib.metadata import distributions
from pathlib import Path

import pytest
from packaging.utils import canonicalize_name

from tests.support.uv import TORCH, clone_checkout, environment_for_uv, find_uv

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh clone after `uv sync`, with the torch of this environment."""
    find_uv()
    folder = tmp_path_factory.mktemp("uv") / "clone"
    clone_checkout(folder)
    settings = folder / "pyproject.toml"
    text, pins = re.subn(r'"torch==[^"]+"', f'"{TORCH}"', settings.read_text())
    assert pins == 1
    settings.write_text(text)
    run(f"uv sync --quiet --python {sys.version_info.major}.{sys.version_info.minor}", folder)
    return folder


def run(command: str, folder: Path) -> str:
    """Run a command in a folder; return what it printed."""
    environment = environment_for_uv()
    result = subprocess.run(command.split(), cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def test_uv_installs_the_versions_that_make_installed_here(clone: Path) -> None:
    pins = [pin.split("==") for pin in run("uv pip freeze --exclude-editable --python .venv", clone).split()]
    installed = {canonicalize_name(name): version for name, version in pins if name not in ("pip", "setuptools")}
    assert {"numpy", "ray", "torch"} <= installed.keys()
    here = {canonicalize_name(package.name): package.version for package in distributions()}
    assert {name: here.get(name) for name in installed} == installed


def test_the_programs_work_through_uv_run(clone: Path) -> None:
    assert run("uv run note-trainer --help", clone).startswith("Usage: note-trainer ")
    assert run("uv run python -m shards --help", clone).startswith("Usage: python -m shards ")
    run("uv run note-tokens demo-notes notes --velocities 1 --pitches 60 62", clone)
    assert "24 notes" in run("uv run note-tokens encode notes --out set --codec encodec_mini", clone)


def test_make_gives_an_environment_of_uv_what_it_lacks(clone: Path) -> None:
    run("uv sync --quiet --no-dev", clone)
    assert not (clone / ".venv/bin/ruff").exists()
    run("uv run --no-sync make .venv/installed-dev", clone)
    assert "All checks passed" in run("uv run --no-sync ruff check", clone)
    run("make setup", clone)
    assert (clone / ".venv/bin/ruff").exists()  # it takes nothing away


def test_a_lock_file_of_uv_is_not_part_of_the_project(clone: Path) -> None:
    assert (clone / "uv.lock").exists()
    assert "uv.lock" not in run("git status --short", clone)
