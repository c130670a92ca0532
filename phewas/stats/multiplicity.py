"""Adjustment for many phenotypes over a family that is fixed before any AUC is seen."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from phewas.errors import StatisticsError

Floats = NDArray[np.float64]


def _members(p: Floats, family: NDArray[np.bool_] | None) -> NDArray[np.bool_]:
    """Return the family as a mask, having checked p."""
    inside = np.ones(len(p), dtype=bool) if family is None else np.asarray(family, dtype=bool)
    if p.ndim != 1 or inside.shape != p.shape:
        raise StatisticsError(f"p has shape {p.shape}, the family {inside.shape}", expected="two vectors of one length")
    known = p[inside & ~np.isnan(p)]
    if len(known) and (known.min() < 0 or known.max() > 1):
        raise StatisticsError("a p-value lies outside 0 to 1", expected="0 <= p <= 1, or NaN where there is no test")
    return inside


def bonferroni(p: Floats, *, family: NDArray[np.bool_] | None = None) -> Floats:
    """Return p times the size of the family, at most 1.

    Parameters
    ----------
    p
        float64 [P]; NaN where a test could not be made.
    family
        bool [P], the members; None means all. A member whose p is NaN still counts towards the size: what was planned
        is what is corrected for.

    Returns
    -------
    float64 [P]
        NaN outside the family and where p is NaN.

    Raises
    ------
    StatisticsError
        Shapes differ, or a p-value lies outside [0, 1].
    """
    p = np.asarray(p, dtype=np.float64)
    inside = _members(p, family)
    return np.where(inside, np.minimum(p * np.count_nonzero(inside), 1.0), np.nan)


def benjamini_hochberg(p: Floats, *, family: NDArray[np.bool_] | None = None) -> Floats:
    """Return Benjamini-Hochberg q-values: the smallest false discovery rate at which each member is a discovery.

    Parameters
    ----------
    p
        float64 [P]; NaN where a test could not be made.
    family
        bool [P], the members; None means all. A NaN p of a member is ranked as 1, so that the family keeps its size.

    Returns
    -------
    float64 [P]
        In [0, 1]; NaN outside the family and where p is NaN.

    Raises
    ------
    StatisticsError
        Shapes differ, or a p-value lies outside [0, 1].

    References
    ----------
    Benjamini and Hochberg 1995, J R Stat Soc B 57:289. Valid under the positive dependence that nested phenotypes have.
    """
    p = np.asarray(p, dtype=np.float64)
    inside = _members(p, family)
    rows = np.flatnonzero(inside)
    result = np.full(len(p), np.nan)
    if len(rows):
        ranked = np.where(np.isnan(p[rows]), 1.0, p[rows])
        order = np.argsort(ranked, kind="stable")
        steps = ranked[order] * (len(rows) / np.arange(1, len(rows) + 1))
        result[rows[order]] = np.minimum(np.minimum.accumulate(steps[::-1])[::-1], 1.0)
        result[np.isnan(p)] = np.nan
    return result


def holm(p: Floats, *, family: NDArray[np.bool_] | None = None) -> Floats:
    """Return Holm's adjusted p-values: the family-wise error rate for any dependence, never worse than Bonferroni.

    Parameters, errors and the role of NaN as for `benjamini_hochberg`.

    References
    ----------
    Holm 1979, Scand J Stat 6:65.
    """
    p = np.asarray(p, dtype=np.float64)
    rows = np.flatnonzero(_members(p, family))
    result = np.full(len(p), np.nan)
    ranked = np.where(np.isnan(p[rows]), 1.0, p[rows])
    order = np.argsort(ranked, kind="stable")
    steps = ranked[order] * np.arange(len(rows), 0, -1)
    result[rows[order]] = np.minimum(np.maximum.accumulate(steps), 1.0)
    result[np.isnan(p)] = np.nan
    return result


def benjamini_yekutieli(p: Floats, *, family: NDArray[np.bool_] | None = None) -> Floats:
    """Return Benjamini-Yekutieli q-values: the false discovery rate for any dependence.

    Parameters, errors and the role of NaN as for `benjamini_hochberg`, whose q are multiplied by 1 + 1/2 + ... + 1/P
    before the cap at 1 (7.87 for 1,468 phenotypes).

    References
    ----------
    Benjamini and Yekutieli 2001, Ann Stat 29:1165.
    """
    p = np.asarray(p, dtype=np.float64)
    rows = np.flatnonzero(_members(p, family))
    result = np.full(len(p), np.nan)
    ranked = np.where(np.isnan(p[rows]), 1.0, p[rows])
    order = np.argsort(ranked, kind="stable")
    rank = np.arange(1, len(rows) + 1)
    steps = ranked[order] * (len(rows) * np.sum(1.0 / rank) / rank)
    result[rows[order]] = np.minimum(np.minimum.accumulate(steps[::-1])[::-1], 1.0)
    result[np.isnan(p)] = np.nan
    return result
