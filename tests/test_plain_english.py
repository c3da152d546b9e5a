"""Names are the field's terms, and docstrings begin with a statement, so that a stranger can read the code."""

import ast
import re
from pathlib import Path

import pytest

from tests.support import ROOT

RIDDLE = re.compile(r"(What|Who|How|Which|Where|Whether|Why|Whoever|Whatever)\b")
VAGUE = {
    "place",
    "places",
    "one",
    "ones",
    "mark",
    "marks",
    "told",
    "asked",
    "kept",
    "heard",
    "held",
    "drawn",
    "hear",
    "look",
}
FILES = sorted(path for package in ("pipeline", "shards", "trainer") for path in (ROOT / package).glob("**/*.py"))


def vague_names(tree: ast.AST) -> list[str]:
    """Variables, arguments, attributes, functions and classes with a name that could mean anything."""
    names = []
    for node in ast.walk(tree):
        if isinstance(node, ast.arg):
            names.append(node.arg)
        elif isinstance(node, ast.Name | ast.Attribute) and isinstance(node.ctx, ast.Store):
            names.append(node.id if isinstance(node, ast.Name) else node.attr)
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.append(node.name)
    return [name for name in names if name.strip("_") in VAGUE]


def riddles(tree: ast.AST) -> list[str]:
    """Docstrings that begin with a question word."""
    defined = (node for node in ast.walk(tree) if isinstance(node, ast.Module | ast.FunctionDef | ast.ClassDef))
    return [text for node in defined if (text := ast.get_docstring(node)) and RIDDLE.match(text)]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_names_are_terms_and_docstrings_are_statements(path: Path) -> None:
    tree = ast.parse(path.read_text())
    assert not vague_names(tree)
    assert not riddles(tree)


def test_a_vague_name_and_a_riddle_are_found() -> None:
    tree = ast.parse('def f(place: int) -> None:\n    """Who may write."""\n    for one in []:\n        self.mark = 1')
    assert vague_names(tree) == ["place", "one", "mark"]
    assert riddles(tree) == ["Who may write."]
