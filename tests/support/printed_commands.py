"""Commands that help texts and documents print, taken out of the texts. Runs none of them."""

import importlib
import re

import click

from tests.support import ROOT

PROGRAMS = ("pipeline", "shards", "trainer")
FOLDERS = (".", "docs", "pipeline/codec")
DOCUMENTS = [str(path.relative_to(ROOT)) for folder in FOLDERS for path in sorted((ROOT / folder).glob("*.md"))]
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
EXAMPLES = re.compile(r"^\s*Examples?:\n(.*?)(?:\n\s*\n|\Z)", re.MULTILINE | re.DOTALL)
PYTHON = "python - <<'END'\n"  # begins the command of a block of Python


def printed_commands() -> dict[str, list[str]]:
    """Text -> its commands, in order. A text is a document's path, or `PROGRAM COMMAND --help`."""
    texts = {document: document_commands((ROOT / document).read_text()) for document in DOCUMENTS}
    for program in PROGRAMS:
        for name, command in group_of(program).commands.items():
            texts[f"{program} {name} --help"] = help_commands(command.help or "")
    return {text: commands for text, commands in texts.items() if commands}


def group_of(program: str) -> click.Group:
    """The commands of a program."""
    group: click.Group = importlib.import_module(f"{program}.__main__").main
    return group


def document_commands(text: str) -> list[str]:
    """Commands of a Markdown text: of each block without a language its lines, and each block of sh or Python whole.

    Blocks of another language, such as `text`, hold none.
    """
    commands = []
    for language, block in BLOCK.findall(text):
        if language == "":
            commands += join_lines(block)
        elif language == "sh":
            commands.append(block)
        elif language == "python":
            commands.append(f"{PYTHON}{block}END")
    return commands


def help_commands(text: str) -> list[str]:
    """Commands of the examples of a help text."""
    return [command for block in EXAMPLES.findall(text) for command in join_lines(block)]


def join_lines(block: str) -> list[str]:
    """Commands of a block: a line that ends in \\ goes on in the next, and comments are left out."""
    lines = re.sub(r"\\\n *", "", block).splitlines()
    return [command for line in lines if (command := re.sub(r"(^|\s+)# .*", "", line).strip())]
