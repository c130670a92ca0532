"""Two scores on the same rows: the paired DeLong comparison, clustered by patient."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from phewas.errors import StatisticsError
from phewas.stats.sweep import Sweep, sweep
from phewas.stats.tails import Floats, difference_bounds, t_quantile, t_two_sided

PAIRED_T = "paired DeLong t"
PAIRED_CLUSTERED_T = "paired patient-clustered DeLong t"


@dataclass(frozen=True)
class Difference:
    """Differences of two AUCs for P phenotypes; every field but `level` and `p_test` is float64 [P].

    Attributes
    ----------
    auc_a, auc_b, difference
        In [0, 1], and their difference a - b in [-1, 1]; NaN without cases or without controls.
    se
        Paired standard error; 0 for identical rankings; NaN with fewer than two clusters on a side.
    slope, curve
        How its square depends on the true difference, see `phewas.stats.spread.Spread`; NaN where `se` is.
    null_se
        Standard error if there is no difference: `se` where patients have equal numbers of encounters.
    low, high
        Bounds at `level`, clipped to [-1, 1].
    statistic
        difference / null_se; NaN where se is 0.
    df, null_df
        Satterthwaite degrees of freedom of the bounds and of the statistic; NaN where se is 0.
    p, neg_log10_p
        Two-sided; p = 1 where difference and se are 0, NaN where only se is.
    p_test
        Name of the test.
    level
        Confidence level.
    """

    auc_a: Floats
    auc_b: Floats
    difference: Floats
    se: Floats
    slope: Floats
    curve: Floats
    null_se: Floats
    low: Floats
    high: Floats
    statistic: Floats
    df: Floats
    null_df: Floats
    p: Floats
    neg_log10_p: Floats
    p_test: str
    level: float


def compare_matrix(
    scores_a: NDArray[Any],
    scores_b: NDArray[Any],
    labels: NDArray[Any],
    *,
    clusters: NDArray[Any] | None = None,
    level: float = 0.95,
) -> Difference:
    """Compare the AUCs of two scores on the same rows, column by column.

    Parameters
    ----------
    scores_a, scores_b
        float [N, P]; the dtypes may differ.
    labels
        int8 [N, P]: 1 case, 0 control, -1 excluded.
    clusters
        Patient of each row [N]; None only where rows are independent.
    level
        Confidence level in (0, 1).

    Returns
    -------
    Difference
        ``var(A1) + var(A2) - 2 cov(A1, A2)`` is taken from the differences of the placements, so that identical scores
        give exactly 0. The statistic is referred to t, not to the normal distribution, whose tail is too thin with few
        cases; against a constant score it is the one-sample test.

    Raises
    ------
    StatisticsError
        Shapes differ, labels are others than 1, 0, -1, or a score is NaN where the row is not excluded.

    References
    ----------
    DeLong et al. 1988, Biometrics 44:837; Obuchowski 1997, Biometrics 53:567.
    """
    if np.shape(scores_a) != np.shape(scores_b):
        raise StatisticsError(f"the scores have shapes {np.shape(scores_a)} and {np.shape(scores_b)}",
                              expected="the same rows and phenotypes")
    return _difference(sweep(scores_a, labels, other=scores_b, clusters=clusters), clustered=clusters is not None,
                       level=level)


def compare_shares(
    scores_a: NDArray[Any], scores_b: NDArray[Any], labels: NDArray[Any], *, clusters: NDArray[Any], level: float = 0.95
) -> tuple[Difference, NDArray[np.float32]]:
    """Compute `compare_matrix` and each patient's share in each difference's deviation, float32 [P, patients]."""
    if np.shape(scores_a) != np.shape(scores_b):
        raise StatisticsError(f"the scores have shapes {np.shape(scores_a)} and {np.shape(scores_b)}",
                              expected="the same rows and phenotypes")
    swept = sweep(scores_a, labels, other=scores_b, clusters=clusters, shares=True)
    assert swept.shares is not None
    return _difference(swept, clustered=True, level=level), swept.shares


def _difference(swept: Sweep, *, clustered: bool, level: float) -> Difference:
    """Turn moments of a paired pass into bounds and tests."""
    auc_a, auc_b, spread = swept.auc, swept.other_auc, swept.spread
    empty = np.full(len(auc_a), np.nan)
    found = Difference(
        auc_a, auc_b, auc_a - auc_b, np.sqrt(spread.variance), spread.slope, spread.curve,
        np.sqrt(spread.null_variance), empty, empty, empty, spread.df, spread.null_df, empty, empty,
        PAIRED_CLUSTERED_T if clustered else PAIRED_T, level)
    return inflate_difference(found, np.ones(len(auc_a)))


def inflate_difference(found: Difference, factor: Floats) -> Difference:
    """Multiply the standard errors by `factor` (float64 [P]) and make bounds and p-values anew."""
    se, null_se = found.se * factor, found.null_se * factor
    slope, curve = found.slope * factor**2, found.curve * factor**2
    zero = se == 0
    df, null_df = (np.where(zero, np.nan, values) for values in (found.df, found.null_df))
    with np.errstate(divide="ignore", invalid="ignore"):
        statistic = np.where(zero, np.nan, found.difference / null_se)
    p, logs = t_two_sided(statistic, null_df)
    low, high = difference_bounds(found.difference, se, t_quantile(found.level, df), slope=slope, curve=curve)
    same = zero & (found.difference == 0)
    low[same], high[same], p[same], logs[same] = 0.0, 0.0, 1.0, 0.0
    return replace(found, se=se, slope=slope, curve=curve, null_se=null_se, df=df, null_df=null_df,
                   statistic=statistic, p=p, neg_log10_p=logs, low=low, high=high)
