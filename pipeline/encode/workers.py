"""Worker processes that encode batches on this machine, whatever a damaged file does to them.

Results come in the order of the batches, however many workers there are. Knows nothing of codecs, shards or records,
and does not import torch: only the workers do.
"""

import itertools
import multiprocessing
import os
import signal
import traceback
from collections import deque
from collections.abc import Callable, Generator, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, Protocol

from pipeline.encode.plan import PlannedNote
from shards.errors import UserError
from shards.note import Note
from shards.record import Rejection

READ_SECONDS = 60.0  # for one file; a longer read is a hang
TRIES = 2  # crashes of a worker after which the file is rejected
AHEAD = 32  # batches a worker that may be done before the oldest one is: bounds memory


@dataclass
class Batch:
    """The notes of one call of the codec."""

    notes: tuple[PlannedNote, ...]
    rejected: dict[int, Rejection] = field(default_factory=dict)  # index -> of notes whose file is not opened again


@dataclass(frozen=True)
class BatchResult:
    """Codes of each note of a batch, or the reason why it has none."""

    notes: list[Note | Rejection]
    digests: dict[int, str] = field(default_factory=dict)  # index -> of a file that was fetched from a URL


class BatchEncoder(Protocol):
    """Encodes batches in a worker: `encoder.Encoder`, or a stand-in."""

    def encode(self, batch: Batch, on_read: Callable[[int | None], None]) -> BatchResult: ...


@dataclass
class _Job:
    number: int
    batch: Batch
    crashes: dict[int, int] = field(default_factory=dict)  # index of a note -> workers that crashed reading it


@dataclass
class _Worker:
    process: BaseProcess
    pipe: Connection
    job: _Job | None = None
    reading: int | None = None  # index in the batch of the file that is open now

    def send(self, job: _Job) -> None:
        self.job = job
        with suppress(OSError):  # it has crashed; receiving from it finds that out
            self.pipe.send(job.batch)


@dataclass(frozen=True)
class _Failure:
    """An exception in a worker."""

    text: str
    is_user_error: bool


def encode_batches(
    make_encoder: Callable[[], BatchEncoder],
    batches: Iterable[Batch],
    workers: int,
    read_seconds: float = READ_SECONDS,
) -> Generator[tuple[Batch, BatchResult], None, None]:
    """Encode `batches` with so many processes; yields each with its result, in their order.

    `make_encoder` is pickled and called in each process.

    Raises:
        UserError: a worker was killed, or crashed while no file was open.
    """
    # A plain fork would copy the locks of this process's threads. The fork server imports torch once, so that each new
    # worker starts at once.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["pipeline.encode.encoder"])
    jobs = map(_Job, itertools.count(), batches)
    retries: deque[_Job] = deque()  # of workers that crashed
    done: dict[int, tuple[Batch, BatchResult]] = {}
    pool: list[_Worker] = []
    sent = yielded = 0  # jobs
    try:
        while True:
            idle = [worker for worker in pool if worker.job is None]
            while idle or len(pool) < workers:
                if retries:
                    job = retries.popleft()
                elif sent - yielded < AHEAD * workers and (new := next(jobs, None)) is not None:
                    job = new
                    sent += 1
                else:
                    break
                if not idle:
                    pool.append(_start_worker(context, make_encoder, read_seconds))
                (idle.pop() if idle else pool[-1]).send(job)
            busy = {worker.pipe: worker for worker in pool if worker.job is not None}
            if not busy:
                return
            for pipe in wait(list(busy)):
                worker = busy[pipe]  # type: ignore[index]
                assert worker.job is not None
                try:
                    message = worker.pipe.recv()
                except (EOFError, OSError):
                    pool.remove(worker)
                    _handle_crash(worker, worker.job, read_seconds)
                    retries.append(worker.job)
                    continue
                if isinstance(message, _Failure):
                    raise UserError(message.text) if message.is_user_error else RuntimeError(message.text)
                if isinstance(message, BatchResult):
                    done[worker.job.number] = worker.job.batch, message
                    worker.job = None
                else:
                    worker.reading = message
            while yielded in done:
                yield done.pop(yielded)
                yielded += 1
    finally:
        for worker in pool:
            worker.process.kill()  # safe: workers hold no state
        for worker in pool:
            worker.process.join()
            worker.pipe.close()


def _start_worker(context: Any, make_encoder: Callable[[], BatchEncoder], read_seconds: float) -> _Worker:
    parent_pipe, worker_pipe = context.Pipe()
    process = context.Process(target=_serve, args=(worker_pipe, make_encoder, read_seconds), daemon=True)
    process.start()
    worker_pipe.close()  # so that the pipe ends when the worker does
    return _Worker(process, parent_pipe)


def _handle_crash(worker: _Worker, job: _Job, read_seconds: float) -> None:
    """Count the crash for the file that the worker was reading; reject the file if it has crashed `TRIES` workers.

    Raises:
        UserError: no file was open, or the system killed the worker.
    """
    worker.process.join()
    worker.pipe.close()
    code = worker.process.exitcode or 0
    cause = signal.Signals(-code).name if code < 0 else f"exit code {code}"
    if code == -signal.SIGKILL:
        raise UserError(
            f"a worker was killed ({cause}), most likely because memory ran out; run again with fewer --workers, "
            "finished shards are kept"
        )
    index = worker.reading
    if index is None:
        names = ", ".join(note.file.display_path for note in job.batch.notes[:1])
        raise UserError(f"a worker died ({cause}) while it encoded {names}; run again, finished shards are kept")
    job.crashes[index] = job.crashes.get(index, 0) + 1
    if job.crashes[index] == TRIES:
        is_hang = code == -signal.SIGALRM
        detail = f"not read within {read_seconds:g} s" if is_hang else f"crashes the decoder ({cause})"
        job.batch.rejected[index] = Rejection(job.batch.notes[index].file.display_path, "damaged", detail)


def _serve(pipe: Connection, make_encoder: Callable[[], BatchEncoder], read_seconds: float) -> None:
    """Main function of a worker: make an encoder, then answer each batch with its result until the pipe ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent stops its workers
    signal.signal(signal.SIGALRM, signal.SIG_DFL)  # ends the process even inside a library that never returns
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # libmpg123 writes about damaged files, past Python

    def on_read(index: int | None) -> None:
        pipe.send(index)
        signal.setitimer(signal.ITIMER_REAL, 0 if index is None else read_seconds)

    try:
        encoder = make_encoder()
        while True:
            pipe.send(encoder.encode(pipe.recv(), on_read))
    except (EOFError, OSError):
        return  # the parent has gone
    except UserError as error:
        pipe.send(_Failure(error.message, is_user_error=True))
    except Exception:
        pipe.send(_Failure(traceback.format_exc(), is_user_error=False))
