"""Worker processes that encode batches on this machine, whatever a damaged file does to them.

On a CPU each worker reads and encodes. With GPUs workers only read, and a process for each GPU encodes what they send:
it gets the next batches while it encodes, so that reading and encoding overlap. Results come in the order of the
batches, however many processes there are. Knows nothing of codecs, shards or records, and does not import torch: only
the processes do.
"""

import multiprocessing
import os
import re
import signal
import sys
import threading
import time
import traceback
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from queue import LifoQueue
from typing import Any, Protocol

from pipeline.encode.plan import Batch
from shards.errors import UserError, first_line, system_error
from shards.files import shorten_socket_paths
from shards.note import Note
from shards.record import Rejection

READ_SECONDS = 60.0  # for one file; a longer read is a hang
TRIES = 2  # crashes of a worker after which the file is rejected
AHEAD = 32  # batches a worker that may be done before the oldest one is: bounds memory
LAUNCHED = 2  # batches that a GPU has been given: it goes on with the second while the codes of the first are sent
IN_FLIGHT = LAUNCHED + 1  # batches a codec that may be on their way while workers read others: bounds memory
STDERR_BYTES = 1 << 14  # of a worker's last words
END_OF_FILE = b"\0"  # after words about a file on stderr: its rejection says enough
CAUSE = re.compile(r"error|assert|what\(\)", re.IGNORECASE)  # the line of a library's report that says most
DEVICE_FAILED = ("CUDA", "CUDNN")  # in errors of torch: the device's memory is full, or a kernel has failed
START_OR_END = threading.Lock()  # multiprocessing starts and joins processes in one thread at a time


@dataclass(frozen=True)
class BatchResult:
    """Codes of each note of a batch, or the reason why it has none; of a recording, those of its segments."""

    notes: list[Note | Rejection]
    digests: dict[int, str] = field(default_factory=dict)  # index -> of a file that was fetched from a URL
    silent: int = 0  # segments that are no notes because they are silent
    waited: float = 0.0  # seconds in which a codec with a process of its own had no audio
    elapsed: float = 0.0  # seconds since its result before, `waited` among them


class BatchEncoder(Protocol):
    """Reads and encodes batches in a worker: `encoder.Encoder`, or a stand-in."""

    def encode(self, batch: Batch, on_read: Callable[[int | None], None]) -> BatchResult: ...


class BatchReader(Protocol):
    """Reads batches in a worker, for codecs in other processes: `reader.Reader`, or a stand-in."""

    def read(self, batch: Batch, on_read: Callable[[int | None], None]) -> Iterator[Any]: ...


class AudioEncoder(Protocol):
    """Encodes in a process what a `BatchReader` yields: `encoder.AudioEncoder`, or a stand-in."""

    def launch(self, audio: Any) -> Callable[[], BatchResult]: ...


@dataclass(frozen=True)
class _Failure:
    """An exception in a process: a line for the user, or the traceback of a bug."""

    text: str
    is_bug: bool = False
    is_ours: bool = True  # False: of the system or a library, so the user is told which file was being encoded


@dataclass(frozen=True)
class _Audio:
    """A reader's next message is audio for a codec."""


@dataclass(frozen=True)
class _AudioEnd:
    """A reader has sent all audio of its batch."""


def join_parts(parts: Sequence[BatchResult]) -> BatchResult:
    """Join the results of the parts in which a batch was read. A recording is rejected as a whole, by its last part."""
    last = parts[-1]
    is_rejected = any(isinstance(note, Rejection) for note in last.notes)
    return BatchResult(
        last.notes if is_rejected else [note for part in parts for note in part.notes],
        last.digests,
        0 if is_rejected else sum(part.silent for part in parts),
        sum(part.waited for part in parts),
        sum(part.elapsed for part in parts),
    )


def encode_batches(
    make_worker: Callable[[], BatchEncoder] | Callable[[], BatchReader],
    batches: Iterable[Batch],
    workers: int,
    read_seconds: float = READ_SECONDS,
    make_codecs: Sequence[Callable[[], AudioEncoder]] = (),
) -> Generator[BatchResult, None, None]:
    """Encode `batches` with so many workers; yields the result of each, in their order.

    `make_worker` is pickled and called in each process: it makes encoders or, with `make_codecs`, readers. Each of
    `make_codecs` is called in a process of its own, and what is read goes to whichever has the least to do.

    Raises:
        UserError: a process was killed, or crashed while no file was open.
    """
    codecs = [_Codec(make_codec) for make_codec in make_codecs]
    choosing = threading.Lock()

    def send(batch: Batch, audio: bytes) -> Future[BatchResult]:
        with choosing:
            codec = min(codecs, key=lambda codec: codec.in_flight)
            codec.submitted += 1
        return codec.send(batch, audio)

    pool = [_Worker(make_worker, read_seconds, send if codecs else None) for _ in range(workers)]
    idle: LifoQueue[_Worker] = LifoQueue()  # a worker that has a process comes before one that must start it
    for worker in reversed(pool):
        idle.put(worker)

    def encode(batch: Batch) -> BatchResult:
        worker = idle.get()
        try:
            parts = worker.run(batch)
        finally:
            idle.put(worker)
        return join_parts([part.result() if isinstance(part, Future) else part for part in parts])

    threads = ThreadPoolExecutor(workers + IN_FLIGHT * len(codecs))  # each waits for a worker or a codec
    results: deque[Future[BatchResult]] = deque()
    try:
        for batch in batches:
            results.append(threads.submit(encode, batch))
            while results and (results[0].done() or len(results) >= AHEAD * workers):
                yield results.popleft().result()
        while results:
            yield results.popleft().result()
    finally:
        for process in (*pool, *codecs):
            process.kill()
        threads.shutdown(cancel_futures=True)


class _Process:
    """A process, started when it is first needed; safe to kill at any moment, because it holds no state."""

    def __init__(self, serve: Callable[..., None], *arguments: Any) -> None:
        self._serve = serve
        self._arguments = arguments
        self._process: BaseProcess | None = None
        self._is_killed = False
        self._last_words = b""  # the end of what the process has written to stderr

    def kill(self) -> None:
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
            self._process = context.Process(target=self._serve, args=(pipe, stderr, *self._arguments), daemon=True)
            resource_tracker.ensure_running()  # it would unblock the signals
            # They reach the whole group: the fork server would end while it imports torch, and its callers would wait.
            before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT, signal.SIGTERM])
            try:
                self._process.start()
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, before)
            pipe.close()  # so that the pipes end when the process does
            stderr.close()

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

    def _failure_error(self, failure: _Failure, batch: Batch) -> Exception:
        if failure.is_bug:
            return RuntimeError(failure.text + self._stderr_text())
        if failure.is_ours:
            return UserError(failure.text)
        first = batch.notes[0].file.display_path
        return UserError(
            f"a worker failed while it encoded {first}: {failure.text}{self._cause()}; run again, finished shards are "
            "kept"
        )

    def _join(self) -> int:
        """Wait for the end of the process, and return its exit code."""
        with START_OR_END:
            assert self._process is not None
            self._process.join()
            code = self._process.exitcode or 0
            self._process = None
        return code

    def _end_error(self, code: int, batch: Batch) -> UserError:
        """Error: the process has ended by this exit code while no file was open, or was killed by the system."""
        if code == -signal.SIGKILL:
            return UserError(
                f"a worker was killed ({_exit_text(code)}), most likely because memory ran out; run again with fewer "
                "--workers, finished shards are kept"
            )
        first = batch.notes[0].file.display_path
        return UserError(
            f"a worker died ({_exit_text(code)}) while it encoded {first}{self._cause()}; run again, finished shards "
            "are kept"
        )


class _Worker(_Process):
    """The process of an encoder or a reader, started again after each crash."""

    def __init__(
        self,
        make_worker: Callable[[], BatchEncoder] | Callable[[], BatchReader],
        read_seconds: float,
        send: Callable[[Batch, bytes], Future[BatchResult]] | None,
    ) -> None:
        super().__init__(_serve_batches, make_worker, read_seconds, send is not None)
        self._read_seconds = read_seconds
        self._send = send  # to a codec

    def run(self, batch: Batch) -> list[BatchResult | Future[BatchResult]]:
        """Encode the batch in the process, or read it and hand it to the codecs; after a crash again in a new process.

        Raises:
            UserError: the encoder's, the reader's or a codec's own, or as in `_handle_crash`.
        """
        crashes: Counter[int] = Counter()  # index of a note -> processes that crashed reading it
        while True:
            if self._process is None:
                self._start()
            reading: int | None = None  # index in the batch of the file that is open now
            parts: list[BatchResult | Future[BatchResult]] = []
            try:
                self._pipe.send(batch)
                while not isinstance(message := self._receive(), BatchResult | _AudioEnd | _Failure):
                    if isinstance(message, _Audio):
                        assert self._send is not None
                        # as bytes: to unpickle and pickle it here would take four times as long
                        parts.append(self._send(batch, self._pipe.recv_bytes()))
                    else:
                        reading = message
            except (EOFError, OSError):
                self._handle_crash(batch, reading, crashes)
                continue
            except Exception:  # of a codec, while the process goes on with this batch
                self._restart()
                raise
            if isinstance(message, _Failure):
                raise self._failure_error(message, batch)
            return [message] if isinstance(message, BatchResult) else parts

    def _restart(self) -> None:
        """End the process; the next batch starts a new one."""
        with START_OR_END:
            assert self._process is not None
            self._process.kill()
            self._process.join()
            self._process = None

    def _handle_crash(self, batch: Batch, reading: int | None, crashes: Counter[int]) -> None:
        """Count the crash for the file that the process was reading; reject the file at its last try.

        Raises:
            UserError: no file was open, or the system killed the process.
        """
        code = self._join()
        if code == -signal.SIGKILL or reading is None:
            raise self._end_error(code, batch)
        crashes[reading] += 1
        if crashes[reading] == TRIES:
            is_hang = code == -signal.SIGALRM
            detail = (
                f"not read within {self._read_seconds:g} s" if is_hang else f"crashes the decoder ({_exit_text(code)})"
            )
            batch.rejected[reading] = Rejection(batch.notes[reading].file.display_path, "damaged", detail)


class _Codec(_Process):
    """The process of one codec. It is not started again: its failure ends the run."""

    def __init__(self, make_codec: Callable[[], AudioEncoder]) -> None:
        super().__init__(_serve_audio, make_codec)
        self.submitted = 0  # batches, also those that wait to be sent; counted by the caller
        self._done = 0  # batches
        self._sending = threading.Lock()
        self._futures: deque[Future[BatchResult]] = deque()  # in the order in which their audio was sent
        self._receiver: threading.Thread | None = None
        self._error: Exception | None = None  # that ended the process
        self._batch: Batch  # that was sent last

    @property
    def in_flight(self) -> int:
        """Batches that are not done; none after a failure, so that the next batch finds it."""
        return 0 if self._error else self.submitted - self._done

    def send(self, batch: Batch, audio: bytes) -> Future[BatchResult]:
        """Send pickled audio to the process. The future gets its result, or the error that ended the process.

        Raises:
            UserError: the process has ended, or as it did.
        """
        future: Future[BatchResult] = Future()
        with self._sending:
            if self._receiver is None:
                try:
                    self._start()
                except OSError as error:
                    raise system_error(error) from error
                self._receiver = threading.Thread(target=self._receive_results)
                self._receiver.start()
            if self._error is not None:
                raise self._error
            self._batch = batch
            self._futures.append(future)
            with suppress(OSError):  # it has ended: the thread that receives says why
                self._pipe.send_bytes(audio)
        return future

    def _receive_results(self) -> None:
        try:
            while isinstance(message := self._receive(), BatchResult):
                self._done += 1
                self._futures.popleft().set_result(message)
            error = self._failure_error(message, self._batch)
        except (EOFError, OSError):
            error = self._end_error(self._join(), self._batch)
        with self._sending:  # no batch is added from here on
            self._error = error
            while self._futures:
                self._futures.popleft().set_exception(error)


def _serve_batches(
    pipe: Connection,
    stderr: Connection,
    make_worker: Callable[[], Any],
    read_seconds: float,
    is_reader: bool,
) -> None:
    """Main function of a worker: answer each batch with its result, or with its audio, until the pipe ends."""

    def on_read(index: int | None) -> None:
        _send(pipe, index)
        os.write(2, END_OF_FILE)
        signal.setitimer(signal.ITIMER_REAL, 0 if index is None else read_seconds)

    with _failures_sent(pipe, stderr):
        worker = make_worker()
        while True:
            batch = _receive(pipe)
            if not is_reader:
                _send(pipe, worker.encode(batch, on_read))
                continue
            for audio in worker.read(batch, on_read):
                _send(pipe, _Audio())
                _send(pipe, audio)
            _send(pipe, _AudioEnd())


def _serve_audio(pipe: Connection, stderr: Connection, make_codec: Callable[[], AudioEncoder]) -> None:
    """Main function of a codec's process: answer each batch of audio with its result until the pipe ends."""
    with _failures_sent(pipe, stderr):
        for result in encode_audio(pipe, make_codec()):
            _send(pipe, result)


def encode_audio(pipe: Connection, codec: AudioEncoder) -> Iterator[BatchResult]:
    """Encode what comes through the pipe, and yield the results in that order.

    The codes of a batch are waited for only when the next batch has been launched, or has not come yet.
    """
    audio = _receive(pipe)  # waited for while readers start, so it is not counted
    waited, before = 0.0, time.perf_counter()  # seconds without audio since the last result, and the time of that
    launched = deque([codec.launch(audio)])
    while True:
        if launched and (len(launched) == LAUNCHED or not pipe.poll()):
            result = launched.popleft()()
            now = time.perf_counter()
            yield replace(result, waited=waited, elapsed=now - before)
            waited, before = 0.0, now
            continue
        began = time.perf_counter()
        audio = _receive(pipe)
        if not launched:
            waited += time.perf_counter() - began
        launched.append(codec.launch(audio))


def _receive(pipe: Connection) -> Any:
    try:
        return pipe.recv()
    except (EOFError, OSError):
        sys.exit()  # the parent has gone


def _send(pipe: Connection, message: object) -> None:
    try:
        pipe.send(message)
    except OSError:
        sys.exit()


@contextmanager
def _failures_sent(pipe: Connection, stderr: Connection) -> Iterator[None]:
    """Set up the signals and stderr of a process, and send what the block raises to the parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent stops its workers
    signal.signal(signal.SIGALRM, signal.SIG_DFL)  # ends the process even inside a library that never returns
    os.dup2(stderr.fileno(), 2)  # libmpg123 writes about damaged files, past Python
    try:
        yield
    except UserError as error:
        _send(pipe, _Failure(error.message))
    except OSError as error:
        _send(pipe, _Failure(system_error(error).message, is_ours=False))
    except Exception as error:
        if any(name in str(error) for name in DEVICE_FAILED):
            _send(pipe, _Failure(first_line(error), is_ours=False))
        else:
            _send(pipe, _Failure(traceback.format_exc(), is_bug=True))


def _exit_text(code: int) -> str:
    return signal.Signals(-code).name if code < 0 else f"exit code {code}"
