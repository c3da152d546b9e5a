"""Atomic writes and digests: a name that exists is a file that is whole and on the disk, or a whole object.

Knows nothing of what the files hold.
"""

import hashlib
import json
import multiprocessing.util
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from shards.console import path_bytes
from shards.errors import CURE, UserError
from shards.storage import TMPDIR_CURE, is_remote, local_copy, temporary_folder, upload

PART = ".part"  # ending of a file that is still being written
LONGEST_TMPDIR = 70  # bytes: a socket's path has 103, and multiprocessing adds 32
HASH_CHUNK = 1 << 20  # bytes read at a time, so that memory does not grow with the file


@contextmanager
def atomic_write(path: Path, writer: str = "", cure: str = CURE) -> Iterator[BinaryIO]:
    """Open `path` for writing and reading; the name appears when the block ends without an error, bytes on disk.

    Writes `path.part`, then fsync, rename, fsync of the folder (POSIX: a rename within a folder is atomic). If the
    block raises, the part is removed and an older `path` stays as it was. Processes that may write the same `path`
    at once give different names as `writer`, so that no two share a part. `cure`: the end of the error.

    Under a URL, the file is written on this machine and uploaded as one object when the block ends without an error.

    Raises:
        UserError: the disk is full, or the folder cannot be written; names the path.
    """
    if is_remote(path):
        with temporary_folder() as folder:
            copy = folder / path.name
            with atomic_write(copy, cure=TMPDIR_CURE) as file:
                yield file
            upload(copy, path)
        return
    part = path.with_name(f"{path.name}.{writer}{PART}" if writer else path.name + PART)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with part.open("w+b") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            part.replace(path)
        except BaseException:
            part.unlink(missing_ok=True)
            raise
        _sync_folder(path.parent)
    except OSError as error:
        if error.filename is None or Path(error.filename) in (part, path, *path.parents):
            raise UserError(f"{path}: cannot be written ({error.strerror or error}); {cure}") from error
        raise


def write_json(path: Path, value: Any, writer: str = "") -> None:
    """Write `value` as indented JSON, whole or not at all; the same value gives the same bytes."""
    with atomic_write(path, writer) as file:
        file.write(json.dumps(value, indent=2, ensure_ascii=False).encode() + b"\n")


def sha256_of(path: Path) -> str:
    """The file's sha256, in hexadecimal."""
    with local_copy(path) as copy, copy.open("rb") as file:
        return sha256_of_open(file)


def sha256_of_open(file: BinaryIO) -> str:
    """The sha256 of the bytes from the file's position to its end, in hexadecimal."""
    digest = hashlib.sha256()
    while chunk := file.read(HASH_CHUNK):
        digest.update(chunk)
    return digest.hexdigest()


def cache_folder() -> Path:
    """The folder of this user's caches.

    Raises:
        UserError: the user has no home folder.
    """
    if folder := os.environ.get("XDG_CACHE_HOME"):
        return Path(folder)
    try:
        return Path.home() / ".cache"
    except RuntimeError as error:
        raise UserError("caches need a folder, and you have no home folder; name it in XDG_CACHE_HOME") from error


@contextmanager
def utf8_path(path: Path) -> Iterator[Path]:
    """The path, or for one that is not UTF-8 another of the same file, for libraries that take no other."""
    try:
        path_bytes(path).decode()
    except UnicodeDecodeError:
        with path.open("rb") as file:
            yield Path(f"/proc/self/fd/{file.fileno()}")  # Linux: other systems have no such paths
    else:
        yield path


def shorten_socket_paths() -> None:
    """Let multiprocessing make its sockets in /tmp if their paths in TMPDIR would be longer than the system allows."""
    folder = tempfile.gettempdir()
    if len(os.fsencode(folder)) > LONGEST_TMPDIR:
        tempfile.tempdir = "/tmp"
        try:
            multiprocessing.util.get_temp_dir()  # which it keeps from now on
        finally:
            tempfile.tempdir = folder


def _sync_folder(folder: Path) -> None:
    """Make a rename durable: without it a power cut can undo a file that was already reported as written."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
