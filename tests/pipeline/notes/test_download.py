"""pipeline.notes.download, against a real HTTP server that breaks off, lies and sends hostile archives."""

import dataclasses
import hashlib
import io
import stat
import threading
import zipfile
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from pipeline.notes.download import Archive, DownloadError, download

NOTES = {f"notes/nsynth-guitar-train/note-{index:03d}.mp3": bytes([index]) * 5000 for index in range(20)}


def zip_of(members: dict[str, bytes], change: Callable[[zipfile.ZipInfo], object] = lambda info: None) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        for name, data in members.items():
            info = zipfile.ZipInfo(name)
            change(info)
            file.writestr(info, data)
    return buffer.getvalue()


@dataclasses.dataclass
class Behaviour:
    """Misbehaviour of the server, and the ranges of its requests."""

    data: bytes
    break_after: int | None = None  # bytes it sends on one connection before it hangs up
    ignores_range: bool = False
    claims: int | None = None  # the Content-Length it states
    ranges: list[str | None] = dataclasses.field(default_factory=list)


@pytest.fixture
def serve() -> Iterator[Callable[[Behaviour], str]]:
    servers = []

    def start(behaviour: Behaviour) -> str:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                range_ = self.headers["Range"]
                behaviour.ranges.append(range_)
                start = 0 if behaviour.ignores_range or not range_ else int(range_.removeprefix("bytes=").rstrip("-"))
                body = behaviour.data[start:]
                self.send_response(206 if start else 200)
                self.send_header("Content-Length", str(len(body) if behaviour.claims is None else behaviour.claims))
                self.end_headers()
                self.wfile.write(body[: behaviour.break_after])

            def log_message(self, *_: object) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        servers.append(server)
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        return f"http://127.0.0.1:{server.server_port}/notes.zip"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def archive_of(data: bytes, url: str) -> Archive:
    return Archive(url, len(data), hashlib.sha256(data).hexdigest(), folder="notes", unpacked_size=1_000_000)


def ignore(_: int) -> None:
    pass


def unpacked(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder.parent)): path.read_bytes() for path in folder.rglob("*.mp3")}


def test_a_download_ends_in_the_folder_and_nothing_else(serve, tmp_path: Path) -> None:
    behaviour = Behaviour(zip_of(NOTES))
    received: list[int] = []
    folder = download(archive_of(behaviour.data, serve(behaviour)), tmp_path, received.append)
    assert unpacked(folder) == NOTES
    assert [path.name for path in tmp_path.iterdir()] == ["notes"]
    assert sum(received) == len(behaviour.data)


def test_what_is_there_is_not_downloaded_again(serve, tmp_path: Path) -> None:
    behaviour = Behaviour(zip_of(NOTES))
    archive = archive_of(behaviour.data, serve(behaviour))
    download(archive, tmp_path, ignore)
    download(archive, tmp_path, ignore)
    assert behaviour.ranges == [None]


def test_a_connection_that_breaks_off_goes_on_where_it_stopped(serve, tmp_path: Path) -> None:
    behaviour = Behaviour(zip_of(NOTES), break_after=40_000)
    folder = download(archive_of(behaviour.data, serve(behaviour)), tmp_path, ignore)
    assert unpacked(folder) == NOTES
    assert behaviour.ranges == [None, "bytes=40000-", "bytes=80000-"]


def test_an_interrupted_download_goes_on_in_the_next_run(serve, tmp_path: Path) -> None:
    behaviour = Behaviour(zip_of(NOTES))
    (tmp_path / "notes.zip.part").write_bytes(behaviour.data[:12_345])
    assert unpacked(download(archive_of(behaviour.data, serve(behaviour)), tmp_path, ignore)) == NOTES
    assert behaviour.ranges == ["bytes=12345-"]


def test_a_server_that_ignores_the_range_is_read_from_the_start(serve, tmp_path: Path) -> None:
    behaviour = Behaviour(zip_of(NOTES), ignores_range=True)
    (tmp_path / "notes.zip.part").write_bytes(b"x" * 12_345)
    assert unpacked(download(archive_of(behaviour.data, serve(behaviour)), tmp_path, ignore)) == NOTES


def test_a_server_that_sends_nothing_is_one_line_and_keeps_what_came(serve, tmp_path: Path) -> None:
    behaviour = Behaviour(zip_of(NOTES), break_after=0)
    (tmp_path / "notes.zip.part").write_bytes(behaviour.data[:500])
    with pytest.raises(DownloadError, match="run the command again to resume"):
        download(archive_of(behaviour.data, serve(behaviour)), tmp_path, ignore)
    assert (tmp_path / "notes.zip.part").stat().st_size == 500


@pytest.mark.parametrize("claims", [10, 10_000_000])
def test_a_length_that_is_not_the_published_one_is_refused(serve, tmp_path: Path, claims: int) -> None:
    behaviour = Behaviour(zip_of(NOTES), claims=claims)
    with pytest.raises(DownloadError, match=f"offers {claims} bytes"):
        download(archive_of(behaviour.data, serve(behaviour)), tmp_path, ignore)
    assert not (tmp_path / "notes").exists()


def test_bytes_that_are_not_the_published_ones_are_refused_and_deleted(serve, tmp_path: Path) -> None:
    behaviour = Behaviour(zip_of(NOTES))
    archive = dataclasses.replace(archive_of(behaviour.data, serve(behaviour)), sha256="0" * 64)
    with pytest.raises(DownloadError, match="the file was deleted, run the command again"):
        download(archive, tmp_path, ignore)
    assert list(tmp_path.iterdir()) == []


def test_no_connection_and_no_file_are_one_line(serve, tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match="interrupted at 0 of"):
        download(archive_of(b"x", "http://127.0.0.1:9/notes.zip"), tmp_path, ignore)


def as_link(info: zipfile.ZipInfo) -> None:
    info.external_attr = (stat.S_IFLNK | 0o777) << 16


@pytest.mark.parametrize(
    ("data", "fact"),
    [
        (zip_of({"notes/../../outside.mp3": b"x"}), "no plain file in notes/"),
        (zip_of({"/etc/outside.mp3": b"x"}), "no plain file in notes/"),
        (zip_of({"elsewhere/note.mp3": b"x"}), "no plain file in notes/"),
        (zip_of({"notes\\..\\outside.mp3": b"x"}), "no plain file in notes/"),
        (zip_of({"notes/link.mp3": b"/etc/passwd"}, as_link), "no plain file in notes/"),
        (zip_of({"notes/large.mp3": bytes(2_000_000)}), "where at most 1 MB belong"),
        (zip_of({}), "holds 0 files"),
        (zip_of(NOTES).replace(b"\x05" * 5000, b"\x06" * 5000), "is damaged"),
        (b"no zip at all", "is damaged"),
    ],
)
def test_a_hostile_or_damaged_archive_leaves_nothing_unpacked(serve, tmp_path: Path, data: bytes, fact: str) -> None:
    out = tmp_path / "out"
    with pytest.raises(DownloadError, match=fact):
        download(archive_of(data, serve(Behaviour(data))), out, ignore)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert [path.name for path in out.iterdir()] == ["notes.zip"]
