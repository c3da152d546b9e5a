"""ELU of float32 or bfloat16 on a CPU, as torch computes it to rounding, in a quarter of its time.

torch calls a function for the exponential; here it is a polynomial, so that LLVM makes vectors out of the loop. Imports
numba, so only what encodes imports this. Knows nothing of layers.

The polynomial: Cephes' expf, https://www.netlib.org/cephes
"""

from typing import Any

import numpy as np
import torch
from numba import njit
from torch import Tensor

from shards.numba_cache import make_cache_robust

make_cache_robust()

LOG2_E = np.float32(1.44269504)
LN_2_HIGH, LN_2_LOW = np.float32(0.693359375), np.float32(-2.12194440e-4)  # a sum of two, exact where it matters
TO_INTEGER = np.float32(3 << 22)  # added, it leaves the nearest integer in the last bits
SATURATED = np.float32(-20)  # below, ELU is -1


def elu(x: Tensor, out: Tensor) -> Tensor:
    """Write ELU of x into `out`, which does not overlap x: both contiguous, of one shape and precision."""
    if x.dtype == torch.bfloat16:
        _elu_bfloat16(_bits(x), _bits(out))
    else:
        _elu_float32(x.view(-1).numpy(), out.view(-1).numpy())
    return out


def _bits(x: Tensor) -> Any:
    """The same memory as uint16, (number,): numpy has no bfloat16."""
    return x.view(torch.uint16).view(-1).numpy()


@njit(nogil=True, cache=True, fastmath={"contract"})
def _elu_float32(numbers: np.ndarray, results: np.ndarray) -> None:
    for index in range(len(numbers)):
        results[index] = _elu(numbers[index])


@njit(nogil=True, cache=True, fastmath={"contract"})
def _elu_bfloat16(numbers: np.ndarray, results: np.ndarray) -> None:
    """Float32 in between, rounded to the nearest, or the even one of two."""
    for index in range(len(numbers)):
        number = np.uint32(np.uint32(numbers[index]) << np.uint32(16)).view(np.float32)
        bits = np.float32(_elu(number)).view(np.uint32)
        is_odd = np.uint32(bits >> np.uint32(16)) & np.uint32(1)
        results[index] = np.uint16(np.uint32(bits + np.uint32(0x7FFF) + is_odd) >> np.uint32(16))


@njit(cache=True, fastmath={"contract"})
def _elu(number: np.float32) -> Any:
    """max(x, 0) + exp(min(x, 0)) - 1, where exp(x) = 2^n exp(r) with |r| at most half of ln 2."""
    x = max(min(number, np.float32(0)), SATURATED)
    shifted = np.float32(x * LOG2_E + TO_INTEGER)
    n = shifted - TO_INTEGER
    r = x - n * LN_2_HIGH - n * LN_2_LOW
    series = np.float32(1.9875691500e-4)
    series = series * r + np.float32(1.3981999507e-3)
    series = series * r + np.float32(8.3334519073e-3)
    series = series * r + np.float32(4.1665795894e-2)
    series = series * r + np.float32(1.6666665459e-1)
    series = series * r + np.float32(5.0000001201e-1)
    exponent = np.uint32(shifted.view(np.uint32) + np.uint32(127))
    power = np.uint32(exponent << np.uint32(23)).view(np.float32)  # 2^n
    return max(number, np.float32(0)) + ((series * r * r + r) * power + (power - np.float32(1)))
