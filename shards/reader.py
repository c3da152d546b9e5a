"""Tar -> notes, the strict inverse of `shards.writer`: a file that is not exactly a shard is refused by name.

Stock WebDataset stops quietly at a cut tar; here that is an error, because nobody would notice the notes that are
missing. Nothing in a tar can run code: members are plain files, arrays are npy without pickles, labels are JSON.
"""

import os
import struct
from array import array
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path

import numpy as np

from shards.console import counted
from shards.errors import ShardError
from shards.note import MOST_TOKENS, NPY_HEADER, Note, npy_length, npy_tokens
from shards.parse import json_object
from shards.storage import local_copy
from shards.writer import BLOCK

NAME, SIZE, CHECKSUM = slice(0, 100), slice(124, 136), slice(148, 156)  # fields of a member's header (POSIX ustar)
TYPE, PREFIX = 156, 345  # the first byte of: the member's type, the folder of its name
HEADER = struct.Struct("100s 24x 12s 20x B 188x B 166x")  # name, size, type, prefix of a header, at once
PLAIN_FILE = b"0\0"  # types
PAX_HEADER, GNU_NAME = ord("x"), ord("L")  # types of members that hold the name of the one behind them
MOST_NAME = 8_192  # bytes of such a member, far more than a key needs
FORBIDDEN = ("size", "linkpath", "GNU.sparse")  # PAX records that make another member of it
MOST_BYTES = 2 * MOST_TOKENS + (1 << 20)  # of a note's two members
END_OF_TAR = bytes(2 * BLOCK)  # without it a tar was cut short
PADDING = 1 << 16  # bytes, all 0, that may follow the last note: writers fill up their blocks
SCAN = 1 << 14  # bytes that a scan reads at once where notes are shorter
READ_WHOLE = 1 << 15  # bytes of a note up to which a crop of it is not worth reads of its own

Crop = Callable[[int], slice]  # the tokens to read of a note, by their number; start and stop are in its range
CURE = "encode this set again"


def read_shard(path: Path) -> Iterator[Note]:
    """Stream the notes of one tar in their order.

    Raises:
        ShardError: missing, cut short, not a tar, members that are no plain KEY.npy + KEY.json pairs, or content that
            is not flat int16 codes and a JSON object; names the file and the member.
    """
    try:
        keys: set[str] = set()
        with local_copy(path) as copy:
            for note in NoteFile(copy, display_path=path, check_headers=True):
                if note.key in keys:
                    raise ShardError(f"{path}: holds two notes of the key {note.key}; {CURE}")
                keys.add(note.key)
                yield note
    except FileNotFoundError as error:
        raise ShardError(f"{path}: missing; {CURE}") from error


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
        self._file_name, self._display_name = str(path), str(self.display_path)  # once, because each note needs them
        self._file: int | None = None  # descriptor, between `open` and `close`
        self.offsets = self._scan(check_headers)  # (note + 1,) int64: bytes before each note and after the last
        if notes is not None and len(self) != notes:
            raise ShardError(
                f"{self.display_path}: holds {counted(len(self), 'note')}, but the manifest says {notes}; "
                "`python -m shards verify` says what is wrong with the set"
            )

    def open(self) -> None:
        """Open the file for the reads until `close`. Without it each read opens and closes it, which takes as long as
        the read itself. Raises OSError."""
        self._file = os.open(self._file_name, os.O_RDONLY)  # a file object costs more

    @property
    def is_open(self) -> bool:
        return self._file is not None

    def close(self) -> None:
        """Undo `open`."""
        if self._file is not None:
            os.close(self._file)
        self._file = None

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __iter__(self) -> Iterator[Note]:
        return map(self.read, range(len(self)))

    def read(self, row: int) -> Note:
        """Read one note.

        Raises:
            ShardError: as `read_crop`.
        """
        note, _ = self.read_crop(row, None)
        return note

    def read_crop(self, row: int, crop: Crop | None) -> tuple[Note, int]:
        """Read one note with a crop of its tokens, and the number of all of them. The rest of a long note's tokens
        stays unread.

        Raises:
            ShardError: not a plain KEY.npy + KEY.json pair of flat int16 codes and a JSON object.
        """
        start, stop = self.offsets[row], self.offsets[row + 1]
        if stop - start > MOST_BYTES:
            raise self._error(f"note {row} has {stop - start} bytes, more than any note; do not use this tar")
        file = os.open(self._file_name, os.O_RDONLY) if self._file is None else self._file
        try:
            is_whole = crop is None or stop - start <= READ_WHOLE
            whole = os.pread(file, stop - start, start) if is_whole else None
            if whole is not None and len(whole) == stop - start and (pair := _plain_pair(whole)) is not None:
                return self._plain_note(*pair, crop)
            return self._read_pair(file, start, stop, whole, crop)
        except ValueError as error:
            raise self._error(f"note {row} is not a whole pair ({error}); {CURE}") from error
        finally:
            if file != self._file:
                os.close(file)

    def _plain_note(self, key: str, npy: bytes, labels: bytes, crop: Crop | None) -> tuple[Note, int]:
        """`_read_pair` of the contents of a plain pair's members."""
        name = f"{self._display_name}: {key}"
        tokens = npy_tokens(npy, f"{name}.npy")
        part = tokens[crop(len(tokens))] if crop else tokens
        return Note(key, part, json_object(labels, f"{name}.json", cure=CURE)), len(tokens)

    def _read_pair(self, file: int, start: int, stop: int, whole: bytes | None, crop: Crop | None) -> tuple[Note, int]:
        """`read_crop` of a note whose members are of any kind. file: descriptor; start, stop: offsets in it; whole: the
        bytes there, if they have been read.

        Raises:
            ShardError: as `read_crop`.
            ValueError: headers that make no sense, or bytes that are missing.
        """

        def read(position: int, size: int) -> bytes:
            data = os.pread(file, size, start + position) if whole is None else whole[position : position + size]
            if len(data) < size:
                raise ValueError("it is cut short")
            return data

        members = self._members(read, stop - start)
        key, kind, position, size = members[0]
        if kind != "npy":
            raise self._error(f"{key}.{kind} is where a KEY.npy should be; {CURE}")
        name = f"{self._display_name}: {key}"
        length = npy_length(read(position, min(size, NPY_HEADER)), size, f"{name}.npy")
        part = crop(length) if crop else slice(0, length)
        first = position + NPY_HEADER + 2 * part.start
        tokens = np.frombuffer(read(first, 2 * (part.stop - part.start)), "<i2")
        if [member[:2] for member in members[1:]] != [(key, "json")]:
            raise self._error(f"{key}.npy has no {key}.json behind it; {CURE}")
        labels = read(*members[1][2:])
        return Note(key, tokens, json_object(labels, f"{name}.json", cure=CURE)), length

    def _members(self, read: Callable[[int, int], bytes], end: int) -> list[tuple[str, str, int, int]]:
        """(key, ending, offset of its content, bytes of it) of a note's members."""
        members = []
        position = 0
        while position < end:
            header = read(position, BLOCK)
            name = None
            if header[TYPE] not in PLAIN_FILE or header[PREFIX]:
                name, position = self._long_name(read, position)
                header = read(position, BLOCK)
            size = _octal(header[SIZE])
            position += BLOCK
            name = name or header[NAME].rstrip(b"\0").decode()
            members.append((*self._split(name), position, size))
            position += _padded(size)
        return members

    def _long_name(
        self, read: Callable[[int, int], bytes], position: int, check_headers: bool = False
    ) -> tuple[str | None, int]:
        """The name in the PAX or GNU header at `position`, and the offset of the header of its member.

        None: the name is in the member's own header. read: called with an offset and a number of bytes.

        Raises:
            ShardError: a member that is no plain file.
            ValueError: no header.
        """
        header = read(position, BLOCK)
        if header[TYPE] not in (PAX_HEADER, GNU_NAME):
            raise self._foreign(header[NAME].rstrip(b"\0").decode("utf-8", "backslashreplace"))
        size = _octal(header[SIZE])
        if size > MOST_NAME:
            raise ValueError(f"a name of {size} bytes")
        content = read(position + BLOCK, size)
        name = _pax_path(content) if header[TYPE] == PAX_HEADER else content.rstrip(b"\0").decode()
        position += BLOCK + _padded(size)
        header = read(position, BLOCK)
        if len(header) < BLOCK or header[TYPE] not in PLAIN_FILE:  # one such header describes one plain file
            raise self._foreign(name or "?")
        if check_headers:
            _check(header, position)
        return name, position

    def _split(self, name: str) -> tuple[str, str]:
        """KEY.npy -> (KEY, npy)."""
        key, _, kind = name.partition(".")
        if not key or "/" in name or "\0" in name:
            raise self._foreign(name)
        return key, kind

    def _scan(self, check_headers: bool) -> "array[int]":
        offsets, members, position = array("q"), 0, 0
        if self.path.exists() and not self.path.is_file():  # a named pipe would wait for a writer
            raise self._error(f"is not a file; {CURE}")
        try:
            with self.path.open("rb") as file:
                block, first, ahead = b"", 0, SCAN  # bytes of the file, their offset, and how many are read at once

                def read(start: int, size: int) -> bytes:
                    nonlocal block, first
                    data = block[start - first : start - first + size]  # offsets only grow
                    if len(data) < size:
                        block, first = os.pread(file.fileno(), max(size, ahead), start), start
                        data = block[:size]
                    return data

                while any(header := read(position, BLOCK)):
                    if check_headers:
                        _check(header, position)
                    if members % 2 == 0:
                        offsets.append(position)
                    if header[TYPE] not in PLAIN_FILE or header[PREFIX]:
                        _, position = self._long_name(read, position, check_headers)
                        header = read(position, BLOCK)
                    members += 1
                    position += BLOCK + _padded(_octal(header[SIZE]))
                    ahead = SCAN if position - offsets[-1] < SCAN else 0  # of long notes the headers alone
                end, size = read(position, PADDING), os.fstat(file.fileno()).st_size
                if not end.startswith(END_OF_TAR):
                    raise self._error(f"is cut short after {size} bytes; {CURE}")
                if any(end) or position + len(end) != size:
                    raise self._error(f"goes on behind its end at byte {position}; {CURE}")
        except FileNotFoundError as error:
            raise ShardError(f"{self.display_path}: missing; {CURE}") from error
        except (OSError, OverflowError, ValueError, IndexError) as error:
            raise self._error(f"is not a whole tar ({error}); {CURE}") from error
        offsets.append(position)
        return offsets

    def _foreign(self, name: str) -> ShardError:
        return self._error(f"member {name!r} is not a plain file of a note; do not use this tar")

    def _error(self, fact: str) -> ShardError:
        return ShardError(f"{self.display_path}: {fact}")


def _plain_pair(data: bytes) -> tuple[str, bytes, bytes] | None:
    """Key, npy and JSON of a note whose members are `data`, if they are as `shards.writer` writes all but those with
    long and foreign names. None: `NoteFile._members` reads them, or says what is wrong.

    Raises:
        ValueError: a size that is no number.
    """
    if len(data) < 2 * BLOCK:
        return None
    name, digits, kind, prefix = HEADER.unpack_from(data)
    if prefix or kind not in PLAIN_FILE:
        return None
    key, _, ending = name.rstrip(b"\0").partition(b".")
    npy_end = BLOCK + _octal(digits)
    header = _padded(npy_end)
    if ending != b"npy" or not key or not key.isascii() or b"/" in key or b"\0" in key or header > len(data) - BLOCK:
        return None
    name, digits, kind, prefix = HEADER.unpack_from(data, header)
    if prefix or kind not in PLAIN_FILE or name.rstrip(b"\0") != key + b".json":
        return None
    json_end = header + BLOCK + _octal(digits)
    if _padded(json_end) != len(data):
        return None
    return key.decode(), data[BLOCK:npy_end], data[header + BLOCK : json_end]


@lru_cache(maxsize=1024)  # notes of a set have few sizes
def _octal(field: bytes) -> int:
    """A number of a header. Only plain octal digits: Python would take a minus sign too."""
    digits = field.strip(b" \0")
    if not digits.isdigit():
        raise ValueError(f"{digits!r} is not a number")
    return int(digits, 8)


def _check(header: bytes, position: int) -> None:
    """Raise ValueError unless the checksum fits: the sum of the header's bytes, its own taken as spaces."""
    if sum(header) - sum(header[CHECKSUM]) + 8 * ord(" ") != _octal(header[CHECKSUM]):
        raise ValueError(f"the checksum of the header at byte {position} is wrong")


def _pax_path(content: bytes) -> str | None:
    """The `path` in the records of a PAX header, each `LENGTH KEY=VALUE\\n`, if any. Raises ValueError: no records."""
    name = None
    while content:
        digits, _, _ = content.partition(b" ")
        length = int(digits) if digits.isdigit() and len(digits) < 6 else 0
        key, equals, value = content[len(digits) + 1 : length - 1].decode().partition("=")
        if not equals or content[length - 1 : length] != b"\n" or key.startswith(FORBIDDEN):
            raise ValueError(f"a PAX header with {key[:20]!r}")
        name = value if key == "path" else name
        content = content[length:]
    return name


def _padded(size: int) -> int:
    """Bytes of a member's content with its padding to whole blocks."""
    return -(-size // BLOCK) * BLOCK
