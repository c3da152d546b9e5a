"""pipeline.encode.run with real workers and signals: the same bytes, however many workers and however it ends."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from pipeline.encode.run import EncodeOutcome, EncodeRequest, encode_folder
from tests.support import ROOT
from tests.support.notes import Silent, files_of, nsynth_folder, options, write_note
from tests.support.processes import children_of, command_line

OPTIONS = ["--codec", "encodec_mini", "--duration", "0.2", "--notes-per-shard", "3", "--device", "cpu"]


def encode(audio: Path, out: Path, workers: int = 2) -> EncodeOutcome:
    return encode_folder(EncodeRequest(audio, out, options(), workers), Silent())


@pytest.fixture(scope="module")
def audio(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return nsynth_folder(tmp_path_factory.mktemp("audio"), train=7, valid=2)


@pytest.fixture(scope="module")
def whole(audio: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Files of the set that an uninterrupted run with two workers makes."""
    out = tmp_path_factory.mktemp("whole") / "set"
    encode(audio, out)
    return files_of(out)


@pytest.mark.parametrize("workers", [1, 7])
def test_the_number_of_workers_changes_no_byte(
    audio: Path, tmp_path: Path, whole: dict[str, bytes], workers: int
) -> None:
    encode(audio, tmp_path / "set", workers)
    assert files_of(tmp_path / "set") == whole


def end_at(step: int, number: signal.Signals, audio: Path, out: Path) -> subprocess.CompletedProcess[str]:
    """Encode in a process that gets a signal at that step."""
    script = ROOT / "tests" / "support" / "ended_run.py"
    command = [sys.executable, str(script), str(step), number.name, str(audio), "--out", str(out), *OPTIONS]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, cwd=ROOT)


def check_end_and_finish(step: int, number: signal.Signals, audio: Path, out: Path, whole: dict[str, bytes]) -> int:
    """End a run, check what is left, finish it, compare; returns the exit code of the run that was ended."""
    ended = end_at(step, number, audio, out)
    left = files_of(out) if out.exists() else {}
    final = {name: content for name, content in left.items() if not name.endswith(".part")}
    assert final.items() <= whole.items(), "a name that exists is a file that is whole"
    done = sum(name.endswith(".json") and name != "manifest.json" for name in final)
    outcome = encode(audio, out)
    assert files_of(out) == whole
    assert outcome.tasks_run == (0 if "manifest.json" in final else 4 - done)
    if number != signal.SIGKILL and ended.returncode:
        assert "the same command goes on" in ended.stderr
        assert "Traceback" not in ended.stderr
        assert left == final, "a run that was stopped removes its parts"
    return ended.returncode


@pytest.mark.parametrize(
    ("step", "number", "code"),
    [(17, "SIGKILL", -9), (11, "SIGTERM", 130)],
)
def test_a_run_that_was_killed_or_stopped_is_finished_by_the_same_command(
    audio: Path, tmp_path: Path, whole: dict[str, bytes], step: int, number: str, code: int
) -> None:
    assert check_end_and_finish(step, signal.Signals[number], audio, tmp_path / "set", whole) == code


@pytest.mark.long
@pytest.mark.parametrize("step", [3, 9, 14, 22])
def test_a_run_that_cuts_recordings_is_finished_after_a_kill(audio: Path, tmp_path: Path, step: int) -> None:
    words = ["--codec", "encodec_mini", "--segment", "0.1", "--notes-per-shard", "3", "--device", "cpu"]
    script = ROOT / "tests" / "support" / "ended_run.py"
    for name, last in (("whole", 1_000), ("killed", step), ("killed", 1_000)):
        command = [sys.executable, str(script), str(last), "SIGKILL", str(audio), "--out", str(tmp_path / name), *words]
        ended = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, cwd=ROOT)
        assert ended.returncode == (0 if last == 1_000 else -signal.SIGKILL)
    assert files_of(tmp_path / "killed") == files_of(tmp_path / "whole")


@pytest.mark.long
def test_ctrl_c_stops_as_sigterm_does(audio: Path, tmp_path: Path, whole: dict[str, bytes]) -> None:
    assert check_end_and_finish(6, signal.SIGINT, audio, tmp_path / "set", whole) == 130


def test_names_and_a_terminal_that_do_not_fit_change_nothing_of_a_set(tmp_path: Path) -> None:
    root = tmp_path / os.fsdecode(b"caf\xe9")
    write_note(tmp_path / "日本.wav")
    root.mkdir()
    (tmp_path / "日本.wav").rename(root / "日本.wav")
    (root / "ドラム.wav").write_text("no sound")
    command = [sys.executable, "-m", "pipeline", "encode", str(root), "--out", str(root) + " set", *OPTIONS]
    command += ["--max-rejected", "1", "--valid-fraction", "0"]
    ascii_locale = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": "latin-1"}
    ended = subprocess.run(command, capture_output=True, env={**os.environ, **ascii_locale}, cwd=ROOT, check=True)
    assert b"\\u30c9\\u30e9\\u30e0.wav: not audio" in ended.stdout and b"caf\\xe9 set: 1 note in 1" in ended.stdout
    again = subprocess.run(command, capture_output=True, env={**os.environ, "PYTHONUTF8": "1"}, cwd=ROOT, check=True)
    assert "finished before: nothing to do" in again.stdout.decode()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_the_group_while_the_fork_server_starts_shows_no_traceback(
    number: signal.Signals, audio: Path, tmp_path: Path
) -> None:
    command = [sys.executable, "-m", "pipeline", "encode", str(audio), "--out", str(tmp_path / "set"), *OPTIONS]
    run = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=ROOT, start_new_session=True)
    while not any("forkserver" in command_line(child) for child in children_of(run.pid)):
        assert run.poll() is None, "it ended before its fork server was seen"
        time.sleep(0.01)
    time.sleep(0.1)  # in the middle of its imports
    os.killpg(run.pid, number)
    _, errors = run.communicate(timeout=60)
    assert run.returncode == 130
    assert errors.splitlines()[-1].startswith("Error: stopped") and "Traceback" not in errors


@pytest.mark.long
def test_fifty_random_kill_points_all_end_with_the_same_bytes(
    audio: Path, tmp_path: Path, whole: dict[str, bytes]
) -> None:
    random = np.random.default_rng(0)
    codes = [
        check_end_and_finish(int(step), signal.SIGKILL, audio, tmp_path / f"killed-{index}", whole)
        for index, step in enumerate(random.integers(0, 70, 50))
    ]
    assert codes.count(-signal.SIGKILL) > 40


@pytest.mark.long
def test_no_word_of_libmpg123_reaches_the_terminal(tmp_path: Path) -> None:
    audio, out = nsynth_folder(tmp_path / "audio"), tmp_path / "set"
    random = np.random.default_rng(0)
    for path in sorted(audio.rglob("*.mp3"))[:5]:
        data = bytearray(path.read_bytes())
        for offset in random.integers(200, len(data), 200):
            data[offset] = int(random.integers(256))
        path.write_bytes(data)
    command = [
        sys.executable,
        "-m",
        "pipeline",
        "encode",
        str(audio),
        "--out",
        str(out),
        *OPTIONS,
        "--max-rejected",
        "1",
    ]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert ended.returncode == 0
    assert "mpg123" not in ended.stderr and "Note:" not in ended.stderr and "resync" not in ended.stderr
