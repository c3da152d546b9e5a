"""Storage: files in a folder of this machine, in an object store, or on a web server, behind pathlib's interface.

A URL becomes a `UPath`, so most code need not tell it from a path. The network's part is here: a file is fetched whole
or not at all, a broken connection is tried again, and a lasting failure is one line. Knows nothing of file formats.
"""

import os
import re
import stat
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, cast
from urllib.parse import quote, unquote

from shards.console import path_bytes
from shards.errors import NO_ROOM, ShardError, UserError, first_line, writing

PACKAGES = {  # protocol -> package that reads it
    "s3": "s3fs",
    "gs": "gcsfs",
    "http": "aiohttp",
    "https": "aiohttp",
    "hf": "huggingface_hub",
}
WEB = ("http", "https")
READ_ONLY = (*WEB, "hf")  # the Hub would have a commit for each file
PAUSES = (1.0, 4.0)  # seconds before each further try
TMPDIR_CURE = "make room, or name another folder in TMPDIR"
SILENCE = 60.0  # seconds without a byte after which a connection counts as broken
HEAD_REQUESTS = 16  # at a time
ESCAPE = re.compile(rb"\\x([89a-f][0-9a-f])")  # of a byte that is not UTF-8, in a path as text
NOT_FOUND = 404  # status of a web server's answer

LARGEST_FILE = 1 << 29  # bytes of a file that is read whole

T = TypeVar("T")


@dataclass(frozen=True)
class FileInfo:
    """Size and version of a file under a URL."""

    size: int  # bytes; 0 if a web server does not say
    version: str  # changes with the content: the ETag, or the time of the last change; "" if the server says neither


def parse_path(text: str) -> Path:
    """Parse a path or URL; both have pathlib's interface. Also the type of click options.

    Raises:
        UserError: another kind of URL than those of PACKAGES, or one whose package is not installed.
    """
    protocol, separator, _ = text.partition("://")
    if not separator:
        return Path(text)
    if protocol not in PACKAGES:
        raise UserError(
            f"{text}: {protocol} URLs are not read; give a folder, or a URL that begins with {', '.join(PACKAGES)}"
        )
    try:
        from upath import UPath

        # Listings change while other ranks write, so they are not cached.
        path = UPath(text.rstrip("/"), use_listings_cache=False, **_options(protocol))
        _ = path.fs
    except ImportError as error:
        needs = f"universal_pathlib and {PACKAGES[protocol]}"
        raise UserError(f"{text}: needs {needs}; pip install '.[remote]' (and gcsfs, for gs://)") from error
    except ValueError as error:
        raise UserError(f"{text}: is not a URL of this kind ({error})") from error
    return cast(Path, path)


def path_text(path: Path | str) -> str:
    """A path as text to store in UTF-8, whatever the locale: a byte that is not UTF-8 becomes an escape, as `\\xe9`."""
    text = str(path)
    return text if text.isascii() else path_bytes(text).decode("utf-8", "backslashreplace")


def text_path(text: str, folder: Path | None = None) -> Path:
    """Undo `path_text`; the path may be relative to `folder`. Of a name that holds such an escape, the file is first.

    Raises:
        UserError: as `parse_path`.
    """
    if "://" in text:
        return parse_path(text)
    path, unescaped = (Path(os.fsdecode(data)) for data in (text.encode(errors="surrogateescape"), _unescape(text)))
    return path if path == unescaped or os.path.lexists((folder or Path()) / path) else unescaped


def is_remote(path: Path) -> bool:
    return not isinstance(path, Path)


def is_read_only(path: Path) -> bool:
    """True for a URL under which this program writes nothing."""
    return _has_protocol(path, READ_ONLY)


def is_http(path: Path) -> bool:
    """True for a web server, where nothing can be written and folders may not be listed."""
    return _has_protocol(path, WEB)


def _has_protocol(path: Path, protocols: tuple[str, ...]) -> bool:
    return str(path).startswith(tuple(f"{protocol}://" for protocol in protocols))


def join_path(folder: Path, name: str) -> Path:
    """The path of a file in a folder, by its name in a listing; under a web server, that is a part of a URL."""
    return folder / (quote(name, errors="surrogateescape") if is_http(folder) else name)


@contextmanager
def local_copy(path: Path, largest: int | None = None) -> Iterator[Path]:
    """The file itself if it is on this machine, or a copy that exists as long as the block.

    Raises:
        FileNotFoundError: there is nothing under the URL.
        ShardError: what is there has more than `largest` bytes.
        UserError: it cannot be fetched.
    """
    if not is_remote(path):
        yield path
        return
    with temporary_folder() as folder:
        copy = folder / f"file{path.suffix}"
        try:
            fetch(path, copy, largest=largest)
        except FileNotFoundError:
            raise
        except OSError as error:
            raise UserError(f"{copy}: cannot be written ({error.strerror}); {TMPDIR_CURE}") from error
        yield copy


@contextmanager
def temporary_folder() -> Iterator[Path]:
    """A folder for a file on its way from or to a URL, which exists as long as the block. Raises UserError."""
    with writing(Path(tempfile.gettempdir()), TMPDIR_CURE):
        folder = tempfile.TemporaryDirectory(prefix="note-tokens-", ignore_cleanup_errors=True)
    with folder as name:
        yield Path(name)


def fetch(path: Path, copy: Path, size: int | None = None, largest: int | None = None) -> None:
    """Fetch the file under a URL to `copy`. `size`: the bytes it must have, if they are known.

    Raises:
        FileNotFoundError: there is nothing under the URL.
        ShardError: a server sends more than `size`, or `largest`, bytes.
        UserError: it cannot be fetched after some tries.
        OSError: this machine's disk is full or read-only.
    """

    def attempt(source: Any) -> None:
        source.fs.get_file(source.path, str(copy), callback=_limit(path, largest if size is None else size))
        if size is not None and copy.stat().st_size != size:
            raise ConnectionError(f"{copy.stat().st_size} bytes instead of {size}")

    _retry(path, attempt)


def read_bytes(path: Path, largest: int = LARGEST_FILE) -> bytes:
    """Read a file whole.

    Raises:
        FileNotFoundError: there is no such file.
        ShardError: it has more than `largest` bytes.
        UserError: a URL that cannot be read after some tries.
    """
    with local_copy(path, largest) as copy:
        if copy.stat().st_size > largest:
            raise _too_large(path, largest)
        return copy.read_bytes()


def _too_large(path: Path, largest: int) -> ShardError:
    return ShardError(f"{path}: has more than {largest:,} bytes; it is damaged, or another file; get it again")


def _limit(path: Path, largest: int | None) -> Any:
    """A callback of fsspec that ends a transfer of more than `largest` bytes: a server may send without an end."""
    from fsspec.callbacks import Callback

    def check(size: int, value: int, **_: Any) -> None:
        if largest is not None and value > largest:
            raise _too_large(path, largest)

    return Callback(hooks={"limit": check})


def list_files(folder: Path) -> dict[str, int]:
    """Files directly in the folder: name -> bytes (0 if a web server does not say); none if there is no folder."""
    if is_remote(folder):
        return {name: info.size for name, info in _list_remote(folder, deep=False).items() if "/" not in name}
    sizes = {}
    for path in folder.iterdir() if folder.is_dir() else ():
        with suppress(FileNotFoundError):  # removed meanwhile: the part of another rank
            status = path.stat()
            if stat.S_ISREG(status.st_mode):
                sizes[path.name] = status.st_size
    return sizes


def list_tree(folder: Path) -> dict[str, FileInfo]:
    """Files at any depth under a URL, sorted by name, with "/" between the parts of a name.

    An object store's listing has size and ETag. A web server's has neither, so each file costs a HEAD request.

    Raises:
        UserError: the URL cannot be read after some tries.
    """
    files = _list_remote(folder, deep=True)
    if is_http(folder):
        with ThreadPoolExecutor(HEAD_REQUESTS) as threads:
            files = dict(zip(files, threads.map(lambda name: _head(join_path(folder, name)), files), strict=True))
    return dict(sorted(files.items()))


def upload(copy: Path, path: Path) -> None:
    """Write `copy` as one object, which exists only when it is whole. Raises UserError if that fails."""
    try:
        target = _connect(path)
        target.fs.put_file(str(copy), target.path)
    except UserError:
        raise  # a signal stopped the run
    except Exception as error:  # each library under fsspec has errors of its own
        raise UserError(f"{path}: cannot be written ({first_line(error)}); run the same command again") from error


def _unescape(text: str) -> bytes:
    return ESCAPE.sub(lambda match: bytes.fromhex(match[1].decode()), text.encode(errors="surrogateescape"))


def _list_remote(folder: Path, deep: bool) -> dict[str, FileInfo]:
    def attempt(source: Any) -> dict[str, FileInfo]:
        files = source.fs.find(source.path, detail=True, maxdepth=None if deep else 1)
        if source.protocol in WEB:  # a link with ? or # sorts the listing, or is a part of a page
            files = {_unquote(url): info for url, info in files.items() if not re.search("[?#]", url)}
        top = (_unquote(source.path) if source.protocol in WEB else source.path).rstrip("/") + "/"
        names = ((name.removeprefix(top), info) for name, info in files.items())
        return {name: _file_info(info) for name, info in names if name and not name.endswith("/")}

    try:
        return _retry(folder, attempt)
    except FileNotFoundError:
        return {}


def _unquote(url: str) -> str:
    return unquote(url, errors="surrogateescape")  # as Python has names of files


def _head(path: Path) -> FileInfo:
    def attempt(source: Any) -> FileInfo:
        try:
            return _file_info(source.fs.info(source.path))
        except FileNotFoundError as error:  # fsspec says so of a broken connection too
            if isinstance(error.__cause__, Exception) and getattr(error.__cause__, "status", None) != NOT_FOUND:
                raise error.__cause__ from None
            raise

    try:
        return _retry(path, attempt)
    except FileNotFoundError:  # removed since it was listed: an error when it is read
        return FileInfo(0, "")


def _file_info(info: dict[str, Any]) -> FileInfo:
    version = next((info[name] for name in ("ETag", "etag", "Last-Modified") if info.get(name)), "")
    return FileInfo(info.get("size") or 0, str(version))


def _retry(path: Path, attempt: Callable[[Any], T]) -> T:
    """Call `attempt`, and again if the connection breaks."""
    for pause in (*PAUSES, None):
        try:
            return attempt(_connect(path))
        except (FileNotFoundError, UserError):
            raise
        except Exception as error:  # each library under fsspec has errors of its own
            if getattr(error, "errno", None) in NO_ROOM:
                raise  # of this machine's disk
            if pause is None:
                raise UserError(
                    f"{path}: cannot be read, in {1 + len(PAUSES)} tries ({first_line(error)}); "
                    "run the same command again"
                ) from error
            time.sleep(pause)
    raise AssertionError("the last try returns or raises")


def _connect(path: Path) -> Any:
    """The same path with a connection of this process: a fork must not use its parent's."""
    return parse_path(str(path))


def _options(protocol: str) -> dict[str, Any]:
    """Options of the file system that reads this kind of URL."""
    if protocol == "s3":
        return {"max_concurrency": 1}  # one part of a large file in memory, not ten
    if protocol not in WEB:
        return {}
    import aiohttp

    # A large file may take as long as it needs while bytes arrive; aiohttp's default ends it after five minutes.
    return {"client_kwargs": {"timeout": aiohttp.ClientTimeout(total=None, sock_connect=SILENCE, sock_read=SILENCE)}}
