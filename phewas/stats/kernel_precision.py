"""The compiled bootstrap of average precision: all draws go down the sorted rows together.

Import only where numba is there, as `phewas.stats.precision` does.
"""

from __future__ import annotations

import numpy as np

from phewas.compiling import compiled


@compiled
def average_precisions(case, last, codes, drawn):  # type: ignore[no-untyped-def]
    """Return AP and prevalence of each draw, float64 [draws]; NaN where a draw has no case.

    `case` and `last` bool [N] in order of falling score, the latter true at the end of a run of ties; `codes` intp [N];
    `drawn` uint8 [patients, draws].
    """
    n_draws = drawn.shape[1]
    true, false = np.zeros(n_draws, dtype=np.float32), np.zeros(n_draws, dtype=np.float32)
    gained, area = np.zeros(n_draws, dtype=np.float32), np.zeros(n_draws)
    waiting = False
    for i in range(len(case)):
        weight = drawn[codes[i]]
        if case[i]:
            for b in range(n_draws):
                gained[b] += np.float32(weight[b])
            waiting = True
        else:
            for b in range(n_draws):
                false[b] += np.float32(weight[b])
        if last[i] and waiting:
            for b in range(n_draws):
                true[b] += gained[b]
                area[b] += np.float64(gained[b] * true[b]) / max(np.float64(true[b] + false[b]), 1.0)
                gained[b] = np.float32(0.0)
            waiting = False
    share = np.empty(n_draws)
    for b in range(n_draws):
        total = np.float64(true[b]) + np.float64(false[b])
        share[b] = true[b] / total if total > 0 else np.nan
        area[b] = area[b] / true[b] if true[b] > 0 else np.nan
    return area, share
