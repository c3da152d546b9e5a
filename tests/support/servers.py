"""Servers of this machine for tests: one that speaks S3 (moto's), and a web server that can break connections off."""

import http.client
import os
import threading
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

BUCKET = "notes"


@contextmanager
def s3_server() -> Iterator[str]:
    """A bucket behind HTTP; yields its URL. Whatever speaks S3 finds it by the environment."""
    import logging

    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    # moto's objects belong to the process: remove those of an earlier server
    urllib.request.urlopen(f"http://{host}:{port}/moto-api/reset", data=b"").close()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        patch.setenv("AWS_ACCESS_KEY_ID", "any")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "any")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        import s3fs

        s3fs.S3FileSystem().mkdir(BUCKET)
        try:
            yield f"s3://{BUCKET}"
        finally:
            forget_connections()
            server.stop()


def forget_connections() -> None:
    """Let s3fs look at the environment again."""
    import s3fs

    s3fs.S3FileSystem.clear_instance_cache()


ENOUGH = 1 << 28  # bytes after which even a file without an end does


@dataclass
class Behaviour:
    """Faults of a web server, and the paths that were requested of it."""

    breaks: Callable[[str], bool] = lambda path: False  # whether it hangs up in the middle of this file
    is_endless: Callable[[str], bool] = lambda path: False  # whether this file never ends
    says_length: bool = True
    lists_folders: bool = True
    requests: list[str] = field(default_factory=list)
    sent: int = 0  # bytes of files without an end

    def count(self, ending: str) -> int:
        return sum(path.endswith(ending) for path in self.requests)


class _Handler(SimpleHTTPRequestHandler):
    def __init__(self, *arguments: Any, behaviour: Behaviour, directory: str) -> None:
        self.behaviour = behaviour
        super().__init__(*arguments, directory=directory)

    def do_GET(self) -> None:
        self.behaviour.requests.append(self.path)
        path = Path(self.translate_path(self.path))
        if path.is_dir() and not self.behaviour.lists_folders:
            self.send_error(403)
            return
        if self.behaviour.is_endless(self.path):
            self._send_without_end()
            return
        if not path.is_file() or not self.behaviour.breaks(self.path):
            super().do_GET()
            return
        data = path.read_bytes()
        self.send_response(200)
        if self.behaviour.says_length:
            self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data[: len(data) // 2])

    def _send_without_end(self) -> None:
        self.send_response(200)
        self.end_headers()
        with suppress(ConnectionError):  # the client has had enough
            while self.behaviour.sent < ENOUGH:
                self.behaviour.sent += self.wfile.write(bytes(1 << 16))

    def log_message(self, *_: object) -> None: ...


class _Proxy(BaseHTTPRequestHandler):
    """Passes requests that only read on to `behind`, and breaks answers off."""

    def __init__(self, *arguments: Any, behaviour: Behaviour, behind: str) -> None:
        self.behaviour, self.behind = behaviour, behind
        super().__init__(*arguments)

    def do_GET(self) -> None:
        self.behaviour.requests.append(self.path)
        connection = http.client.HTTPConnection(self.behind)
        connection.request(self.command, self.path, headers=dict(self.headers))
        answer = connection.getresponse()
        data = answer.read()
        self.send_response(answer.status)
        for name, value in answer.getheaders():
            self.send_header(name, value)
        self.end_headers()
        half = data and self.behaviour.breaks(self.path)
        self.wfile.write(data[: len(data) // 2] if half else data)
        self.close_connection = True
        connection.close()

    def do_HEAD(self) -> None:
        self.do_GET()

    def log_message(self, *_: object) -> None: ...


@contextmanager
def s3_proxy(behaviour: Behaviour) -> Iterator[None]:
    """Put a server that breaks off before the one of `s3_server`, as long as the block."""
    behind = os.environ["AWS_ENDPOINT_URL"].removeprefix("http://")
    with _serving(partial(_Proxy, behaviour=behaviour, behind=behind)) as url, pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", url)
        forget_connections()
        try:
            yield
        finally:
            forget_connections()


@contextmanager
def web_server(folder: Path, behaviour: Behaviour) -> Iterator[str]:
    """Serve a folder; yields its URL."""
    with _serving(partial(_Handler, behaviour=behaviour, directory=str(folder))) as url:
        yield url


@contextmanager
def _serving(handler: Any) -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:  # a test that fails must not leave a thread that the process waits for at its end
            server.shutdown()
            thread.join()
