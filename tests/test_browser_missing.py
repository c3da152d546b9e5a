"""A machine without a browser: its tests are skipped by name, and the run ends with the command that installs one."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.browser import NO_BROWSER, install_command

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize(
    ("system", "release", "command"),
    [
        ("Linux", {"ID": "debian"}, "sudo apt-get install chromium chromium-driver"),
        ("Linux", {"ID": "raspbian", "ID_LIKE": "debian"}, "sudo apt-get install chromium chromium-driver"),
        ("Linux", {"ID": "ubuntu", "ID_LIKE": "debian"}, "sudo add-apt-repository --yes ppa:xtradeb/apps"),
        ("Linux", {"ID": "pop", "ID_LIKE": "ubuntu debian"}, "sudo add-apt-repository --yes ppa:xtradeb/apps"),
        ("Linux", {"ID": "fedora"}, "sudo dnf install chromium chromedriver"),
        ("Linux", {"ID": "rocky", "ID_LIKE": "rhel centos fedora"}, "sudo dnf install epel-release"),
        ("Linux", {"ID": "manjaro", "ID_LIKE": "arch"}, "sudo pacman -S chromium"),
        ("Linux", {"ID": "opensuse-leap", "ID_LIKE": "suse opensuse"}, "sudo zypper install chromium chromedriver"),
        ("Linux", {"ID": "unheard-of"}, "install Chromium or Chrome"),
        ("Linux", {}, "install Chromium or Chrome"),
        ("Darwin", {}, "brew install --cask google-chrome chromedriver"),
    ],
)
def test_each_system_has_its_command(system: str, release: dict[str, str], command: str) -> None:
    assert command in install_command(system, release, is_root=False)
    assert "sudo" not in install_command(system, release, is_root=True)


def run_a_test_of_a_page(tmp_path: Path, need: str) -> tuple[int, str]:
    """Run a test that starts a browser, with no program on the PATH; return pytest's exit code and what it printed."""
    test = tmp_path / "test_some_page.py"
    test.write_text(
        "from tests.support.browser import chromium\n\n"
        "def test_it_opens():\n    with chromium() as browser:\n        browser.open('page.html')\n"
    )
    command = [sys.executable, "-m", "pytest", "-p", "tests.conftest", "-c", ROOT / "pyproject.toml", test]
    environment = {**os.environ, "PATH": str(tmp_path), "NEED_BROWSER": need}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout


def test_without_a_browser_its_tests_are_skipped_by_name(tmp_path: Path) -> None:
    code, output = run_a_test_of_a_page(tmp_path, need="")
    assert code == 0
    *_, name, command, result = output.splitlines()
    assert name.startswith("skipped: ") and name.endswith("::test_it_opens")
    assert command.startswith(f"Skipped tests: 1, {NO_BROWSER}. To run them: ")
    assert "1 skipped" in result


def test_where_a_browser_is_needed_its_tests_fail(tmp_path: Path) -> None:
    code, output = run_a_test_of_a_page(tmp_path, need="1")
    assert code == 1
    assert NO_BROWSER in output
    assert "1 failed" in output
