"""The lower bounds in pyproject.toml are true: with the lowest versions that they allow, the tests pass."""

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from tests.support.uv import TORCH, clone_checkout, environment_for_uv, find_uv

HANG = 2 * 60 * 60  # seconds after which a run of minutes counts as one that never ends


def lower_bounds(settings: Path) -> dict[str, Version]:
    """Lower bounds of all dependencies and extras of a pyproject.toml: package -> version."""
    project = tomllib.loads(settings.read_text())["project"]
    lines = [*project["dependencies"], *(line for extra in project["optional-dependencies"].values() for line in extra)]
    return {
        canonicalize_name(requirement.name): Version(bound.version)
        for requirement in map(Requirement, lines)
        for bound in requirement.specifier
        if bound.operator == ">="
    }


@pytest.mark.long
def test_the_tests_pass_with_the_lowest_declared_versions(tmp_path: Path) -> None:
    """But for torch, which is the one of this environment."""
    uv = find_uv()
    subprocess.run([uv, "venv", "-q", "--python", sys.executable, tmp_path / "venv"], check=True)
    python = tmp_path / "venv/bin/python"
    source = tmp_path / "source"
    clone_checkout(source)
    (tmp_path / "override.txt").write_text(f"{TORCH}\n")
    install = [uv, "--no-config", "pip", "install", "-q", "--python", python, "--resolution", "lowest-direct"]
    override = ["--override", tmp_path / "override.txt"]
    subprocess.run([*install, *override, "-e", f"{source}[dev]"], env=environment_for_uv(), check=True)

    freeze = [uv, "pip", "freeze", "--exclude-editable", "--python", python]
    pins = subprocess.run(freeze, capture_output=True, text=True, check=True).stdout.split()
    installed = {name: Version(version) for name, version in (pin.split("==") for pin in pins)}
    bounds = lower_bounds(source / "pyproject.toml")
    assert {name: installed[name] for name in bounds} == bounds | {"torch": installed["torch"]}

    tests = [python, "-m", "pytest"]
    result = subprocess.run(tests, cwd=source, capture_output=True, text=True, check=False, timeout=HANG)
    assert result.returncode == 0, result.stdout[-5_000:]
