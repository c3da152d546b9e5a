"""Lines about errors of libraries."""

import pytest

from shards.errors import REASON, first_line


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (RuntimeError("out of memory\nat kernel.cu:12"), "out of memory"),
        (MemoryError(), "MemoryError"),
        (ValueError("\nafter an empty line"), "ValueError"),
        (OSError("x" * 2 * REASON), "x" * REASON),
    ],
    ids=["many lines", "no message", "an empty line", "a long line"],
)
def test_the_first_line_of_an_error_is_never_empty_or_long(error: Exception, line: str) -> None:
    assert first_line(error) == line
