"""numba's cache of compiled loops. Where its folder cannot be read or written, all works, but starts seconds later.

Without this, numba refuses to load such loops, its own users' (librosa's) among them, and two processes that fill the
cache at the same time can leave files that crash every later process (numba's issue 10128). Knows no loops.
"""

import errno
import hashlib
import importlib
import logging
import os
import secrets
from functools import cache
from pathlib import Path
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
def make_cache_robust() -> None:
    """Let numba compile what it cannot find or keep in its cache (warns once), and processes share it.

    Loops are compiled anew when a file of their folder has changed. Call it before loops are defined.
    """
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
    # Compiled code has in it the loops that it calls, and numba looks at no file but the caller's.
    caching._SourceFileBackedLocatorMixin.get_source_stamp = lambda self: _digest_of_folder(Path(self._py_file).parent)
    _share_between_processes(caching)


@cache
def _digest_of_folder(folder: Path) -> str:
    """Of all source files in a folder."""
    digest = hashlib.sha256()
    for path in sorted(folder.glob("*.py")):
        digest.update(f"{path.name} {path.stat().st_size} ".encode() + path.read_bytes())
    return digest.hexdigest()


def _share_between_processes(caching: Any) -> None:
    """Make each file of the cache fit all others, whichever of several processes wrote them.

    numba numbers the files of a function as they come, so that two processes give one name to different code: here the
    name follows from the code's key. And the wrapper of a generalised ufunc calls its loop by a symbol that differs
    from process to process: here it is a part of the wrapper's key.
    """
    wrappers: Any = importlib.import_module("numba.np.ufunc.wrappers")
    wrapper, wrapper_cache = wrappers._GufuncWrapper, wrappers.GufWrapperCache
    start, key_of = wrapper.__init__, wrapper_cache._index_key

    def start_with_symbol(self: Any, *arguments: Any, **options: Any) -> None:
        start(self, *arguments, **options)
        self.cache.symbol = self.fndesc.llvm_func_name

    def key_with_symbol(self: Any, *arguments: Any) -> tuple[Any, ...]:
        return (*key_of(self, *arguments), self.symbol)

    def save(self: Any, key: Any, data: Any) -> None:
        digest = hashlib.sha256(repr((self._source_stamp, key)).encode()).digest()
        name = self._data_name(int.from_bytes(digest[:8]))
        self._save_data(name, data)  # first: what the index names is there
        self._save_index({**self._load_index(), key: name})

    wrapper.__init__, wrapper_cache._index_key = start_with_symbol, key_with_symbol
    caching.IndexDataCacheFile.save = save


def _warn(error: OSError, folder: str) -> None:
    if not WARNED:
        WARNED.append(folder)
        fact = f"numba's cache cannot be written ({error.strerror})"
        log.warning("%s: %s; name another folder in NUMBA_CACHE_DIR, or this starts late each time", folder, fact)
