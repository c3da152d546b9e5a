"""Tar -> notes: the strict inverse of `shards.writer`. What is not exactly a shard is refused by name.

Stock WebDataset stops quietly at a cut tar; here a cut is an error, because a short epoch that nobody notices is worse.
"""

import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from shards.errors import ShardError
from shards.note import Note, json_object, npy_array
from shards.storage import local_copy

BLOCK = tarfile.BLOCKSIZE  # bytes
END_OF_TAR = bytes(2 * BLOCK)  # POSIX: two blocks of zeros, without which a tar was cut short


def read_shard(path: Path) -> Iterator[Note]:
    """Stream the notes of one tar in their order.

    Raises:
        ShardError: missing, cut short, not a tar, members that are no plain KEY.npy + KEY.json pairs, or content that
            is not flat int16 codes and a JSON object; names the file and the member.
    """
    members = _members(path)
    for key, kind, data in members:
        if kind != "npy":
            raise ShardError(f"{path}: {key}.{kind} stands where a KEY.npy should; encode this set again")
        tokens = npy_array(data, f"{path}: {key}.npy")
        if tokens.ndim != 1 or tokens.dtype.str != "<i2":
            raise ShardError(f"{path}: {key}.npy holds {tokens.dtype} of shape {tokens.shape}, not flat int16 codes")
        other, kind, data = next(members, ("", "", b""))
        if (other, kind) != (key, "json"):
            raise ShardError(f"{path}: {key}.npy has no {key}.json behind it; encode this set again")
        yield Note(key, tokens, json_object(data, f"{path}: {key}.json"))


def _members(path: Path) -> Iterator[tuple[str, str, bytes]]:
    """(key, ending, bytes) of each member of the tar."""
    try:
        with local_copy(path) as copy, copy.open("rb") as file, tarfile.open(fileobj=file, mode="r:") as tar:
            for info in tar:
                key, _, kind = info.name.partition(".")
                if not info.isreg() or "/" in info.name or not key:
                    raise ShardError(f"{path}: member {info.name!r} is not a plain file of a note; do not use this tar")
                yield key, kind, _content(tar.extractfile(info), info.size, f"{path}: {info.name}")
            file.seek(tar.offset)
            if not file.read(len(END_OF_TAR)) == END_OF_TAR:
                raise ShardError(f"{path}: is cut short after {tar.offset} bytes; encode this set again")
    except FileNotFoundError as error:
        raise ShardError(f"{path}: missing; encode this set again") from error
    except (tarfile.TarError, OSError, UnicodeError, ValueError, EOFError) as error:
        raise ShardError(f"{path}: is not a whole tar ({error}); encode this set again") from error


def _content(file: IO[bytes] | None, size: int, where: str) -> bytes:
    data = file.read() if file is not None else b""
    if len(data) != size:
        raise ShardError(f"{where}: is cut short, {len(data)} of {size} bytes; encode this set again")
    return data
