"""Counts and estimates of all phenotypes put into the result table."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from phewas.config import EvaluateConfig
from phewas.schema import PhenotypeResults
from phewas.stats.estimates import Estimates
from phewas.stats.joint import Joint
from phewas.stats.multiplicity import benjamini_hochberg, benjamini_yekutieli, bonferroni, holm
from phewas.stats.precision import Precision
from phewas.stats.tails import Floats, min_detectable_auc


@dataclass(frozen=True)
class Family:
    """Who is tested, and who stands for whom; arrays over all phenotypes.

    Attributes
    ----------
    tested, members
        bool: tested; tested and standing for itself.
    stand_in
        intp, the row that stands for each.
    """

    tested: NDArray[np.bool_]
    members: NDArray[np.bool_]
    stand_in: NDArray[np.intp]

    @property
    def rows(self) -> NDArray[np.intp]:
        """Places of the tested."""
        return np.flatnonzero(self.tested)

    def spread(self, values: NDArray[Any]) -> Floats:
        """Return values of the tested as float64 over all phenotypes, NaN elsewhere."""
        full = np.full(len(self.tested), np.nan)
        full[self.rows] = values
        return full

    def shared(self, values: Floats) -> Floats:
        """Return values over all phenotypes with those of the stand-in in place of a duplicate's own."""
        return np.where(self.tested, values[self.stand_in], np.nan)


ADJUST = {"p_bonferroni": bonferroni, "p_holm": holm, "q_fdr": benjamini_hochberg, "q_by": benjamini_yekutieli}


def assemble(
    phenotypes: pl.DataFrame, counts: pl.DataFrame, found: Estimates, joint: Joint, precision: Precision,
    prevalence: tuple[Floats, Floats], probabilities: pl.DataFrame, flags: list[list[str]], family: Family, *,
    config: EvaluateConfig, window: str,
) -> pl.DataFrame:
    """Return `phewas.schema.PhenotypeResults`.

    Parameters
    ----------
    phenotypes
        `phewas.schema.Phenotypes`, P rows.
    counts
        From `phewas.stats.counts.count`.
    found, joint, precision, flags
        Of the tested phenotypes.
    prevalence
        Lower and upper bounds of the tested.
    probabilities
        `phewas.schema.Calibration` of the tested, for the Brier scores.
    family
        The family of tests.
    config
        Unit and case policy.
    window
        Label window.
    """
    size, rows = len(phenotypes), family.rows
    names = phenotypes["phenotype"].to_list()

    def spread(values: NDArray[Any]) -> pl.Series:
        return pl.Series(family.spread(values)).fill_nan(None)

    def text(values: NDArray[Any]) -> pl.Series:
        full: list[str | None] = [None] * size
        for j, value in zip(rows, values.tolist(), strict=True):
            full[j] = value or None
        return pl.Series(full, dtype=pl.String)

    def shared(values: Floats) -> pl.Series:
        return pl.Series(family.shared(values)).fill_nan(None)

    def adjusted(values: NDArray[Any], method: Any) -> pl.Series:
        return shared(method(family.spread(values), family=family.members))

    marks = [""] * size
    cases, controls = counts["n_case_patients"].to_numpy(), counts["n_control_patients"].to_numpy()
    for j, own, base in zip(rows, flags, found.baseline.auc, strict=True):
        listed = list(own)
        if cases[j] < config.few_cases:
            listed.append("few_cases")
        if controls[j] < config.few_cases:
            listed.append("few_controls")
        if family.stand_in[j] != j:
            listed.append("same_labels")
        if np.isnan(base):
            listed.append("no_baseline")
        marks[j] = "; ".join(listed)
    a, base, gap = found.encoder, found.baseline, found.difference
    same = [names[family.stand_in[j]] if family.stand_in[j] != j else None for j in range(size)]
    same_as = pl.Series(same, dtype=pl.String)
    scored = phenotypes.select("phenotype").join(
        probabilities.select("phenotype", "brier", "brier_skill"), on="phenotype", how="left", maintain_order="left")
    frame = phenotypes.drop("same_as").with_columns(
        counts.drop("phenotype", "n_train_case_patients").get_columns()
    ).with_columns(
        same_as=pl.when(pl.Series(~family.tested)).then(phenotypes["same_as"]).otherwise(same_as),
        label_window=pl.lit(window), unit=pl.lit(config.unit), flags=pl.Series(marks, dtype=pl.String),
        prevalence=(pl.col("n_cases") / (pl.col("n_cases") + pl.col("n_controls"))).fill_nan(None),
        prevalence_low=spread(prevalence[0]), prevalence_high=spread(prevalence[1]),
        auc=spread(a.auc), auc_se=spread(a.se), auc_low=spread(a.low), auc_high=spread(a.high),
        ci_method=text(a.ci_method), p_value=spread(a.p), neg_log10_p=spread(a.neg_log10_p), p_test=text(a.p_test),
        df=spread(a.df), **{name: adjusted(a.p, method) for name, method in ADJUST.items()},
        q_maxt=shared(family.spread(joint.p)), auc_low_joint=shared(family.spread(joint.low)),
        auc_high_joint=shared(family.spread(joint.high)),
        average_precision=spread(a.average_precision), ap_low=spread(precision.ap_low),
        ap_high=spread(precision.ap_high), ap_lift_low=spread(precision.lift_low),
        ap_lift_high=spread(precision.lift_high), brier=scored["brier"], brier_skill=scored["brier_skill"],
        baseline_auc=spread(base.auc), baseline_low=spread(base.low), baseline_high=spread(base.high),
        delta_auc=spread(gap.difference), delta_se=spread(gap.se), delta_low=spread(gap.low),
        delta_high=spread(gap.high), delta_p=spread(gap.p), delta_q=adjusted(gap.p, benjamini_hochberg),
        delta_q_maxt=shared(family.spread(joint.delta_p)),
        min_detectable_auc=pl.Series(min_detectable_auc(cases, controls)).fill_nan(None),
    )
    return PhenotypeResults.check(frame.with_columns(ap_lift=pl.col("average_precision") / pl.col("prevalence")))
