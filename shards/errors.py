"""Errors that the user can cure: one line with the file, the fact and the cure.

click prints them as `Error: ...` and exits with 2, so no command needs a handler of its own.
"""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import click

from shards.console import STDOUT, echo

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG)  # never of a network
REASON = 200  # characters of a library's error that are shown

NO_MEMORY = ("out of memory", "allocate memory")  # in errors of torch, about a GPU and about the system

CURE = "make room or choose another folder"


class UserError(click.ClickException):
    """A mistake or a damaged file that the program cannot go on with. The message is the whole explanation."""

    exit_code = 2

    def show(self, file: IO[Any] | None = None) -> None:
        echo(f"Error: {self.message}", err=True)


class ShardError(UserError):
    """A shard set or a token file that is missing, unfinished, damaged, or not of the format it claims."""


@contextmanager
def writing(path: Path, cure: str = CURE) -> Iterator[None]:
    """Turn errors of the system in a block that writes `path` into a UserError that names it."""
    try:
        yield
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror or error}); {cure}") from error


@contextmanager
def name_lack_of_memory(cure: str, device: str = "") -> Iterator[None]:
    """Turn an error of a block that needs more memory than the system or the GPU gives into a UserError."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not (isinstance(error, MemoryError) or any(words in str(error) for words in NO_MEMORY)):
            raise
        prefix = f"{device}: " if device else ""
        raise UserError(f"{prefix}not enough memory ({first_line(error)}); {cure}") from error


def first_line(error: BaseException) -> str:
    """The text of a library's error for a line of ours: its first line, or its type if it has no text."""
    return (str(error).splitlines() or [""])[0][:REASON] or type(error).__name__


def system_error(error: OSError) -> UserError:
    """An error of the system as one line: the file if it is known, the fact, and for a full disk the cure."""
    file = f"{os.fsdecode(error.filename)}: " if isinstance(error.filename, str | bytes) else ""
    is_cured = error.errno in (*NO_ROOM, errno.EACCES, errno.EPERM) and error.filename != STDOUT
    return UserError(f"{file}{error.strerror or error}" + (f"; {CURE}" if is_cured else ""))
