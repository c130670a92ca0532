"""Runs against each other: paired differences per phenotype and chapter on the very same encounters and labels."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy import stats

from phewas.errors import ConfigError
from phewas.schema import Comparison, ComparisonChapters, PhenotypeResults
from phewas.stats.auc import Auc, auc_matrix
from phewas.stats.compare import Difference, compare_shares, inflate_difference
from phewas.stats.crossfit import apply_null
from phewas.stats.estimates import BLOCK, joined, read_null, scored_block
from phewas.stats.joint import normal_statistic
from phewas.stats.maxt import draw, judge, spread_of
from phewas.stats.multiplicity import benjamini_hochberg
from phewas.stats.tails import Floats
from phewas.stats.units import Units, read_units

ALPHA = 0.05


def compare_runs(
    runs: list[Path], *, names: list[str], level: float = 0.95, n_draws: int = 1000, seed: int = 0
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Compare each further run with the first.

    Parameters
    ----------
    runs
        At least two run directories whose evaluate step is done.
    names
        What they are called in the tables, all different.
    level
        Confidence level in (0, 1).
    n_draws, seed
        Of the patient-level multiplier bootstrap behind max-T and the intervals of chapter means.

    Returns
    -------
    comparison, chapters
        `phewas.schema.Comparison` and `phewas.schema.ComparisonChapters`.

    Raises
    ------
    ConfigError
        Fewer than two runs, names alike, other units of analysis, encounters, folds or labels in one than in the other.
        Nothing is compared on a common part in silence.
    """
    if len(runs) < 2 or len(set(names)) != len(names) or len(names) != len(runs):
        what = "one run" if len(runs) == 1 else f"{len(runs)} runs"
        raise ConfigError(f"{what} called {', '.join(names)}", expected="two or more, each with its own name",
                          cure="name a further run" if len(runs) == 1 else "give folders with different names")
    results = [PhenotypeResults.read(run) for run in runs]
    kinds = {unit for table in results for unit in table["unit"].unique().to_list()}
    if len(kinds) != 1:
        raise ConfigError(f"the runs analyse different units: {', '.join(sorted(kinds))}", expected="one unit")
    unit: Literal["encounter", "patient"] = "patient" if kinds == {"patient"} else "encounter"
    units = [read_units(run, unit=unit) for run in runs]
    tables, sums = [], []
    for k in range(1, len(runs)):
        _same_rows(units[0], units[k], names[0], names[k])
        table, chapters = _pair(
            (runs[0], runs[k]), (units[0], units[k]), (results[0], results[k]), (names[0], names[k]), level=level,
            n_draws=n_draws, seed=seed)
        tables.append(table)
        sums.append(chapters)
    return Comparison.check(pl.concat(tables)), ComparisonChapters.check(pl.concat(sums))


def _same_rows(a: Units, b: Units, name_a: str, name_b: str) -> None:
    """Refuse runs that do not score the same encounters in the same folds."""
    cure = f"make the second with phewas run --from {name_a} --encoder ..., which keeps cohort, split and labels"
    left, right = set(a.encounters.to_list()), set(b.encounters.to_list())
    if left != right:
        raise ConfigError(
            f"{name_a} and {name_b} score different encounters: {len(left - right):,} only in the first, "
            f"{len(right - left):,} only in the second", expected="the same encounters", cure=cure)
    if (a.folds is None) != (b.folds is None) or (
        a.folds is not None and b.folds is not None
        and not np.array_equal(a.folds[a.label_rows], b.folds[b.label_rows])
    ):
        raise ConfigError(f"{name_a} and {name_b} do not share their folds", expected="the same split", cure=cure)


def _pair(
    runs: tuple[Path, Path], units: tuple[Units, Units], results: tuple[pl.DataFrame, pl.DataFrame],
    names: tuple[str, str], *, level: float, n_draws: int, seed: int,
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Compare two runs that score the same rows."""
    a, b = units
    tested = [set(table.filter(pl.col("status") == "tested")["phenotype"].to_list()) for table in results]
    chosen = results[0].filter(pl.col("phenotype").is_in(list(tested[0] & tested[1])))
    both = chosen["phenotype"].to_list()
    if not both:
        raise ConfigError(f"{names[0]} and {names[1]} test no phenotype in common", expected="one vocabulary for both")
    patients = a.patients[a.label_rows]
    parts: list[Difference] = []
    areas: tuple[list[Auc], list[Auc]] = ([], [])
    drawn: list[NDArray[Any]] = []
    spread: list[Floats] = []
    for start in range(0, len(both), BLOCK):
        mine = both[start : start + BLOCK]
        (first, labels), (second, others) = scored_block(a, mine), scored_block(b, mine)
        unlike = np.flatnonzero((labels != others).any(axis=0))
        if len(unlike):
            raise ConfigError(
                f"{names[0]} and {names[1]} label {mine[unlike[0]]} differently", expected="the same label rules",
                cure=f"make the second with phewas run --from {names[0]} --encoder ...")
        found, shares = compare_shares(second, first, labels, clusters=patients, level=level)
        parts.append(found)
        drawn.append(draw(shares, n_draws=n_draws, seed=seed))
        spread.append(spread_of(shares))
        for kept, scores in zip(areas, (first, second), strict=True):
            kept.append(auc_matrix(scores, labels, clusters=patients, level=level))
    gap = joined(parts)
    factor = _factor(runs, units, (joined(areas[0]), joined(areas[1])), both)
    gap = inflate_difference(gap, factor)
    family = chosen["same_as"].is_null().to_numpy()
    return _tables(chosen, results, gap, np.concatenate(drawn, axis=1) * np.nan_to_num(factor, nan=1.0),
                   np.concatenate(spread) * np.nan_to_num(factor, nan=1.0), family, names, level=level)


def _factor(
    runs: tuple[Path, Path], units: tuple[Units, Units], areas: tuple[Auc, Auc], names: list[str]
) -> Floats:
    """Return what standard errors are multiplied by: 1, or where cross-fitted the larger of both runs' factors."""
    if units[0].folds is None:
        return np.ones(len(names))
    factors = []
    for run, one, area in zip(runs, units, areas, strict=True):
        null = read_null(run, one)
        factors.append(np.full(len(names), np.nan) if null is None
                       else apply_null(area, null, phenotypes=names).factor)
    return np.asarray(np.maximum(factors[0], factors[1]), dtype=np.float64)


def _tables(
    chosen: pl.DataFrame, results: tuple[pl.DataFrame, pl.DataFrame], gap: Difference, drawn: NDArray[Any],
    spread: Floats, family: NDArray[np.bool_], names: tuple[str, str], *, level: float,
) -> tuple[pl.DataFrame, pl.DataFrame]:
    q = benjamini_hochberg(gap.p, family=family)
    members = np.flatnonzero(family & (spread > 0) & ~np.isnan(gap.p))
    together = np.full(len(family), np.nan)
    if len(members):
        together[members] = judge(drawn[:, members] / spread[members], normal_statistic(gap.neg_log10_p)[members]).p
    outcome = np.where(np.isnan(q), "", np.where(q >= ALPHA, "tie", np.where(gap.difference > 0, "b", "a")))
    bounds = [
        chosen.select("phenotype").join(table.select("phenotype", "auc_low", "auc_high"), on="phenotype", how="left",
                                        maintain_order="left") for table in results]
    frame = chosen.select("phenotype", "description", "chapter", "chapter_order", "n_case_patients",
                          "n_control_patients", "same_as").with_columns(
        run_a=pl.lit(names[0]), run_b=pl.lit(names[1]), auc_a=pl.Series(gap.auc_b), auc_b=pl.Series(gap.auc_a),
        low_a=bounds[0]["auc_low"], high_a=bounds[0]["auc_high"], low_b=bounds[1]["auc_low"],
        high_b=bounds[1]["auc_high"], difference=pl.Series(gap.difference), se=_null(gap.se), low=_null(gap.low),
        high=_null(gap.high), p_value=_null(gap.p), neg_log10_p=_null(gap.neg_log10_p), q_fdr=_null(q),
        q_maxt=_null(together), outcome=pl.Series(outcome.tolist()))
    z = float(stats.norm.ppf(0.5 + level / 2))
    rows = []
    named = chosen.select("chapter", "chapter_order").unique().sort("chapter_order", "chapter")
    for chapter, order in [("", 0), *named.rows()]:
        inside = family & ((chosen["chapter"] == chapter).to_numpy() if chapter else np.ones(len(family), dtype=bool))
        known = np.flatnonzero(inside)
        if not len(known):
            continue
        centre = float(gap.difference[known].mean())
        half = z * float(drawn[:, known].mean(axis=1).std(ddof=1)) if not np.isnan(gap.se[known]).any() else None
        rows.append({
            "run_a": names[0], "run_b": names[1], "chapter": chapter, "chapter_order": order,
            "n_phenotypes": len(known), "n_a_better": int((outcome[known] == "a").sum()),
            "n_b_better": int((outcome[known] == "b").sum()), "mean_auc_a": float(gap.auc_b[known].mean()),
            "mean_auc_b": float(gap.auc_a[known].mean()), "mean_difference": centre,
            "low": None if half is None else centre - half, "high": None if half is None else centre + half})
    return Comparison.check(frame), ComparisonChapters.build(rows)


def _null(values: Floats) -> pl.Series:
    return pl.Series(values).fill_nan(None)


def in_words(chapters: pl.DataFrame) -> list[str]:
    """Return a sentence per other run from `phewas.schema.ComparisonChapters`."""
    told = []
    for row in chapters.filter(pl.col("chapter") == "").iter_rows(named=True):
        interval = "" if row["low"] is None else f" ({row['low']:+.3f} to {row['high']:+.3f})"
        told.append(
            f"{row['run_b']} against {row['run_a']}: {row['n_phenotypes']:,} phenotypes tested in both; "
            f"{row['n_b_better']:,} better, {row['n_a_better']:,} worse (q < 0.05); mean AUC {row['mean_auc_b']:.3f} "
            f"against {row['mean_auc_a']:.3f}, difference {row['mean_difference']:+.3f}{interval}")
    return told
