"""The lower bounds in pyproject.toml are true: with the lowest versions that they allow, the tests pass."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.uv import TORCH, clone_checkout, environment_for_uv, find_uv


@pytest.mark.long
def test_the_tests_pass_with_the_lowest_declared_versions(tmp_path: Path) -> None:
    """But for torch, which is the one of this environment."""
    uv = find_uv()
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    python = tmp_path / "venv/bin/python"
    source = tmp_path / "source"
    clone_checkout(source)
    (tmp_path / "override.txt").write_text(f"{TORCH}\n")
    install = [uv, "pip", "install", "-q", "--python", python, "--resolution", "lowest-direct"]
    override = ["--override", tmp_path / "override.txt"]
    subprocess.run([*install, *override, "-e", f"{source}[dev]"], env=environment_for_uv(), check=True)
    result = subprocess.run([python, "-m", "pytest"], cwd=source, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout[-5_000:]
