"""The options with which loops are compiled."""

from numba import njit

from shards.numba_cache import make_cache_robust

make_cache_robust()
compiled = njit(
    nogil=True,
    cache=True,
    fastmath={"reassoc", "contract"},  # sums in any order, but infinities stay infinities
    error_model="numpy",  # a check of each divisor would keep loops from taking eight numbers at once
)
