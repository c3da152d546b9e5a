"""shards.numba_cache: loops are compiled wherever this runs."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from tests.support import ROOT
from tests.support.disk import fill, mounted_disk

LOOPS = """
import sys
from numba.core import caching
from shards.numba_cache import make_cache_robust

if "no folder" in sys.argv:
    caching.CacheImpl._locator_classes.clear()
make_cache_robust()
from numba import njit, vectorize
add = njit(cache=True)(lambda x, y: x + y)
add_all = vectorize(["float64(float64, float64)"], cache=True)(lambda x, y: x + y)
print(add(1, 2), add(1.0, 2.0), add_all(1, 2))
"""

ROWS = """
import sys
import numpy as np
from shards.numba_cache import make_cache_robust

make_cache_robust()
from numba import guvectorize, njit
kind, other = sys.argv[1:]
if other:
    njit(lambda x: x)(1)  # so that numba's symbols differ from those of another process

@guvectorize("(n)->(n)", cache=True)
def doubled(values, result):
    for index in range(len(values)):
        result[index] = 2 * values[index]

values = np.arange(3).astype(kind)
result = np.empty_like(values)
doubled(values, result)
print(result)
"""


def run_script(folder: Path, text: str, cache: Path, *arguments: str) -> tuple[str, str]:
    """Run a program with numba's loops; return its output and its warnings."""
    script = folder / "loops.py"  # numba caches the functions of files only
    script.write_text(text)
    os.utime(script, (0, 0))  # numba's index names the file's time
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "NUMBA_CACHE_DIR": str(cache)}
    ended = subprocess.run([sys.executable, script, *arguments], capture_output=True, text=True, env=environment)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout, ended.stderr


def run_loops(folder: Path, *arguments: str) -> str:
    """Print sums with numba; return the warnings."""
    output, warnings = run_script(folder, LOOPS, folder / "disk", *arguments)
    assert output == "3 3.0 3.0\n"
    return warnings


def test_no_folder_can_be_written(tmp_path: Path) -> None:
    warnings = run_loops(tmp_path, "no folder")
    assert len(warnings.splitlines()) == 1 and f"{tmp_path / 'disk'}: " in warnings and "NUMBA_CACHE_DIR" in warnings


def test_the_disk_of_the_cache_is_full(tmp_path: Path) -> None:
    with mounted_disk(tmp_path / "disk", "64k") as disk:
        fill(disk)
        warnings = run_loops(tmp_path)
    assert len(warnings.splitlines()) == 1 and str(disk) in warnings and "No space left" in warnings


def test_a_cache_that_can_be_written_is_used(tmp_path: Path) -> None:
    assert run_loops(tmp_path) == ""
    assert list((tmp_path / "disk").rglob("*.nbi"))


def test_two_processes_that_fill_the_cache_together_leave_what_a_third_can_load(tmp_path: Path) -> None:
    # Each has a folder of its own, so that any order of their writes can be made of the two.
    for cache, arguments in (("a", ("f8", "")), ("b", ("f8", "other")), ("c", ("f4", ""))):
        assert run_script(tmp_path, ROWS, tmp_path / cache, *arguments) == ("[0. 2. 4.]\n", "")
    for caches, wrappers in (("a", "b"), ("b", "a"), ("ac", "c"), ("ca", "a")):
        together = tmp_path / (caches + wrappers)
        for cache in caches:
            shutil.copytree(tmp_path / cache, together, dirs_exist_ok=True)
        for path in (tmp_path / wrappers).rglob("guf-*"):
            shutil.copy(path, together / path.relative_to(tmp_path / wrappers))
        for kind in ("f8", "f4"):
            assert run_script(tmp_path, ROWS, together, kind, "") == ("[0. 2. 4.]\n", "")


def test_a_loop_is_compiled_anew_when_another_file_of_its_folder_has_changed(tmp_path: Path) -> None:
    text = """
from shards.numba_cache import make_cache_robust

make_cache_robust()
from numba import njit
from called import called
print(njit(cache=True)(lambda x: called(x))(1))
"""
    for sum_ in (3, 4, 4):
        called = f"from numba import njit\n\n@njit(cache=True)\ndef called(x):\n    return x + {sum_ - 1}\n"
        (tmp_path / "called.py").write_text(called)
        os.utime(tmp_path / "called.py", (sum_, sum_))  # or Python would take the compiled file of before
        assert run_script(tmp_path, text, tmp_path / "cache") == (f"{sum_}\n", "")


def test_whoever_has_loops_of_numba_makes_its_cache_robust_first() -> None:
    files = [path for room in ("pipeline", "shards", "trainer") for path in (ROOT / room).rglob("*.py")]
    having = {path: text for path in files if re.search("import librosa|import njit", text := path.read_text())}
    assert len(having) > 3
    assert [path for path, text in having.items() if "make_cache_robust()\n" not in text] == []
