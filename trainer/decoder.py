"""x-transformers' decoder, imported without einx, which takes longer to import than torch and is not needed here.

The parts of x-transformers that call einx load it with their first call.
"""

import importlib
import sys
from types import ModuleType
from typing import Any


class _LazyModule(ModuleType):
    """Stands for a package until something of it is used."""

    def __getattr__(self, attribute: str) -> Any:
        if attribute.startswith("__") and attribute != "__path__":  # `inspect` looks at every module's
            raise AttributeError(attribute)
        if sys.modules.get(self.__name__) is self:
            del sys.modules[self.__name__]
        return getattr(importlib.import_module(self.__name__), attribute)


sys.modules.setdefault("einx", _LazyModule("einx"))

from x_transformers import Decoder, TransformerWrapper  # noqa: E402

__all__ = ["Decoder", "TransformerWrapper"]
