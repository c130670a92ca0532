"""Average precision, lift and prevalence with intervals that know of patients with several encounters."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import special, stats

from phewas.seeds import generator
from phewas.stats.sweep import COMPILED, WORTHWHILE, over_columns
from phewas.stats.tails import Floats

AP_DRAWS = 400
"""Bootstrap draws. They give a standard error, not a percentile, for which fewer are enough."""


@dataclass(frozen=True)
class Precision:
    """Bounds of average precision and of its ratio to the prevalence; float64 [P], NaN where undefined.

    `se_logit` and `se_log` are the bootstrap standard errors of logit AP and of log lift.
    """

    ap_low: Floats
    ap_high: Floats
    lift_low: Floats
    lift_high: Floats
    se_logit: Floats
    se_log: Floats


def patient_draws(n_patients: int, *, n_draws: int, seed: int) -> NDArray[np.uint8]:
    """Return how often each patient is drawn, uint8 [n_patients, n_draws]; every column sums to `n_patients`."""
    random = generator("patient-bootstrap", seed)
    result = np.empty((n_patients, n_draws), dtype=np.uint8)
    for b in range(n_draws):
        times = np.bincount(random.integers(0, n_patients, n_patients), minlength=n_patients)
        result[:, b] = np.minimum(times, 255)
    return result


def precision_bounds(
    scores: NDArray[Any], labels: NDArray[Any], clusters: NDArray[np.intp], *, average_precision: Floats,
    drawn: NDArray[np.uint8], level: float = 0.95, factor: Floats | None = None, compiled: bool | None = None,
) -> Precision:
    """Return patient-bootstrap intervals of average precision and lift.

    Parameters
    ----------
    scores
        float [N, P]; NaN only where excluded.
    labels
        int8 [N, P]: 1 case, 0 control, -1 excluded.
    clusters
        intp [N], patient of each row as 0 .. C-1.
    average_precision
        float64 [P], of the data as they are.
    drawn
        `patient_draws` of the C patients. Whole patients are drawn, cases and controls alike.
    level
        Confidence level in (0, 1).
    factor
        float64 [P], by which standard errors are multiplied (cross-fitted scores); NaN gives no interval.
    compiled
        As for `phewas.stats.sweep.sweep`; both ways give the same numbers to rounding.

    Returns
    -------
    Precision
        AP on the logit scale and lift on the log scale, normal quantile times the standard deviation of the draws
        (Boyd, Eng and Page 2013, ECML PKDD: logit intervals cover better than percentiles). NaN at AP 1.
    """
    size = scores.shape[1]
    se_logit, se_log, prevalence = np.full(size, np.nan), np.full(size, np.nan), np.full(size, np.nan)
    if compiled is None:
        compiled = COMPILED and scores.size >= WORTHWHILE
    kernel = _kernel() if compiled else _plain

    def work(start: int, stop: int) -> None:
        for j in range(start, stop):
            used = np.flatnonzero(labels[:, j] >= 0)
            y = labels[used, j] == 1
            if not y.any() or y.all():
                continue
            score = np.asarray(scores[used, j])
            order = np.argsort(-score, kind="stable")
            ordered = score[order]
            last = np.append(ordered[1:] != ordered[:-1], True)
            ap, share = kernel(y[order], last, clusters[used][order], drawn)
            fine = np.isfinite(ap) & (share > 0) & (share < 1)
            prevalence[j] = y.mean()
            if np.count_nonzero(fine) > 1:
                inner = np.clip(ap[fine], 1e-12, 1 - 1e-12)
                se_logit[j] = special.logit(inner).std(ddof=1)
                se_log[j] = np.log(ap[fine] / share[fine]).std(ddof=1)

    over_columns(size, work, step=8, threads=None)
    if factor is not None:
        se_logit, se_log = se_logit * factor, se_log * factor
    z = float(stats.norm.ppf(0.5 + level / 2))
    inside = (average_precision > 0) & (average_precision < 1)
    centre = special.logit(np.where(inside, average_precision, 0.5))
    with np.errstate(divide="ignore", invalid="ignore"):
        lift = np.log(average_precision / prevalence)

    def unless(values: Floats) -> Floats:
        return np.where(inside, values, np.nan)

    return Precision(
        unless(special.expit(centre - z * se_logit)), unless(special.expit(centre + z * se_logit)),
        unless(np.exp(lift - z * se_log)), unless(np.exp(lift + z * se_log)), se_logit, se_log)


def _plain(
    case: NDArray[np.bool_], last: NDArray[np.bool_], codes: NDArray[np.intp], drawn: NDArray[np.uint8]
) -> tuple[Floats, Floats]:
    """Return AP and prevalence of every draw, rows being sorted by falling score; `last` ends each run of ties."""
    n_draws = drawn.shape[1]
    ap, share = np.full(n_draws, np.nan), np.full(n_draws, np.nan)
    ends = np.flatnonzero(last)
    step = max(1, 4_000_000 // max(len(case), 1))
    for start in range(0, n_draws, step):
        weight = drawn[codes, start : start + step].astype(np.float64)
        every = np.cumsum(weight, axis=0)[ends]
        true = np.cumsum(weight * case[:, None], axis=0)[ends]
        gained = np.diff(true, axis=0, prepend=0.0)
        with np.errstate(divide="ignore", invalid="ignore"):
            terms = np.where(gained > 0, gained * true / every, 0.0)
            ap[start : start + step] = terms.sum(axis=0) / true[-1]
            share[start : start + step] = true[-1] / every[-1]
    return ap, share


def _kernel() -> Any:
    from phewas.stats.kernel_precision import average_precisions

    return average_precisions


def prevalence_bounds(
    labels: NDArray[Any], clusters: NDArray[np.intp], *, level: float = 0.95
) -> tuple[Floats, Floats]:
    """Return an interval for each column's share of cases, float64 [P] each; NaN where there is no row or one patient.

    Wilson's interval with the number of independent rows that the data are worth, ``p (1 - p) / var``, the variance
    being that of a ratio of patients' totals (Dean and Pagano 2015, J Surv Stat Methodol 3:484); never more than the
    number of rows. With every row of the same kind the number of patients is taken.

    Parameters
    ----------
    labels
        int8 [N, P].
    clusters
        intp [N], patients as 0 .. C-1.
    """
    size = labels.shape[1]
    low, high = np.full(size, np.nan), np.full(size, np.nan)
    z = float(stats.norm.ppf(0.5 + level / 2))
    n_codes = int(clusters.max(initial=-1)) + 1
    for j in range(size):
        used = labels[:, j] >= 0
        y, codes = (labels[used, j] == 1).astype(np.float64), clusters[used]
        rows = np.bincount(codes, minlength=n_codes)
        patients = int(np.count_nonzero(rows))
        if patients < 2:
            continue
        p = y.mean()
        off = np.bincount(codes, weights=y, minlength=n_codes) - p * rows
        variance = patients / (patients - 1) * float(np.sum(off * off)) / len(y) ** 2
        worth = min(p * (1 - p) / variance, len(y)) if variance > 0 else patients
        low[j], high[j] = wilson(p, worth, z=z)
    return low, high


def wilson(share: Any, n: Any, *, z: float) -> tuple[Any, Any]:
    """Return Wilson's bounds of a share among `n` independent rows; broadcasts, NaN where n is 0."""
    share, n = np.asarray(share, dtype=np.float64), np.asarray(n, dtype=np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        n = np.where(n > 0, n, np.nan)
        centre = (share + z**2 / (2 * n)) / (1 + z**2 / n)
        half = z / (1 + z**2 / n) * np.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    return np.maximum(centre - half, 0.0), np.minimum(centre + half, 1.0)
