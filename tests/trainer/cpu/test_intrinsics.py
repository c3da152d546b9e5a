"""What numba lacks: bfloat16 as torch has it, on processors with units for it and without."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from numba import njit

from tests.support import ROOT
from trainer.cpu.decoder import to_numpy
from trainer.cpu.intrinsics import to_dtype_of, to_float32
from trainer.cpu.products import add_product, pack

PRODUCT = """
import sys
import llvmlite.binding as llvm
import numpy as np

features = set(sys.argv[2].split(","))
llvm.get_host_cpu_features = lambda: {"avx512f": "+avx512f" in features}
from trainer.cpu.intrinsics import LANES
from trainer.cpu.products import add_product, pack

assert LANES == (16 if "+avx512f" in features else 8)
folder = sys.argv[1]
out = np.zeros((10, 70), np.float32)
add_product(np.load(f"{folder}/x.npy"), pack(np.load(f"{folder}/matrix.npy")), out)
np.save(f"{folder}/out.npy", out)
"""


@njit
def round_trip(numbers: np.ndarray, stored: np.ndarray) -> None:
    """Store the numbers in an array of another dtype, and read them back."""
    for index in range(len(numbers)):
        stored[index] = to_dtype_of(numbers[index], stored)
        numbers[index] = to_float32(stored[index])


def test_bfloat16_is_torch_s() -> None:
    bits = np.random.default_rng(0).integers(0, 2**32, size=100_000, dtype=np.uint32)
    numbers = bits.view(np.float32)
    halves = np.arange(2**16, dtype=np.uint32) << 16 | 0x8000  # halfway between two neighbours
    numbers = np.concatenate([numbers, halves.view(np.float32), np.array([0.0, -0.0, np.inf, -np.inf], np.float32)])
    numbers = numbers[~np.isnan(numbers)]
    expected = torch.from_numpy(numbers.copy()).bfloat16()
    stored = np.empty(len(numbers), np.uint16)
    round_trip(numbers, stored)
    assert np.array_equal(stored, to_numpy(expected))
    assert np.array_equal(numbers, expected.float().numpy())


def test_float32_stays_as_it_is() -> None:
    numbers = np.random.default_rng(0).normal(size=100).astype(np.float32)
    stored = np.empty(100, np.float32)
    round_trip(numbers, stored)
    assert np.array_equal(numbers, stored)


@pytest.mark.parametrize("features", ["+avx512f,+avx512bw,+avx512vl,+avx512dq", "+avx2,+fma", ""])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_products_are_the_same_on_processors_with_narrower_registers_and_without_units_for_bfloat16(
    dtype: torch.dtype, features: str, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    x, matrix = to_numpy(torch.randn(10, 300).to(dtype)), to_numpy(torch.randn(70, 300).to(dtype))
    np.save(tmp_path / "x.npy", x)
    np.save(tmp_path / "matrix.npy", matrix)
    processor = {"NUMBA_CPU_NAME": "generic", "NUMBA_CPU_FEATURES": features, "NUMBA_CACHE_DIR": str(tmp_path)}
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **processor}
    subprocess.run([sys.executable, "-c", PRODUCT, str(tmp_path), features], env=environment, check=True)
    out = np.zeros((10, 70), np.float32)
    add_product(x, pack(matrix), out)
    # Where a processor multiplies and adds in one operation, as most do, the last bit is the same too.
    assert np.allclose(np.load(tmp_path / "out.npy"), out, rtol=0, atol=0 if features else 1e-4)
