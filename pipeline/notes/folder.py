"""A folder -> the sorted list of the audio files in it, each with what identifies its bytes.

Walks and hashes; decodes nothing, and knows no splits, keys or shards.
"""

import hashlib
import os
import stat
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from pipeline.audio import SUFFIXES
from pipeline.notes.key import printable
from pipeline.notes.nsynth import EXAMPLES, Labels, read_examples
from shards.errors import UserError
from shards.storage import is_remote, list_tree, local_copy

EDGE = 1 << 19  # bytes hashed at each end of a file; most notes are smaller than two of these, so hashed whole
HASHERS = 8  # threads: they wait for the disk, not for each other


@dataclass(frozen=True, slots=True)
class AudioFile:
    """One file of the folder, before anything was decoded."""

    path: str  # below the folder, "/" between its parts; bytes that are not UTF-8 as Python's surrogate escapes
    digest: str  # of its size and bytes; empty if it has no bytes that could be read
    fault: tuple[str, str] | None = None  # reason and detail, if it is rejected unopened

    @property
    def display_path(self) -> str:
        """The path as text that can be printed and stored."""
        return printable(self.path)


@dataclass(frozen=True)
class AudioFolder:
    """What was found."""

    root: Path  # absolute
    inputs: tuple[AudioFile, ...]  # sorted by path
    ignored: Counter[str]  # how many files of each other ending
    examples: dict[str, Labels]  # note_str -> labels of NSynth's own examples.json files, if there are any


def scan_folder(folder: Path) -> AudioFolder:
    """List and hash the audio files anywhere below `folder`; symbolic links are followed.

    Raises:
        UserError: no such folder, one that cannot be listed, or no audio in it.
    """
    check_folder(folder)
    root = folder if is_remote(folder) else folder.resolve()
    audio: list[str] = []
    ignored: Counter[str] = Counter()
    examples: dict[str, Labels] = {}
    for path in list_tree(root) if is_remote(root) else _walk(root, "", ()):
        name = path.rpartition("/")[2]
        suffix = PurePosixPath(name).suffix.lower()
        if name == EXAMPLES:
            examples |= read_examples(root / path)
        elif suffix in SUFFIXES and not name.startswith("."):  # ._NAME.wav is what macOS leaves in archives
            audio.append(path)
        else:
            ignored[suffix or name] += 1
    if not audio:
        endings = ", ".join(sorted(suffix.removeprefix(".") for suffix in SUFFIXES))
        raise UserError(f"{folder}: no audio in it (looked for {endings}, in all folders below)")
    with ThreadPoolExecutor(HASHERS) as hashers:
        inputs = tuple(hashers.map(lambda path: hash_file(root, path), sorted(audio)))
    return AudioFolder(root, inputs, ignored, examples)


def check_folder(folder: Path) -> None:
    """Raises UserError unless it is one. A URL is no folder before something is found in it."""
    if not is_remote(folder) and not folder.is_dir():
        fact = "is a file; give the folder of audio" if folder.exists() else "no such folder of audio"
        raise UserError(f"{folder}: {fact}")


def hash_file(root: Path, path: str) -> AudioFile:
    """Hash one file: its size and its bytes, the middle of large ones left out."""
    try:
        with local_copy(root / path) as copy, open(copy, "rb", opener=_without_waiting) as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                return AudioFile(path, "", ("unreadable", "not a regular file"))
            if status.st_size == 0:
                return AudioFile(path, "", ("empty", "0 bytes"))
            digest = hashlib.sha256(str(status.st_size).encode() + b"\n")
            digest.update(file.read(EDGE))
            if status.st_size > EDGE:
                file.seek(max(EDGE, status.st_size - EDGE))
                digest.update(file.read(EDGE))
    except OSError as error:
        return AudioFile(path, "", ("unreadable", error.strerror or str(error)))
    return AudioFile(path, digest.hexdigest()[:32])


def _without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)  # a named pipe would wait for a writer


def _walk(root: Path, below: str, above: tuple[tuple[int, int], ...]) -> Iterator[str]:
    """Paths of all files under root/below, relative to root. `above`: the folders on the way, to end loops of links."""
    folder = root / below
    try:
        status = folder.stat()
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError as error:
        raise UserError(f"{folder}: cannot be listed ({error.strerror}); nothing may be left out unseen") from error
    here = (status.st_dev, status.st_ino)
    if here in above:
        return
    for entry in entries:
        path = f"{below}/{entry.name}" if below else entry.name
        if entry.is_dir():
            yield from _walk(root, path, (*above, here))
        else:
            yield path
