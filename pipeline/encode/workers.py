"""Worker processes that encode batches, on this machine. Survives whatever a damaged file does to a worker.

Results come in the order of the batches, however many workers there are. Knows nothing of codecs, shards or ledgers.
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

from pipeline.encode.encoder import Batch
from shards.errors import UserError
from shards.note import Note
from shards.record import Rejection

READ_SECONDS = 60.0  # for one file; whatever takes longer hangs
TRIES = 2  # times that a file may take a worker down before it is rejected
AHEAD = 32  # batches a worker that may be done before the oldest one is: bounds what is kept in memory

Result = list[Note | Rejection]


class BatchEncoder(Protocol):
    """What a worker makes for itself: `encode.Encoder`, or a stand-in."""

    def encode(self, batch: Batch, reading: Callable[[int | None], None]) -> Result: ...


@dataclass
class _Job:
    number: int
    batch: Batch
    deaths: dict[int, int] = field(default_factory=dict)  # place of a note -> workers that died reading it


@dataclass
class _Worker:
    process: BaseProcess
    pipe: Connection
    job: _Job | None = None
    reading: int | None = None  # place in the batch of the file that is open now

    def give(self, job: _Job) -> None:
        self.job = job
        with suppress(OSError):  # it has died; listening to it will tell
            self.pipe.send(job.batch)


@dataclass(frozen=True)
class _Failure:
    """An exception of a worker, on its way to the user."""

    text: str
    is_users: bool


def encode_batches(
    make_encoder: Callable[[], BatchEncoder],
    batches: Iterable[Batch],
    workers: int,
    read_seconds: float = READ_SECONDS,
) -> Generator[tuple[Batch, Result], None, None]:
    """Encode `batches` with so many processes; yields each with its result, in their order.

    `make_encoder` is called in each process, so it must be something that can be pickled.

    Raises:
        UserError: a worker was killed, or died while no file was open.
    """
    # Not a plain fork, which would copy the locks of this process's threads. The fork server imports torch once, so
    # that a new worker is there at once.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["pipeline.encode.encoder"])
    todo = map(_Job, itertools.count(), batches)
    again: deque[_Job] = deque()  # of workers that died
    done: dict[int, tuple[Batch, Result]] = {}
    crew: list[_Worker] = []
    given = following = 0  # number of the job to be given, to be yielded next
    try:
        while True:
            idle = [worker for worker in crew if worker.job is None]
            while idle or len(crew) < workers:
                if again:
                    job = again.popleft()
                elif given - following < AHEAD * workers and (fresh := next(todo, None)) is not None:
                    job = fresh
                    given += 1
                else:
                    break
                if not idle:
                    crew.append(_hire(context, make_encoder, read_seconds))
                (idle.pop() if idle else crew[-1]).give(job)
            busy = {worker.pipe: worker for worker in crew if worker.job is not None}
            if not busy:
                return
            for pipe in wait(list(busy)):
                worker = busy[pipe]  # type: ignore[index]
                assert worker.job is not None
                try:
                    message = worker.pipe.recv()
                except (EOFError, OSError):
                    crew.remove(worker)
                    again.append(_bury(worker, worker.job, read_seconds))
                    continue
                if isinstance(message, _Failure):
                    raise UserError(message.text) if message.is_users else RuntimeError(message.text)
                if isinstance(message, list):
                    done[worker.job.number] = worker.job.batch, message
                    worker.job = None
                else:
                    worker.reading = message
            while following in done:
                yield done.pop(following)
                following += 1
    finally:
        for worker in crew:
            worker.process.kill()  # it keeps nothing: a result is whole on this side or not there
        for worker in crew:
            worker.process.join()
            worker.pipe.close()


def _hire(context: Any, make_encoder: Callable[[], BatchEncoder], read_seconds: float) -> _Worker:
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(theirs, make_encoder, read_seconds), daemon=True)
    process.start()
    theirs.close()  # so that the pipe ends when the worker does
    return _Worker(process, ours)


def _bury(worker: _Worker, job: _Job, read_seconds: float) -> _Job:
    """Find out why a worker died; reject the file that it was reading if that is not the first time.

    Raises:
        UserError: no file is to blame.
    """
    worker.process.join()
    worker.pipe.close()
    code = worker.process.exitcode or 0
    how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
    if code == -signal.SIGKILL:
        raise UserError(
            f"a worker was killed ({how}), most likely because memory ran out; run again with fewer --workers, "
            "finished shards are kept"
        )
    if worker.reading is None:
        names = ", ".join(note.input.display_path for note in job.batch.notes[:1])
        raise UserError(f"a worker died ({how}) while it encoded {names}; run again, finished shards are kept")
    place = worker.reading
    job.deaths[place] = job.deaths.get(place, 0) + 1
    if job.deaths[place] == TRIES:
        hung = code == -signal.SIGALRM
        detail = f"not read within {read_seconds:g} s" if hung else f"crashes the decoder ({how})"
        job.batch.condemned[place] = Rejection(job.batch.notes[place].input.display_path, "damaged", detail)
    return job


def _serve(pipe: Connection, make_encoder: Callable[[], BatchEncoder], read_seconds: float) -> None:
    """A worker's life: make an encoder, then answer each batch with its result until the pipe ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent stops its workers
    signal.signal(signal.SIGALRM, signal.SIG_DFL)  # ends the process even inside a library that never returns
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # libmpg123 writes about damaged files, past Python

    def reading(place: int | None) -> None:
        pipe.send(place)
        signal.setitimer(signal.ITIMER_REAL, 0 if place is None else read_seconds)

    try:
        encoder = make_encoder()
        while True:
            pipe.send(encoder.encode(pipe.recv(), reading))
    except (EOFError, OSError):
        return  # the parent has gone
    except UserError as error:
        pipe.send(_Failure(error.message, is_users=True))
    except Exception:
        pipe.send(_Failure(traceback.format_exc(), is_users=False))
