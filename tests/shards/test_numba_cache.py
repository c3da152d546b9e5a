"""shards.numba_cache: loops are compiled wherever this runs."""

import os
import subprocess
import sys
from pathlib import Path

from tests.support import ROOT
from tests.support.disk import fill, mounted_disk

LOOPS = """
import sys
from numba.core import caching
from shards.numba_cache import tolerate_unwritable_cache

if "no folder" in sys.argv:
    caching.CacheImpl._locator_classes.clear()
tolerate_unwritable_cache()
from numba import njit, vectorize
add = njit(cache=True)(lambda x, y: x + y)
add_all = vectorize(["float64(float64, float64)"], cache=True)(lambda x, y: x + y)
print(add(1, 2), add(1.0, 2.0), add_all(1, 2))
"""


def run_loops(folder: Path, *arguments: str) -> str:
    """Print sums with numba; return the warnings."""
    script = folder / "loops.py"  # numba caches the functions of files only
    script.write_text(LOOPS)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "NUMBA_CACHE_DIR": str(folder / "disk")}
    ended = subprocess.run([sys.executable, script, *arguments], capture_output=True, text=True, env=environment)
    assert ended.stdout == "3 3.0 3.0\n", ended.stderr
    return ended.stderr


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
