"""How far a run is: who is told, and a bar on stderr with notes/s and how many times real time that is."""

import sys
import time
from types import TracebackType
from typing import Protocol

from tqdm import tqdm

INTERVAL = 0.1, 15.0  # seconds between updates of the bar: a terminal, a log file


class Progress(Protocol):
    """Who is told how far a run is."""

    def start(self, total: int, done: int) -> None:
        """So many notes in all, so many of them done by an earlier run."""

    def step(self, notes: int, seconds: float) -> None:
        """So many more notes, so much more sound."""


class NoteBar:
    """A `Progress` to look at; stays away until there is something to do."""

    def __init__(self, verb: str) -> None:
        self._verb = verb
        self._bar: tqdm | None = None
        self._sound = 0.0  # seconds
        self._began = 0.0

    def start(self, total: int, done: int) -> None:
        interval = INTERVAL[not sys.stderr.isatty()]
        self._bar = tqdm(
            total=total,
            initial=done,
            unit=" notes",
            desc=self._verb,
            leave=False,
            smoothing=0.05,
            mininterval=interval,
        )
        self._began = time.monotonic()

    def step(self, notes: int, seconds: float) -> None:
        assert self._bar is not None, "start comes first"
        self._sound += seconds
        self._bar.set_postfix_str(f"{self.speed():.0f}x real time", refresh=False)
        self._bar.update(notes)

    def speed(self) -> float:
        """Seconds of sound a second, since the start."""
        return self._sound / max(time.monotonic() - self._began, 1e-9)

    def __enter__(self) -> "NoteBar":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.close()


class StageBar:
    """A bar for work in named stages whose number is unknown: shows the stage and the time it takes."""

    def __enter__(self) -> "StageBar":
        self._bar = tqdm(leave=False, bar_format="{desc} {elapsed}", mininterval=INTERVAL[not sys.stderr.isatty()])
        return self

    def start(self, stage: str) -> None:
        self._bar.set_description_str(stage)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.close()
