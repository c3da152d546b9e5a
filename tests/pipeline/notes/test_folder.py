"""pipeline.notes.folder: every audio file below a folder is found, whatever its name, and none is opened."""

import json
import os
from pathlib import Path

import pytest

from pipeline.notes.folder import AudioFile, scan_folder
from shards.errors import UserError


def touch(path: Path, content: bytes = b"sound") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def test_audio_is_found_at_any_depth_sorted_and_the_rest_is_counted(tmp_path: Path) -> None:
    for name in ["b.WAV", "a/x.mp3", "a/b/y.Flac", "c.ogg", "notes.txt", "._c.ogg", "a/z.txt", "README"]:
        touch(tmp_path / name)
    folder = scan_folder(tmp_path)
    assert [file.path for file in folder.inputs] == ["a/b/y.Flac", "a/x.mp3", "b.WAV", "c.ogg"]
    assert folder.ignored == {".txt": 2, ".ogg": 1, "README": 1}


@pytest.mark.parametrize("name", ["with space.wav", "dotted.name.wav", "ドラム.wav", os.fsdecode(b"\xe9.wav")])
def test_odd_names_are_inputs_like_others(tmp_path: Path, name: str) -> None:
    touch(tmp_path / name)
    [file] = scan_folder(tmp_path).inputs
    assert file.path == name and file.size
    json.dumps(file.display_path, ensure_ascii=False).encode()  # whatever the name, it can be stored


def test_links_are_followed_and_loops_end(tmp_path: Path) -> None:
    touch(tmp_path / "elsewhere/a.wav")
    touch(tmp_path / "audio/b.wav")
    (tmp_path / "audio/linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "audio/file.wav").symlink_to(tmp_path / "elsewhere/a.wav")
    (tmp_path / "audio/loop").symlink_to(tmp_path / "audio")
    assert [file.path for file in scan_folder(tmp_path / "audio").inputs] == ["b.wav", "file.wav", "linked/a.wav"]


def test_what_cannot_be_read_is_an_input_with_a_fault(tmp_path: Path) -> None:
    touch(tmp_path / "empty.wav", b"")
    (tmp_path / "broken.wav").symlink_to(tmp_path / "nowhere")
    os.mkfifo(tmp_path / "pipe.wav")
    faults = {file.path: file.fault for file in scan_folder(tmp_path).inputs}
    assert faults == {
        "broken.wav": ("unreadable", "No such file or directory"),
        "empty.wav": ("empty", "0 bytes"),
        "pipe.wav": ("unreadable", "not a regular file"),
    }


def test_a_file_is_listed_with_its_size_and_the_time_of_its_last_change(tmp_path: Path) -> None:
    path = touch(tmp_path / "a.wav")
    os.utime(path, ns=(0, 123_456_789_012))
    assert scan_folder(tmp_path).inputs == (AudioFile("a.wav", len(b"sound"), "123456789012"),)


def test_nsynths_examples_are_read_where_they_lie(tmp_path: Path) -> None:
    touch(tmp_path / "nsynth-train/audio/guitar_acoustic_000-040-100.wav")
    touch(tmp_path / "nsynth-train/examples.json", b'{"guitar_acoustic_000-040-100": {"pitch": 40}}')
    assert scan_folder(tmp_path).examples == {"guitar_acoustic_000-040-100": {"pitch": 40}}


def test_a_folder_without_audio_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such folder"):
        scan_folder(tmp_path / "missing")
    touch(tmp_path / "some/notes.txt")
    with pytest.raises(UserError, match="no audio in it"):
        scan_folder(tmp_path / "some")
    with pytest.raises(UserError, match="is a file"):
        scan_folder(tmp_path / "some/notes.txt")
