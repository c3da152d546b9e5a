"""Progress of a run: the interface, and bars on stderr with notes/s and the speed in multiples of real time."""

import time
from typing import Any, Protocol, Self

from shards.console import is_terminal, progress_bar


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
        self._bar: Any = None
        self._audio = 0.0  # seconds
        self._began = 0.0

    def start(self, total: int, done: int) -> None:
        self._bar = progress_bar(desc=self._verb, total=total, initial=done, unit=" notes", leave=False, smoothing=0.05)
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
        self._bar = progress_bar(leave=False, bar_format="{desc} {elapsed}")
        return self

    def start(self, stage: str) -> None:
        self._bar.set_description_str(stage, refresh=is_terminal())
        self._bar.update(0)  # in a log file, if it is time

    def __exit__(self, *_: object) -> None:
        self._bar.close()
