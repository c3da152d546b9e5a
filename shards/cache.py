"""A shard that lies under a URL, as a file on this machine: fetched once, checked, and shared by all that train on it.

Kept by the sha256 of its bytes, so runs, ranks and sets have one copy of what is the same. Nothing is ever deleted
here: `~/.cache/note-tokens` (or `$XDG_CACHE_HOME/note-tokens`) can be removed at any time.
"""

import fcntl
import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from shards.errors import ShardError
from shards.files import atomic_write, sha256_of_open
from shards.manifest import Shard
from shards.storage import fetch, is_remote

SHA256 = re.compile(r"[0-9a-f]{64}")


def cached_shard(folder: Path, shard: Shard) -> Path:
    """The shard's file: in the set, or a copy that has the size and the sha256 which the manifest says.

    Raises:
        ShardError: missing, or other bytes than the manifest says.
        UserError: it cannot be brought.
    """
    if not is_remote(folder):
        return folder / shard.name
    if SHA256.fullmatch(shard.sha256) is None:
        raise ShardError(f"{folder / shard.name}: {shard.sha256!r} is no sha256; encode this set again")
    kept = _home() / shard.sha256 / shard.name
    if not _is_kept(kept, shard):
        kept.parent.mkdir(parents=True, exist_ok=True)
        with _one_at_a_time(kept.parent):  # of loader workers and ranks that want it all at once, the first fetches it
            if not _is_kept(kept, shard):
                _fetch(folder / shard.name, shard, kept)
    return kept


def _is_kept(kept: Path, shard: Shard) -> bool:
    return kept.is_file() and kept.stat().st_size == shard.bytes


def _fetch(path: Path, shard: Shard, kept: Path) -> None:
    with atomic_write(kept, writer=secrets.token_hex(4)) as file:
        try:
            fetch(path, Path(file.name), shard.bytes)
        except FileNotFoundError as error:
            raise ShardError(f"{path}: missing; encode this set again") from error
        if sha256_of_open(file) != shard.sha256:
            raise ShardError(f"{path}: its sha256 is not the manifest's, so its bytes changed; encode this set again")


def _home() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "note-tokens" / "shards"


@contextmanager
def _one_at_a_time(folder: Path) -> Iterator[None]:
    """Where the file system has no locks, several may fetch the same: the last one's copy stays."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
