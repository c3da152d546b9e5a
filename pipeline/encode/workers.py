"""Worker processes that encode batches on this machine, whatever a damaged file does to them.

Results come in the order of the batches, however many workers there are. Knows nothing of codecs, shards or records,
and does not import torch: only the workers do.
"""

import multiprocessing
import os
import re
import signal
import sys
import threading
import traceback
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from queue import LifoQueue
from typing import Any, NoReturn, Protocol

from pipeline.encode.plan import Batch
from shards.errors import UserError, first_line, system_error
from shards.files import shorten_socket_paths
from shards.note import Note
from shards.record import Rejection

READ_SECONDS = 60.0  # for one file; a longer read is a hang
TRIES = 2  # crashes of a worker after which the file is rejected
AHEAD = 32  # batches a worker that may be done before the oldest one is: bounds memory
STDERR_BYTES = 1 << 14  # of a worker's last words
END_OF_FILE = b"\0"  # after words about a file on stderr: its rejection says enough
CAUSE = re.compile(r"error|assert|what\(\)", re.IGNORECASE)  # the line of a library's report that says most
START_OR_END = threading.Lock()  # multiprocessing starts and joins processes in one thread at a time


@dataclass(frozen=True)
class BatchResult:
    """Codes of each note of a batch, or the reason why it has none; of a recording, those of its segments."""

    notes: list[Note | Rejection]
    digests: dict[int, str] = field(default_factory=dict)  # index -> of a file that was fetched from a URL
    silent: int = 0  # segments that are no notes because they are silent


class BatchEncoder(Protocol):
    """Encodes batches in a worker: `encoder.Encoder`, or a stand-in."""

    def encode(self, batch: Batch, on_read: Callable[[int | None], None]) -> BatchResult: ...


@dataclass(frozen=True)
class _Failure:
    """An exception in a worker: a line for the user, or the traceback of a bug."""

    text: str
    is_bug: bool = False
    is_ours: bool = True  # False: of the system or a library, so the user is told which file was being encoded


def encode_batches(
    make_encoder: Callable[[], BatchEncoder],
    batches: Iterable[Batch],
    workers: int,
    read_seconds: float = READ_SECONDS,
) -> Generator[BatchResult, None, None]:
    """Encode `batches` with so many processes; yields the result of each, in their order.

    `make_encoder` is pickled and called in each process.

    Raises:
        UserError: a worker was killed, or crashed while no file was open.
    """
    pool = [_Worker(make_encoder, read_seconds) for _ in range(workers)]
    idle: LifoQueue[_Worker] = LifoQueue()  # a worker that has a process comes before one that must start it
    for worker in reversed(pool):
        idle.put(worker)

    def encode(batch: Batch) -> BatchResult:
        worker = idle.get()
        try:
            return worker.encode(batch)
        finally:
            idle.put(worker)

    threads = ThreadPoolExecutor(workers)  # each waits for one process
    results: deque[Future[BatchResult]] = deque()
    try:
        for batch in batches:
            results.append(threads.submit(encode, batch))
            while results and (results[0].done() or len(results) >= AHEAD * workers):
                yield results.popleft().result()
        while results:
            yield results.popleft().result()
    finally:
        for worker in pool:
            worker.kill()
        threads.shutdown(cancel_futures=True)


class _Worker:
    """One process, started when it is first needed and again after each crash."""

    def __init__(self, make_encoder: Callable[[], BatchEncoder], read_seconds: float) -> None:
        self._make_encoder = make_encoder
        self._read_seconds = read_seconds
        self._process: BaseProcess | None = None
        self._is_killed = False
        self._last_words = b""  # the end of what the process has written to stderr

    def encode(self, batch: Batch) -> BatchResult:
        """Encode the batch in the process, and after a crash again in a new one.

        Raises:
            UserError: the encoder's own, or as in `_handle_crash`.
        """
        crashes: Counter[int] = Counter()  # index of a note -> processes that crashed reading it
        while True:
            if self._process is None:
                self._start()
            reading: int | None = None  # index in the batch of the file that is open now
            try:
                self._pipe.send(batch)
                while not isinstance(message := self._receive(), BatchResult | _Failure):
                    reading = message
            except (EOFError, OSError):
                self._handle_crash(batch, reading, crashes)
                continue
            if isinstance(message, _Failure):
                self._raise(message, batch)
            return message

    def _receive(self) -> Any:
        """The next message of the process."""
        while True:
            ready = wait([self._pipe, self._stderr])
            if self._stderr in ready:
                self._read_stderr()
            if self._pipe in ready:
                return self._pipe.recv()

    def _read_stderr(self) -> None:
        with suppress(BlockingIOError):
            while words := os.read(self._stderr.fileno(), STDERR_BYTES):
                self._last_words = (self._last_words + words)[-STDERR_BYTES:]

    def _stderr_text(self) -> str:
        self._read_stderr()
        return self._last_words.rpartition(END_OF_FILE)[2].decode(errors="replace")

    def _cause(self) -> str:
        """The line of stderr that says most, after a colon; empty if there is none."""
        lines = [line.strip() for line in self._stderr_text().splitlines() if line.strip()]
        return f": {next(filter(CAUSE.search, lines), lines[-1])}" if lines else ""

    def _raise(self, failure: _Failure, batch: Batch) -> NoReturn:
        if failure.is_bug:
            raise RuntimeError(failure.text + self._stderr_text())
        if failure.is_ours:
            raise UserError(failure.text)
        first = batch.notes[0].file.display_path
        raise UserError(
            f"a worker failed while it encoded {first}: {failure.text}{self._cause()}; run again, finished shards are "
            "kept"
        )

    def kill(self) -> None:
        """End the process; safe at any moment, because it holds no state."""
        with START_OR_END:
            self._is_killed = True
            if self._process is not None:
                self._process.kill()
                self._process.join()

    def _start(self) -> None:
        # A plain fork would copy the locks of this process's threads. The fork server imports torch once, so that each
        # new worker starts at once.
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["pipeline.encode.encoder"])
        with START_OR_END:
            if self._is_killed:
                raise CancelledError
            shorten_socket_paths()
            self._pipe, pipe = context.Pipe()
            self._stderr, stderr = context.Pipe(duplex=False)
            os.set_blocking(self._stderr.fileno(), False)
            arguments = (pipe, stderr, self._make_encoder, self._read_seconds)
            self._process = context.Process(target=_serve, args=arguments, daemon=True)
            resource_tracker.ensure_running()  # it would unblock the signals
            # They reach the whole group: the fork server would end while it imports torch, and its callers would wait.
            before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT, signal.SIGTERM])
            try:
                self._process.start()
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, before)
            pipe.close()  # so that the pipes end when the process does
            stderr.close()

    def _handle_crash(self, batch: Batch, reading: int | None, crashes: Counter[int]) -> None:
        """Count the crash for the file that the process was reading; reject the file at its last try.

        Raises:
            UserError: no file was open, or the system killed the process.
        """
        with START_OR_END:
            assert self._process is not None
            self._process.join()
            code = self._process.exitcode or 0
            self._process = None
        cause = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        if code == -signal.SIGKILL:
            raise UserError(
                f"a worker was killed ({cause}), most likely because memory ran out; run again with fewer --workers, "
                "finished shards are kept"
            )
        if reading is None:
            first = batch.notes[0].file.display_path
            raise UserError(
                f"a worker died ({cause}) while it encoded {first}{self._cause()}; run again, finished shards are kept"
            )
        crashes[reading] += 1
        if crashes[reading] == TRIES:
            is_hang = code == -signal.SIGALRM
            detail = f"not read within {self._read_seconds:g} s" if is_hang else f"crashes the decoder ({cause})"
            batch.rejected[reading] = Rejection(batch.notes[reading].file.display_path, "damaged", detail)


def _serve(pipe: Connection, stderr: Connection, make_encoder: Callable[[], BatchEncoder], read_seconds: float) -> None:
    """Main function of a worker: make an encoder, then answer each batch with its result until the pipe ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent stops its workers
    signal.signal(signal.SIGALRM, signal.SIG_DFL)  # ends the process even inside a library that never returns
    os.dup2(stderr.fileno(), 2)  # libmpg123 writes about damaged files, past Python

    def receive() -> Batch:
        try:
            return pipe.recv()
        except (EOFError, OSError):
            sys.exit()  # the parent has gone

    def send(message: object) -> None:
        try:
            pipe.send(message)
        except OSError:
            sys.exit()

    def on_read(index: int | None) -> None:
        send(index)
        os.write(2, END_OF_FILE)
        signal.setitimer(signal.ITIMER_REAL, 0 if index is None else read_seconds)

    try:
        encoder = make_encoder()
        while True:
            send(encoder.encode(receive(), on_read))
    except UserError as error:
        send(_Failure(error.message))
    except OSError as error:
        send(_Failure(system_error(error).message, is_ours=False))
    except Exception as error:
        if "CUDA" in str(error):  # the device's memory is full, or a kernel has failed
            send(_Failure(first_line(error), is_ours=False))
        else:
            send(_Failure(traceback.format_exc(), is_bug=True))
