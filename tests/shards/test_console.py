"""shards.console and shards.errors: reports reach whatever terminal, file or pipe there is, or fail in one line."""

import io
import json
import os
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from shards import console
from shards.console import SCRIPTS, echo_json, escape, name_scripts, progress_bar, quote
from shards.errors import UserError
from tests.support import ROOT

LATIN = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": "latin-1"}
ASCII = LATIN | {"PYTHONIOENCODING": "ascii"}


def stream(encoding: str) -> io.TextIOWrapper:
    return io.TextIOWrapper(io.BytesIO(), encoding)


@pytest.mark.parametrize(
    ("text", "encoding", "shown"),
    [
        ("日本 é.wav", "utf-8", "日本 é.wav"),
        ("日本 é.wav", "latin-1", r"\u65e5\u672c é.wav"),
        ("日本 é.wav", "ascii", r"\u65e5\u672c \xe9.wav"),
        (os.fsdecode(b"caf\xe9.wav"), "utf-8", r"caf\xe9.wav"),
        ("two\nlines\x1b[2J", "utf-8", r"two\nlines\x1b[2J"),
        ("87\u202f%", "utf-8", "87\u202f%"),
    ],
)
def test_text_that_a_stream_cannot_show_is_escaped_and_stays_one_line(text: str, encoding: str, shown: str) -> None:
    assert escape(text, stream(encoding)) == shown


@pytest.mark.parametrize("encoding", ["utf-8", "latin-1", "ascii"])
@pytest.mark.parametrize(
    "name", [b"plain", b"two words", b"it's $HOME", "日本 é".encode(), b"caf\xe9", b"two\nlines\\"]
)
def test_a_quoted_path_is_one_word_of_a_shell_and_can_be_shown(
    name: bytes, encoding: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdout", stream(encoding))
    word = quote(Path(os.fsdecode(name)))
    assert escape(word, sys.stdout) == word
    printed = subprocess.run(["bash", "-c", f"printf %s {word}"], capture_output=True, check=True).stdout
    assert printed == name


def test_json_stays_json_where_its_letters_cannot_be_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    for encoding in ("utf-8", "ascii"):
        out = stream(encoding)
        monkeypatch.setattr(sys, "stdout", out)
        echo_json({"label": "é\xa0日"})
        out.flush()
        assert json.loads(out.buffer.getvalue().decode(encoding)) == {"label": "é\xa0日"}  # type: ignore[attr-defined]


def test_a_bar_writes_to_a_log_file_at_most_every_15_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    class Log(io.StringIO):
        writes: tuple[float, ...] = ()

        def write(self, text: str) -> int:
            if text.strip():
                self.writes += (clock[0],)
            return super().write(text)

    clock, log = [0.0], Log()
    monkeypatch.setattr(sys, "stderr", log)
    monkeypatch.setattr("tqdm.std.tqdm.monitor_interval", 0)
    with progress_bar(total=1000, leave=False) as bar:
        bar._time = lambda: clock[0]
        bar.start_t = bar.last_print_t = 0.0
        for second in range(100):
            clock[0] = float(second)
            bar.set_postfix_str(f"second {second}", refresh=False)
            bar.update(10)
    assert len(log.writes) == 6
    assert all(
        later - earlier >= console.LOG_INTERVAL for earlier, later in zip(log.writes, log.writes[1:], strict=False)
    )


def python(*arguments: str, redirect: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a program, with a shell's redirections."""
    command = f"{shlex.join([sys.executable, '-m', *arguments])} {redirect}"
    environment = dict(os.environ) | environment
    return subprocess.run(["bash", "-c", command], capture_output=True, text=True, cwd=ROOT, env=environment)


@pytest.mark.parametrize("redirect", [">/dev/full", ">&-"])
def test_a_report_that_cannot_be_written_is_one_line_and_a_failure(redirect: str, make_set) -> None:  # type: ignore[no-untyped-def]
    folder = make_set(train=[2])
    for arguments in (["shards", "inspect", str(folder)], ["shards", "--help"], ["trainer", "train", "--help"]):
        ended = python(*arguments, redirect=redirect)
        assert ended.returncode == 2
        assert ended.stderr.startswith("Error: ") and len(ended.stderr.splitlines()) == 1


def test_a_reader_that_needs_no_more_ends_a_report_quietly() -> None:
    ended = python("shards", "--help", redirect="| true")
    assert (ended.returncode, ended.stderr) == (0, "")


@pytest.mark.parametrize("redirect", ["2>&-", "2>/dev/full", "<&- >&- 2>&-"])
def test_a_program_runs_without_the_streams_that_it_cannot_write(redirect: str, make_set) -> None:  # type: ignore[no-untyped-def]
    folder = make_set(train=[2])
    assert python("shards", "verify", str(folder / "none"), redirect=redirect).returncode == 2
    if ">&- 2" not in redirect:
        assert "whole" in python("shards", "verify", str(folder), redirect=redirect).stdout


@pytest.mark.parametrize("environment", [LATIN, ASCII, {"LC_ALL": "C"}])
def test_a_name_that_a_terminal_cannot_show_is_escaped(environment: dict[str, str], tmp_path: Path) -> None:
    folder = tmp_path / "日本"
    ended = python("shards", "inspect", str(folder), **environment)
    assert ended.returncode == 2
    assert len(ended.stderr.splitlines()) == 1 and "no such shard set" in ended.stderr


def test_an_error_of_the_system_is_one_line_that_names_the_file() -> None:
    ended = python("shards", "inspect", "/proc/self/mem/set")
    assert ended.returncode == 2 and len(ended.stderr.splitlines()) == 1


def test_an_error_is_shown_on_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    UserError(f"{os.fsdecode(b'a')}\n\udce9: missing").show()
    assert capsys.readouterr().err == "Error: a\\n\\xe9: missing\n"


def test_commands_are_named_as_the_program_was_started(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "Next: python -m trainer train --shards s; python -m pipeline listen a; python -m shards verify s"
    assert name_scripts(text) == text
    monkeypatch.setattr("sys.argv", ["/home/x/.local/bin/note-shards", "inspect"])
    assert name_scripts(text) == "Next: note-trainer train --shards s; note-tokens listen a; note-shards verify s"
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    assert scripts == {script: f"{package}.__main__:main" for package, script in SCRIPTS.items()}
