"""Ctrl-C and SIGTERM end a run cleanly: unfinished files are removed, and the error says how to go on."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from shards.errors import UserError


class StoppedError(UserError):
    """The user or the system has stopped the run."""

    exit_code = 130  # what a shell gives a command that Ctrl-C ended

    def __init__(self) -> None:
        super().__init__("stopped; finished shards are kept, and the same command goes on from there")


@contextmanager
def stop_on_signals() -> Iterator[None]:
    """Raise StoppedError in the block at Ctrl-C or SIGTERM."""

    def stop(number: int, frame: object) -> None:
        raise StoppedError

    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may set handlers
        return
    handlers = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
