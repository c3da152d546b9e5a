"""Local copies of remote shards: each is fetched once, and shared by all runs and ranks of this machine.

A copy is checked by its sha256 when it is fetched, and again whenever a process first uses it. Its folder is the sha256
of its bytes, so sets share what is the same. Nothing is ever deleted here: `~/.cache/note-tokens` (or
`$XDG_CACHE_HOME/note-tokens`) can be removed at any time.
"""

import fcntl
import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from shards.errors import ShardError, writing
from shards.files import atomic_write, cache_folder, sha256_of, sha256_of_open
from shards.manifest import Shard
from shards.storage import fetch, is_remote

CURE = "make room, or name another folder in XDG_CACHE_HOME"
SHA256 = re.compile(r"[0-9a-f]{64}")


def cached_shard(folder: Path, shard: Shard) -> Path:
    """The path of the shard's tar in a local set, or of its copy, whose size and sha256 are those of the manifest.

    Raises:
        ShardError: missing, or other bytes than the manifest says.
        UserError: it cannot be fetched.
    """
    if not is_remote(folder):
        return folder / shard.name
    if SHA256.fullmatch(shard.sha256) is None:
        raise ShardError(f"{folder / shard.name}: {shard.sha256!r} is no sha256; encode this set again")
    copy = cache_folder() / "note-tokens" / "shards" / shard.sha256 / shard.name
    if not _is_whole(copy, shard):
        with writing(copy.parent, CURE):
            copy.parent.mkdir(parents=True, exist_ok=True)
        with _lock_folder(copy.parent):  # the first of several workers and ranks fetches it, the others wait
            if not _is_whole(copy, shard):
                _fetch_shard(folder / shard.name, shard, copy)
    return copy


def _is_whole(copy: Path, shard: Shard) -> bool:
    return copy.is_file() and copy.stat().st_size == shard.bytes and sha256_of(copy) == shard.sha256


def _fetch_shard(path: Path, shard: Shard, copy: Path) -> None:
    with atomic_write(copy, secrets.token_hex(4), CURE) as file:
        try:
            fetch(path, Path(file.name), shard.bytes)
        except FileNotFoundError as error:
            raise ShardError(f"{path}: missing; encode this set again") from error
        if sha256_of_open(file) != shard.sha256:
            raise ShardError(f"{path}: its sha256 is not the manifest's, so its bytes changed; encode this set again")


@contextmanager
def _lock_folder(folder: Path) -> Iterator[None]:
    """Lock the folder. On a file system without locks several processes may fetch a shard; the last copy stays."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
