"""Imports of codecs without torchaudio, which may not load beside a CPU build of torch and is not used here."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType


@contextmanager
def without_torchaudio(stand_in: ModuleType | None) -> Iterator[None]:
    """Hide torchaudio from the imports of the block, unless it is imported already.

    stand_in: is imported in its place; None: it seems not to be installed.
    """
    is_absent = "torchaudio" not in sys.modules
    sys.modules.setdefault("torchaudio", stand_in)  # type: ignore[arg-type]  # None is documented, and typed otherwise
    try:
        yield
    finally:
        if is_absent:
            del sys.modules["torchaudio"]
