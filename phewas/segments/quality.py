"""Whether a raw window can be used, judged without knowing its unit or gain."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

# A pulse at 30 beats a minute never rests on one value for a fifth of a second; a saturated or detached sensor does.
FLAT_RUN_S = 0.2


@dataclass(frozen=True)
class Quality:
    """Shares of a window, each between 0 and 1: samples missing, and samples in flat runs."""

    invalid: float
    flat: float


def measure(window: NDArray[np.float32], *, fs_hz: float) -> Quality:
    """Measure one raw window.

    Parameters
    ----------
    window
        float32 [samples] in physical units; NaN and infinities are missing.
    fs_hz
        Samples per second.

    Notes
    -----
    A flat run is at least `FLAT_RUN_S` of samples with one and the same value, so that the measure does not depend on
    gain or unit. Missing samples are not counted as flat.
    """
    finite = np.isfinite(window)
    same = np.flatnonzero(~((window[1:] == window[:-1]) & finite[1:] & finite[:-1]))
    # Runs of equal neighbours lie between the places where a sample differs from the one before.
    edges = np.concatenate([[-1], same, [len(window) - 1]])
    runs = np.diff(edges)
    flat = runs[runs >= max(2, FLAT_RUN_S * fs_hz)].sum()
    return Quality(invalid=float(1 - finite.mean()), flat=float(flat / len(window)))


def fill_gaps(window: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the window with missing samples replaced by straight lines between their neighbours (held at the ends)."""
    finite = np.isfinite(window)
    if finite.all():
        return window
    where = np.arange(len(window))
    return np.interp(where, where[finite], window[finite]).astype(np.float32)
