"""How inner loops are compiled and kept. Import only where they are needed: numba takes a second to load.

A compiled function is kept on disk beside its own file and made anew when that file changes, but not when another file
does. So a compiled function calls none of another module: Python calls them one after the other.
"""

from __future__ import annotations

from typing import Any

from numba import njit


def compiled(function: Any) -> Any:
    """Compile, keeping the machine code on disk where a folder for it can be written.

    Sums keep their order, so that the result is that of the same steps in NumPy; other threads go on meanwhile.
    """
    try:
        return njit(cache=True, nogil=True)(function)
    except RuntimeError:
        return njit(nogil=True)(function)
