"""NSynth's guitar notes from where they are published to a folder: resumed when broken off, checked, unpacked safely.

Knows HTTP and zip, and nothing of audio. The archive is another's, so nothing in it decides where a file goes.
"""

import http.client
import shutil
import stat
import urllib.error
import urllib.request
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from shards.errors import UserError
from shards.files import PART, sha256_of

CHUNK = 1 << 18  # bytes read at a time
TIMEOUT = 60  # seconds without a byte before a connection counts as broken
MB = 1_000_000  # bytes


class DownloadError(UserError):
    """What was published cannot be had, or is not what it should be."""


@dataclass(frozen=True)
class Archive:
    """A published zip file, and what must be true of it."""

    url: str
    size: int  # bytes
    sha256: str
    folder: str  # the one folder that it unpacks to
    unpacked_size: int  # bytes at most; a zip can claim to be small and unpack to any size

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

Progress = Callable[[int], object]  # takes the bytes that have come since the last call


def download(archive: Archive, out: Path, progress: Progress) -> Path:
    """Put `archive`'s folder into `out`; return its path. Returns at once if it is there already.

    A download that broke off goes on where it stopped, within one call and from one call to the next. The zip file is
    deleted once it is unpacked.

    Raises:
        DownloadError: no connection, the server has something else, or the archive holds what it should not.
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
    """Bring `part` to the archive's size, connecting again for as long as each connection brings something."""
    have = part.stat().st_size if part.is_file() else 0
    progress(have)
    while have < archive.size:
        try:
            came = _fetch_once(archive, part, have, progress)
        except urllib.error.HTTPError as error:
            error.close()
            raise DownloadError(f"{archive.url}: the server answers {error.code} ({error.reason})") from error
        except (OSError, http.client.HTTPException) as error:
            came = (part.stat().st_size if part.is_file() else 0) - have
            if came <= 0:
                reason = error.reason if isinstance(error, urllib.error.URLError) else error
                raise DownloadError(
                    f"{archive.url}: broke off at {have / MB:.0f} of {archive.size / MB:.0f} MB ({reason}); "
                    "what has come is kept, run it again to go on"
                ) from error
        have += came
    found = sha256_of(part)
    if have != archive.size or found != archive.sha256:
        part.unlink()
        raise DownloadError(
            f"{archive.url}: came as {have} bytes of sha256 {found[:12]}..., not {archive.size} of "
            f"{archive.sha256[:12]}...; it was deleted, run it again"
        )


def _fetch_once(archive: Archive, part: Path, have: int, progress: Progress) -> int:
    """Append what one connection brings from byte `have` on; return how many bytes more (or fewer) there are."""
    request = urllib.request.Request(archive.url, headers={"Range": f"bytes={have}-"} if have else {})
    with urllib.request.urlopen(request, timeout=TIMEOUT) as answer:
        start = have if answer.status == http.HTTPStatus.PARTIAL_CONTENT else 0  # a server may ignore the range
        length = answer.headers.get("Content-Length")
        if length is not None and start + int(length) != archive.size:
            raise DownloadError(
                f"{archive.url}: the server offers {start + int(length)} bytes, not {archive.size}; "
                "it holds another file than this program knows"
            )
        progress(start - have)
        size = start
        with part.open("r+b" if start else "wb") as file:
            file.truncate(start)
            file.seek(start)
            while size < archive.size and (chunk := answer.read(min(CHUNK, archive.size - size))):
                file.write(chunk)
                size += len(chunk)
                progress(len(chunk))
        if size == start and size < archive.size:
            raise ConnectionError("the server sent nothing")
        return size - have


def unpack(archive: Archive, zipped: Path, folder: Path) -> None:
    """Unpack `zipped` to `folder`; the folder's name appears when all of it is there.

    Raises:
        DownloadError: damaged, larger than it may be, or a member that would be a link or lie outside the folder.
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
                f"{zipped}: holds {info.filename!r}, which is no plain file in {archive.folder}/; refused"
            )
    total = sum(info.file_size for info in members)
    if not members or total > archive.unpacked_size:
        raise DownloadError(
            f"{zipped}: holds {len(members)} files of {total / MB:.0f} MB, where at most "
            f"{archive.unpacked_size / MB:.0f} MB belong; refused"
        )
