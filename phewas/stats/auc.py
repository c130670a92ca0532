"""AUC per phenotype with its interval and its p-value, patients being the independent unit.

Interval: logit scale, DeLong variance (clustered by patient after Obuchowski 1997), Student quantile with Satterthwaite
df. Test against 0.5: for independent rows the Brunner-Munzel test; for patients the same t with the variance of their
sums under the null hypothesis, and fewer df in the tail. Where patients have unequal numbers of rows the interval, too,
takes the variance at the value it is about (`phewas.stats.spread`). Where the variance is 0 it is Newcombe's method 5.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import special, stats

from phewas.stats.placement import influence as influence
from phewas.stats.placement import placements as placements
from phewas.stats.spread import Spread
from phewas.stats.sweep import Sweep, sweep
from phewas.stats.tails import LOG10, Floats, newcombe_bounds, score_bounds, t_quantile, t_two_sided

Text = NDArray[np.str_]
Counts = NDArray[np.int64]

LOGIT_DELONG = "logit DeLong, t"
LOGIT_OBUCHOWSKI = "logit Obuchowski (patient-clustered DeLong), t"
NEWCOMBE = "Newcombe method 5"
BRUNNER_MUNZEL = "Brunner-Munzel t"
CLUSTERED_T = "patient-clustered Brunner-Munzel t"
EXACT_SEPARATION = "exact permutation of separated patients"


@dataclass(frozen=True)
class Auc:
    """AUCs of P phenotypes; every field is an array [P].

    Attributes
    ----------
    auc
        float64 in [0, 1]; NaN without cases or without controls.
    se
        float64; NaN with fewer than two case or control clusters.
    slope, curve
        float64, how its square depends on the true AUC, see `phewas.stats.spread.Spread`; NaN where `se` is.
    low, high
        float64 in [0, 1], bounds at `level`; NaN where `se` is.
    ci_method
        How the bounds were made; empty where there are none.
    zero_variance
        bool: the variance is 0, as for constant scores or complete separation.
    n_cases, n_controls
        int64, rows.
    n_case_clusters, n_control_clusters
        int64, clusters (patients) with at least one such row.
    statistic
        float64, (AUC - 0.5) over its standard error under AUC 0.5; for independent rows that is `se`. NaN where se is 0
        or NaN.
    p, neg_log10_p
        float64, two-sided against AUC 0.5; p = 1 for constant scores. `neg_log10_p` does not underflow.
    p_test
        Name of the test; empty where there is none.
    df
        float64, Satterthwaite degrees of freedom of the interval; NaN where there is no t.
    null_df
        float64, those of `statistic`, before `tail_df`.
    average_precision
        float64 in (0, 1]; NaN without cases or without controls.
    level
        Confidence level, one number.
    """

    auc: Floats
    se: Floats
    slope: Floats
    curve: Floats
    low: Floats
    high: Floats
    ci_method: Text
    zero_variance: NDArray[np.bool_]
    n_cases: Counts
    n_controls: Counts
    n_case_clusters: Counts
    n_control_clusters: Counts
    statistic: Floats
    p: Floats
    neg_log10_p: Floats
    p_test: Text
    df: Floats
    null_df: Floats
    average_precision: Floats
    level: float

    def __len__(self) -> int:
        return len(self.auc)

    def row(self, j: int) -> dict[str, Any]:
        """Return phenotype `j` as plain numbers by field name."""
        return {name: value[j].item() for name, value in vars(self).items() if isinstance(value, np.ndarray)}


@dataclass(frozen=True)
class Moments(Spread):
    """AUC and variance of P phenotypes without any inference: what permutations need. Fields are arrays [P].

    The null hypothesis of the variances is an AUC of 0.5.
    `log_ways` is the natural log of the number of ways to choose the case patients among all patients that have cases
    only or controls only; the exact test of complete separation needs it.
    """

    auc: Floats
    average_precision: Floats
    n_cases: Counts
    n_controls: Counts
    n_case_clusters: Counts
    n_control_clusters: Counts
    n_clusters: Counts
    log_ways: Floats

    @classmethod
    def of(cls, auc: Floats, average_precision: Floats, spread: Spread, counts: Counts) -> Moments:
        """Put together what a pass yields; `counts` [5, P] as for `phewas.stats.spread.spread`."""
        return cls(auc=auc, **vars(spread), average_precision=average_precision, n_cases=counts[0],
                   n_controls=counts[1], n_case_clusters=counts[2], n_control_clusters=counts[3], n_clusters=counts[4],
                   log_ways=log_ways(counts[2], counts[3], counts[4]))


def moments(scores: NDArray[Any], labels: NDArray[Any], *, clusters: NDArray[Any] | None = None) -> Moments:
    """Return AUC, variance and counts for each column; arguments as for `auc_matrix`."""
    return _moments(sweep(scores, labels, clusters=clusters))


def _moments(found: Sweep) -> Moments:
    return Moments.of(found.auc, found.average_precision, found.spread, np.stack([
        found.n_cases, found.n_controls, found.n_case_clusters, found.n_control_clusters, found.n_clusters]))


def log_ways(i10: Counts, i01: Counts, i_all: Counts) -> Floats:
    """Return log of the binomial coefficient of patients with cases only among patients of one kind only."""
    only10, only01 = i_all - i01, i_all - i10
    return np.asarray(special.gammaln(only10 + only01 + 1) - special.gammaln(only10 + 1)
                      - special.gammaln(only01 + 1), dtype=np.float64)


def auc_matrix(
    scores: NDArray[Any], labels: NDArray[Any], *, clusters: NDArray[Any] | None = None, level: float = 0.95
) -> Auc:
    """Compute the AUC of every column with interval and test.

    Parameters
    ----------
    scores
        float [N, P] (a memory map will do); larger means more likely a case. float32 is compared as float32. Logits
        are better than half-precision probabilities, whose ties change the AUC.
    labels
        int8 [N, P]: 1 case, 0 control, -1 excluded.
    clusters
        Patient of each row, integers or text [N]; None only where rows are independent. The order of codes is
        irrelevant.
    level
        Confidence level in (0, 1).

    Returns
    -------
    Auc
        Undefined values are NaN, never 0.5.

    Raises
    ------
    StatisticsError
        Shapes differ, labels are others than 1, 0, -1, or a score is NaN where the row is not excluded.

    Notes
    -----
    Variances as in `phewas.stats.spread`. A constant score has AUC 0.5, variance 0 and p = 1. Complete
    separation (AUC 0 or 1) has variance 0; its p is exact over patients, 2 / C(I10 + I01, I10), counting only patients
    who have cases alone or controls alone. Newcombe's interval takes patients, not rows, as its sample sizes.

    References
    ----------
    DeLong et al. 1988, Biometrics 44:837. Obuchowski 1997, Biometrics 53:567. Brunner and Munzel 2000, Biom J 42:17.
    Newcombe 2006, Stat Med 25:559.

    Examples
    --------
    >>> result = auc_matrix(np.array([[3.0], [1.0], [2.0], [0.0]]), np.array([[1], [1], [0], [0]]))
    >>> float(result.auc[0])
    0.75
    """
    return infer_moments(moments(scores, labels, clusters=clusters), clustered=clusters is not None, level=level)


def auc_shares(
    scores: NDArray[Any], labels: NDArray[Any], *, clusters: NDArray[Any], level: float = 0.95
) -> tuple[Auc, NDArray[np.float32]]:
    """Compute `auc_matrix` and each patient's share in each AUC's deviation, float32 [P, patients], 4 bytes each.

    Patients are those of `clusters`, sorted.
    """
    found = sweep(scores, labels, clusters=clusters, shares=True)
    assert found.shares is not None
    return infer_moments(_moments(found), clustered=True, level=level), found.shares


def auc(
    score: NDArray[Any], label: NDArray[Any], *, clusters: NDArray[Any] | None = None, level: float = 0.95
) -> Auc:
    """Compute one AUC: `auc_matrix` for one score [N] and one label [N]; every field has length 1."""
    return auc_matrix(np.asarray(score)[:, None], np.asarray(label)[:, None], clusters=clusters, level=level)


def infer_moments(found: Moments, *, clustered: bool, level: float) -> Auc:
    """Turn moments into intervals and tests."""
    a, se = found.auc, np.sqrt(found.variance)
    zero = found.variance == 0
    with np.errstate(divide="ignore", invalid="ignore"):
        statistic = np.where(zero, np.nan, (a - 0.5) / np.sqrt(found.null_variance))
    df, null_df = np.where(zero, np.nan, found.df), np.where(zero, np.nan, found.null_df)
    p, logs = t_two_sided(statistic, tail_df(statistic, null_df) if clustered else null_df)
    low, high = score_bounds(a, se, t_quantile(level, df), slope=found.slope, curve=found.curve)
    test = np.where(np.isnan(p), "", CLUSTERED_T if clustered else BRUNNER_MUNZEL).astype("U48")
    method = np.where(np.isnan(low), "", LOGIT_OBUCHOWSKI if clustered else LOGIT_DELONG).astype("U48")
    for j in np.flatnonzero(zero):
        low[j], high[j] = newcombe_bounds(a[j], found.n_case_clusters[j], found.n_control_clusters[j],
                                          z=float(stats.norm.ppf(0.5 + level / 2)))
        method[j] = NEWCOMBE
        if a[j] == 0.5:
            p[j], logs[j], test[j] = 1.0, 0.0, CLUSTERED_T if clustered else BRUNNER_MUNZEL
        elif a[j] in (0.0, 1.0):
            logs[j] = max((found.log_ways[j] - math.log(2.0)) / LOG10, 0.0)
            p[j], test[j] = 10.0 ** -logs[j], EXACT_SEPARATION
    return Auc(
        auc=a, se=se, slope=found.slope, curve=found.curve, low=low, high=high,
        ci_method=method, zero_variance=zero, n_cases=found.n_cases,
        n_controls=found.n_controls, n_case_clusters=found.n_case_clusters,
        n_control_clusters=found.n_control_clusters, statistic=statistic, p=p, neg_log10_p=logs, p_test=test, df=df,
        null_df=null_df, average_precision=found.average_precision, level=level,
    )


KURTOSIS = -1.6
"""Excess kurtosis that placements are taken to have. It is -1.2 where cases and controls score alike, lower where cases
are more spread, and never below -2; simulations hold the level with this one (tests/benchmarks/type_one_extreme.py)."""


def tail_df(statistic: Floats, df: Floats) -> Floats:
    """Return the degrees of freedom that give a clustered t its tail, float64 [P].

    Student's t is the distribution of a studentised mean of normal values. Placements have shorter tails; then the mean
    and its standard error vary together in such a way that large statistics are more common, by a tenth at p = 0.001
    with 100 case patients. To the order of one over the number of patients the distribution is that of t with
    ``df / (1 - k/3 (x^2 - 3) / (x^2 + 1))`` degrees of freedom at a statistic x, k being the excess kurtosis (from the
    Edgeworth expansion of Student's t, Hall 1987, Ann Probab 15:920; two samples enter with the squares of their shares
    in the variance, as in `df`). Here k is `KURTOSIS`; below ``x^2 = 3`` the df are left as they are. Patients with
    unequal numbers of encounters have longer tails, which makes the test conservative.
    """
    square = statistic**2
    return np.asarray(df / (1.0 - KURTOSIS / 3.0 * np.maximum(square - 3.0, 0.0) / (square + 1.0)), dtype=np.float64)


def inflate(result: Auc, factor: Floats, *, method: str) -> Auc:
    """Multiply the standard errors by `factor` (float64 [P], at least 1) and make the bounds anew.

    The df stay; Newcombe bounds are widened by the same factor on their quantile. The p-values are left as they are.
    """
    se, slope, curve = result.se * factor, result.slope * factor**2, result.curve * factor**2
    low, high = score_bounds(result.auc, se, t_quantile(result.level, result.df), slope=slope, curve=curve)
    z = float(stats.norm.ppf(0.5 + result.level / 2))
    for j in np.flatnonzero(result.zero_variance & np.isfinite(factor)):
        low[j], high[j] = newcombe_bounds(result.auc[j], result.n_case_clusters[j], result.n_control_clusters[j],
                                          z=z * factor[j])
    named = np.where(np.isnan(low), "", np.where(result.zero_variance, NEWCOMBE, method)).astype("U80")
    return replace(result, se=se, slope=slope, curve=curve, low=low, high=high, ci_method=named)
