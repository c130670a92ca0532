"""Net benefit of acting on the encoder's probability, where there is a probability.

References
----------
Vickers and Elkin 2006, Med Decis Making 26:565 (decision curves). Vickers, Van Calster and Steyerberg 2016, BMJ 352:i6
(interpretation).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy import special

from phewas.schema import NetBenefit
from phewas.stats.calibration import Tuning, log_odds
from phewas.stats.tails import Floats


def net_benefit(
    logits: NDArray[Any], labels: NDArray[Any], clusters: NDArray[np.intp], names: list[str], *,
    thresholds: Sequence[float], plain: bool | None, tuning: Tuning | None, drawn: NDArray[np.uint8],
    level: float = 0.95,
) -> pl.DataFrame:
    """Return `phewas.schema.NetBenefit`.

    Parameters
    ----------
    logits
        float [U, P], mean logits of the scored units.
    labels
        int8 [U, P].
    clusters
        intp [U], patients as 0 .. C-1.
    names
        The P phenotypes.
    thresholds
        Probabilities in (0, 1) from which one would act.
    plain, tuning
        As for `phewas.stats.calibration.calibration`: without a probability there is the reason and no figure.
    drawn
        `phewas.stats.precision.patient_draws` of the C patients.
    level
        Confidence level in (0, 1).

    Notes
    -----
    Net benefit at t is ``TP / n - FP / n * t / (1 - t)``, those with a probability of at least t being acted upon;
    treating all is ``prevalence - (1 - prevalence) * t / (1 - t)``, treating none is 0. Bounds are percentiles over
    draws of whole patients; recalibration is taken as given. Excluded controls are in none of it: in everybody, the
    prevalence is lower, and so is the benefit.
    """
    rows: list[dict[str, Any]] = []
    below, above = (1 - level) / 2, (1 + level) / 2
    n_codes, weight = drawn.shape[0], drawn.T.astype(np.float32)
    for j, name in enumerate(names):
        used = labels[:, j] >= 0
        y, codes = labels[used, j] == 1, clusters[used]
        status, eta = log_odds(logits[used, j], j, plain=plain, tuning=tuning)
        base = [{"phenotype": name, "threshold": float(t), "status": status} for t in thresholds]
        rows += base
        if eta is None:
            continue
        p = special.expit(eta)
        flagged = [p >= t for t in thresholds]
        parts = [np.bincount(codes, weights=mark, minlength=n_codes) for mark in
                 (np.ones(len(y)), y, *(y & f for f in flagged), *(~y & f for f in flagged))]
        sums = np.stack(parts, axis=1)
        now, moved = sums.sum(axis=0), (weight @ sums.astype(np.float32)).astype(np.float64)
        for k, (row, t) in enumerate(zip(base, thresholds, strict=True)):
            own, every = _benefits(now[None], k, len(base), float(t))
            one, all_ = _benefits(moved, k, len(base), float(t))
            row |= {"n_flagged": int(now[2 + k] + now[2 + len(base) + k]), "treat_all": float(every[0]),
                    "net_benefit": float(own[0]), "over_treat_all": float(own[0] - every[0])}
            for what, values in (("", one), ("over_", one - all_)):
                low, high = np.nanquantile(values, (below, above))
                row |= {f"{what}low": float(low), f"{what}high": float(high)}
    return NetBenefit.build(rows)


def _benefits(sums: Floats, k: int, n_thresholds: int, t: float) -> tuple[Floats, Floats]:
    """Return net benefit and that of treating all, from sums of units, cases, true and false alarms per threshold."""
    n, cases, true, false = sums[:, 0], sums[:, 1], sums[:, 2 + k], sums[:, 2 + n_thresholds + k]
    odds = t / (1 - t)
    with np.errstate(divide="ignore", invalid="ignore"):
        return (true - false * odds) / n, (cases - (n - cases) * odds) / n
