"""shards.cache and temporary files: a folder that cannot be written is named with the variable that names another."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from shards.cache import cached_shard
from shards.errors import UserError
from shards.files import atomic_write
from shards.manifest import read_manifest
from shards.storage import local_copy, parse_path
from tests.support.disk import fill, make_read_only, mounted_disk
from tests.support.servers import Behaviour, web_server


@pytest.fixture(params=["full", "read-only"])
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    with mounted_disk(tmp_path / "disk", "64k") as folder:
        (fill if request.param == "full" else make_read_only)(folder)
        yield folder


@pytest.fixture
def url(make_set: Callable[..., Path]) -> Iterator[Path]:
    """A shard set on a web server."""
    with web_server(make_set(train=[3]), Behaviour()) as address:
        yield parse_path(address)


def test_a_cache_that_cannot_be_written(disk: Path, url: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(disk))
    [shard] = read_manifest(url).shards
    with pytest.raises(UserError, match=rf"{disk}/note-tokens.*cannot be written .*XDG_CACHE_HOME"):
        cached_shard(url, shard)


def test_a_user_without_a_home(url: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", no_home)
    [shard] = read_manifest(url).shards
    with pytest.raises(UserError, match="no home folder; name it in XDG_CACHE_HOME"):
        cached_shard(url, shard)


def test_temporary_files_that_cannot_be_written(disk: Path, url: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(disk))
    with pytest.raises(UserError, match=rf"{disk}.*cannot be written .*TMPDIR"), local_copy(url / "train-00000.tar"):
        pass
    with (
        pytest.raises(UserError, match=rf"{disk}.*cannot be written .*TMPDIR"),
        atomic_write(parse_path("s3://bucket/file")) as file,
    ):
        file.write(bytes(100_000))
