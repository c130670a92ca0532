"""How the kernels over a matrix of scores are compiled. Import only where numba is there."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from numba import njit, types


@lru_cache
def pass_of(function: Any, dtype: str) -> Any:
    """Compile `phewas.stats.kernel.run_columns` for scores float32 or float64: one version for any memory order.

    Compiled at the first call for a type, which takes some seconds once; later processes load it from disk.
    """
    of = {"float32": types.float32, "float64": types.float64, "int8": types.int8}

    def matrix(name: str) -> Any:
        return types.Array(of[name], 2, "A", readonly=True)

    signature = types.int64(
        matrix(dtype), matrix("int8"), matrix(dtype), types.Array(types.int32, 1, "C"), types.int64, types.int64,
        types.Array(types.float64, 2, "A"), types.Array(types.int64, 2, "A"), types.Array(types.float32, 2, "A"))
    try:
        return njit(signature, cache=True, nogil=True)(function)
    except RuntimeError:
        return njit(signature, nogil=True)(function)
