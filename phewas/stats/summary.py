"""Chapters and headline figures, each phenotype with identical labels counted once."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy import stats

from phewas.config import EvaluateConfig
from phewas.schema import ChapterResults, Overview
from phewas.stats.estimates import Drawn
from phewas.stats.tails import Floats
from phewas.stats.units import Units

SIGNIFICANT = (pl.col("q_fdr") < 0.05) & (pl.col("auc") > 0.5)
BEATS = (pl.col("delta_q") < 0.05) & (pl.col("delta_auc") > 0)


def in_family() -> pl.Expr:
    """Return the condition of belonging to the family of tests: tested, and no other stands in for it."""
    return (pl.col("status") == "tested") & pl.col("same_as").is_null()


class Resampled:
    """The family's AUCs and differences under random patient weights, for counts and means over phenotypes.

    A count's interval is the count plus and minus the normal quantile times the standard deviation of the count over
    draws, cut to 0 and to the number of phenotypes, and raised to the number that simultaneous bounds guarantee. The
    draws share their patients between phenotypes, so that related phenotypes move together. The interval says how much
    the count would vary with other patients; that noise alone lifts some AUCs over a line is not taken out.
    """

    def __init__(
        self, results: pl.DataFrame, drawn: Drawn, names: list[str], factor: Floats | None, *, level: float
    ) -> None:
        """Keep the family's columns of `drawn`, whose columns are `names`."""
        scale = np.ones(len(names)) if factor is None else factor
        place = {name: j for j, name in enumerate(names)}
        self.family = results.filter(in_family())
        columns = [place[name] for name in self.family["phenotype"].to_list()]
        self.auc = self._around("auc", drawn.auc[:, columns] * scale[columns])
        self.delta = self._around("delta_auc", drawn.delta[:, columns] * scale[columns])
        self.low_joint = self.family["auc_low_joint"].fill_null(float("nan")).to_numpy()
        self.chapter = self.family["chapter"].to_numpy()
        self.z = float(stats.norm.ppf(0.5 + level / 2))

    def _around(self, column: str, moves: NDArray[Any]) -> Floats:
        return np.asarray(self.family[column].fill_null(float("nan")).to_numpy() + moves, dtype=np.float64)

    def _chosen(self, chapter: str | None) -> NDArray[np.bool_]:
        return np.ones(len(self.family), dtype=bool) if chapter is None else self.chapter == chapter

    def count(self, bound: float, *, chapter: str | None = None) -> tuple[float | None, float | None]:
        """Return an interval of the number of AUCs at or above `bound` (above 0.5), or None twice."""
        chosen = self._chosen(chapter)
        if not chosen.any() or np.isnan(self.auc[:, chosen]).any():
            return None, None
        above = self.auc > 0.5 if bound == 0.5 else self.auc >= bound
        now = self.family["auc"].to_numpy()[chosen]
        number = np.count_nonzero(now > 0.5 if bound == 0.5 else now >= bound)
        half = self.z * float(above[:, chosen].sum(axis=1).std(ddof=1))
        low = max(number - half, float(self.sure(bound, chapter=chapter)), 0.0)
        return low, min(number + half, float(chosen.sum()))

    def sure(self, bound: float, *, chapter: str | None = None) -> int:
        """Return how many simultaneous lower bounds reach `bound`: so many hold with the joint confidence."""
        low = self.low_joint[self._chosen(chapter)]
        return int(np.count_nonzero(low > 0.5 if bound == 0.5 else low >= bound))

    def mean(self, what: str, *, chapter: str | None = None) -> tuple[float | None, float | None]:
        """Return an interval of the mean AUC (`auc`) or difference (`delta`), or None twice."""
        values = (self.auc if what == "auc" else self.delta)[:, self._chosen(chapter)]
        column = self.family["auc" if what == "auc" else "delta_auc"].fill_null(float("nan")).to_numpy()
        known = ~np.isnan(values).any(axis=0)
        if not known.any() or (what == "auc" and not known.all()):
            return None, None
        centre = float(column[self._chosen(chapter)][known].mean())
        half = self.z * float(values[:, known].mean(axis=1).std(ddof=1))
        return centre - half, centre + half


BOUNDS = (0.5, 0.6, 0.7)


def chapters(results: pl.DataFrame, resampled: Resampled) -> pl.DataFrame:
    """Return `phewas.schema.ChapterResults` from `phewas.schema.PhenotypeResults`, in the vocabulary's order."""
    member = in_family()

    def number(condition: pl.Expr) -> pl.Expr:
        return (member & condition.fill_null(value=False)).sum().cast(pl.Int64)

    frame = results.group_by("chapter", maintain_order=True).agg(
        chapter_order=pl.col("chapter_order").min(),
        n_phenotypes=pl.len().cast(pl.Int64),
        n_tested=member.sum().cast(pl.Int64),
        n_significant=number(SIGNIFICANT),
        n_auc_50=number(pl.col("auc") > 0.5),
        n_auc_60=number(pl.col("auc") >= 0.6),
        n_auc_70=number(pl.col("auc") >= 0.7),
        mean_auc=pl.col("auc").filter(member).mean(),
        median_auc=pl.col("auc").filter(member).median(),
        mean_delta_auc=pl.col("delta_auc").filter(member).mean(),
        n_beats_baseline=number(BEATS),
    )
    rows = []
    for name in frame["chapter"].to_list():
        row: dict[str, Any] = {"chapter": name}
        for bound in BOUNDS:
            row[f"n_auc_{100 * bound:.0f}_low"], row[f"n_auc_{100 * bound:.0f}_high"] = resampled.count(
                bound, chapter=name)
        row["mean_auc_low"], row["mean_auc_high"] = resampled.mean("auc", chapter=name)
        row["mean_delta_low"], row["mean_delta_high"] = resampled.mean("delta", chapter=name)
        rows.append(row)
    types = {name: dtype for name, dtype in ChapterResults.dtypes().items() if rows and name in rows[0]}
    frame = frame.join(pl.DataFrame(rows, schema=types), on="chapter", how="left")
    return ChapterResults.check(frame.sort("chapter_order", "chapter"))


def overview(
    results: pl.DataFrame, units: Units, resampled: Resampled, *, config: EvaluateConfig,
    further: Sequence[tuple[str, float | None, str]] = (),
) -> pl.DataFrame:
    """Return `phewas.schema.Overview`: one figure a row, null where it does not exist; `further` ones come last."""
    family = results.filter(in_family())
    tested = results.filter(pl.col("status") == "tested")

    def number(condition: pl.Expr) -> float:
        return float(family.select(condition.fill_null(value=False).sum()).item())

    def median(column: str) -> float | None:
        value = family[column].median()
        return None if value is None else float(value)  # type: ignore[arg-type]

    def mean(column: str) -> float | None:
        value = family[column].mean()
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
    bounds = {f"n_auc_{100 * bound:.0f}": resampled.count(bound) for bound in BOUNDS}
    bounds |= {"mean_auc": resampled.mean("auc"), "mean_delta_auc": resampled.mean("delta")}
    for bound in (50, 60, 70):
        sign, condition = (">", pl.col("auc") > 0.5) if bound == 50 else (">=", pl.col("auc") >= bound / 100)
        lower = pl.col("auc_low") > 0.5 if bound == 50 else pl.col("auc_low") >= bound / 100
        rows += [
            (f"n_auc_{bound}", number(condition),
             f"tested with AUC {sign} {bound / 100:.2f}, chance findings included"),
            (f"n_auc_{bound}_low", number(lower),
             f"tested whose lower {percent} bound is {sign} {bound / 100:.2f}, each interval taken alone"),
            (f"n_auc_{bound}_joint", float(resampled.sure(bound / 100)),
             f"tested whose simultaneous lower bound is {sign} {bound / 100:.2f}: with {percent} confidence at least "
             "so many are"),
        ]
    rows += [
        ("n_beats_baseline", number(BEATS),
         "tested with AUC above that of age + sex at a false discovery rate of 5 %"),
        ("n_with_baseline", number(pl.col("baseline_auc").is_not_null()), "tested with an age + sex baseline"),
        ("mean_auc", mean("auc"), "mean AUC of the tested"),
        ("mean_delta_auc", mean("delta_auc"), "mean difference between encoder and age + sex"),
        ("median_auc", median("auc"), "median AUC of the tested"),
        ("median_baseline_auc", median("baseline_auc"), "median AUC of age + sex of the tested"),
        ("median_delta_auc", median("delta_auc"), "median difference between encoder and age + sex"),
        ("level", config.level, "confidence level of the intervals"),
        *further,
    ]
    return Overview.build(
        {"measure": name, "value": value, "low": bounds.get(name, (None, None))[0],
         "high": bounds.get(name, (None, None))[1], "meaning": meaning} for name, value, meaning in rows)


def write_summary(
    run: Path, results: pl.DataFrame, units: Units, *, config: EvaluateConfig, drawn: Drawn, names: list[str],
    factor: Floats | None, further: Sequence[tuple[str, float | None, str]] = (),
) -> None:
    """Write ``results/chapters.parquet`` and ``results/overview.parquet``; `drawn` has the columns `names`."""
    resampled = Resampled(results, drawn, names, factor, level=config.level)
    ChapterResults.write(chapters(results, resampled), run)
    Overview.write(overview(results, units, resampled, config=config, further=further), run)
