"""The process of a codec on a GPU: it gets the next batches while it encodes, so that reading and encoding overlap."""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import replace
from multiprocessing.connection import Connection
from typing import Any, Protocol

from pipeline.encode.batch_process import BatchProcess
from pipeline.encode.batch_result import BatchResult
from pipeline.encode.plan import Batch
from pipeline.encode.process import failures_sent, receive, send
from shards.errors import system_error

LAUNCHED = 2  # batches that a GPU has been given: it goes on with the second while the codes of the first are sent
IN_FLIGHT = LAUNCHED + 1  # batches a codec that may be on their way while workers read others: bounds memory


class AudioEncoder(Protocol):
    """Encodes in a process what a `BatchReader` yields: `encoder.AudioEncoder`, or a stand-in."""

    def launch(self, audio: Any) -> Callable[[], BatchResult]: ...


class CodecProcess(BatchProcess):
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
                    self.start()
                except OSError as error:
                    raise system_error(error) from error
                self._receiver = threading.Thread(target=self._receive_results)
                self._receiver.start()
            if self._error is not None:
                raise self._error
            self._batch = batch
            self._futures.append(future)
            with suppress(OSError):  # it has ended: the thread that receives says why
                self.pipe.send_bytes(audio)
        return future

    def _receive_results(self) -> None:
        try:
            while isinstance(message := self.receive(), BatchResult):
                self._done += 1
                self._futures.popleft().set_result(message)
            error = self.failure_error(message, self._batch)
        except (EOFError, OSError):
            error = self.end_error(self.join(), self._batch)
        with self._sending:  # no batch is added from here on
            self._error = error
            while self._futures:
                self._futures.popleft().set_exception(error)


def _serve_audio(pipe: Connection, stderr: Connection, make_codec: Callable[[], AudioEncoder]) -> None:
    """Main function of a codec's process: answer each batch of audio with its result until the pipe ends."""
    with failures_sent(pipe, stderr):
        for result in encode_audio(pipe, make_codec()):
            send(pipe, result)


def encode_audio(pipe: Connection, codec: AudioEncoder) -> Iterator[BatchResult]:
    """Encode what comes through the pipe, and yield the results in that order.

    The codes of a batch are waited for only when the next batch has been launched, or has not come yet.
    """
    audio = receive(pipe)  # waited for while readers start, so it is not counted
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
        audio = receive(pipe)
        if not launched:
            waited += time.perf_counter() - began
        launched.append(codec.launch(audio))
