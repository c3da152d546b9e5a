"""A program's group of commands, and the standard streams that it is started with.

Knows no command.
"""

import errno
import os
import sys
from typing import Any

import click

from shards.console import STDOUT, name_scripts
from shards.errors import UserError, system_error


class Program(click.Group):
    """A program's commands. Errors of the system that no command expects are one line too: a full stdout, a disk."""

    def main(self, *args: Any, **kwargs: Any) -> Any:
        if sys.platform == "win32":  # where locks of folders, fork servers and signals are missing
            sys.exit("Error: Windows itself is not supported; use its Linux, WSL (wsl --install)")
        _open_streams()
        self._name_scripts()
        try:
            return super().main(*args, **kwargs)
        except OSError as error:  # of --help
            error.filename = STDOUT
            system_error(error).show()
            sys.exit(UserError.exit_code)
        finally:
            _close_streams()

    def _name_scripts(self) -> None:
        """Texts of `--help` teach commands as this program was started."""
        for command in (self, *self.commands.values()):
            for part in (command, *command.params):
                if text := getattr(part, "help", None):
                    vars(part)["help"] = name_scripts(text)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except OSError as error:
            if error.errno == errno.EPIPE and error.filename == STDOUT:
                raise  # click ends quietly: the reader of a pipe, such as `head`, needs no more
            raise system_error(error) from error


def _open_streams() -> None:
    """Open standard streams that the caller has closed, so that no other file gets their numbers.

    Writing to a closed stdout fails, as on a full disk: a report that nobody can read is an error. What is written to
    a closed stderr is lost.
    """
    for number, flags in enumerate((os.O_RDONLY, os.O_RDONLY, os.O_WRONLY)):
        try:
            os.fstat(number)
        except OSError:
            os.dup2(os.open(os.devnull, flags), number)
            os.set_inheritable(number, True)
    if sys.stdout is None:
        sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115
    if sys.stderr is None:
        sys.stderr = open(2, "w", closefd=False)  # noqa: SIM115


def _close_streams() -> None:
    """Drop what cannot be written, of which `echo` has reported, so that Python does not try again when it ends."""
    for number, stream in ((1, sys.stdout), (2, sys.stderr)):
        try:
            stream.flush()
        except (OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), number)
