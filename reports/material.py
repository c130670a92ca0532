"""What figures and page are made from: the tables of a run, each with its small cells hidden, read once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from phewas.reports.beside import Beside, read_beside
from phewas.reports.tables import ROUNDED, protect
from phewas.schema import (
    Calibration,
    CalibrationBins,
    ChapterResults,
    CrossAuc,
    Curves,
    Multiplicity,
    OperatingPoints,
    Overview,
    PhenotypeResults,
    Specificity,
    Subgroups,
    Table,
)

CURVE_CASES = 20
"""Case patients from which a curve is shown; in public cohorts too, since with fewer it says nothing."""

SUBGROUP_COUNTS = ("n_patients", "n_cases", "n_controls", "n_case_patients", "n_control_patients")
SUBGROUP_ESTIMATES = ("auc", "auc_se", "auc_low", "auc_high")
WHOLE_ESTIMATES = ("statistic", "df1", "df2", "p_value", "q_fdr")


@dataclass(frozen=True)
class Material:
    """The tables of a run as anyone may see them; a table that the run does not have is empty.

    Attributes
    ----------
    results
        `phewas.reports.tables.protect` of `phewas.schema.PhenotypeResults`.
    chapters, overview, multiplicity
        As `stats` wrote them: they count phenotypes.
    veiled
        Chapters whose means would give a hidden AUC away.
    subgroups, curves, operating, calibration, bins, specificity, cross
        The tables of those names in `phewas.schema`, small cells hidden.
    beside
        Rivals, controls and net benefit.
    history
        ``model/history.csv``, or None.
    """

    run: Path
    small_cell: int
    results: pl.DataFrame
    chapters: pl.DataFrame
    overview: pl.DataFrame
    multiplicity: pl.DataFrame
    veiled: frozenset[str]
    subgroups: pl.DataFrame
    curves: pl.DataFrame
    operating: pl.DataFrame
    calibration: pl.DataFrame
    bins: pl.DataFrame
    specificity: pl.DataFrame
    cross: pl.DataFrame
    beside: Beside

    @property
    def segments(self) -> bool:
        """Whether segments were counted as if they were independent."""
        return "segment" in self.results.get_column("unit").to_list()


def read_material(run: Path, *, small_cell: int) -> Material:
    """Read the tables of a run and hide small cells.

    Parameters
    ----------
    run
        The run directory with ``results/``.
    small_cell
        Counts of 1 to ``small_cell - 1`` are hidden; 0 for public cohorts.

    Raises
    ------
    SchemaError
        A table does not keep its contract, or the main ones are missing.
    """
    results = protect(PhenotypeResults.read(run), small_cell=small_cell)
    sure = with_estimates(results)
    return Material(
        run=run, small_cell=small_cell, results=results, chapters=ChapterResults.read(run),
        overview=Overview.read(run), multiplicity=_read(Multiplicity, run), veiled=veiled_chapters(results),
        subgroups=protect_subgroups(_read(Subgroups, run), small_cell=small_cell),
        curves=protect_curves(_read(Curves, run), results),
        operating=_of(_read(OperatingPoints, run), curve_phenotypes(results)),
        calibration=protect_calibration(_read(Calibration, run), results),
        bins=protect_bins(_read(CalibrationBins, run), results, small_cell=small_cell),
        specificity=_of(_read(Specificity, run), sure), cross=protect_cross(_read(CrossAuc, run), sure),
        beside=read_beside(run, results),
    )


def _read(table: type[Table], run: Path) -> pl.DataFrame:
    return table.read(run) if (run / table.file).is_file() else table.empty()


def _of(frame: pl.DataFrame, phenotypes: Sequence[str]) -> pl.DataFrame:
    return frame.filter(pl.col("phenotype").is_in(list(phenotypes)))


def with_estimates(protected: pl.DataFrame) -> list[str]:
    """Return the phenotypes whose AUC may be shown."""
    return protected.filter(pl.col("auc").is_not_null()).get_column("phenotype").to_list()


def curve_phenotypes(protected: pl.DataFrame) -> list[str]:
    """Return the phenotypes whose curve may be shown: an AUC, and at least 20 case and control patients."""
    enough = (pl.col("n_case_patients") >= CURVE_CASES) & (pl.col("n_control_patients") >= CURVE_CASES)
    return protected.filter(pl.col("auc").is_not_null() & enough).get_column("phenotype").to_list()


def veiled_chapters(protected: pl.DataFrame) -> frozenset[str]:
    """Return the chapters with a tested phenotype whose AUC `protected` hides; their means could give it away."""
    hidden = pl.col("n_case_patients").is_null() | pl.col("n_control_patients").is_null()
    return frozenset(protected.filter((pl.col("status") == "tested") & hidden).get_column("chapter").to_list())


def _blurred(protected: pl.DataFrame) -> list[str]:
    """Return the phenotypes with a hidden count, whose exact counts must not follow from finer numbers."""
    return protected.filter(pl.col(ROUNDED)).get_column("phenotype").to_list()


def protect_curves(curves: pl.DataFrame, protected: pl.DataFrame) -> pl.DataFrame:
    """Return `phewas.schema.Curves` of the phenotypes with at least 20 case and control patients.

    Rounded to three decimals; to two where the phenotype has a hidden count, because steps of 1/n give n away.
    """
    coarse = pl.col("phenotype").is_in(_blurred(protected))
    return _of(curves, curve_phenotypes(protected)).with_columns(
        pl.when(coarse).then(pl.col(c).round(2)).otherwise(pl.col(c).round(3)).alias(c) for c in ("x", "y")
    )


def protect_subgroups(subgroups: pl.DataFrame, *, small_cell: int) -> pl.DataFrame:
    """Return `phewas.schema.Subgroups` as anyone may see them, with ``counts_rounded`` as last column.

    Counts of 1 to ``small_cell - 1`` are null; since the groups of a variable add up, one hidden count rounds all the
    counts of that phenotype and variable to tens. Estimates of a group are blank where its case or control patients
    are below the threshold, and so is the test over the groups if that concerns one of the groups it compared.
    """
    bare = (pl.col("n_case_patients") < small_cell) | (pl.col("n_control_patients") < small_cell)
    blanked = subgroups.with_columns(pl.when(bare).then(None).otherwise(pl.col(c)).round(3).alias(c)
                                     for c in SUBGROUP_ESTIMATES)
    lost = (bare & (pl.col("status") == "tested") & (pl.col("level") != "")).any().over("phenotype", "variable")
    blanked = blanked.with_columns(pl.when(lost).then(None).otherwise(pl.col(c)).round_sig_figs(3).alias(c)
                                   for c in WHOLE_ESTIMATES)
    small = pl.any_horizontal([pl.col(c).is_between(1, small_cell - 1) for c in SUBGROUP_COUNTS])
    touched = blanked.with_columns(small.any().over("phenotype", "variable").alias(ROUNDED))
    return touched.with_columns(
        pl.when(pl.col(c).is_between(1, small_cell - 1)).then(None).when(pl.col(ROUNDED))
        .then((pl.col(c) + 5) // 10 * 10).otherwise(pl.col(c)).cast(pl.Int64).alias(c) for c in SUBGROUP_COUNTS
    )


def protect_calibration(calibration: pl.DataFrame, protected: pl.DataFrame) -> pl.DataFrame:
    """Return `phewas.schema.Calibration` of the phenotypes with an AUC to show, its counts as the main table has them.

    The observed share, the ratio and the Brier skill are blank where that row's counts are rounded.
    """
    counts = protected.select("phenotype", ROUNDED, *(pl.col(c).alias(f"own_{c}") for c in ("n_cases", "n_controls")))
    joined = _of(calibration, with_estimates(protected)).join(
        counts, on="phenotype", how="left", maintain_order="left"
    )
    bearing = ("observed", "oe_ratio", "brier_skill", "brier", "mean_predicted")
    others = ("intercept", "intercept_low", "intercept_high", "slope", "slope_low", "slope_high", "ece")
    return joined.with_columns(
        pl.col("own_n_cases").alias("n_cases"), pl.col("own_n_controls").alias("n_controls"),
        *(pl.when(~pl.col(ROUNDED)).then(pl.col(c).round(4)).alias(c) for c in bearing),
        *(pl.col(c).round(3) for c in others),
    ).drop("own_n_cases", "own_n_controls", ROUNDED)


def protect_bins(bins: pl.DataFrame, protected: pl.DataFrame, *, small_cell: int) -> pl.DataFrame:
    """Return `phewas.schema.CalibrationBins` as anyone may see them.

    Bins with 1 to ``small_cell - 1`` cases or non-cases are left out, and the whole phenotype where fewer than three
    bins would be left. Where the rule is on, shares have two decimals, from which a count cannot be told.
    """
    rest = pl.col("n") - pl.col("n_cases")
    small = pl.col("n_cases").is_between(1, small_cell - 1) | rest.is_between(1, small_cell - 1)
    kept = _of(bins, curve_phenotypes(protected)).filter(~small).sort("phenotype", "bin")
    kept = kept.filter((pl.len().over("phenotype") >= 3) | (small_cell < 2))
    places = 2 if small_cell > 1 else 4
    return kept.with_columns(pl.col(c).round(places) for c in ("predicted", "observed", "low", "high"))


def protect_cross(cross: pl.DataFrame, sure: Sequence[str]) -> pl.DataFrame:
    """Return `phewas.schema.CrossAuc` for labels whose own AUC may be shown."""
    return _of(cross, sure).with_columns(pl.col("auc").round(3))

