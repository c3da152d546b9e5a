"""numba's cache of compiled loops. Where its folder cannot be read or written, all works, but starts seconds later.

Without this, numba refuses to load such loops, its own users' (librosa's) among them. Knows no loops.
"""

import errno
import importlib
import logging
import os
import secrets
from functools import cache
from typing import Any

from shards.files import cache_folder

log = logging.getLogger(__name__)

WARNED: list[str] = []  # folders, so that there is one warning


class NoFolder:
    """A locator, as numba calls it, for the case that no folder can be written."""

    @classmethod
    def from_function(cls, function: Any, file: str) -> "NoFolder":
        return cls()

    def get_cache_path(self) -> str:
        return f"/{secrets.token_hex(16)}"  # that nobody has

    def ensure_cache_path(self) -> None:
        folder = os.environ.get("NUMBA_CACHE_DIR") or str(cache_folder())
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), folder)

    def get_source_stamp(self) -> int:
        return 0

    def get_disambiguator(self) -> str:
        return ""


@cache
def tolerate_unwritable_cache() -> None:
    """Let numba compile what it cannot find or keep in its cache; warns once. Call it before loops are defined."""
    caching: Any = importlib.import_module("numba.core.caching")
    implementation = getattr(caching, "CacheImpl", None) or caching._CacheImpl  # the name in older versions
    implementation._locator_classes.append(NoFolder)
    caches = caching.Cache
    load, save = caches.load_overload, caches.save_overload

    def load_if_possible(self: Any, *arguments: Any) -> Any:
        try:
            return load(self, *arguments)
        except OSError as error:
            _warn(error, error.filename or self.cache_path)
            return None

    def save_if_possible(self: Any, *arguments: Any) -> None:
        try:
            save(self, *arguments)
        except OSError as error:
            _warn(error, error.filename or self.cache_path)

    caches.load_overload, caches.save_overload = load_if_possible, save_if_possible


def _warn(error: OSError, folder: str) -> None:
    if not WARNED:
        WARNED.append(folder)
        fact = f"numba's cache cannot be written ({error.strerror})"
        log.warning("%s: %s; name another folder in NUMBA_CACHE_DIR, or this starts late each time", folder, fact)
