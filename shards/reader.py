"""Tar -> notes, the strict inverse of `shards.writer`: a file that is not exactly a shard is refused by name.

Stock WebDataset stops quietly at a cut tar; here that is an error, because nobody would notice the notes that are
missing. Nothing in a tar can run code: members are plain files, arrays are npy without pickles, labels are JSON.
"""

import io
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from shards.errors import ShardError
from shards.note import Note, json_object, npy_tokens
from shards.storage import local_copy
from shards.writer import BLOCK

PLAIN_FILE = (tarfile.REGTYPE[0], tarfile.AREGTYPE[0])
NAME, SIZE, CHECKSUM = slice(0, 100), slice(124, 136), slice(148, 156)  # fields of a member's header (POSIX ustar)
TYPE, PREFIX = 156, 345  # the first byte of: the member's type, the folder of its name
END_OF_TAR = bytes(2 * BLOCK)  # without it a tar was cut short


def read_shard(path: Path) -> Iterator[Note]:
    """Stream the notes of one tar in their order.

    Raises:
        ShardError: missing, cut short, not a tar, members that are no plain KEY.npy + KEY.json pairs, or content that
            is not flat int16 codes and a JSON object; names the file and the member.
    """
    try:
        with local_copy(path) as copy:
            yield from NoteFile(copy, display_path=path, check_headers=True)
    except FileNotFoundError as error:
        raise ShardError(f"{path}: missing; encode this set again") from error


class NoteFile:
    """Random access to the notes of one tar on this machine.

    Opening it scans the headers, a few bytes a note, for the offset of each note; reading a note is one read.
    """

    def __init__(
        self, path: Path, notes: int | None = None, display_path: Path | None = None, check_headers: bool = False
    ) -> None:
        """notes: the number in the manifest. display_path: the name in errors, if `path` is a copy.
        check_headers: verify their checksums, which takes as long as the rest of the scan.

        Raises:
            ShardError: missing, not a tar, cut short, or another number of notes.
        """
        self.path = path
        self.display_path = display_path or path
        self.offsets = self._scan(check_headers)  # (note + 1,) int64: bytes before each note and after the last
        if notes is not None and len(self) != notes:
            raise ShardError(
                f"{self.display_path}: holds {len(self)} notes, but the manifest says {notes}; "
                "`python -m shards verify` says what is wrong with the set"
            )

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __iter__(self) -> Iterator[Note]:
        return map(self.read, range(len(self)))

    def read(self, row: int) -> Note:
        """Read one note.

        Raises:
            ShardError: not a plain KEY.npy + KEY.json pair of flat int16 codes and a JSON object.
        """
        start, stop = int(self.offsets[row]), int(self.offsets[row + 1])
        file = os.open(self.path, os.O_RDONLY)  # per note; a file object costs more
        try:
            data = os.pread(file, stop - start, start)
        finally:
            os.close(file)
        try:
            members = self._members(data)
        except (tarfile.TarError, OSError, EOFError, ValueError) as error:
            raise self._error(f"note {row} is not a whole pair ({error}); encode this set again") from error
        key, kind, npy = members[0]
        if kind != "npy":
            raise self._error(f"{key}.{kind} is where a KEY.npy should be; encode this set again")
        name = f"{self.display_path}: {key}"
        tokens = npy_tokens(npy, f"{name}.npy")
        if [member[:2] for member in members[1:]] != [(key, "json")]:
            raise self._error(f"{key}.npy has no {key}.json behind it; encode this set again")
        return Note(key, tokens, json_object(members[1][2], f"{name}.json"))

    def _members(self, data: bytes) -> list[tuple[str, str, bytes]]:
        """(key, ending, content) of a note's members."""
        members = []
        position = 0
        while position < len(data):
            header = data[position : position + BLOCK]
            if header[TYPE] not in PLAIN_FILE or header[PREFIX]:
                return self._members_by_tarfile(data)
            size = _octal(header[SIZE])
            position += BLOCK
            members.append((*self._split(header[NAME].rstrip(b"\0").decode()), data[position : position + size]))
            position += _padded(size)
        return members

    def _members_by_tarfile(self, data: bytes) -> list[tuple[str, str, bytes]]:
        """The same for names that have a header of their own (PAX), and for all else that a tar can hold."""
        members = []
        with tarfile.open(fileobj=io.BytesIO(data + END_OF_TAR), mode="r:") as tar:
            for member in tar:
                if member.type[0] not in PLAIN_FILE or member.issparse():
                    raise self._foreign(member.name)
                content = tar.extractfile(member)
                assert content is not None, "a plain file has content"
                members.append((*self._split(member.name), content.read()))
        if not members:
            raise tarfile.ReadError("headers without a file")
        return members

    def _split(self, name: str) -> tuple[str, str]:
        """KEY.npy -> (KEY, npy)."""
        key, _, kind = name.partition(".")
        if not key or "/" in name or "\0" in name:
            raise self._foreign(name)
        return key, kind

    def _scan(self, check_headers: bool) -> np.ndarray:
        offsets, members, position, is_extended = [], 0, 0, False
        try:
            with self.path.open("rb") as file:
                while any(header := os.pread(file.fileno(), BLOCK, position)):
                    if check_headers and _checksum(header) != _octal(header[CHECKSUM]):
                        raise ValueError(f"the checksum of the header at byte {position} is wrong")
                    if not is_extended and members % 2 == 0:
                        offsets.append(position)
                    is_extended = header[TYPE] not in PLAIN_FILE  # a header that describes the member behind it
                    members += not is_extended
                    position += BLOCK + _padded(_octal(header[SIZE]))
                if os.pread(file.fileno(), len(END_OF_TAR), position) != END_OF_TAR:
                    size = os.fstat(file.fileno()).st_size
                    raise self._error(f"is cut short after {size} bytes; encode this set again")
        except FileNotFoundError as error:
            raise ShardError(f"{self.display_path}: missing; encode this set again") from error
        except (OSError, ValueError, IndexError) as error:
            raise self._error(f"is not a whole tar ({error}); encode this set again") from error
        return np.array([*offsets, position], np.int64)

    def _foreign(self, name: str) -> ShardError:
        return self._error(f"member {name!r} is not a plain file of a note; do not use this tar")

    def _error(self, fact: str) -> ShardError:
        return ShardError(f"{self.display_path}: {fact}")


def _octal(field: bytes) -> int:
    """A number of a header. Only plain octal digits: Python would take a minus sign too."""
    digits = field.strip(b" \0")
    if not digits.isdigit():
        raise ValueError(f"{digits!r} is not a number")
    return int(digits, 8)


def _checksum(header: bytes) -> int:
    """The sum of a header's bytes, those of the checksum itself taken as spaces."""
    return sum(header) - sum(header[CHECKSUM]) + 8 * ord(" ")


def _padded(size: int) -> int:
    """Bytes of a member's content with its padding to whole blocks."""
    return -(-size // BLOCK) * BLOCK
