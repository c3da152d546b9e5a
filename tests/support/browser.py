"""A real Chromium without a window, for tests of pages that are opened from a file.

Where there is no Chromium these tests are skipped, and the run ends with their names and the command that installs it
(`conftest.py`). With NEED_BROWSER=1 in the environment, as in CI, they fail instead.
"""

import os
import platform
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

NO_BROWSER = "no Chromium with its driver on this machine"
BROWSERS = (
    "chromium",
    "chromium-browser",
    "google-chrome",
    "google-chrome-stable",
    "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
)
APT = "apt-get install chromium chromium-driver"
# Ubuntu's own package is a snap, which cannot open files in /tmp; this archive has Debian's packages built for Ubuntu.
APT_UBUNTU = (
    "apt-get install software-properties-common && {sudo}add-apt-repository --yes ppa:xtradeb/apps"
    " && {sudo}apt-get install chromium chromium-driver"
)
INSTALL = {  # ID or ID_LIKE of /etc/os-release -> command
    "debian": APT,
    "ubuntu": APT_UBUNTU,
    "fedora": "dnf install chromium chromedriver",
    "rhel": "dnf install epel-release && {sudo}dnf install chromium chromedriver",
    "arch": "pacman -S chromium",  # the driver is in the package
    "opensuse": "zypper install chromium chromedriver",
    "suse": "zypper install chromium chromedriver",
}
ARGUMENTS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--mute-audio",
    "--autoplay-policy=no-user-gesture-required",
)

CONTRASTS = """
const luminance = (colour) => {
  const linear = (part) => part <= 0.03928 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4;
  const [red, green, blue] = colour.match(/[0-9.]+/g).slice(0, 3).map((part) => linear(part / 255));
  return 0.2126 * red + 0.7152 * green + 0.0722 * blue;
};
const background = (element) => {
  const colour = getComputedStyle(element).backgroundColor;
  return colour === "rgba(0, 0, 0, 0)" ? background(element.parentElement) : colour;
};
return [...document.querySelectorAll(arguments[0])].map((element) => {
  const pair = [luminance(getComputedStyle(element).color), luminance(background(element))];
  return (Math.max(...pair) + 0.05) / (Math.min(...pair) + 0.05);
});
"""


def install_command(system: str, release: Mapping[str, str], is_root: bool) -> str:
    """Return the command that installs Chromium and its driver.

    `system` is what `platform.system()` says, `release` the fields of /etc/os-release (empty where there is none).
    """
    if system == "Darwin":
        return "brew install --cask google-chrome chromedriver"
    names = [release.get("ID", ""), *release.get("ID_LIKE", "").split()]
    command = next((INSTALL[name] for name in names if name in INSTALL), None)
    if command is None:
        return "install Chromium or Chrome and chromedriver of the same version, both on the PATH"
    return ("{sudo}" + command).format(sudo="" if is_root else "sudo ")


def install_command_here() -> str:
    """Return the command that installs Chromium and its driver on this machine."""
    try:
        release: Mapping[str, str] = platform.freedesktop_os_release()
    except OSError:
        release = {}
    return install_command(platform.system(), release, not hasattr(os, "geteuid") or os.geteuid() == 0)


@contextmanager
def chromium() -> Iterator["Browser"]:
    """Start Chromium with a profile of its own; skip the test on a machine without it, or fail with NEED_BROWSER=1."""
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    driver = shutil.which("chromedriver")
    if browser is None or driver is None:
        if os.environ.get("NEED_BROWSER"):
            pytest.fail(f"{NO_BROWSER}; {install_command_here()}", pytrace=False)
        pytest.skip(NO_BROWSER)
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        options = webdriver.ChromeOptions()
        options.binary_location = browser
        for argument in (*ARGUMENTS, f"--user-data-dir={profile}"):
            options.add_argument(argument)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        running = webdriver.Chrome(options=options, service=Service(driver))
        try:
            running.set_script_timeout(30)
            yield Browser(running)
        finally:
            running.quit()


class Browser:
    """The page in the one tab of a Chromium: open a file, run scripts, press keys, read the console."""

    def __init__(self, driver: Any) -> None:
        self.driver = driver

    def open(self, page: Path, width: int = 1440, height: int = 900, scheme: str = "light") -> "Browser":
        """Open a file in a window of `width` pixels, with the given colour scheme."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        feature = {"name": "prefers-color-scheme", "value": scheme}
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})
        self.driver.get_log("browser")  # empties the log: lines of earlier pages
        self.driver.get(page.resolve().as_uri())
        return self

    def run(self, script: str, *arguments: Any) -> Any:
        """Run a script; return what it returns."""
        return self.driver.execute_script(script, *arguments)

    def wait(self, script: str) -> Any:
        """Run a script; return what it passes to `done`."""
        return self.driver.execute_async_script(f"const done = arguments[arguments.length - 1];{script}")

    def press(self, *keys: str) -> None:
        from selenium.webdriver import ActionChains

        ActionChains(self.driver).send_keys(*keys).perform()

    def contrasts(self, selector: str) -> list[float]:
        """Return the contrast of the text of each element with its background; WCAG 2.1 asks for 4.5 (level AA)."""
        return self.run(CONTRASTS, selector)

    def complaints(self) -> list[str]:
        """Return the console's errors and warnings since the page was opened."""
        return [entry["message"] for entry in self.driver.get_log("browser") if entry["level"] != "INFO"]
