"""Worker processes that encode batches on this machine, whatever a damaged file does to them.

On a CPU each worker reads and encodes. With GPUs workers only read, and a process for each GPU encodes what they send.
Results come in the order of the batches, however many processes there are. Knows nothing of codecs, shards or records,
and does not import torch: only the processes do.
"""

import os
import signal
import threading
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from multiprocessing.connection import Connection
from queue import LifoQueue
from typing import Any, Protocol

from pipeline.encode.batch_process import BatchProcess
from pipeline.encode.batch_result import BatchResult, join_parts
from pipeline.encode.codec_process import IN_FLIGHT, AudioEncoder, CodecProcess
from pipeline.encode.plan import Batch
from pipeline.encode.process import END_OF_FILE, START_OR_END, Failure, exit_text, failures_sent, receive, send
from shards.record import Rejection

READ_SECONDS = 60.0  # for one file; a longer read is a hang
TRIES = 2  # crashes of a worker after which the file is rejected
AHEAD = 32  # batches a worker that may be done before the oldest one is: bounds memory


class BatchEncoder(Protocol):
    """Reads and encodes batches in a worker: `encoder.Encoder`, or a stand-in."""

    def encode(self, batch: Batch, on_read: Callable[[int | None], None]) -> BatchResult: ...


class BatchReader(Protocol):
    """Reads batches in a worker, for codecs in other processes: `reader.Reader`, or a stand-in."""

    def read(self, batch: Batch, on_read: Callable[[int | None], None]) -> Iterator[Any]: ...


@dataclass(frozen=True)
class _Audio:
    """A reader's next message is audio for a codec."""


@dataclass(frozen=True)
class _AudioEnd:
    """A reader has sent all audio of its batch."""


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
    codecs = [CodecProcess(make_codec) for make_codec in make_codecs]
    choosing = threading.Lock()

    def send_audio(batch: Batch, audio: bytes) -> Future[BatchResult]:
        with choosing:
            codec = min(codecs, key=lambda codec: codec.in_flight)
            codec.submitted += 1
        return codec.send(batch, audio)

    pool = [_Worker(make_worker, read_seconds, send_audio if codecs else None) for _ in range(workers)]
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


class _Worker(BatchProcess):
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
            if self.process is None:
                self.start()
            reading: int | None = None  # index in the batch of the file that is open now
            parts: list[BatchResult | Future[BatchResult]] = []
            try:
                self.pipe.send(batch)
                while not isinstance(message := self.receive(), BatchResult | _AudioEnd | Failure):
                    if isinstance(message, _Audio):
                        assert self._send is not None
                        # as bytes: to unpickle and pickle it here would take four times as long
                        parts.append(self._send(batch, self.pipe.recv_bytes()))
                    else:
                        reading = message
            except (EOFError, OSError):
                self._handle_crash(batch, reading, crashes)
                continue
            except Exception:  # of a codec, while the process goes on with this batch
                self._restart()
                raise
            if isinstance(message, Failure):
                raise self.failure_error(message, batch)
            return [message] if isinstance(message, BatchResult) else parts

    def _restart(self) -> None:
        """End the process; the next batch starts a new one."""
        with START_OR_END:
            assert self.process is not None
            self.process.kill()
            self.process.join()
            self.process = None

    def _handle_crash(self, batch: Batch, reading: int | None, crashes: Counter[int]) -> None:
        """Count the crash for the file that the process was reading; reject the file at its last try.

        Raises:
            UserError: no file was open, or the system killed the process.
        """
        code = self.join()
        if code == -signal.SIGKILL or reading is None:
            raise self.end_error(code, batch)
        crashes[reading] += 1
        if crashes[reading] == TRIES:
            is_hang = code == -signal.SIGALRM
            detail = (
                f"not read within {self._read_seconds:g} s" if is_hang else f"crashes the decoder ({exit_text(code)})"
            )
            batch.rejected[reading] = Rejection(batch.notes[reading].file.display_path, "damaged", detail)


def _serve_batches(
    pipe: Connection,
    stderr: Connection,
    make_worker: Callable[[], Any],
    read_seconds: float,
    is_reader: bool,
) -> None:
    """Main function of a worker: answer each batch with its result, or with its audio, until the pipe ends."""

    def on_read(index: int | None) -> None:
        send(pipe, index)
        os.write(2, END_OF_FILE)
        signal.setitimer(signal.ITIMER_REAL, 0 if index is None else read_seconds)

    with failures_sent(pipe, stderr):
        worker = make_worker()
        while True:
            batch = receive(pipe)
            if not is_reader:
                send(pipe, worker.encode(batch, on_read))
                continue
            for audio in worker.read(batch, on_read):
                send(pipe, _Audio())
                send(pipe, audio)
            send(pipe, _AudioEnd())
