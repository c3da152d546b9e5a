"""The lower bounds in pyproject.toml are true: with the lowest versions that they allow, the tests pass."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.support import ROOT


@pytest.mark.long
def test_the_tests_pass_with_the_lowest_declared_versions(tmp_path: Path) -> None:
    """But for torch, which is the one of this environment: an older one would be gigabytes of a GPU's libraries."""
    uv = shutil.which("uv")
    if uv is None:
        pytest.skip("uv is not installed: pip install uv")
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    python = tmp_path / "venv/bin/python"
    source = tmp_path / "source"
    subprocess.run(["git", "clone", "-q", ROOT, source], check=True)
    (tmp_path / "override.txt").write_text(f"torch=={torch.__version__}\n")
    install = [uv, "pip", "install", "-q", "--python", python, "--resolution", "lowest-direct"]
    links = [word for folder in os.environ.get("PIP_FIND_LINKS", "").split() for word in ("--find-links", folder)]
    subprocess.run([*install, *links, "--override", tmp_path / "override.txt", "-e", f"{source}[dev]"], check=True)
    result = subprocess.run([python, "-m", "pytest"], cwd=source, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout[-5_000:]
