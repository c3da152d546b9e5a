"""The last line of a command is the next one, and pasting one after the other leads to the page and the instrument."""

import importlib
import shlex
from pathlib import Path

import pytest
from click.testing import CliRunner

NEXT = "Next: "
TINY = "--set steps=3 --set width=32 --set depth=1"


def enter(command: str) -> str:
    """Run a typed line in this process; return the next command, or advice, that it prints."""
    python, option, program, *words = shlex.split(command)
    assert (python, option) == ("python", "-m")
    main = importlib.import_module(f"{program}.__main__").main
    result = CliRunner().invoke(main, words, catch_exceptions=False)
    assert result.exit_code == 0, f"{command}: {result.output}"
    return result.stdout.splitlines()[-1].rpartition(NEXT)[2]


def enter_chain(command: str) -> str:
    """Enter commands as long as there is a next one; return the last line."""
    while command.startswith("python -m "):
        command = enter(command)
    return command


def test_pasting_each_next_command_leads_from_notes_to_the_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    encode = enter("python -m pipeline demo-notes data/demo-notes --velocities 1 --pitches 60 62")
    train = enter(encode)
    assert train.startswith("python -m trainer train --shards shards/demo ")
    assert enter_chain(f"{train} {TINY}").startswith("open it in a browser")
    assert Path("samples/demo/index.html").is_file()


@pytest.mark.long
def test_pasting_each_next_command_leads_from_notes_to_an_instrument(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert enter_chain("python -m pipeline demo-notes data/demo-notes").startswith("open it in a browser")
    assert Path("samples/demo/index.html").is_file()
    sample = "python -m trainer sample --run runs/demo --out instruments/demo/candidates --candidates 4"
    assert "index.html" in enter_chain(sample)
    assert Path("instruments/demo/demo.sfz").is_file()
