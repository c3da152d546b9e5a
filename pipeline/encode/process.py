"""A process beside this one that a crash in a library cannot take down with it: both of its ends.

It answers messages through a pipe, and what it writes to stderr says why it ended. Knows nothing of what it computes,
and does not import torch: only the process does.
"""

import multiprocessing
import os
import re
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, ClassVar

from shards.errors import UserError, first_line, system_error
from shards.files import shorten_socket_paths

STDERR_BYTES = 1 << 14  # of a worker's last words
END_OF_FILE = b"\0"  # after words about a file on stderr: its rejection says enough
CAUSE = re.compile(r"error|assert|what\(\)", re.IGNORECASE)  # the line of a library's report that says most
DEVICE_FAILED = ("CUDA", "CUDNN")  # in errors of torch: the device's memory is full, or a kernel has failed
START_OR_END = threading.Lock()  # multiprocessing starts and joins processes in one thread at a time


@dataclass(frozen=True)
class Failure:
    """An exception in a process: a line for the user, or the traceback of a bug."""

    text: str
    is_bug: bool = False
    is_ours: bool = True  # False: of the system or a library, so its line says neither the work nor a cure


class Process:
    """A process, started when it is first needed; safe to kill at any moment, because it holds no state."""

    preload: ClassVar[tuple[str, ...]] = ()  # modules that the fork server imports, once for all processes

    def __init__(self, serve: Callable[..., None], *arguments: Any) -> None:
        self._serve = serve
        self._arguments = arguments
        self.process: BaseProcess | None = None
        self._is_killed = False
        self._last_words = b""  # the end of what the process has written to stderr

    def kill(self) -> None:
        with START_OR_END:
            self._is_killed = True
            if self.process is not None:
                self.process.kill()
                self.process.join()

    def start(self) -> None:
        # A plain fork would copy the locks of this process's threads. The fork server has no threads, and its imports
        # are those of each new process, which starts at once.
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload([*self.preload])
        with START_OR_END:
            if self._is_killed:
                raise CancelledError
            shorten_socket_paths()
            self.pipe, pipe = context.Pipe()
            self._stderr, stderr = context.Pipe(duplex=False)
            os.set_blocking(self._stderr.fileno(), False)
            self.process = context.Process(target=self._serve, args=(pipe, stderr, *self._arguments), daemon=True)
            resource_tracker.ensure_running()  # it would unblock the signals
            # They reach the whole group: the fork server would end while it imports torch, and its callers would wait.
            before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT, signal.SIGTERM])
            try:
                self.process.start()
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, before)
            pipe.close()  # so that the pipes end when the process does
            stderr.close()

    def receive(self) -> Any:
        """The next message of the process."""
        while True:
            ready = wait([self.pipe, self._stderr])
            if self._stderr in ready:
                self._read_stderr()
            if self.pipe in ready:
                return self.pipe.recv()

    def _read_stderr(self) -> None:
        with suppress(BlockingIOError):
            while words := os.read(self._stderr.fileno(), STDERR_BYTES):
                self._last_words = (self._last_words + words)[-STDERR_BYTES:]

    def stderr_text(self) -> str:
        """The end of what the process has written to stderr, but for words about files."""
        self._read_stderr()
        return self._last_words.rpartition(END_OF_FILE)[2].decode(errors="replace")

    def cause(self) -> str:
        """The line of stderr that says most, after a colon; empty if there is none."""
        lines = [line.strip() for line in self.stderr_text().splitlines() if line.strip()]
        return f": {next(filter(CAUSE.search, lines), lines[-1])}" if lines else ""

    def join(self) -> int:
        """Wait for the end of the process, and return its exit code."""
        with START_OR_END:
            assert self.process is not None
            self.process.join()
            code = self.process.exitcode or 0
            self.process = None
        return code


def receive(pipe: Connection) -> Any:
    try:
        return pipe.recv()
    except (EOFError, OSError):
        sys.exit()  # the parent has gone


def send(pipe: Connection, message: object) -> None:
    try:
        pipe.send(message)
    except OSError:
        sys.exit()


@contextmanager
def failures_sent(pipe: Connection, stderr: Connection) -> Iterator[None]:
    """Set up the signals and stderr of a process, and send what the block raises to the parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent stops its workers
    signal.signal(signal.SIGALRM, signal.SIG_DFL)  # ends the process even inside a library that never returns
    os.dup2(stderr.fileno(), 2)  # libmpg123 writes about damaged files, past Python
    try:
        yield
    except UserError as error:
        send(pipe, Failure(error.message))
    except OSError as error:
        send(pipe, Failure(system_error(error).message, is_ours=False))
    except Exception as error:
        if any(name in str(error) for name in DEVICE_FAILED):
            send(pipe, Failure(first_line(error), is_ours=False))
        else:
            send(pipe, Failure(traceback.format_exc(), is_bug=True))


def exit_text(code: int) -> str:
    return signal.Signals(-code).name if code < 0 else f"exit code {code}"
