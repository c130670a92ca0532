"""Many correlated AUCs judged together: the distribution of the largest of their statistics by multiplier bootstrap.

Each AUC's deviation from its mean is a sum of patients' shares. Random weights on the patients, the same for every
phenotype, imitate how the AUCs vary together, so that closely related phenotypes cost less than by Bonferroni.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from phewas.errors import StatisticsError
from phewas.seeds import generator

Floats = NDArray[np.float64]

PATIENTS_AT_ONCE = 2048
"""Patients whose weights are drawn at a time."""


@dataclass(frozen=True)
class MaxT:
    """Joint inference for P statistics.

    Attributes
    ----------
    p
        float64 [P], adjusted two-sided p, ``(1 + draws whose maximum is at least |t|) / (draws + 1)``; NaN outside the
        family and where the statistic is.
    quantile
        What takes the place of the t quantile in intervals that hold together at `level`; NaN without a family.
    """

    p: Floats
    quantile: float


def max_t(
    shares: NDArray[np.float32], statistic: Floats, *, family: NDArray[np.bool_] | None = None, n_draws: int = 1000,
    level: float = 0.95, seed: int = 0,
) -> MaxT:
    """Adjust statistics for being the largest of many.

    Parameters
    ----------
    shares
        float32 [P, patients], each patient's share in the estimate's deviation, as `phewas.stats.sweep.sweep` returns
        them; the rows need no scaling.
    statistic
        float64 [P], estimate over standard error.
    family
        bool [P], the members, fixed beforehand; None means all. Members without variance or statistic are left out of
        the maximum, which they cannot reach.
    n_draws
        Bootstrap draws; the smallest p is 1 / (n_draws + 1).
    level
        Joint confidence level in (0, 1).
    seed
        The weights are a function of it alone.

    Returns
    -------
    MaxT
        Each draw's statistics are divided by the root of the sum of squared shares, their standard deviation given the
        data.

    Raises
    ------
    StatisticsError
        Shapes differ.

    References
    ----------
    Westfall and Young 1993; Chernozhukov, Chetverikov and Kato 2013, Ann Stat 41:2786.
    """
    t: Floats = np.abs(np.asarray(statistic, dtype=np.float64))
    inside = np.ones(len(t), dtype=bool) if family is None else np.asarray(family, dtype=bool)
    if shares.ndim != 2 or len(shares) != len(t) or inside.shape != t.shape:
        raise StatisticsError(f"shares have shape {shares.shape}, statistics {t.shape}, the family {inside.shape}",
                              expected="[phenotypes, patients] and twice [phenotypes]")
    spread = spread_of(shares)
    used = np.flatnonzero(inside & (spread > 0) & ~np.isnan(t))
    result = np.full(len(t), np.nan)
    if not len(used):
        return MaxT(result, float("nan"))
    drawn = draw((shares[used] / spread[used, None]).astype(np.float32), n_draws=n_draws, seed=seed)
    found = judge(drawn, t[used], level=level)
    result[used] = found.p
    return MaxT(result, found.quantile)


def spread_of(shares: NDArray[np.float32]) -> Floats:
    """Return the standard deviation of each row's draws given the data, float64 [P], without small-sample factors."""
    return np.asarray(np.sqrt(np.einsum("pc,pc->p", shares, shares, dtype=np.float64)))


def draw(shares: NDArray[np.float32], *, n_draws: int, seed: int) -> NDArray[np.float32]:
    """Return deviations under random patient weights, float32 [n_draws, P], from shares [P, patients].

    The weights depend on `seed` and the number of patients alone, so that phenotypes drawn in several calls vary
    together as they would in one.
    """
    drawn: NDArray[Any] = np.zeros((n_draws, len(shares)), dtype=np.float32)
    weights = generator("max-t", seed)
    for start in range(0, shares.shape[1], PATIENTS_AT_ONCE):
        part = shares[:, start : start + PATIENTS_AT_ONCE]
        drawn += weights.standard_normal((n_draws, part.shape[1]), dtype=np.float32) @ part.T
    return drawn


def judge(drawn: NDArray[Any], statistic: Floats, *, level: float = 0.95) -> MaxT:
    """Adjust statistics [P] by the maxima of draws [n_draws, members], each of unit standard deviation.

    Statistics beside the members' (one whose own draws have no variance) are held against the same maxima.
    """
    if not drawn.size:
        return MaxT(np.full(len(statistic), np.nan), float("nan"))
    n_draws = len(drawn)
    highest = np.sort(np.abs(drawn).max(axis=1).astype(np.float64))
    p = (1 + n_draws - np.searchsorted(highest, np.abs(statistic), side="left")) / (n_draws + 1)
    return MaxT(np.where(np.isnan(statistic), np.nan, p), float(np.quantile(highest, level)))
