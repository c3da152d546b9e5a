"""ELU of bfloat16 on a CPU by table: torch's numbers, which are 65,536 at the most, in a quarter of its time.

torch computes an exponential in float32 for each number. Imports numba, so only what encodes in bfloat16 imports this.
"""

import numpy as np
import torch
from numba import njit
from torch import Tensor
from torch.nn.functional import elu

from shards.numba_cache import make_cache_robust

make_cache_robust()


def fast_elu(x: Tensor, out: Tensor) -> Tensor:
    """Write `torch.nn.functional.elu` of x into `out`, which may be x: both bfloat16, contiguous, of one shape."""
    _look_up(_bits(x), TABLE, _bits(out))
    return out


def _bits(x: Tensor) -> np.ndarray:
    """The same memory as uint16, (number,): numpy has no bfloat16."""
    bits: np.ndarray = x.view(torch.uint16).view(-1).numpy()
    return bits


@njit(nogil=True, cache=True)
def _look_up(numbers: np.ndarray, table: np.ndarray, results: np.ndarray) -> None:
    for index in range(len(numbers)):
        results[index] = table[numbers[index]]


NUMBERS = torch.from_numpy(np.arange(1 << 16, dtype=np.uint16)).view(torch.bfloat16)  # all that there are
TABLE = _bits(elu(NUMBERS))
