"""Negative and positive controls: whether that is seen which nothing can see, and that which must be.

The idea is that of negative control outcomes in epidemiology (Lipsitch, Tchetgen Tchetgen and Cohen 2010, Epidemiology
21:383): a phenotype without a path to the signal shows what else stands between signal and label.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
from scipy import stats

from phewas.schema import Controls, ControlSummary
from phewas.stats.summary import SIGNIFICANT, Resampled, in_family

ALPHA = 0.05


def control_tables(
    results: pl.DataFrame, listed: pl.DataFrame, resampled: Resampled, *, level: float
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Return `phewas.schema.Controls` and `phewas.schema.ControlSummary`.

    Parameters
    ----------
    results
        `phewas.schema.PhenotypeResults`.
    listed
        phenotype, kind (negative or positive), reason; phenotypes that the results lack are left out.
    resampled
        The family's AUCs under random patient weights.
    level
        Confidence level in (0, 1).

    Notes
    -----
    The median's interval is that of the median under the same random weights: normal quantile times their standard
    deviation, so that controls with common patients are not counted as several witnesses. Where an AUC has no interval
    (cross-fitted without permutations), there is none. Negative controls look seen where the median's lower bound lies
    above 0.5, or where more of their own lower bounds do than chance allows: binomial with (1 - level) / 2 each, taken
    as independent, p < 0.05. The AUC of the best negative control says nothing; the best of many is always high.
    """
    table = results.join(listed, on="phenotype", how="inner", maintain_order="left").select(list(Controls.dtypes()))
    member = results.filter(in_family())["phenotype"].to_list()
    z = float(stats.norm.ppf(0.5 + level / 2))
    rows: list[dict[str, Any]] = []
    for kind in ("negative", "positive"):
        own = table.filter(pl.col("kind") == kind)
        named = results.filter((pl.col("status") == "tested") & pl.col("phenotype").is_in(own["phenotype"].to_list()))
        # Of identical labels the one that is in the family speaks, whether or not it is on the list itself.
        voices = named.select(pl.coalesce("same_as", "phenotype")).to_series().unique().to_list()
        tested = results.filter(in_family() & pl.col("phenotype").is_in(voices))
        n = tested.height
        bounded = tested["auc_low"].drop_nulls()
        row: dict[str, Any] = {
            "kind": kind, "n_listed": own.height, "n_tested": n, "n_above": int((bounded > 0.5).sum()),
            "n_significant": int(tested.select(SIGNIFICANT.fill_null(value=False).sum()).item()),
            "n_beyond_age_sex": int((tested["delta_low"].drop_nulls() > 0).sum()),
        }
        rows.append(row)
        if not n:
            continue
        columns = [k for k, name in enumerate(member) if name in set(tested["phenotype"].to_list())]
        middle = float(np.median(tested["auc"].to_numpy()))
        spread = float(np.median(resampled.auc[:, columns], axis=1).std(ddof=1))
        row["median_auc"] = middle
        if np.isfinite(spread) and len(bounded):
            row |= {"share_above": row["n_above"] / len(bounded), "median_low": middle - z * spread,
                    "median_high": middle + z * spread}
            row["p_excess"] = float(stats.binom.sf(row["n_above"] - 1, len(bounded), (1 - level) / 2))
            row["looks_seen"] = bool(row["median_low"] > 0.5 or row["p_excess"] < ALPHA)
    return Controls.check(table), ControlSummary.build(rows)
