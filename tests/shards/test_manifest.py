"""shards.manifest: a manifest comes back equal, and one with damaged or hostile fields is refused."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from shards.errors import ShardError
from shards.manifest import read_manifest, write_manifest


def test_a_manifest_comes_back_equal(make_set: Callable[..., Path], tmp_path: Path) -> None:
    manifest = read_manifest(make_set(train=[3, 2], valid=[1]))
    (tmp_path / "copy").mkdir()
    write_manifest(tmp_path / "copy", manifest)
    assert read_manifest(tmp_path / "copy") == manifest
    assert (manifest.notes("train"), manifest.notes("valid"), manifest.notes("test")) == (5, 1, 0)


def test_a_set_without_a_manifest_is_unfinished(tmp_path: Path) -> None:
    with pytest.raises(ShardError, match="unfinished; run the same"):
        read_manifest(tmp_path)
    with pytest.raises(ShardError, match="no such shard set"):
        read_manifest(tmp_path / "nowhere")


def changed(folder: Path, change: Callable[[dict], object]) -> Path:
    path = folder / "manifest.json"
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))
    return folder


@pytest.mark.parametrize(
    "name",
    [
        "pipe:echo 1",
        "../train-00000.tar",
        "/tmp/train-00000.tar",
        "http://x/train-00000.tar",
        "train-0.tar",
        "valid-00000.tar",
        "",
    ],
)
def test_a_shard_name_is_a_plain_file_of_its_split_and_nothing_else(make_set: Callable[..., Path], name: str) -> None:
    folder = changed(make_set(train=[1]), lambda value: value["splits"]["train"][0].update(name=name))
    with pytest.raises(ShardError, match="is damaged"):
        read_manifest(folder)


@pytest.mark.parametrize("key", ["codec", "audio", "plan", "fingerprint", "splits", "labels", "ledger", "versions"])
def test_a_manifest_without_one_of_its_fields_is_damaged(make_set: Callable[..., Path], key: str) -> None:
    folder = changed(make_set(train=[1]), lambda value: value.pop(key))
    with pytest.raises(ShardError, match=r"manifest\.json"):
        read_manifest(folder)


def test_a_ledger_that_does_not_add_up_is_refused(make_set: Callable[..., Path]) -> None:
    folder = changed(make_set(train=[1]), lambda value: value["ledger"].update(inputs=2))
    with pytest.raises(ShardError, match="does not add up"):
        read_manifest(folder)


def test_another_version_says_what_this_program_reads(make_set: Callable[..., Path]) -> None:
    folder = changed(make_set(train=[1]), lambda value: value.update(version=99))
    with pytest.raises(ShardError, match="version 99, but this program reads"):
        read_manifest(folder)
