"""Progress of a run: the interface, and bars on stderr with notes/s and the speed in multiples of real time."""

import time
from typing import Any, Protocol, Self

from shards.console import counted, is_terminal, progress_bar


class Progress(Protocol):
    """Receiver of a run's progress."""

    def start(self, total: int, done: int, unit: str = "notes") -> None:
        """Start with the number of all notes, or of other units, and of those that an earlier run has done."""

    def step(self, notes: int, seconds: float, segments: int | None = None, data_wait: float | None = None) -> None:
        """Add notes that are done, and the seconds of audio that took work; or files, with their segments.

        `data_wait`: share of the time so far in which the codecs of GPUs waited for audio.
        """


class NoteBar:
    """A `Progress` as a bar, shown from the first `start`."""

    def __init__(self, verb: str) -> None:
        self._verb = verb
        self._bar: Any = None
        self._audio = 0.0  # seconds
        self._segments = 0
        self._began = 0.0

    def start(self, total: int, done: int, unit: str = "notes") -> None:
        self._bar = progress_bar(
            desc=self._verb, total=total, initial=done, unit=f" {unit}", leave=False, smoothing=0.05
        )
        self._began = time.monotonic()

    def step(self, notes: int, seconds: float, segments: int | None = None, data_wait: float | None = None) -> None:
        assert self._bar is not None, "start comes first"
        self._audio += seconds
        text = f"{self._audio / max(time.monotonic() - self._began, 1e-9):.0f}x real time"
        if segments is not None:
            self._segments += segments
            text = f"{counted(self._segments, 'note')}, {text}"
        if data_wait is not None:
            text += f", data wait {data_wait:.1%}"
        self._bar.set_postfix_str(text, refresh=False)
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
