"""The documents are true: files, links, commands and options that they name exist."""

import importlib
import re
import shlex
from pathlib import Path

import click
import pytest

ROOT = Path(__file__).parent.parent
PROGRAMS = ("pipeline", "shards", "trainer")
DOCUMENTS = ("README.md", *(f"docs/{path.name}" for path in sorted((ROOT / "docs").glob("*.md"))))
GROUPS: dict[str, click.Group] = {name: importlib.import_module(f"{name}.__main__").main for name in PROGRAMS}


def commands_in(text: str) -> list[str]:
    """Return the command lines of our programs in a text, from `-m` on; a line that ends in \\ goes on in the next."""
    joined = text.replace("\\\n", " ")
    return re.findall(rf"-m (?:-- )?((?:{'|'.join(PROGRAMS)}) [^\n`']+)", joined)


def faults_of(line: str) -> list[str]:
    """Return what of a command line does not exist: the command, or options of it."""
    program, name, *words = shlex.split(line, comments=True)
    if name.startswith("-") or not name.islower():  # --help of a program, or COMMAND for any command
        return []
    command = GROUPS[program].commands.get(name)
    if command is None:
        return [f"{program} {name}"]
    options = {option for parameter in command.params for option in parameter.opts} | {"--help"}
    return [f"{program} {name} {word}" for word in words if word.startswith("-") and word not in options]


@pytest.mark.parametrize("document", DOCUMENTS)
def test_commands_of_the_documents_exist(document: str) -> None:
    assert [fault for line in commands_in((ROOT / document).read_text()) for fault in faults_of(line)] == []


@pytest.mark.parametrize("program", PROGRAMS)
def test_commands_of_the_help_texts_exist(program: str) -> None:
    helps = [command.help or "" for command in GROUPS[program].commands.values()]
    lines = [line for text in helps for line in commands_in(text)]
    assert len(lines) >= len(helps)
    assert [fault for line in lines for fault in faults_of(line)] == []


def test_a_command_or_option_that_does_not_exist_is_a_fault() -> None:
    assert faults_of("pipeline encode x --out y --codec z") == []
    assert faults_of("pipeline encode x --outt y") == ["pipeline encode --outt"]
    assert faults_of("trainer fly --out y") == ["trainer fly"]
    assert commands_in("torchrun -m -- trainer train \\\n  --run x\n") == ["trainer train    --run x"]


@pytest.mark.parametrize("document", DOCUMENTS)
def test_links_of_the_documents_lead_to_files(document: str) -> None:
    targets = re.findall(r"\]\(([^)#]+)\)", (ROOT / document).read_text())
    local = [target for target in targets if "://" not in target]
    assert [target for target in local if not (ROOT / document).parent.joinpath(target).exists()] == []


def anchors_of(text: str) -> set[str]:
    """The anchors that GitHub makes of a text's headings."""
    headings = re.findall(r"^#+ (.*)", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", DOCUMENTS)
def test_links_into_documents_lead_to_headings(document: str) -> None:
    links = re.findall(r"\]\(([^):#]*)#([^)]+)\)", (ROOT / document).read_text())
    folder = (ROOT / document).parent
    texts = {target: (folder / target if target else ROOT / document).read_text() for target, _ in links}
    assert [link for link in links if link[1] not in anchors_of(texts[link[0]])] == []


def test_an_anchor_is_a_heading_in_small_letters() -> None:
    assert anchors_of("# A\n\ntext\n\n## To the Hub, `sample` it\n") == {"a", "to-the-hub-sample-it"}


@pytest.mark.parametrize("document", DOCUMENTS)
def test_scripts_of_the_documents_exist(document: str) -> None:
    scripts = re.findall(r"python (\S+\.py)", (ROOT / document).read_text())
    assert [script for script in scripts if not (ROOT / script).is_file()] == []


def test_make_targets_of_the_readme_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = set(re.findall(r"make ([a-z-]+)", (ROOT / "README.md").read_text()))
    assert {"demo", "test", "samples"} <= named <= targets


def test_the_house_names_every_file() -> None:
    tree = (ROOT / "docs" / "house.md").read_text().split("## Rooms")[1]
    stack: list[str] = []
    named = set()
    for line in tree.splitlines():
        if match := re.match(r"( *)([\w.*]+/?)  +\S", line):
            depth = len(match[1]) // 2
            stack[depth:] = [match[2]]
            named.add("".join(stack))
    files = {str(path.relative_to(ROOT)) for name in PROGRAMS for path in (ROOT / name).rglob("*.py")}
    rooms = {f"{Path(file).parent}/" for file in files}
    files = {file for file in files if Path(file).name not in ("__init__.py", "cli.py")}
    assert files | rooms <= named
    assert {name for name in named if name.endswith(".py")} <= files
