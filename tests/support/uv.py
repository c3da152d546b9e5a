"""uv, for tests that install the project anew."""

import os
import shutil
import subprocess
from importlib.metadata import version
from pathlib import Path

import pytest

from tests.support import ROOT

# The torch of this environment: another one would be gigabytes of a GPU's libraries.
TORCH = f"torch=={version('torch')}"


def find_uv() -> str:
    """Path of uv; without it the test is skipped."""
    uv = shutil.which("uv")
    if uv is None:
        pytest.skip("uv is not installed: pip install uv")
    return uv


def environment_for_uv() -> dict[str, str]:
    """This process's environment, in which uv finds the packages that pip finds in local folders."""
    return {"UV_FIND_LINKS": ",".join(os.environ.get("PIP_FIND_LINKS", "").split()), **os.environ}


def clone_checkout(folder: Path) -> None:
    """Clone the last commit of the checkout into a new folder."""
    subprocess.run(["git", "clone", "-q", ROOT, folder], check=True)
