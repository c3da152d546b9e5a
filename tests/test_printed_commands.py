"""Every command that a help text or a document prints works: it is run here, or `NEEDS` says why not.

A text's commands are run in order, in a folder in which `make demo` has run. Options are added to the commands, which
stay as they are printed: trainings are cut short, the package's own codec takes the place of `encodec_24khz`, and free
ports take that of a server's.
"""

import dataclasses
import hashlib
import html
import importlib
import json
import re
import shlex
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import soundfile
from click.testing import CliRunner

from pipeline.notes import download
from tests.support import ROOT
from tests.support.hugging_face import save_small
from tests.support.notes import encode_in_this_process
from tests.support.printed_commands import (
    PROGRAMS,
    PYTHON,
    document_commands,
    group_of,
    help_commands,
    printed_commands,
)
from tests.support.servers import Behaviour, forget_connections, web_server
from tests.support.slurm_cluster import free_port

TEXTS = printed_commands()
NEEDS = {  # beginning of commands that are not run -> reason
    "make demo": "the fixture `demo` has run it before every text",
    "make test": "the tests themselves",
    "make bench": "minutes of measuring; tests/benchmarks says what",
    "pip install": "packages from the network; the tests' environment has them",
    "python -m tests.support.screenshot": "Chromium; tests/pipeline/page and instrument open the pages in it",
    "apt-get install": "packages from the network, as root",
    "srun ": "a Slurm cluster",
    "squeue": "a Slurm cluster",
    "python tests/support/slurm_cluster.py": "Slurm, as root; test_cluster.py starts it, if it is installed",
    "export SLURM_CONF=": "the cluster of the line before",
    "python -m pipeline encode data/demo-notes --out shards/slurm": "a Slurm cluster; test_cluster.py submits to one",
    "python -m shards inspect shards/slurm": "the set of the command above",
    "torchrun --nnodes 2": "a second machine",
    "hf ": "an account of the Hugging Face Hub",
    'tar -xf "$SHARD"': "variables; tests/shards/test_shard_format.py gives them and compares what is printed",
}
ADDED = {  # pattern of commands -> options that are added to them
    r"-m (-- )?trainer train ": "--set steps=3 --set width=64 --set depth=1",
    r"trainer train .* runs/(demo|first)( --preset small)?$": "--set steps=200",  # an instrument needs notes in tune
    r"-m trainer sample .*--candidates 4$": "--label pitch=60:64",
    r"-m pipeline train-codec ": "--steps 1",
    r"-m pipeline (encode|plan) (?!.*--codec hf:)": "--codec encodec_mini",
    r"--codec hf:": "--weights small-codec",  # of the Hub's name, but with a few channels and on this machine
}
GIVEN = {  # what examples take as given -> what of the demo, or of the checkout, it is a copy of
    "demo-notes": "data/demo-notes",
    "data/NSYNTH_GUITAR_MP3": "data/demo-notes",
    "shards/nsynth-guitar": "shards/demo",
    **dict.fromkeys(["shards/mine", "shards/plucked", "shards/bowed"], "shards/demo"),
    **dict.fromkeys(["shards/acoustic", "shards/electronic"], "shards/demo"),
    **dict.fromkeys(["runs/small", "runs/tutorial"], "runs/demo"),
    **dict.fromkeys(["samples/small", "samples/base", "samples/longer"], "samples/demo"),
    "runs/codec/codec.safetensors": "pipeline/codec/encodec_mini.safetensors",
}
MADE = {  # text -> what of this its commands make
    "README.md": ("data/NSYNTH_GUITAR_MP3", "shards/nsynth-guitar"),
    "pipeline download --help": ("data/NSYNTH_GUITAR_MP3", "shards/nsynth-guitar"),
    "docs/from-the-tutorial.md": ("runs/small", "runs/tutorial"),
}
VARIABLES = {"CODEC": "encodec_mini", "KEYS": "60:64", "MOST_CANDIDATES": "4"}  # for make
QUALITIES = (["dark"], ["bright", "percussive"], [])
SHORT_NOTES, LENGTHS = 80, (0.5, 0.8, 1.2)  # about so many notes of several lengths, in seconds
OURS = re.compile(rf"(?:\.venv/bin/)?python -m ((?:{'|'.join(PROGRAMS)}) .*)")  # a command that runs in this process
PORT = re.compile(r"(?<=[ :])\d{4}\b")  # of a server, in a line that starts it, and behind its host
PATIENCE = 60  # seconds for a server to start
LONGEST = 900  # seconds of a command that hangs


def reason_not_to_run(command: str) -> str | None:
    return next((reason for beginning, reason in NEEDS.items() if command.startswith(beginning)), None)


def add_options(command: str) -> str:
    """A command, shortened."""
    return " ".join([command, *(options for pattern, options in ADDED.items() if re.search(pattern, command))])


class Shell:
    """Runs command lines in the current folder; `patch` undoes what they change, `servers` are those they started."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.patch = patch
        self.servers: list[subprocess.Popen[bytes]] = []
        self.ports: dict[str, str] = {}  # of servers, as printed -> a free one

    def enter(self, line: str) -> None:
        """Run a line; fail if it fails."""
        if line.endswith("&"):
            self.ports |= {port: str(free_port()) for port in PORT.findall(line)}
        line = PORT.sub(lambda match: self.ports.get(match[0], match[0]), line)
        if line.startswith("make "):
            self._make(line)
        elif line.startswith("export "):
            for word in shlex.split(line)[1:]:
                self.patch.setenv(*word.split("=", 1))
        elif line.endswith("&"):
            self._serve(line.removesuffix("&").strip())
        elif (match := OURS.fullmatch(add_options(line))) and "--engine ray" not in line:
            program, *words = shlex.split(match[1])
            main = importlib.import_module(f"{program}.__main__").main
            result = CliRunner().invoke(main, words, catch_exceptions=False)
            assert result.exit_code == 0, f"{line}\n{result.output}"
        else:
            ended = subprocess.run(
                ["bash", "-ec", add_options(line)], capture_output=True, text=True, check=False, timeout=LONGEST
            )
            assert ended.returncode == 0, f"{line}\n{ended.stdout}{ended.stderr}"

    def _make(self, line: str) -> None:
        """Run the commands of a target, but for those by which make starts itself."""
        plan = subprocess.run([*shlex.split(line), "--dry-run"], capture_output=True, text=True, check=False)
        assert plan.returncode == 0, f"{line}\n{plan.stdout}{plan.stderr}"
        for command in plan.stdout.splitlines():
            if not re.match(r"make(\[\d+\])?[: ]", command):
                self.enter(command)

    def _serve(self, line: str) -> None:
        """Start a server and wait for its port."""
        self.servers.append(subprocess.Popen(["bash", "-ec", f"exec {line}"], stderr=subprocess.DEVNULL))
        (port,) = (port for port in self.ports.values() if port in line.split())
        deadline = time.monotonic() + PATIENCE
        while True:
            with socket.socket() as connection:
                if not connection.connect_ex(("127.0.0.1", int(port))):
                    break
            assert self.servers[-1].poll() is None and time.monotonic() < deadline, f"{line}: does not start"
            time.sleep(0.1)


@contextmanager
def open_shell(folder: Path) -> Iterator[Shell]:
    """A shell in a folder; its make finds the packages installed."""
    for name in ("Makefile", "pyproject.toml"):
        shutil.copy(ROOT / name, folder)
    python = folder / ".venv/bin/python"
    python.parent.mkdir(parents=True, exist_ok=True)
    python.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    for name in ("constraints.txt", "installed", "installed-dev"):  # in the order in which make makes them
        (folder / ".venv" / name).touch()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("PATH", str(Path(sys.executable).parent), prepend=":")
        patch.setenv("PYTHONPATH", str(ROOT))
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        for name, value in VARIABLES.items():
            patch.setenv(name, value)
        patch.setattr("pipeline.encode.run.encode_batches", encode_in_this_process)
        shell = Shell(patch)
        forget_connections()
        try:
            yield shell
        finally:
            for server in shell.servers:
                server.terminate()
                server.wait()
            forget_connections()


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which `make demo` has run."""
    folder = tmp_path_factory.mktemp("demo")
    with open_shell(folder) as shell:
        shell.enter("make demo")
    return folder


@pytest.fixture(scope="module")
def nsynth(demo: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[download.Archive]:
    """The demo notes as the archive that `download` expects, on a server of this machine."""
    folder = tmp_path_factory.mktemp("server")
    root = folder / "unpacked"
    shutil.copytree(demo / "data/demo-notes", root / download.NSYNTH_GUITAR.folder)
    data = Path(shutil.make_archive(str(folder / "notes"), "zip", root)).read_bytes()
    with web_server(folder, Behaviour()) as url:
        yield dataclasses.replace(
            download.NSYNTH_GUITAR, url=f"{url}/notes.zip", size=len(data), sha256=hashlib.sha256(data).hexdigest()
        )


def link_audio(source: str, target: str) -> None:
    """Copy a file; audio, of which there is much, is the same file."""
    if source.endswith(".mp3"):
        Path(target).hardlink_to(source)
    else:
        shutil.copy2(source, target)


def add_given(folder: Path, text: str) -> None:
    """Make what examples take as given, but for what the commands of a text make themselves."""
    for name, original in GIVEN.items():
        if name in MADE.get(text, ()):
            continue
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        if (folder / original).is_dir():
            shutil.copytree(folder / original, folder / name, copy_function=link_audio)
        else:
            shutil.copy(ROOT / original, folder / name)
    if any("--codec hf:" in command for command in TEXTS[text]):
        save_small("dac", folder / "small-codec")
    notes = sorted((folder / "data/demo-notes").rglob("*.mp3"))
    rows = [(note.stem, index / len(notes), QUALITIES[index % len(QUALITIES)]) for index, note in enumerate(notes)]
    for name in ("labels.csv", "other.csv"):
        table = [f"{key},{brightness:.3f}\n" for key, brightness, _ in rows]
        (folder / name).write_text("".join(["key,brightness\n", *table]))
    lines = [json.dumps({"key": key, "qualities_str": qualities}) + "\n" for key, _, qualities in rows]
    (folder / "labels.jsonl").write_text("".join(lines))
    (folder / "albums").mkdir()
    sounds = [soundfile.read(note) for note in notes[:: len(notes) // SHORT_NOTES]]
    soundfile.write(folder / "albums/first.wav", np.concatenate([sound for sound, _ in sounds[:3]]), sounds[0][1])
    (folder / "notes").mkdir()
    for index, (note, (sound, rate)) in enumerate(zip(notes[:: len(notes) // SHORT_NOTES], sounds, strict=True)):
        length = round(LENGTHS[index % len(LENGTHS)] * rate)
        soundfile.write(folder / "notes" / f"{note.stem}.wav", sound[:length], rate)


@pytest.mark.long
@pytest.mark.parametrize("text", TEXTS)
def test_commands_of(
    text: str, demo: Path, nsynth: download.Archive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands = [command for command in TEXTS[text] if reason_not_to_run(command) is None]
    monkeypatch.setattr(download, "NSYNTH_GUITAR", nsynth)
    folder = tmp_path / "folder"
    shutil.copytree(demo, folder, copy_function=link_audio)
    add_given(folder, text)
    (folder / "docs").mkdir()
    with open_shell(folder) as shell:
        for command in commands:
            shell.enter(command)


@pytest.mark.long
def test_commands_of_a_page_and_of_a_model_card(demo: Path, tmp_path: Path) -> None:
    shutil.copytree(demo, tmp_path / "folder", copy_function=link_audio)
    with open_shell(tmp_path / "folder") as shell:
        blocks = re.findall(r"<pre>(.*?)</pre>", Path("samples/demo/index.html").read_text(), re.DOTALL)
        lines = [line for block in blocks for line in html.unescape(block).splitlines()]
        assert lines[-1].startswith("make samples")
        shell.enter("python -m trainer export --run runs/demo --out exports/demo")
        for line in lines:
            shell.enter(line)
        shell.patch.chdir("exports")
        for line in document_commands(Path("demo/README.md").read_text()):
            shell.enter(line)
        assert Path("samples/demo/index.html").is_file()


def test_each_reason_not_to_run_a_command_is_of_a_command() -> None:
    commands = [command for commands in TEXTS.values() for command in commands]
    stale = [beginning for beginning in NEEDS if not any(command.startswith(beginning) for command in commands)]
    assert stale == []


def test_every_command_has_an_example_of_itself() -> None:
    names = [(program, name) for program in PROGRAMS for name in group_of(program).commands]
    without = [
        f"{program} {name}"
        for program, name in names
        if not any(f"-m {program} {name} " in command for command in TEXTS.get(f"{program} {name} --help", []))
    ]
    assert without == []


def test_commands_are_taken_out_of_texts() -> None:
    document = "a\n```\nmake x    # why\n\nls \\\n  -l\n```\n```text\nfolder/\n```\n```python\n1 # one\n```\n"
    assert document_commands(document) == ["make x", "ls -l", f"{PYTHON}1 # one\nEND"]
    assert help_commands("Do.\n\n\b\nExamples:\n  a b\n  c --d\n\nMore.") == ["a b", "c --d"]


def test_a_server_gets_a_free_port_and_later_lines_find_it_there(tmp_path: Path) -> None:
    (tmp_path / "here").touch()
    with open_shell(tmp_path) as shell:
        shell.enter("python -m http.server 8000 &")
        shell.enter("python -c \"import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/here')\"")
    assert shell.ports["8000"] != "8000"
