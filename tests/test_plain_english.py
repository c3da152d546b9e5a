"""Names are the field's terms, docstrings begin with a statement, and things are counted by `counted`, so that a
stranger can read the code and what it prints.
"""

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
THINGS = "candidate|evaluation|fault|file|folder|key|line|note|pair|rank|row|sample|segment|shard|step|word"
PLURAL = re.compile(rf" (\w+ )?({THINGS})s\b(?!/s)")
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


def uncounted(tree: ast.AST) -> list[str]:
    """Values in front of a plural, which may be 1, and endings in s that depend on a number."""
    found = []
    for texts in (node.values for node in ast.walk(tree) if isinstance(node, ast.JoinedStr)):
        for value, following in zip(texts, [*texts[1:], None], strict=True):
            if isinstance(value, ast.FormattedValue):
                code = ast.unparse(value.value)
                is_whole = value.format_spec is None or ast.unparse(value.format_spec) == "f','"
                is_constant = code.isupper()  # and more than 1
                is_plural = isinstance(following, ast.Constant) and PLURAL.match(str(following.value))
                if (is_plural and is_whole and not is_constant) or "'s'" in code:
                    found.append(code)
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_names_are_terms_and_docstrings_are_statements(path: Path) -> None:
    tree = ast.parse(path.read_text())
    assert not vague_names(tree)
    assert not riddles(tree)
    assert path == ROOT / "shards/console.py" or not uncounted(tree)


def test_a_vague_name_and_a_riddle_are_found() -> None:
    tree = ast.parse('def f(place: int) -> None:\n    """Who may write."""\n    for one in []:\n        self.mark = 1')
    assert vague_names(tree) == ["place", "one", "mark"]
    assert riddles(tree) == ["Who may write."]


def test_a_number_in_front_of_a_plural_is_found() -> None:
    tree = ast.parse(
        """f"{a} notes, {b:,} new files, {c} file{'s' * (c > 1)}, {counted(d, 'note')} of {E} notes at {f} steps/s" """
    )
    assert uncounted(tree) == ["a", "b", "'s' * (c > 1)"]
