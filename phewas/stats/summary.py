"""Chapters and headline figures, each phenotype with identical labels counted once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl

from phewas.config import EvaluateConfig
from phewas.schema import ChapterResults, Overview
from phewas.stats.units import Units

SIGNIFICANT = (pl.col("q_fdr") < 0.05) & (pl.col("auc") > 0.5)
BEATS = (pl.col("delta_q") < 0.05) & (pl.col("delta_auc") > 0)


def in_family() -> pl.Expr:
    """Return the condition of belonging to the family of tests: tested, and no other stands in for it."""
    return (pl.col("status") == "tested") & pl.col("same_as").is_null()


def chapters(results: pl.DataFrame) -> pl.DataFrame:
    """Return `phewas.schema.ChapterResults` from `phewas.schema.PhenotypeResults`, in the vocabulary's order."""
    member = in_family()

    def number(condition: pl.Expr) -> pl.Expr:
        return (member & condition.fill_null(value=False)).sum().cast(pl.Int64)

    frame = results.group_by("chapter", maintain_order=True).agg(
        chapter_order=pl.col("chapter_order").min(),
        n_phenotypes=pl.len().cast(pl.Int64),
        n_tested=member.sum().cast(pl.Int64),
        n_significant=number(SIGNIFICANT),
        n_auc_70=number(pl.col("auc") >= 0.7),
        mean_auc=pl.col("auc").filter(member).mean(),
        median_auc=pl.col("auc").filter(member).median(),
        n_beats_baseline=number(BEATS),
    )
    return ChapterResults.check(frame.sort("chapter_order", "chapter"))


def overview(results: pl.DataFrame, units: Units, *, config: EvaluateConfig) -> pl.DataFrame:
    """Return `phewas.schema.Overview`: one figure a row, null where it does not exist."""
    family = results.filter(in_family())
    tested = results.filter(pl.col("status") == "tested")

    def number(condition: pl.Expr) -> float:
        return float(family.select(condition.fill_null(value=False).sum()).item())

    def median(column: str) -> float | None:
        value = family[column].median()
        return None if value is None else float(value)  # type: ignore[arg-type]

    percent = f"{100 * config.level:g} %"
    rows: list[tuple[str, float | None, str]] = [
        ("n_scored_patients", float(len(np.unique(units.patients[units.label_rows]))), "patients scored"),
        ("n_scored_encounters", float(len(units.label_rows)), "encounters scored, each a row of the analysis"),
        ("n_later_encounters", float(units.n_dropped), "predicted encounters left out: a patient's first counts"),
        ("n_unscored_encounters", float(units.n_unscored),
         "encounters of patients on the scored side without a prediction"),
        ("n_phenotypes", float(len(results)), "phenotypes of the vocabulary"),
        ("n_tested", float(len(family)), "phenotypes tested, identical labels counted once: the family of tests"),
        ("n_same_labels", float(len(tested) - len(family)),
         "further phenotypes tested whose labels equal those of one counted above"),
        ("n_few_cases", number(pl.col("n_case_patients") < config.few_cases),
         f"tested with fewer than {config.few_cases} case patients"),
        ("n_significant", number(SIGNIFICANT), "tested with AUC above 0.5 at a false discovery rate of 5 %"),
        ("n_bonferroni", number((pl.col("p_bonferroni") < 0.05) & (pl.col("auc") > 0.5)),
         "tested with AUC above 0.5 and Bonferroni-adjusted p below 0.05"),
    ]
    for bound in (50, 60, 70):
        sign, condition = (">", pl.col("auc") > 0.5) if bound == 50 else (">=", pl.col("auc") >= bound / 100)
        lower = pl.col("auc_low") > 0.5 if bound == 50 else pl.col("auc_low") >= bound / 100
        rows += [
            (f"n_auc_{bound}", number(condition),
             f"tested with AUC {sign} {bound / 100:.2f}, chance findings included"),
            (f"n_auc_{bound}_low", number(lower),
             f"tested whose lower {percent} bound is {sign} {bound / 100:.2f}, each interval taken alone"),
        ]
    rows += [
        ("n_beats_baseline", number(BEATS),
         "tested with AUC above that of age + sex at a false discovery rate of 5 %"),
        ("n_with_baseline", number(pl.col("baseline_auc").is_not_null()), "tested with an age + sex baseline"),
        ("median_auc", median("auc"), "median AUC of the tested"),
        ("median_baseline_auc", median("baseline_auc"), "median AUC of age + sex of the tested"),
        ("median_delta_auc", median("delta_auc"), "median difference between encoder and age + sex"),
        ("level", config.level, "confidence level of the intervals"),
    ]
    return Overview.check(pl.DataFrame(rows, schema=Overview.dtypes(), orient="row"))


def write_summary(run: Path, results: pl.DataFrame, units: Units, *, config: EvaluateConfig) -> None:
    """Write ``results/chapters.parquet`` and ``results/overview.parquet``."""
    ChapterResults.write(chapters(results), run)
    Overview.write(overview(results, units, config=config), run)
