"""Imports run one way, from room to room, and `--help` waits for nothing heavy."""

import ast
import json
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PROGRAMS = ("pipeline", "shards", "trainer")

# A room may import itself and what is named here. Rooms of the pipeline are named by their folder; `pipeline` alone
# stands for the files that lie directly in it (audio, options, progress).
_BASE = {"shards", "pipeline"}
_CODEC = _BASE | {"pipeline.notes", "pipeline.codec"}
_SCORE = _CODEC | {"pipeline.encode", "pipeline.decode", "pipeline.score"}
MAY_IMPORT: dict[str, set[str]] = {
    "shards": set(),
    "trainer": {"shards"},
    "pipeline": {"shards"},
    "pipeline.notes": _BASE,
    "pipeline.codec": _BASE | {"pipeline.notes"},
    "pipeline.codec.training": _CODEC,
    "pipeline.encode": _CODEC,
    "pipeline.decode": _CODEC,
    "pipeline.score": _CODEC | {"pipeline.encode", "pipeline.decode"},
    "pipeline.page": _SCORE,
    "pipeline.instrument": _SCORE | {"pipeline.page"},
    "pipeline.__main__": set(),  # and every cli.py
}

AUDIO = {"encodec", "librosa", "soundfile", "soxr", "torchaudio", "transformers"}
MAY_NOT_IMPORT = {"shards": AUDIO | {"torch", "webdataset"}, "trainer": AUDIO}
ONLY_USER = {"encodec": "pipeline.codec.model", "transformers": "pipeline.codec.hugging_face"}

HEAVY = {
    "aiohttp",
    "datasets",
    "datatrove",
    "encodec",
    "fsspec",
    "jinja2",
    "librosa",
    "llvmlite",
    "matplotlib",
    "numba",
    "ray",
    "s3fs",
    "safetensors",
    "scipy",
    "soundfile",
    "soxr",
    "tensorboard",
    "torch",
    "torchaudio",
    "tqdm",
    "transformers",
    "upath",
    "wandb",
    "webdataset",
    "x_transformers",
}


def read_modules() -> dict[str, str]:
    """Read the source of every module of the three programs: dotted name -> source."""
    paths = [path for program in PROGRAMS for path in (ROOT / program).rglob("*.py")]
    return {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path.read_text()
        for path in paths
    }


def room_of(module: str) -> str:
    """Return the room of a module: the longest name of a room that it begins with."""
    return max((room for room in MAY_IMPORT if f"{module}.".startswith(f"{room}.")), key=len)


def imports_of(module: str, source: str, modules: Iterable[str]) -> set[str]:
    """Return all that a source imports, also inside functions; of our own modules the whole dotted name."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0 and node.module, (
                f"{module}: imports are absolute, so that rules can be read off them"
            )
            submodules = {f"{node.module}.{alias.name}" for alias in node.names} & set(modules)
            names |= submodules or {node.module}
    return names


def violations(modules: Mapping[str, str]) -> list[str]:
    """Hold the imports of all modules against the rules; return one line for each import that breaks one."""
    broken = []
    for module, source in modules.items():
        room = room_of(module)
        for name in sorted(imports_of(module, source, modules)):
            package = name.partition(".")[0]
            is_cli = name.endswith(".cli")
            if package not in PROGRAMS:
                allowed = package not in MAY_NOT_IMPORT.get(room, set())
                allowed = allowed and ONLY_USER.get(package, module) == module
            elif is_cli or module == "pipeline.__main__":
                allowed = is_cli and module.endswith(".__main__") and name.startswith(module.removesuffix("__main__"))
                allowed = allowed or name == "shards.program"
            else:
                allowed = room_of(name) == room or room_of(name) in MAY_IMPORT[room]
            if not allowed:
                broken.append(f"{module} imports {name}")
    return broken


def test_imports_run_one_way() -> None:
    assert violations(read_modules()) == []


def test_every_folder_of_the_programs_is_a_room() -> None:
    folders = {".".join(path.parent.relative_to(ROOT).parts) for path in ROOT.glob("pipeline/**/*.py")}
    assert folders == {room for room in MAY_IMPORT if room.startswith("pipeline") and not room.endswith("__main__")}


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("shards.note", "from trainer.config import Config"),
        ("shards.note", "import torch"),
        ("shards.note", "def read():\n    import soundfile"),
        ("trainer.train", "from pipeline.audio import load"),
        ("trainer.train", "import librosa"),
        ("pipeline.audio", "from trainer.run import Run"),
        ("pipeline.audio", "from pipeline.notes.key import note_key"),
        ("pipeline.notes.key", "from pipeline.codec.model import load_codec"),
        ("pipeline.notes.key", "def f():\n    from pipeline.encode import plan"),
        ("pipeline.codec.evaluate", "from pipeline.codec.training.codebooks import perplexity"),
        ("pipeline.codec.evaluate", "import encodec"),
        ("pipeline.codec.evaluate", "from transformers import AutoModel"),
        ("trainer.train", "import transformers"),
        ("pipeline.codec.model", "from pipeline.encode.settings import Settings"),
        ("pipeline.codec.training.run", "import pipeline.decode.run"),
        ("pipeline.codec.training.run", "from encodec import EncodecModel"),
        ("pipeline.encode.run", "from pipeline.decode.run import decode_folder"),
        ("pipeline.encode.run", "from pipeline.codec.training import run"),
        ("pipeline.decode.run", "from pipeline.encode.plan import Task"),
        ("pipeline.decode.run", "from pipeline.score.pitch import fundamental"),
        ("pipeline.score.pitch", "from pipeline.page.plots import RANGE"),
        ("pipeline.page.page", "from pipeline.codec.training.run import train_codec"),
        ("pipeline.page.page", "from pipeline.__main__ import main"),
        ("pipeline.page.page", "from pipeline.score.cli import score"),
        ("pipeline.page.page", "from pipeline.score import cli"),
        ("pipeline.__main__", "from pipeline.page.page import write_page"),
        ("pipeline.__main__", "from shards.errors import UserError"),
        ("trainer.__main__", "from pipeline.score.cli import score"),
    ],
)
def test_each_rule_finds_an_import_that_breaks_it(module: str, source: str) -> None:
    modules = dict.fromkeys(read_modules(), "")
    assert len(violations({**modules, module: source})) == 1


def test_what_the_rules_allow_is_no_violation() -> None:
    modules = dict.fromkeys(read_modules(), "")
    modules["pipeline.codec.model"] = "import encodec, torch\nfrom shards.note import Codec"
    modules["pipeline.page.page"] = "from pipeline.score.scores import Scores\nfrom pipeline.page import plots"
    modules["pipeline.codec.training.run"] = "from pipeline.codec.model import load_codec"
    modules["pipeline.__main__"] = "from pipeline.codec.cli import score_codec\nfrom shards.program import Program"
    modules["trainer.train"] = "import torch\nfrom shards.reader import read_shard\nfrom trainer import config"
    assert violations(modules) == []


# Asks every command for its help in turn and prints which of the modules named as arguments are loaded after each.
SHOW_HELP = """
import importlib, io, json, sys
from contextlib import redirect_stdout

import click

def show(command, words, loaded, helps):
    with redirect_stdout(io.StringIO()) as text:
        command.main([*words[1:], "--help"], prog_name=words[0], standalone_mode=False)
    loaded[" ".join(words)] = [name for name in heavy if name in sys.modules]
    return text.getvalue()

programs, heavy = sys.argv[1].split(","), sys.argv[2].split(",")
loaded, helps = {}, {}
for program in programs:
    main = importlib.import_module(f"{program}.__main__").main
    for words in ([program], *([program, name] for name in main.commands)):
        helps[" ".join(words)] = show(main, words, loaded, helps)
print(json.dumps({"loaded": loaded, "helps": helps}))
"""


def test_help_of_every_command_loads_nothing_heavy() -> None:
    command = [sys.executable, "-c", SHOW_HELP, ",".join(PROGRAMS), ",".join(sorted(HEAVY))]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    report = json.loads(result.stdout)
    assert {words: names for words, names in report["loaded"].items() if names} == {}
    assert all("Commands:" in report["helps"][program] for program in PROGRAMS)
    assert {"pipeline encode", "pipeline train-codec", "shards verify", "trainer sample"} <= report["loaded"].keys()
    assert all("Options:" in text for text in report["helps"].values())


# Starts a program as if on Windows, whose Python lacks these modules. What looks at the system comes before.
START_ON_WINDOWS = """
import click, multiprocessing.reduction, runpy, sys, tempfile  # all that Python itself imports another way on Windows

sys.platform = "win32"
sys.modules |= dict.fromkeys(("fcntl", "grp", "pwd", "resource", "termios"))
runpy.run_module(sys.argv[1], run_name="__main__")
"""


@pytest.mark.parametrize("program", PROGRAMS)
def test_on_windows_a_program_says_what_is_supported_instead_of_an_import_error(program: str) -> None:
    command = [sys.executable, "-c", START_ON_WINDOWS, program]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 1
    assert result.stderr == "Error: Windows itself is not supported; use its Linux, WSL (wsl --install)\n"
