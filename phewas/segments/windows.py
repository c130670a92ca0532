"""Which windows of an encounter are taken: a grid over its recordings, and an order drawn by hash."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from phewas.seeds import generator


@dataclass(frozen=True)
class Candidates:
    """The windows on the grid, in the encounter's drawn order. Both arrays int64 [candidates]."""

    recording: NDArray[np.int64]
    start_sample: NDArray[np.int64]


def candidates(
    lengths: NDArray[np.int64], window_samples: NDArray[np.int64], *, seed: int, encounter_id: str
) -> Candidates:
    """Lay the grid over an encounter's recordings and draw its order.

    Parameters
    ----------
    lengths
        int64 [recordings], samples of each recording.
    window_samples
        int64 [recordings], samples of one window at that recording's rate.
    seed, encounter_id
        All that the order depends on, besides the grid itself.

    Returns
    -------
    Candidates
        Every window that fits, without overlap, each once, in drawn order. A window that fails quality is replaced by
        the next.
    """
    counts = lengths // window_samples
    recording = np.repeat(np.arange(len(lengths)), counts)
    within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    start = within * window_samples[recording]
    order = generator("windows", seed, encounter_id).permutation(len(start))
    return Candidates(recording[order], start[order])
