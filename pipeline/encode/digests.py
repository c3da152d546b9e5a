"""Digests of audio files, and the cache that saves hashing: a file is read only where its size or version has changed.

The cache of a set `NAME` is `NAME.inputs.json` beside the set's folder; on an object store, the object beside the set,
so that every machine that reaches the set shares it. It is only a cache: without it, all files are hashed. An ETag
tells only whether a cached digest still holds. Knows nothing of notes, shards and records.
"""

import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

from pipeline.audio import AudioError
from pipeline.encode.ranks import StoppedError
from pipeline.notes.folder import EMPTY, AudioFile, AudioFolder
from shards.errors import UserError
from shards.files import atomic_write
from shards.parse import read_object
from shards.storage import is_remote, join_path, local_copy, path_text

EDGE = 1 << 19  # bytes at each end of a file; most notes are smaller than two of these
BLOCK = 1 << 22  # bytes of a large file in memory
DIGEST = 32  # hexadecimal digits of the hash of a small file; of a large one, two hashes of as many
HASHERS = 8  # threads: they wait for the disk, not for each other
QUEUED = 1024  # files that wait for them; each takes two kilobytes


class AudioDigests:
    """Digests of the files of one folder, for one set."""

    def __init__(self, folder: AudioFolder, out: Path, check_audio: bool = False) -> None:
        """`check_audio`: hash files whose digest is in the cache, too."""
        self.root = folder.root
        self._files = {file.path: file for file in folder.inputs}
        self._cache = cache_file(out)
        self._digests = {} if check_audio else self._read_cache()
        self._is_saved = True

    def of(self, files: Iterable[AudioFile], recorded: Mapping[str, str]) -> list[str]:
        """Digests of `files`, from their record (AudioFile.display_path -> digest) where not known.

        Of a large file whose record has the hash of its edges alone, that one.
        """
        return [self._of(file, recorded.get(file.display_path)) for file in files]

    def differs(self, file: AudioFile, recorded: str) -> bool:
        """True if the file is known not to be what it was when `recorded` was written."""
        return self._of(file, recorded) != recorded

    def add(self, file: AudioFile, digest: str) -> None:
        """Take over a digest that a worker has computed."""
        self._digests[file.path] = digest
        self._is_saved = False

    def find_faults(self, files: Iterable[AudioFile]) -> tuple[AudioFile, ...]:
        """`files`, with the fault of those that cannot be read or are empty.

        Local files are hashed to find out. Files under a URL are not, unless the server does not say their size.
        """
        files = tuple(files)
        faults = self.hash_files(file for file in files if not is_remote(self.root) or file.size is None)
        return tuple(replace(file, fault=faults[file.path]) if file.path in faults else file for file in files)

    def hash_files(self, files: Iterable[AudioFile]) -> dict[str, tuple[str, str]]:
        """Hash those of `files` whose digest is not known. Returns the fault of those that cannot be read, by path.

        Raises:
            UserError: a file under a URL is gone or cannot be read.
        """
        unknown = [file for file in files if file.fault is None and file.path not in self._digests]
        faults: dict[str, tuple[str, str]] = {}
        if unknown:
            with ThreadPoolExecutor(HASHERS) as hashers:
                for start in range(0, len(unknown), QUEUED):
                    queued = unknown[start : start + QUEUED]
                    for file, result in zip(queued, hashers.map(self._hash, queued), strict=True):
                        if isinstance(result, AudioError):
                            faults[file.path] = (result.reason, result.detail)
                        else:
                            self.add(file, result)
        return faults

    def save(self, writer: str = "") -> None:
        """Write the cache, with what other ranks have added to it meanwhile; whole, or if that fails not at all.

        `writer`: as in `atomic_write`.
        """
        if self._cache is None or self._is_saved:
            return
        self._is_saved = True
        digests = self._read_cache() | self._digests
        try:
            with atomic_write(self._cache, writer) as cache:
                cache.write(f'{{"source": {json.dumps(path_text(self.root))}, "files": {{'.encode())
                end = "\n"
                for text, file in self._by_text().items():  # one at a time: there may be a million
                    if file.path in digests and file.version:
                        entry = json.dumps([file.size, file.version, digests[file.path]])
                        cache.write(f"{end}{json.dumps(text)}: {entry}".encode())
                        end = ",\n"
                cache.write(b"\n}}\n")
        except StoppedError:
            raise
        except UserError:
            return  # a run needs no cache

    def _of(self, file: AudioFile, recorded: str | None) -> str:
        digest = self._digests.get(file.path) or recorded
        assert digest is not None, "the files of a rank's own tasks are hashed"
        return digest if recorded is None else digest[: len(recorded)]

    def _hash(self, file: AudioFile) -> str | AudioError:
        try:
            with local_copy(join_path(self.root, file.path)) as copy:
                return hash_file(copy)
        except AudioError as error:
            if is_remote(self.root) and file.size:
                raise gone_since(join_path(self.root, file.path), "has changed") from error
            return error
        except FileNotFoundError as error:
            raise gone_since(join_path(self.root, file.path), "is gone") from error

    def _by_text(self) -> dict[str, AudioFile]:
        """The files by their paths as text; those that no text tells apart are in no cache."""
        counts = Counter(file.display_path for file in self._files.values())
        return {file.display_path: file for file in self._files.values() if counts[file.display_path] == 1}

    def _read_cache(self) -> dict[str, str]:
        """The cached digests that still hold: path -> digest; none if the cache is damaged or of another folder."""
        digests: dict[str, str] = {}
        try:
            value: Any = read_object(self._cache, "delete it") if self._cache is not None else {}
            entries = value["files"] if value["source"] == path_text(self.root) else {}
            files = self._by_text()
            for text, (size, version, digest) in entries.items():
                file = files.get(text)
                if file is None or (file.size, file.version) != (size, version) or not version:
                    continue
                if isinstance(digest, str) and len(digest) in (DIGEST, 2 * DIGEST):
                    digests[file.path] = digest
        except StoppedError:
            raise
        except (OSError, UserError, ValueError, KeyError, TypeError, AttributeError):
            return {}
        return digests


def cache_file(out: Path) -> Path | None:
    """The cache beside the set `out`; None if there is nothing beside it, as with a whole bucket."""
    folder = out if is_remote(out) else out.resolve()
    return folder.parent / f"{folder.name}.inputs.json" if folder.name else None


def hash_file(path: Path) -> str:
    """Digest of a file on this machine: of its size and its bytes.

    That of a large file begins with a hash that leaves out its middle, all that earlier versions wrote.

    Raises:
        AudioError: it is empty or cannot be read.
    """
    try:
        with open(path, "rb", opener=_open_without_waiting) as file:
            size = os.fstat(file.fileno()).st_size
            edges = hashlib.sha256(str(size).encode() + b"\n")
            edges.update(first := file.read(EDGE))
            if size > EDGE:
                file.seek(max(EDGE, size - EDGE))
                edges.update(file.read(EDGE))
            whole = hashlib.sha256(first)
            if size > 2 * EDGE:
                file.seek(EDGE)
                while block := file.read(BLOCK):
                    whole.update(block)
    except OSError as error:
        raise AudioError(path, "unreadable", error.strerror or str(error)) from error
    if not size:
        raise AudioError(path, *EMPTY)
    return edges.hexdigest()[:DIGEST] + (whole.hexdigest()[:DIGEST] if size > 2 * EDGE else "")


def gone_since(path: Path, fact: str) -> UserError:
    """Error: a file is not what it was when the folder was listed."""
    return UserError(f"{path}: {fact} since it was listed; run the same command again")


def _open_without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)  # a named pipe would wait for a writer
