"""Published AUCs read again: what their intervals are if patients, not segments, are the unit. Approximate."""

from __future__ import annotations

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy import stats

from phewas.errors import SchemaError
from phewas.stats.multiplicity import benjamini_hochberg
from phewas.stats.tails import LOG10, hanley_mcneil_variance, logit_bounds

NEEDED = ("n_pos", "n_neg", "auc")
METHOD = "logit Hanley-McNeil from AUC and counts (approximate)"


def reanalyse(table: pl.DataFrame, *, per_patient: float, level: float = 0.95, min_cases: int = 20) -> pl.DataFrame:
    """Give each published AUC the interval that its number of independent cases and controls allows.

    Parameters
    ----------
    table
        Columns n_pos, n_neg (what the publication counts) and auc in [0, 1]; others are kept.
    per_patient
        Counted rows per independent unit, at least 1: segments per encounter, or per patient.
    level
        Confidence level in (0, 1).
    min_cases
        With fewer independent cases or controls there is neither interval nor p.

    Returns
    -------
    polars.DataFrame
        The table with n_case_units, n_control_units (float), auc_se, auc_low, auc_high, neg_log10_p (two-sided against
        0.5 by Hanley and McNeil's standard error at 0.5), q_fdr over all rows, ci_method and status (`approximate` or
        `too_few_cases`, `too_few_controls`). Null where undefined.

    Raises
    ------
    SchemaError
        A column is missing, a count is negative or no number, an AUC is not within [0, 1], or `per_patient` is below 1.

    References
    ----------
    Hanley and McNeil 1982, Radiology 143:29. It assumes binormal-like scores of equal shape, and units of equal weight:
    a check on the order of magnitude, not a substitute for the data.
    """
    missing = [name for name in NEEDED if name not in table.columns]
    if missing:
        raise SchemaError(f"the table lacks the columns {', '.join(missing)}",
                          expected=f"{', '.join(NEEDED)}; found {', '.join(table.columns)}",
                          cure="rename the table's columns")
    if not per_patient >= 1:
        raise SchemaError(f"{per_patient:g} rows per patient", expected="1 or more")
    # Tables often arrive as text; the three columns leave as numbers.
    values = table.select(pl.col(name).cast(pl.Float64, strict=False).fill_null(float("nan")) for name in NEEDED)
    n_pos, n_neg, auc = (values[name].to_numpy() for name in NEEDED)
    wrong = ~((n_pos >= 0) & (n_neg >= 0) & (auc >= 0) & (auc <= 1) & np.isfinite(n_pos + n_neg))
    if wrong.any():
        raise SchemaError(f"{int(wrong.sum())} rows have no usable counts or AUC, the first being row "
                          f"{int(np.flatnonzero(wrong)[0]) + 1}", expected="counts from 0, an AUC in [0, 1]")
    m, n = n_pos / per_patient, n_neg / per_patient
    few_cases, few_controls = m < min_cases, n < min_cases
    usable: NDArray[np.bool_] = ~(few_cases | few_controls)
    safe_m, safe_n = np.where(usable, m, 1.0), np.where(usable, n, 1.0)
    se = np.where(usable, np.sqrt(hanley_mcneil_variance(auc, safe_m, safe_n)), np.nan)
    z = np.full(len(se), float(stats.norm.ppf(0.5 + level / 2)))
    low, high = logit_bounds(auc, se, z)
    statistic = np.abs(auc - 0.5) / np.sqrt(hanley_mcneil_variance(0.5, safe_m, safe_n))
    logs = np.where(usable, np.maximum(-(np.log(2.0) + stats.norm.logsf(statistic)) / LOG10, 0.0), np.nan)
    q = benjamini_hochberg(np.where(usable, np.power(10.0, -logs), np.nan))
    status = np.where(few_cases, "too_few_cases", np.where(few_controls, "too_few_controls", "approximate"))
    return table.with_columns(
        values.get_columns(), n_case_units=pl.Series(m), n_control_units=pl.Series(n),
        auc_se=_null(se), auc_low=_null(low),
        auc_high=_null(high), neg_log10_p=_null(logs), q_fdr=_null(q),
        ci_method=pl.Series([METHOD if good else None for good in ~np.isnan(low)], dtype=pl.String),
        status=pl.Series(status.tolist(), dtype=pl.String),
    )


def _null(values: NDArray[np.float64]) -> pl.Series:
    return pl.Series(values).fill_nan(None)


def summary(found: pl.DataFrame, *, threshold: float) -> str:
    """Return in words how many rows of `reanalyse` hold against chance and against a threshold of the AUC."""
    few = found.filter(pl.col("status") != "approximate").height
    chance = found.filter((pl.col("q_fdr") < 0.05) & (pl.col("auc_low") > 0.5)).height
    above = found.filter(pl.col("auc") >= threshold).height
    holds = found.filter(pl.col("auc_low") >= threshold).height
    return "\n".join([
        f"{len(found):,} rows",
        f"{few:,} with too few independent cases or controls for an interval",
        f"{chance:,} above chance: lower bound over 0.5 and q below 0.05",
        f"{above:,} with AUC at least {threshold:.2f} as printed, {holds:,} whose lower bound is",
        "Approximate: Hanley-McNeil from AUC and counts, units of equal weight",
    ])
