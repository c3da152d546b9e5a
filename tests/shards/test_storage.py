"""shards.storage: a listing has the size and version of each file; a broken connection is not an empty file."""

import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from shards import storage
from shards.errors import ShardError, UserError
from shards.storage import FileInfo, join_path, list_tree, local_copy, parse_path, path_text, read_bytes, text_path
from tests.support.servers import ENOUGH, Behaviour, s3_server, web_server


@pytest.mark.parametrize("name", [b"plain", "日本 é".encode(), b"caf\xe9/\xff", b"a\\x41"])
def test_a_path_is_stored_as_text_that_gives_the_same_path(name: bytes) -> None:
    path = Path(os.fsdecode(name))
    assert text_path(path_text(path).encode().decode()) == path


def test_a_name_that_looks_like_an_escape_is_itself_if_there_is_such_a_file(tmp_path: Path) -> None:
    assert text_path("caf\\xe9", tmp_path) == Path(os.fsdecode(b"caf\xe9"))
    (tmp_path / "caf\\xe9").touch()
    assert text_path("caf\\xe9", tmp_path) == Path("caf\\xe9")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(storage, "PAUSES", (0, 0))
    for name, data in (("b.wav", b"note"), (NAMES[0], b"longer"), (NAMES[1], b"")):
        path = tmp_path / "audio" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return tmp_path / "audio"


NAMES = ["a/deep, with ü %.wav", "a/empty.wav", "b.wav"]
HARD_NAMES = ["C#4.wav", "what?.wav", "50%.wav", "50%25.wav", "a b/c & d+e.wav", "日本 é.wav", "s#p/t?u/%20;x=1.wav"]


def write_hard_names(folder: Path) -> Path:
    for name in HARD_NAMES:
        path = folder / "my #1" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())
    return folder / "my #1"


def read_all(root: Path) -> dict[str, str]:
    """Content of each file in a listing."""
    contents = {}
    for name in list_tree(root):
        with local_copy(join_path(root, name)) as copy:
            contents[name] = copy.read_text()
    return contents


def test_names_with_the_signs_of_urls_are_read_from_a_web_server(tmp_path: Path) -> None:
    write_hard_names(tmp_path)
    with web_server(tmp_path, Behaviour()) as url:
        assert read_all(parse_path(f"{url}/my%20%231")) == {name: name for name in HARD_NAMES}


def test_a_name_that_is_not_utf_8_is_read_from_a_web_server(tmp_path: Path) -> None:
    (tmp_path / os.fsdecode(b"caf\xe9.wav")).write_text("note")
    with web_server(tmp_path, Behaviour()) as url:
        [(name, content)] = read_all(parse_path(url)).items()
    assert (path_text(name)[:3], content) == ("caf", "note")


def test_names_with_the_signs_of_urls_are_read_from_an_object_store(tmp_path: Path) -> None:
    folder = write_hard_names(tmp_path)
    with s3_server() as url:
        bucket = parse_path(f"{url}/my #1")
        for name in HARD_NAMES:
            storage.upload(folder / name, bucket / name)
        assert read_all(bucket) == {name: name for name in HARD_NAMES}


def test_a_web_servers_tree_has_sizes_and_the_time_of_the_last_change(folder: Path) -> None:
    with web_server(folder, Behaviour()) as url:
        files = list_tree(parse_path(url))
    assert list(files) == NAMES
    assert [info.size for info in files.values()] == [6, 0, 4]
    assert all(info.version.endswith("GMT") for info in files.values())


def test_an_object_stores_tree_has_sizes_and_etags(folder: Path) -> None:
    with s3_server() as url:
        bucket = parse_path(f"{url}/listed")
        for name in NAMES:
            storage.upload(folder / name, bucket / name)
        before = list_tree(bucket)
        (folder / "b.wav").write_bytes(b"nota")
        storage.upload(folder / "b.wav", bucket / "b.wav")
        after = list_tree(bucket)
        assert list_tree(bucket / "nothing") == {}
    assert {name: info.size for name, info in before.items()} == dict(zip(NAMES, [6, 0, 4], strict=True))
    assert {name for name in NAMES if before[name] != after[name]} == {"b.wav"}


def test_a_head_that_breaks_is_tried_again_and_then_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    failures = iter([True, True, False])

    def info(path: str) -> dict[str, object]:
        if next(failures, True):
            raise FileNotFoundError(path) from ConnectionError("reset by peer")  # as fsspec raises it
        return {"name": path, "size": 4, "ETag": "x"}

    monkeypatch.setattr(storage, "PAUSES", (0, 0))
    monkeypatch.setattr(
        storage, "_connect", lambda path: SimpleNamespace(path=str(path), fs=SimpleNamespace(info=info))
    )
    assert storage._head(Path("b.wav")) == FileInfo(4, "x")
    with pytest.raises(UserError, match=r"cannot be read, in 3 tries \(reset by peer\)"):
        storage._head(Path("b.wav"))


def test_a_file_that_is_removed_after_the_listing_has_no_size(folder: Path) -> None:
    with web_server(folder, Behaviour()) as url:
        assert storage._head(parse_path(f"{url}/gone.wav")) == FileInfo(0, "")


def test_a_file_that_is_larger_than_it_may_be_is_refused_unread(tmp_path: Path) -> None:
    path = tmp_path / "manifest.json"
    path.write_bytes(b"1234")
    assert read_bytes(path, largest=4) == b"1234"
    with path.open("wb") as file:
        file.truncate(1 << 40)  # more than there is memory
    with pytest.raises(ShardError, match=r"manifest\.json: has more than 536,870,912 bytes; it is damaged"):
        read_bytes(path)


def test_a_web_server_that_sends_without_an_end_is_left(tmp_path: Path) -> None:
    behaviour = Behaviour(is_endless=lambda path: path.endswith(".json"))
    with web_server(tmp_path, behaviour) as url:
        with pytest.raises(ShardError, match=r"manifest\.json: has more than 1,000,000 bytes"):
            read_bytes(parse_path(f"{url}/manifest.json"), largest=1_000_000)
        with pytest.raises(ShardError, match=r"a\.json: has more than 70,000 bytes"):
            storage.fetch(parse_path(f"{url}/a.json"), tmp_path / "copy", size=70_000)
    assert behaviour.sent < ENOUGH
