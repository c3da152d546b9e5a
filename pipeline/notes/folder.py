"""List of the audio files in a folder: names, sizes and versions, sorted by path.

Opens no audio file, and knows no splits, keys or shards.
"""

import os
import stat
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from pipeline.audio import FFMPEG_SUFFIXES, SUFFIXES, has_ffmpeg
from pipeline.notes.metadata import Metadata, check_rows
from pipeline.notes.nsynth import EXAMPLES, Labels, read_examples
from shards.errors import UserError
from shards.storage import is_http, is_remote, join_path, list_tree, path_text

EMPTY = ("empty", "0 bytes")  # reason and detail of a rejection


@dataclass(frozen=True, slots=True)
class AudioFile:
    """One file of the folder, unopened."""

    path: str  # below the folder, "/" between its parts; bytes that are not UTF-8 as Python's surrogate escapes
    size: int | None = None  # bytes; None if a web server does not say
    version: str = ""  # changes with the content, as a file's time or an object's ETag; "" if a web server has neither
    fault: tuple[str, str] | None = None  # reason and detail, if it is rejected unopened

    @property
    def display_path(self) -> str:
        """The path as text that can be printed and stored."""
        return path_text(self.path)


@dataclass(frozen=True)
class AudioFolder:
    """All files of a folder."""

    root: Path  # absolute
    inputs: tuple[AudioFile, ...]  # sorted by path
    ignored: Counter[str]  # how many files of each other ending
    examples: dict[str, Labels]  # note_str -> labels of NSynth's own examples.json files, if there are any
    example_files: tuple[Path, ...] = ()

    @property
    def needs_ffmpeg(self) -> bool:
        """True if there are files that only FFmpeg reads."""
        return any(_suffix(file) in FFMPEG_SUFFIXES for file in self.inputs)

    def without_ffmpeg(self) -> "AudioFolder":
        """The folder without the files that only FFmpeg reads, which are counted among those of other kinds.

        Raises:
            UserError: there are no others.
        """
        inputs = tuple(file for file in self.inputs if _suffix(file) not in FFMPEG_SUFFIXES)
        if not inputs:
            raise UserError(f"{self.root}: all of its audio is of kinds that FFmpeg reads; pip install '.[audio]'")
        ignored = self.ignored + Counter(_suffix(file) for file in self.inputs if _suffix(file) in FFMPEG_SUFFIXES)
        return replace(self, inputs=inputs, ignored=ignored)

    def metadata(self) -> Metadata | None:
        """The labels in NSynth's own files; None if there are none. Raises UserError as `check_rows`."""
        if not self.example_files:
            return None
        source = " and ".join(map(str, self.example_files))
        return Metadata(self.example_files, *check_rows(self.examples, source), is_requested=False)

    def notices(self) -> list[str]:
        """Report the files of other kinds, if there are any."""
        if not self.ignored:
            return []
        counts = ", ".join(f"{count} {ending}" for ending, count in sorted(self.ignored.items(), key=_by_count))
        readable = sorted(FFMPEG_SUFFIXES & self.ignored.keys())
        hint = f"; FFmpeg reads {', '.join(readable)}: pip install '.[audio]', and encode into a new set"
        return [f"Left out, not audio by name: {counts}{hint if readable else ''}."]


def scan_folder(folder: Path, ffmpeg: bool | None = None) -> AudioFolder:
    """List the audio files anywhere below `folder`; symbolic links are followed.

    `ffmpeg`: with those that only FFmpeg reads; None: if it is installed.

    Raises:
        UserError: no such folder, one that cannot be listed, or no audio in it.
    """
    check_folder(folder)
    root = folder if is_remote(folder) else folder.resolve()
    inputs: list[AudioFile] = []
    ignored: Counter[str] = Counter()
    examples: dict[str, Labels] = {}
    example_files: list[Path] = []
    for file in _list_remote(root) if is_remote(root) else _walk(root, "", ()):
        name = file.path.rpartition("/")[2]
        suffix = _suffix(file)
        if name == EXAMPLES:
            example_files.append(join_path(root, file.path))
            examples |= read_examples(example_files[-1])
        elif suffix in SUFFIXES | FFMPEG_SUFFIXES and not name.startswith(
            "."
        ):  # ._NAME.wav is what macOS leaves in archives
            inputs.append(file)
        else:
            ignored[suffix or name] += 1
    if not inputs:
        endings = ", ".join(sorted(suffix.removeprefix(".") for suffix in SUFFIXES))
        raise UserError(f"{folder}: no audio in it (looked for {endings}, in all folders below)")
    inputs.sort(key=lambda file: file.path)
    scanned = AudioFolder(root, tuple(inputs), ignored, examples, tuple(example_files))
    return scanned if (has_ffmpeg() if ffmpeg is None else ffmpeg) else scanned.without_ffmpeg()


def _by_count(item: tuple[str, int]) -> tuple[int, str]:
    ending, count = item
    return -count, ending


def _suffix(file: AudioFile) -> str:
    stem, _, ending = file.path.rpartition("/")[2].rpartition(".")
    return f".{ending.lower()}" if stem and ending else ""


def check_folder(folder: Path) -> None:
    """Raise UserError unless it is a folder. A URL is not checked before files are found under it."""
    if not is_remote(folder) and not folder.is_dir():
        fact = "is a file; give the folder of audio" if folder.exists() else "no such folder of audio"
        raise UserError(f"{folder}: {fact}")


def _list_remote(root: Path) -> Iterator[AudioFile]:
    for path, info in list_tree(root).items():
        size = None if is_http(root) and not info.size else info.size
        yield AudioFile(path, size, info.version, EMPTY if size == 0 else None)


def _walk(root: Path, below: str, above: tuple[tuple[int, int], ...]) -> Iterator[AudioFile]:
    """All files under root/below. `above`: the folders on the way, to end loops of links."""
    folder = root / below
    folders = []
    try:
        status = folder.stat()
        inode = (status.st_dev, status.st_ino)
        if inode in above:
            return
        with os.scandir(folder) as entries:  # one at a time: each takes four times the memory of an `AudioFile`
            for entry in entries:
                path = f"{below}/{entry.name}" if below else entry.name
                if entry.is_dir():
                    folders.append(path)
                else:
                    yield _local_file(path, entry)
    except OSError as error:
        raise UserError(f"{folder}: cannot be listed ({error.strerror}); nothing may be left out unseen") from error
    for path in sorted(folders):
        yield from _walk(root, path, (*above, inode))


def _local_file(path: str, entry: os.DirEntry[str]) -> AudioFile:
    try:
        status = entry.stat()
    except OSError as error:
        return AudioFile(path, fault=("unreadable", error.strerror or str(error)))
    is_regular = stat.S_ISREG(status.st_mode)
    fault = ("unreadable", "not a regular file") if not is_regular else EMPTY if status.st_size == 0 else None
    return AudioFile(path, status.st_size, str(status.st_mtime_ns), fault)
