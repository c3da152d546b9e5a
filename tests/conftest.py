"""Fixtures and settings that all tests share."""

import os
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from tests.support.browser import NO_BROWSER, install_command_here
from tests.support.shard_sets import random_note, write_set

# Tests are about results, not speed: a busy machine must not fail them.
settings.register_profile("no deadline", deadline=None)
settings.load_profile("no deadline")

# What tests compute is small; more threads only wait for each other when the machine is busy.
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture
def without_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Encode in this process, without workers, which have tests of their own."""
    import torch

    from tests.support.notes import encode_in_this_process

    torch.set_num_threads(1)
    monkeypatch.setattr("pipeline.encode.run.encode_batches", encode_in_this_process)


@pytest.fixture
def two_threads() -> Iterator[None]:
    """Let torch compute with two threads."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def make_set(tmp_path: Path) -> Callable[..., Path]:
    """Return a function that writes a set of random notes: `make_set(train=[5, 5], valid=[3])`, notes per shard."""

    def make(name: str = "set", frames: int = 12, **splits: list[int]) -> Path:
        folder = tmp_path / name
        numbered = {
            split: [
                [random_note(f"{split}_{shard}_{index}", frames) for index in range(count)]
                for shard, count in enumerate(counts)
            ]
            for split, counts in splits.items()
        }
        write_set(folder, numbered)
        return folder

    return make


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Let a report name files that are not UTF-8: tests in several processes send UTF-8, or crash."""
    report = yield
    report.sections = [(name, text.encode(errors="backslashreplace").decode()) for name, text in report.sections]
    if report.longrepr is not None and not isinstance(report.longrepr, tuple):
        text = str(report.longrepr)
        if (escaped := text.encode(errors="backslashreplace").decode()) != text:
            report.longrepr = escaped
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Name the tests that were skipped for want of a browser, and how to install it."""
    skipped = [
        report.nodeid
        for report in terminalreporter.stats.get("skipped", [])
        if isinstance(report.longrepr, tuple) and NO_BROWSER in report.longrepr[2]
    ]
    if not skipped:
        return
    terminalreporter.section("tests without a browser", sep="-")
    for name in sorted(skipped):
        terminalreporter.line(f"skipped: {name}")
    terminalreporter.line(f"Skipped tests: {len(skipped)}, {NO_BROWSER}. To run them: {install_command_here()}")
