"""Lines about errors of libraries."""

from collections.abc import Callable

import numpy as np
import pytest
import torch

from shards.errors import REASON, UserError, first_line, name_lack_of_memory


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


@pytest.mark.parametrize("allocate", [lambda: torch.empty(1 << 46), lambda: np.empty(1 << 46)])
def test_a_lack_of_memory_is_one_line_with_its_cure(allocate: Callable[[], object]) -> None:
    with (
        pytest.raises(UserError, match=r"^cpu: not enough memory \(.+\); buy some$"),
        name_lack_of_memory("buy some", "cpu"),
    ):
        allocate()


def test_other_errors_stay_as_they_are() -> None:
    with pytest.raises(RuntimeError, match="shape"), name_lack_of_memory(""):
        raise RuntimeError("shape")
