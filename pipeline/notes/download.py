"""Download of NSynth's guitar notes: resumed after an interruption, checked, unpacked safely.

Knows HTTP and zip, and nothing of audio. The archive is not trusted: nothing in it decides where a file goes.
"""

import http.client
import shutil
import stat
import urllib.error
import urllib.request
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from shards.console import counted, progress_bar, quote
from shards.errors import NO_ROOM, UserError
from shards.files import PART, sha256_of

CHUNK = 1 << 18  # bytes read at a time
TIMEOUT = 60  # seconds without a byte before a connection counts as broken
MB = 1_000_000  # bytes


class DownloadError(UserError):
    """The archive cannot be downloaded, or is not the published one."""


@dataclass(frozen=True)
class Archive:
    """A published zip file and its known properties."""

    url: str
    size: int  # bytes
    sha256: str
    folder: str  # the only folder in it
    unpacked_size: int  # bytes at most; a small zip can unpack to any size

    @property
    def name(self) -> str:
        return PurePosixPath(self.url).name


NSYNTH_GUITAR = Archive(
    url="https://media.githubusercontent.com/media/SonyCSLParis/test-lfs/master/NSYNTH_GUITAR_MP3.zip",
    size=334_999_208,
    sha256="cbabb3ba2ce81c28982eb41c3ba5127a0d81a3cd72d55d427a95f0558e43dfb3",
    folder="NSYNTH_GUITAR_MP3",
    unpacked_size=1_000 * MB,
)

Progress = Callable[[int], object]  # called with the bytes received since the last call


@dataclass(frozen=True)
class Downloaded:
    """NSynth's guitar notes on this machine."""

    folder: Path

    def lines(self) -> Iterator[str]:
        yield f"{self.folder}: NSynth's guitar notes."
        yield f"Next: python -m pipeline encode {quote(self.folder)} --out shards/nsynth-guitar"


def download_nsynth(out: Path) -> Downloaded:
    """Download NSynth's guitar notes into `out`, with a progress bar. Raises DownloadError."""
    with progress_bar(total=NSYNTH_GUITAR.size, unit="B", unit_scale=True, desc="download", leave=False) as bar:
        return Downloaded(download(NSYNTH_GUITAR, out, bar.update))


def download(archive: Archive, out: Path, progress: Progress) -> Path:
    """Download and unpack `archive`'s folder into `out`; return its path, at once if it exists already.

    An interrupted download resumes, within one call and from one call to the next. The zip file is deleted once it is
    unpacked.

    Raises:
        DownloadError: no connection, another file on the server, or an unsafe or damaged archive.
    """
    folder = out / archive.folder
    if not folder.is_dir():
        out.mkdir(parents=True, exist_ok=True)
        zipped = out / archive.name
        if not zipped.is_file():
            part = zipped.with_name(zipped.name + PART)
            _fetch(archive, part, progress)
            part.rename(zipped)
        unpack(archive, zipped, folder)
        zipped.unlink()
    return folder


def _fetch(archive: Archive, part: Path, progress: Progress) -> None:
    """Complete `part`, reconnecting as long as each connection transfers something."""
    size = part.stat().st_size if part.is_file() else 0
    progress(size)
    while size < archive.size:
        try:
            size = _fetch_once(archive, part, size, progress)
        except urllib.error.HTTPError as error:
            error.close()
            raise DownloadError(f"{archive.url}: the server answers {error.code} ({error.reason})") from error
        except (OSError, http.client.HTTPException) as error:
            if isinstance(error, OSError) and (error.errno in NO_ROOM or error.filename is not None):
                raise DownloadError(
                    f"{part}: cannot be written ({error.strerror}); make room and run the command again to resume"
                ) from error
            size_before, size = size, part.stat().st_size if part.is_file() else 0
            if size <= size_before:
                reason = error.reason if isinstance(error, urllib.error.URLError) else error
                raise DownloadError(
                    f"{archive.url}: interrupted at {size / MB:.0f} of {archive.size / MB:.0f} MB ({reason}); "
                    "run the command again to resume"
                ) from error
    sha256 = sha256_of(part)
    if size != archive.size or sha256 != archive.sha256:
        part.unlink()
        raise DownloadError(
            f"{archive.url}: received {size} bytes of sha256 {sha256[:12]}..., not {archive.size} of "
            f"{archive.sha256[:12]}...; the file was deleted, run the command again"
        )


def _fetch_once(archive: Archive, part: Path, offset: int, progress: Progress) -> int:
    """Append the bytes of one connection from `offset` on; return the size of `part`."""
    request = urllib.request.Request(archive.url, headers={"Range": f"bytes={offset}-"} if offset else {})
    with urllib.request.urlopen(request, timeout=TIMEOUT) as response:
        start = offset if response.status == http.HTTPStatus.PARTIAL_CONTENT else 0  # a server may ignore the range
        length = response.headers.get("Content-Length")
        if length is not None and start + int(length) != archive.size:
            raise DownloadError(
                f"{archive.url}: the server offers {start + int(length)} bytes, not {archive.size}; "
                "the published file has changed"
            )
        progress(start - offset)
        size = start
        with part.open("ab" if start else "wb") as file:
            while size < archive.size and (chunk := response.read(min(CHUNK, archive.size - size))):
                file.write(chunk)
                size += len(chunk)
                progress(len(chunk))
        if size == start and size < archive.size:
            raise ConnectionError("the server sent nothing")
        return size


def unpack(archive: Archive, zipped: Path, folder: Path) -> None:
    """Unpack `zipped` to `folder`; the folder's name appears when it is complete.

    Raises:
        DownloadError: damaged, too large, or with a member that is a link or outside the folder.
    """
    part = folder.with_name(folder.name + PART)
    shutil.rmtree(part, ignore_errors=True)
    try:
        with zipfile.ZipFile(zipped) as source:
            members = [info for info in source.infolist() if not info.is_dir()]
            _check_members(archive, zipped, members)
            for info in members:
                target = part.joinpath(*PurePosixPath(info.filename).parts[1:])
                target.parent.mkdir(parents=True, exist_ok=True)
                with source.open(info) as packed, target.open("wb") as file:  # zipfile stops at info.file_size
                    shutil.copyfileobj(packed, file)
    except (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError) as error:
        raise DownloadError(f"{zipped}: is damaged ({error}); delete it and run this again") from error
    except OSError as error:
        raise DownloadError(f"{part}: cannot be written ({error.strerror}); make room and run this again") from error
    else:
        part.rename(folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _check_members(archive: Archive, zipped: Path, members: list[zipfile.ZipInfo]) -> None:
    for info in members:
        parts = PurePosixPath(info.filename).parts
        inside = len(parts) > 1 and parts[0] == archive.folder and ".." not in parts
        if not inside or "\\" in info.filename or stat.S_IFMT(info.external_attr >> 16) not in (0, stat.S_IFREG):
            raise DownloadError(
                f"{zipped}: holds {info.filename!r}, which is no plain file in {archive.folder}/; not unpacked"
            )
    total = sum(info.file_size for info in members)
    if not members or total > archive.unpacked_size:
        raise DownloadError(
            f"{zipped}: holds {counted(len(members), 'file')} of {total / MB:.0f} MB, where at most "
            f"{archive.unpacked_size / MB:.0f} MB belong; not unpacked"
        )
