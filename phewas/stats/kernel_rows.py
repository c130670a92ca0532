"""The first half of the compiled pass: rows of a matrix split into cases and controls, column by column.

Import only where numba is there, as `phewas.stats.kernel` does.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

TILE = 64
"""Rows that are copied, column by column, before they are split into cases and controls: 64 x 16 scores stay in the
first cache, and a plain copy waits for many cache lines at once."""


def compiled(function: Any) -> Any:
    """Compile, keeping the machine code on disk where a folder for it can be written."""
    try:
        return njit(cache=True, nogil=True)(function)
    except RuntimeError:
        return njit(nogil=True)(function)


@compiled
def split(  # type: ignore[no-untyped-def]
    scores, labels, first, width, values, rows, found
):
    """Copy cases to the front and controls to the back of `values` [width, N + 2]; return the first bad column or -1.

    Both places are written for every row and the one that applies is kept: nothing to mispredict. `rows` takes the row
    numbers likewise unless it is empty.
    """
    n_rows = scores.shape[0]
    last = n_rows + 1
    bad = -1
    with_rows = rows.shape[1] > 0
    copy, marks = np.empty((width, TILE), dtype=scores.dtype), np.empty((width, TILE), dtype=np.int8)
    for c in range(width):
        found[0, c] = 0
        found[1, c] = 0
    for top in range(0, n_rows, TILE):
        size = min(TILE, n_rows - top)
        for c in range(width):
            for i in range(size):
                copy[c, i] = scores[top + i, first + c]
                marks[c, i] = labels[top + i, first + c]
        for c in range(width):
            wrong = 0
            for i in range(size):
                x, label = copy[c, i], marks[c, i]
                wrong |= ((x != x) & (label >= 0)) | (label > 1) | (label < -1)
            m, n = found[0, c], last - found[1, c]
            for i in range(size):
                x, label = copy[c, i], marks[c, i]
                values[c, m] = x
                values[c, n] = x
                if with_rows:
                    rows[c, m] = top + i
                    rows[c, n] = top + i
                m += label == 1
                n -= label == 0
            found[0, c], found[1, c] = m, last - n
            if wrong and (bad < 0 or first + c < bad):
                bad = first + c
    return bad
