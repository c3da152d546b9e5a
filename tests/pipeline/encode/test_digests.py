"""pipeline.encode.digests: a file is read only where its size or version has changed, and a finished set reads none."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from pipeline.__main__ import main
from pipeline.audio import AudioError
from pipeline.encode.digests import EDGE, AudioDigests, cache_file, hash_file
from pipeline.encode.plan import Task
from pipeline.encode.run import EncodeOutcome, EncodeRequest, encode_folder
from pipeline.notes.folder import AudioFile, scan_folder
from shards.errors import UserError
from tests.support import ROOT
from tests.support.notes import Silent, files_of, nsynth_folder, options, tone, write_note

NOTE = "nsynth-guitar-train/guitar_acoustic_000-041-100.mp3"


def encode(audio: Path, out: Path, **changes: Any) -> EncodeOutcome:
    return encode_folder(EncodeRequest(audio, out, options(), **changes), Silent())


@pytest.fixture
def audio(tmp_path: Path) -> Path:
    return nsynth_folder(tmp_path / "audio", train=7, valid=2)


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the files that are hashed."""
    names: list[str] = []

    def counting(path: Path) -> str:
        names.append(path.name)
        return hash_file(path)

    monkeypatch.setattr("pipeline.encode.digests.hash_file", counting)
    return names


def test_names_that_are_not_utf_8_are_in_the_cache_too(audio: Path, tmp_path: Path, hashed: list[str]) -> None:
    audio = audio.rename(tmp_path / os.fsdecode(b"caf\xe9"))
    (audio / NOTE).rename(audio / os.fsdecode(b"caf\xe9.mp3"))
    folder = scan_folder(audio)
    for read in (len(folder.inputs), 0):
        digests = AudioDigests(folder, tmp_path / "set")
        digests.hash_files(folder.inputs)
        digests.save()
        assert len(hashed) == read
        hashed.clear()


def test_files_are_hashed_and_their_faults_found_however_many_are_queued_at_once(
    audio: Path, tmp_path: Path, hashed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.encode.digests.QUEUED", 4)
    (audio / NOTE).unlink()
    (audio / NOTE).mkdir()
    folder = scan_folder(audio)
    listed = [*folder.inputs, AudioFile(NOTE, 1, "1")]  # listed before it became a folder
    digests = AudioDigests(folder, tmp_path / "set")
    faults = digests.hash_files(listed)
    assert faults.keys() == {NOTE}
    assert sorted(hashed) == sorted(Path(file.path).name for file in listed)
    assert digests.of(folder.inputs, {}) == [hash_file(audio / file.path) for file in folder.inputs]


@pytest.mark.parametrize("size", [5, EDGE, 2 * EDGE - 1, 2 * EDGE, 3 * EDGE, 20 * EDGE])
def test_every_byte_and_the_size_are_in_the_digest(tmp_path: Path, size: int) -> None:
    path = tmp_path / "a.wav"
    digests = set()
    for offset in (None, 0, size // 2, -1):
        content = bytearray(size)
        if offset is not None:
            content[offset] = 1
        path.write_bytes(content)
        digests.add(hash_file(path))
    path.write_bytes(bytes(size + 1))
    digests.add(hash_file(path))
    assert len(digests) == 5


def test_a_file_without_bytes_or_that_is_gone_has_no_digest_but_a_reason(tmp_path: Path) -> None:
    (tmp_path / "empty.wav").touch()
    os.mkfifo(tmp_path / "pipe.wav")
    for name, reason in (("empty.wav", "empty"), ("pipe.wav", "empty"), ("gone.wav", "unreadable")):
        with pytest.raises(AudioError) as caught:
            hash_file(tmp_path / name)
        assert caught.value.reason == reason


def test_a_local_file_that_cannot_be_read_is_found_before_the_plan(audio: Path, tmp_path: Path) -> None:
    (audio / "folder.wav").symlink_to("/proc/self/mem")  # a regular file by its status, and an error when read
    folder = scan_folder(audio)
    files = AudioDigests(folder, tmp_path / "set").find_faults(folder.inputs)
    assert {file.path: file.fault and file.fault[0] for file in files if file.fault}.keys() == {"folder.wav"}


@pytest.mark.usefixtures("without_workers")
def test_a_change_in_the_middle_of_a_large_file_is_found(tmp_path: Path) -> None:
    audio, out = tmp_path / "audio", tmp_path / "set"
    for pitch in (40, 41):
        write_note(audio / "notes-train" / f"{pitch}.wav", tone(pitch, 60.0))
    encode(audio, out)
    path = audio / "notes-train/40.wav"
    assert path.stat().st_size > 2 * EDGE
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"40\.wav: has changed since this set was made of it"):
        encode(audio, out)


@pytest.mark.usefixtures("without_workers")
@pytest.mark.parametrize("is_finished", [True, False])
def test_a_set_that_knows_the_edges_of_large_files_alone_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_finished: bool
) -> None:
    audio, out = tmp_path / "audio", tmp_path / "set"
    for pitch in range(40, 46):
        write_note(audio / "notes-train" / f"{pitch}.wav", tone(pitch, 60.0))
    with monkeypatch.context() as earlier:
        earlier.setattr("pipeline.encode.digests.hash_file", lambda path: hash_file(path)[:32])
        encode(audio, out)
    before = files_of(out)
    assert all(len(digest) == 32 for digest in json.loads(before["train-00000.json"])["inputs"].values())
    if not is_finished:
        (out / "manifest.json").unlink()
        (out / "train-00001.json").unlink()
    assert encode(audio, out, check_audio=True).tasks_run == (0 if is_finished else 1)
    after = files_of(out)
    assert {name for name in before if before[name] != after[name]} <= {"manifest.json", "train-00001.json"}
    assert is_finished == (before == after)
    write_note(audio / "notes-train/46.wav", tone(46, 60.0))
    assert encode(audio, out, extend=True).tasks_run == 1
    (audio / "notes-train/40.wav").write_bytes((audio / "notes-train/41.wav").read_bytes())
    with pytest.raises(UserError, match=r"40\.wav: has changed since this set was made of it"):
        encode(audio, out, check_audio=True)


# --- a finished set ---------------------------------------------------------------------------------------------------
RECOGNISE = """
import builtins, os, sys
opened = []
sys.addaudithook(lambda event, args: opened.append(str(args[0])) if event == "open" else None)
from pipeline.__main__ import main
main(sys.argv[1:], standalone_mode=False)
audio = [path for path in opened if path.endswith((".mp3", ".wav"))]
heavy = [name for name in ("torch", "encodec", "soundfile", "soxr", "pipeline.codec.model") if name in sys.modules]
print("opened", len(audio), "loaded", heavy)
"""


@pytest.mark.usefixtures("without_workers")
def test_a_finished_set_of_a_thousand_files_is_recognised_without_opening_one_or_loading_a_codec(
    tmp_path: Path, hashed: list[str]
) -> None:
    sound = write_note(tmp_path / "sound.wav", tone(60, 0.2)).read_bytes()
    for index in range(1000):
        path = tmp_path / f"audio/nsynth-train/guitar_acoustic_{index:03d}-060-100.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(sound + bytes([index % 256, index // 256]))
    settings = ["--codec", "encodec_mini", "--duration", "0.2", "--notes-per-shard", "500", "--device", "cpu"]
    command = ["encode", str(tmp_path / "audio"), "--out", str(tmp_path / "set"), *settings]
    assert CliRunner().invoke(main, command).exit_code == 0
    assert len(hashed) == 1000
    again = CliRunner().invoke(main, command)
    assert "1,000 notes in 2 shards, finished before: nothing to do" in again.output
    assert len(hashed) == 1000
    ended = subprocess.run(
        [sys.executable, "-c", RECOGNISE, *command], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert "finished before: nothing to do" in ended.stdout
    assert ended.stdout.splitlines()[-1] == "opened 0 loaded []"


@pytest.mark.usefixtures("without_workers")
def test_only_what_has_another_time_or_size_is_read_and_check_audio_reads_everything(
    audio: Path, tmp_path: Path, hashed: list[str]
) -> None:
    out = tmp_path / "set"
    encode(audio, out)
    assert len(hashed) == 9
    hashed.clear()
    os.utime(audio / NOTE)
    assert encode(audio, out).tasks_run == 0
    assert hashed == [Path(NOTE).name]
    assert encode(audio, out).tasks_run == 0
    assert len(hashed) == 1  # the cache has the new time
    assert encode(audio, out, check_audio=True).tasks_run == 0
    assert len(hashed) == 10


@pytest.mark.usefixtures("without_workers")
def test_a_change_that_keeps_size_and_time_is_found_by_check_audio(audio: Path, tmp_path: Path) -> None:
    out, path = tmp_path / "set", audio / NOTE
    encode(audio, out)
    before = path.stat()
    path.write_bytes(path.read_bytes()[:-1] + b"\0")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert encode(audio, out).tasks_run == 0
    with pytest.raises(UserError, match=r"041-100\.mp3: has changed"):
        encode(audio, out, check_audio=True)
    with pytest.raises(UserError, match=r"041-100\.mp3: has changed"):
        encode(audio, out)  # the cache has the digest that was found
    assert encode(audio, tmp_path / "other").tasks_run == 4


DAMAGE: dict[str, Callable[[str], str]] = {
    "gone": lambda text: "",
    "cut short": lambda text: text[: len(text) // 2],
    "not an object": lambda text: "[1]",
    "no files": lambda text: '{"source": 1}',
    "other types": lambda text: text.replace('"files": {', '"files": {"x": 3, '),
    "too deep": lambda text: "[" * 100_000,
    "another folder's": lambda text: text.replace("/audio", "/video"),
}


@pytest.mark.usefixtures("without_workers")
@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_cache_or_none_changes_nothing_but_time(
    audio: Path, tmp_path: Path, hashed: list[str], damage: str
) -> None:
    out = tmp_path / "set"
    encode(audio, out)
    before = files_of(out)
    cache = tmp_path / "set.inputs.json"
    whole = cache.read_text()
    cache.unlink() if damage == "gone" else cache.write_text(DAMAGE[damage](whole))
    hashed.clear()
    assert encode(audio, out).tasks_run == 0
    assert len(hashed) == 9
    assert files_of(out) == before and cache.read_text() == whole


@pytest.mark.usefixtures("without_workers")
def test_a_cache_that_cannot_be_written_is_no_error(audio: Path, tmp_path: Path) -> None:
    (tmp_path / "set.inputs.json").mkdir()
    assert encode(audio, tmp_path / "set").manifest is not None
    assert encode(audio, tmp_path / "set").tasks_run == 0


def test_the_cache_is_beside_the_set_and_never_in_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert cache_file(tmp_path / "set") == tmp_path / "set.inputs.json"
    monkeypatch.chdir(tmp_path)
    assert cache_file(Path()) == tmp_path.with_name(f"{tmp_path.name}.inputs.json")
    assert cache_file(Path("/")) is None


@pytest.mark.usefixtures("without_workers")
def test_files_that_are_gone_leave_the_cache(audio: Path, tmp_path: Path) -> None:
    encode(audio, tmp_path / "set")
    (audio / NOTE).unlink()
    os.utime(next(audio.rglob("*040-100.mp3")))
    with pytest.raises(UserError, match=r"041-100\.mp3: is gone"):
        encode(audio, tmp_path / "set")
    assert NOTE not in json.loads((tmp_path / "set.inputs.json").read_text())["files"]


@pytest.mark.usefixtures("without_workers")
def test_each_task_is_hashed_once(audio: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names: list[str] = []
    digest = Task.digest

    def counting(task: Task, *arguments: Any) -> str:
        names.append(task.shard_name)
        return digest(task, *arguments)

    monkeypatch.setattr(Task, "digest", counting)
    encode(audio, tmp_path / "set")
    assert len(names) == len(set(names)) == 4
    encode(audio, tmp_path / "set")
    assert len(names) == 8
