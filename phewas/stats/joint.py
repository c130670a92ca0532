"""The family of tests judged together: max-T, simultaneous intervals, and what each correction leaves."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy import stats

from phewas.schema import Multiplicity
from phewas.stats.crossfit import MIN_PERMUTATIONS
from phewas.stats.estimates import Drawn, Estimates
from phewas.stats.maxt import MaxT, judge
from phewas.stats.tails import LOG10, Floats, score_bounds

ALPHA = 0.05


@dataclass(frozen=True)
class Joint:
    """Joint inference for the P tested phenotypes, float64 [P]; NaN outside the family.

    `quantile` and `delta_quantile` replace the normal quantile in intervals that hold together.
    """

    p: Floats
    low: Floats
    high: Floats
    quantile: float
    delta_p: Floats
    delta_quantile: float


def normal_statistic(neg_log10_p: Floats) -> Floats:
    """Return the |z| whose two-sided normal p is 10 to the minus `neg_log10_p`: t statistics on one scale."""
    logs = -np.asarray(neg_log10_p, dtype=np.float64) * LOG10
    with np.errstate(under="ignore"):
        z = stats.norm.isf(np.exp(logs) / 2)
    deep = logs < -600
    # Mills' ratio to first order; nothing above 35 is ever told apart by draws.
    return np.where(deep, np.sqrt(np.maximum(-2 * logs, 0.0)), z)


def judge_together(
    found: Estimates, drawn: Drawn, family: NDArray[np.bool_], *, level: float, factor: Floats | None,
    null: pl.DataFrame | None = None, names: list[str] | None = None,
) -> Joint:
    """Apply max-T to the AUCs and to the differences.

    Parameters
    ----------
    found
        Estimates of the P tested phenotypes.
    drawn
        Their draws.
    family
        bool [P], members.
    level
        Joint confidence level in (0, 1).
    factor
        None, or float64 [P] where scores are cross-fitted; then the AUCs are judged by the permutations of `null`
        whose columns are `names`, which stand for the model's own variability as well, and not by draws.

    Notes
    -----
    Statistics are brought to the normal scale by their own p-values first, so that phenotypes with few cases and heavy
    tails do not dominate the maximum. Simultaneous bounds use, for each phenotype, the t quantile of the same tail.
    """
    size = len(found.encoder)
    if factor is None:
        first = _against_draws(drawn.auc, drawn.auc_spread, normal_statistic(found.encoder.neg_log10_p), family, level)
    else:
        first = _against_permutations(found, null, names or [], family, level)
    second = _against_draws(drawn.delta, drawn.delta_spread, normal_statistic(found.difference.neg_log10_p), family,
                            level)
    tail = 2 * stats.norm.sf(first.quantile)
    quantile = np.where(np.isnan(found.encoder.df), np.nan, stats.t.isf(tail / 2, found.encoder.df))
    low, high = score_bounds(found.encoder.auc, found.encoder.se, quantile, slope=found.encoder.slope,
                             curve=found.encoder.curve)
    inside = family & ~np.isnan(first.p)
    blank = np.full(size, np.nan)
    return Joint(first.p, np.where(inside, low, blank), np.where(inside, high, blank), first.quantile, second.p,
                 second.quantile)


def _against_draws(
    draws: NDArray[Any], spread: Floats, statistic: Floats, family: NDArray[np.bool_], level: float
) -> MaxT:
    members = np.flatnonzero(family & (spread > 0))
    asked = np.flatnonzero(family & ~np.isnan(statistic))
    result = np.full(len(statistic), np.nan)
    if not len(members) or not len(asked):
        return MaxT(result, float("nan"))
    judged = judge(draws[:, members] / spread[members], statistic[asked], level=level)
    result[asked] = judged.p
    return MaxT(result, judged.quantile)


def _against_permutations(
    found: Estimates, null: pl.DataFrame | None, names: list[str], family: NDArray[np.bool_], level: float
) -> MaxT:
    result = np.full(len(family), np.nan)
    if null is None:
        return MaxT(result, float("nan"))
    wide = null.pivot("phenotype", index="permutation", values="auc").sort("permutation")
    members = [j for j in np.flatnonzero(family).tolist() if names[j] in wide.columns]
    if not members:
        return MaxT(result, float("nan"))
    area = wide.select(names[j] for j in members).to_numpy().astype(np.float64) - 0.5
    full: NDArray[np.bool_] = np.asarray(~np.isnan(area).any(axis=0))
    members = [j for j, known in zip(members, full.tolist(), strict=True) if known]
    area = area[:, full]
    spread = area.std(axis=0, ddof=1) if len(area) > 1 else np.zeros(len(members))
    fine = spread > 0
    members = [j for j, good in zip(members, fine.tolist(), strict=True) if good]
    if len(area) < MIN_PERMUTATIONS or not members:
        return MaxT(result, float("nan"))
    # Rounding must not turn a tie into a loss.
    statistic = np.abs(found.encoder.auc[members] - 0.5) / spread[fine] - 1e-12
    judged = judge(area[:, fine] / spread[fine], statistic, level=level)
    result[members] = judged.p
    return MaxT(result, judged.quantile)


WORDS = {
    "none": "nothing: each test at alpha",
    "bonferroni": "chance of any false finding, under any dependence",
    "holm": "chance of any false finding, under any dependence",
    "benjamini_hochberg": "expected share of false findings, under independence or positive dependence",
    "benjamini_yekutieli": "expected share of false findings, under any dependence",
    "max_t": "chance of any false finding, by the tests' own dependence (large samples)",
}


def multiplicity(results: pl.DataFrame, joint: Joint, *, adjusted: dict[str, dict[str, Floats]]) -> pl.DataFrame:
    """Return `phewas.schema.Multiplicity`.

    Parameters
    ----------
    results
        Rows of the family from `phewas.schema.PhenotypeResults`, AUC and difference among them.
    joint
        For the quantiles.
    adjusted
        question -> method -> adjusted p or q of those rows.
    """
    rows = []
    for question, methods in adjusted.items():
        value = (results["auc"] - 0.5 if question == "auc" else results["delta_auc"]).fill_null(float("nan")).to_numpy()
        for method, p in methods.items():
            hit = np.nan_to_num(p, nan=1.0) < ALPHA
            quantile = joint.quantile if question == "auc" else joint.delta_quantile
            rows.append({
                "question": question, "method": method, "controls": WORDS[method], "alpha": ALPHA,
                "n_family": len(results), "n_above": int(np.count_nonzero(hit & (value > 0))),
                "n_below": int(np.count_nonzero(hit & (value < 0))),
                "quantile": quantile if method == "max_t" and not np.isnan(quantile) else None})
    return Multiplicity.build(rows)
