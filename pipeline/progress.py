"""Progress of a run: the interface, and bars on stderr with notes/s and the speed in multiples of real time."""

import sys
import time
from typing import Protocol, Self

from tqdm import tqdm

INTERVAL = 0.1, 15.0  # seconds between updates of the bar: a terminal, a log file


class Progress(Protocol):
    """Receiver of a run's progress."""

    def start(self, total: int, done: int) -> None:
        """Start with the number of all notes, and of those that an earlier run has done."""

    def step(self, notes: int, seconds: float) -> None:
        """Add notes that are done, and the seconds of audio that took work."""


class NoteBar:
    """A `Progress` as a bar, shown from the first `start`."""

    def __init__(self, verb: str) -> None:
        self._verb = verb
        self._bar: tqdm | None = None
        self._audio = 0.0  # seconds
        self._began = 0.0

    def start(self, total: int, done: int) -> None:
        options = {"unit": " notes", "leave": False, "smoothing": 0.05, "mininterval": _interval()}
        self._bar = tqdm(desc=self._verb, total=total, initial=done, **options)
        self._began = time.monotonic()

    def step(self, notes: int, seconds: float) -> None:
        assert self._bar is not None, "start comes first"
        self._audio += seconds
        speed = self._audio / max(time.monotonic() - self._began, 1e-9)
        self._bar.set_postfix_str(f"{speed:.0f}x real time", refresh=False)
        self._bar.update(notes)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()


class StageBar:
    """A bar for work in named stages whose number is unknown: shows the stage and the time it takes."""

    def __enter__(self) -> Self:
        self._bar = tqdm(leave=False, bar_format="{desc} {elapsed}", mininterval=_interval())
        return self

    def start(self, stage: str) -> None:
        self._bar.set_description_str(stage)

    def __exit__(self, *_: object) -> None:
        self._bar.close()


def _interval() -> float:
    return INTERVAL[not sys.stderr.isatty()]
