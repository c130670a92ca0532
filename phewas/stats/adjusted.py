"""The AUC among people of one sex and age decade: covariate adjustment without a model.

Janes and Pepe 2009 (Biometrika 96:371): each case is placed among the controls of its own stratum, and the placements
are averaged over cases.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from phewas.schema import AdjustedAuc
from phewas.stats.auc import tail_df
from phewas.stats.placement import as_scores, place
from phewas.stats.tails import Floats, logit_bounds, t_quantile, t_two_sided

DECADE = 10.0


def strata(age: Floats, sex: NDArray[Any]) -> NDArray[np.int64]:
    """Return a code per sex and age decade, int64 [U]; -1 where the age is unknown or sex is neither F nor M."""
    decade = np.floor(np.nan_to_num(age) / DECADE).astype(np.int64)
    known = ~np.isnan(age) & ((sex == "F") | (sex == "M"))
    return np.where(known, 2 * decade + (sex == "F"), -1)


def adjusted_auc(
    scores: NDArray[Any], labels: NDArray[Any], clusters: NDArray[np.intp], names: list[str],
    codes: NDArray[np.int64], *, level: float = 0.95, least: int = 20, factor: Floats | None = None,
) -> pl.DataFrame:
    """Return `phewas.schema.AdjustedAuc`, without q.

    Parameters
    ----------
    scores, labels
        float [U, P] and int8 [U, P].
    clusters
        intp [U], patients as 0 .. C-1.
    names
        The P phenotypes.
    codes
        int64 [U], stratum of each unit, -1 left out.
    level
        Confidence level in (0, 1).
    least
        Case and control patients that an estimate needs.
    factor
        float64 [P], by which standard errors are multiplied (cross-fitted); NaN gives no interval.

    Notes
    -----
    With A the adjusted AUC, m cases, and m_s cases and n_s controls in stratum s, a case's share in the deviation is
    (V10 - A) / m and a control's m_s (V01 - A_s) / (m n_s). Shares are summed per patient, squared, and multiplied by
    C / (C - 1) for the smaller of the numbers of case and control patients C; t has C - 1 degrees of freedom. One
    stratum gives the AUC itself, and nearly its standard error. For p the shares are those under an AUC of 0.5 in every
    stratum, centred at the mean patient (`phewas.stats.spread`), with the df of
    `phewas.stats.auc.tail_df`.
    """
    size, n_codes = len(names), int(clusters.max(initial=-1)) + 1
    groups = [np.flatnonzero(codes == code) for code in np.unique(codes[codes >= 0])]
    found, null_se = np.full((6, size), np.nan), np.full(size, np.nan)
    counts = np.zeros((3, size), dtype=np.int64)
    for j in range(size):
        score, label = as_scores(np.ascontiguousarray(scores[:, j])), labels[:, j]
        found[0, j] = place(score[label >= 0], label[label >= 0]).auc
        placed = [(rows, place(score[rows], label[rows])) for rows in groups]
        placed = [(rows, p) for rows, p in placed if len(p.v10) and len(p.v01)]
        if not placed:
            continue
        m = sum(len(p.v10) for _, p in placed)
        area = sum(float(p.v10.sum()) for _, p in placed) / m
        share, null = np.zeros(n_codes), np.zeros(n_codes)
        for rows, p in placed:
            pull = len(p.v10) / (m * len(p.v01))
            for own, value, centre, weight in ((clusters[rows[p.cases]], p.v10, area, 1 / m),
                                               (clusters[rows[p.controls]], p.v01, p.auc, pull)):
                share += np.bincount(own, weights=(value - centre) * weight, minlength=n_codes)
                null += np.bincount(own, weights=(value - 0.5) * weight, minlength=n_codes)
        sides = [np.unique(np.concatenate([clusters[rows[getattr(p, side)]] for rows, p in placed]))
                 for side in ("cases", "controls")]
        who = [len(side) for side in sides]
        counts[:, j] = (len(placed), *who)
        if min(who) < least:
            continue
        found[1, j] = area
        few = min(who)
        for side in sides:
            null[side] -= (area - 0.5) / len(side)
        found[2, j], null_se[j] = (np.sqrt(few / (few - 1) * np.sum(one * one)) * (1.0 if factor is None else factor[j])
                                   for one in (share, null))
    df = np.maximum(counts[1:].min(axis=0) - 1.0, 1.0)
    good = found[2] > 0
    se = np.where(good, found[2], np.nan)
    found[3], found[4] = logit_bounds(found[1], se, t_quantile(level, df))
    statistic = (found[1] - 0.5) / np.where(good & (null_se > 0), null_se, se)
    found[5] = t_two_sided(statistic, tail_df(statistic, np.where(good, df, np.nan)))[0]
    return pl.DataFrame(
        {"phenotype": names, **dict(zip(("auc", "adjusted_auc", "adjusted_se", "adjusted_low", "adjusted_high",
                                         "p_value"), found, strict=True)),
         "q_fdr": np.full(size, np.nan),
         **dict(zip(("n_strata", "n_case_patients", "n_control_patients"), counts, strict=True))},
        schema=AdjustedAuc.dtypes()).with_columns(pl.col(pl.Float64).fill_nan(None))
