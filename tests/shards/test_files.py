"""shards.files: a name that exists is a file that is whole."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from shards.errors import UserError
from shards.files import atomic_write, write_json
from tests.support import ROOT
from tests.support.disk import largest_file, write_half


def test_the_name_appears_only_when_the_block_has_ended(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "file"
    with atomic_write(path) as file:
        file.write(b"all of it")
        assert not path.exists()
    assert path.read_bytes() == b"all of it"
    assert [entry.name for entry in path.parent.iterdir()] == ["file"]


def test_a_failed_write_leaves_the_older_file_and_no_part(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"older")

    with pytest.raises(RuntimeError, match="stopped"):
        write_half(path)
    assert path.read_bytes() == b"older"
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


def test_two_writers_of_one_path_share_no_part_and_the_last_one_stays(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with atomic_write(path, "first") as first, atomic_write(path, "second") as second:
        first.write(b"all of the first")
        second.write(b"all of it")
    assert path.read_bytes() == b"all of the first"
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


def test_a_file_that_outgrows_its_limit_is_one_line_that_names_it_and_nothing_is_left(tmp_path: Path) -> None:
    path = tmp_path / "big"
    with largest_file(1000), pytest.raises(UserError, match="big: cannot be written"), atomic_write(path) as file:
        file.write(bytes(100_000))
    assert list(tmp_path.iterdir()) == []


def test_the_same_value_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_json(tmp_path / name, {"pitch": 60, "name": "gitarre ä"})
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_folder_that_is_a_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "taken").write_bytes(b"")
    with pytest.raises(UserError, match=r"taken.*cannot be written"):
        write_json(tmp_path / "taken" / "x.json", 1)


START_PROCESS = """
from multiprocessing import get_context
from shards.files import shorten_socket_paths
if __name__ == "__main__":
    shorten_socket_paths()
    process = get_context("forkserver").Process(target=print, args=("alive",))
    process.start()
    process.join()
"""


def test_processes_start_where_the_path_of_a_socket_in_tmpdir_would_be_too_long(tmp_path: Path) -> None:
    folder = tmp_path / ("long" * 25)
    folder.mkdir()
    environment = {**os.environ, "TMPDIR": str(folder), "PYTHONPATH": str(ROOT)}
    ended = subprocess.run([sys.executable, "-c", START_PROCESS], capture_output=True, text=True, env=environment)
    assert (ended.stdout, ended.stderr) == ("alive\n", "")
    assert list(folder.iterdir()) == []
