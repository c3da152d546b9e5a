"""Processes that make one set: a run alone or ranks side by side, their lock, and the signals that end them.

Task i belongs to rank i modulo their number: the plan is the same in every process, so nobody hands out work. Ranks
share nothing but the set. Knows nothing of what starts them.
"""

import errno
import fcntl
import os
import secrets
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.encode.plan import Task
from shards.errors import UserError
from shards.files import PART
from shards.storage import is_read_only, is_remote, list_files

NO_LOCKS = (errno.EBADF, errno.EINVAL, errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP)


@dataclass(frozen=True)
class Rank:
    """Process `index` of `count`, from 0."""

    index: int = 0
    count: int = 1
    token: str = field(default_factory=lambda: secrets.token_hex(4))  # an engine may start a rank twice at once

    def __post_init__(self) -> None:
        if not 0 <= self.index < self.count:
            raise UserError(f"rank {self.index} of {self.count}: ranks are numbered from 0 to {self.count - 1}")

    @property
    def is_alone(self) -> bool:
        return self.count == 1

    @property
    def name(self) -> str:
        return f"rank-{self.index}-of-{self.count}"

    @property
    def writer(self) -> str:
        """Name for `atomic_write`: no two processes write into the same part."""
        return "" if self.is_alone else f"{self.name}-{self.token}"

    def tasks(self, tasks: Sequence[Task]) -> list[Task]:
        """The tasks of this rank."""
        return list(tasks[self.index :: self.count])

    def remove_parts(self, out: Path, tasks: Sequence[Task]) -> None:
        """Delete the parts that a killed run has left: all, or with other ranks those of its own `tasks` and name."""
        stems = {Path(task.shard_name).stem for task in tasks}
        for name in list_files(out):
            is_own = self.is_alone or name.partition(".")[0] in stems or f".{self.name}-" in name
            if name.endswith(PART) and is_own:
                (out / name).unlink(missing_ok=True)


@contextmanager
def lock_set(out: Path, shared: bool) -> Iterator[None]:
    """Lock the set's folder for the block. An exclusive lock removes a folder that is still empty afterwards.

    It only warns a person who starts a second run by mistake: `shards.files` is what keeps files whole. So a file
    system without locks, as some clusters share, is used without one. Object stores have neither locks nor folders:
    nothing is done there.

    Raises:
        UserError: another run has locked it, or the folder cannot be made.
    """
    if is_remote(out):
        if is_read_only(out):
            raise UserError(f"{out}: is only read from; give a folder, or an s3:// or gs:// URL, as --out")
        yield
        return
    try:
        out.mkdir(parents=True, exist_ok=True)
        handle = os.open(out, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise UserError(f"{out}: cannot be made a folder ({error.strerror}); give another --out") from error
    try:
        try:
            # released by the kernel, however this process ends
            fcntl.flock(handle, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(f"{out}: another run is encoding into it; wait for it, or stop it") from error
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
        yield
    finally:
        os.close(handle)
        if not shared:
            with suppress(OSError):
                out.rmdir()


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
