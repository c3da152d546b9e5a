"""Text for terminals and log files: reports of any characters, commands to paste, progress bars.

Knows nothing of what is reported.
"""

import json
import os
import shlex
import sys
import unicodedata
from contextlib import suppress
from pathlib import Path
from typing import Any, TextIO

import click

STDOUT = "standard output"  # name of the file in an error
BAR_INTERVAL = 0.1  # seconds between updates of a bar on a terminal
LOG_INTERVAL = 15.0  # in a log file
SCRIPTS = {"pipeline": "note-tokens", "shards": "note-shards", "trainer": "note-trainer"}  # package -> console script


def echo(text: str, err: bool = False) -> None:
    """Print a line to stdout or stderr; characters that it cannot show are escaped.

    Raises:
        OSError: stdout is full or closed. A stderr that is so stays silent, as there is nobody to tell.
    """
    line = escape(name_scripts(text), sys.stderr if err else sys.stdout)
    try:
        click.echo(line, err=err)
    except OSError as error:
        if not err:
            error.filename = STDOUT
            raise


def name_scripts(text: str) -> str:
    """Commands in a text as they work where the program was started by a console script: by their scripts' names."""
    if Path(sys.argv[0]).name not in SCRIPTS.values():
        return text
    for package, script in SCRIPTS.items():
        text = text.replace(f"python -m {package} ", f"{script} ")
    return text


def echo_json(value: Any) -> None:
    """Print a value as JSON in one line, in ASCII where stdout cannot show its characters. Raises OSError as `echo`."""
    text = json.dumps(value, ensure_ascii=False)
    echo(text if escape(text, sys.stdout) == text else json.dumps(value))


def escape(text: str, stream: TextIO) -> str:
    """Text that the stream can show on one line: `\\xe9` for a byte that is not UTF-8, `\\n` for a newline."""
    escaped = text if text.isprintable() else "".join(map(_escape_letter, text))
    encoding = getattr(stream, "encoding", None) or "utf-8"
    return escaped.encode(encoding, "backslashreplace").decode(encoding)


def counted(number: int, noun: str) -> str:
    """A number of things, `1 note` or `1,925 notes`; the plural of `noun` ends in s."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def quote(path: Path | str) -> str:
    """A path as a word of a shell command that can be pasted, whatever is in it and whatever stdout can show."""
    text = str(path)
    if escape(text, sys.stdout) == text:
        return shlex.quote(text)
    letters = (
        chr(byte) if 0x20 <= byte < 0x7F and byte not in b"'\\" else f"\\x{byte:02x}" for byte in path_bytes(text)
    )
    return f"$'{''.join(letters)}'"  # of bash and zsh


def progress_bar(**options: Any) -> Any:
    """A tqdm bar on stderr. A log file gets its first line after `LOG_INTERVAL`, and never two within it."""
    from tqdm import tqdm

    log = {"mininterval": LOG_INTERVAL, "maxinterval": LOG_INTERVAL, "delay": LOG_INTERVAL, "miniters": 0}
    return tqdm(file=_Stderr(), **({"mininterval": BAR_INTERVAL} if is_terminal() else log) | options)


def echo_above_bar(text: str) -> None:
    """Print a line to stderr while a bar is shown there."""
    from tqdm import tqdm

    if is_terminal():
        tqdm.write(escape(text, sys.stderr), file=_Stderr())
    else:
        echo(text, err=True)


def is_terminal() -> bool:
    """True if stderr is a terminal, where bars can move."""
    return sys.stderr.isatty()


class _Stderr:
    """stderr, where a full disk ends no bar: a log must not stop a run of hours."""

    def write(self, text: str) -> None:
        with suppress(OSError):
            sys.stderr.write(text)

    def flush(self) -> None:
        with suppress(OSError):
            sys.stderr.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(sys.stderr, name)


def _escape_letter(letter: str) -> str:
    if letter.isprintable() or unicodedata.category(letter) == "Zs":  # spaces of all widths
        return letter
    code = ord(letter)
    if 0xDC80 <= code <= 0xDCFF:  # a byte that is not UTF-8, as Python decodes names of files
        return f"\\x{code - 0xDC00:02x}"
    return letter.encode("unicode_escape").decode()


def path_bytes(path: Path | str) -> bytes:
    """A path as the system has it."""
    try:
        return os.fsencode(str(path))
    except UnicodeEncodeError:  # of a URL, where the locale's encoding is not UTF-8
        return str(path).encode("utf-8", "surrogateescape")
