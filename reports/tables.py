"""Tables for people outside the project: small cells hidden, estimates rounded, cells harmless in a spreadsheet.

One rule serves everything below ``report/`` (tables, figures and the page), so that no number can be read in one place
that is hidden in another.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import polars as pl

from phewas.rundir import atomic, write_parquet
from phewas.schema import PhenotypeResults

COUNTS = ("n_patients", "n_cases", "n_controls", "n_excluded", "n_case_patients", "n_control_patients")
P_VALUES = (
    "p_value", "q_fdr", "p_bonferroni", "p_holm", "q_by", "q_maxt", "delta_p", "delta_q", "delta_q_maxt",
)  # fmt: skip
ESTIMATES = (
    "prevalence", "prevalence_low", "prevalence_high", "auc", "auc_se", "auc_low", "auc_high", "auc_low_joint",
    "auc_high_joint", "neg_log10_p", "df", "average_precision", "ap_low", "ap_high", "ap_lift", "ap_lift_low",
    "ap_lift_high", "brier", "brier_skill",
    "baseline_auc", "baseline_low", "baseline_high", "delta_auc", "delta_se", "delta_low", "delta_high",
    "min_detectable_auc",
)
# From these the counts of the row can be worked out again (AP / lift is the prevalence, df follows the patients).
COUNT_BEARING = (
    "prevalence", "prevalence_low", "prevalence_high", "ap_lift", "ap_lift_low", "ap_lift_high", "brier_skill", "df",
)  # fmt: skip
METHODS = ("ci_method", "p_test")
ROUNDED = "counts_rounded"
FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "\n")


def is_small(count: int, *, small_cell: int) -> bool:
    """Return whether a count must be hidden: at least 1 and below `small_cell`. Zero is never hidden."""
    return 0 < count < small_cell


def any_small(counts: Iterable[int], *, small_cell: int) -> bool:
    """Return whether one of several counts that can be subtracted from each other must be hidden."""
    return any(is_small(count, small_cell=small_cell) for count in counts)


def shown(count: int | None, *, small_cell: int, rounded: bool = False) -> str:
    """Return a count as it may be read, with thousands separators.

    Parameters
    ----------
    count
        The number, >= 0; None stands for one that `hide_small` has hidden.
    small_cell
        Counts from 1 to ``small_cell - 1`` become ``<small_cell``; 0 hides nothing.
    rounded
        Round to tens and say so with a leading ``≈``; for counts that stand beside a hidden one.

    Examples
    --------
    >>> [shown(n, small_cell=11) for n in (0, 1, 10, 11, 1234)]
    ['0', '<11', '<11', '11', '1,234']
    >>> shown(1234, small_cell=11, rounded=True)
    '≈1,230'
    """
    if count is None or is_small(count, small_cell=small_cell):
        return f"<{small_cell}"
    if rounded and count:
        return f"≈{_to_ten(count):,}"
    return f"{count:,}"


def _to_ten(count: int) -> int:
    return (count + 5) // 10 * 10


def hide_small(
    frame: pl.DataFrame, columns: Sequence[str], *, small_cell: int, together: bool = False
) -> pl.DataFrame:
    """Hide small counts and blur those from which they could be worked out by subtraction.

    Parameters
    ----------
    frame
        Any table.
    columns
        Its integer columns that count people, or things people own; not null.
    small_cell
        Counts from 1 to ``small_cell - 1`` are hidden; 0 switches the rule off.
    together
        False: a row stands alone. True: the rows add up to something, so one small count blurs every row.

    Returns
    -------
    polars.DataFrame
        The same rows. Hidden counts are null; the other counts of a row with a hidden one are rounded to tens (halves
        up). A new last column ``counts_rounded`` (bool) tells the rows concerned.
    """
    small = pl.any_horizontal([pl.col(c).is_between(1, small_cell - 1) for c in columns])
    touched = small.any() if together else small
    marked = frame.with_columns(touched.fill_null(value=False).alias(ROUNDED))
    return marked.with_columns(
        pl.when(pl.col(c).is_between(1, small_cell - 1)).then(None)
        .when(pl.col(ROUNDED)).then((pl.col(c) + 5) // 10 * 10)
        .otherwise(pl.col(c)).cast(frame.schema[c]).alias(c)
        for c in columns
    )


def protect(results: pl.DataFrame, *, small_cell: int) -> pl.DataFrame:
    """Return the results as anyone may see them, still as numbers.

    The rule: counts from 1 to ``small_cell - 1`` are hidden, the other counts of that row are rounded to tens, and its
    estimates are blank where case or control patients are below the threshold. Prevalence, lift and degrees of freedom
    are blank in every row with rounded counts, because the exact counts follow from them.

    Parameters
    ----------
    results
        A `phewas.schema.PhenotypeResults` table; one row per phenotype.
    small_cell
        The threshold (11: counts up to 10 are hidden); 0 for public cohorts switches hiding off, not rounding.

    Returns
    -------
    polars.DataFrame
        The columns of the contract and ``counts_rounded``. A null count is a hidden one. Estimates have 3 decimals,
        p-values and q-values 3 significant digits; null where blank, and also where the input held NaN.

    Raises
    ------
    SchemaError
        `results` does not keep its contract.
    """
    results = PhenotypeResults.check(results)
    bare = (pl.col("n_case_patients") < small_cell) | (pl.col("n_control_patients") < small_cell)
    numbers = (*ESTIMATES, *P_VALUES)
    blanked = results.with_columns(
        pl.when(bare).then(None).otherwise(pl.col(c).fill_nan(None) if c in numbers else pl.col(c)).alias(c)
        for c in (*numbers, *METHODS)
    )
    hidden = hide_small(blanked, COUNTS, small_cell=small_cell)
    return hidden.with_columns(
        *(pl.when(~pl.col(ROUNDED)).then(pl.col(c)).alias(c) for c in COUNT_BEARING),
    ).with_columns(
        # Adding zero turns the -0.0 that rounding leaves behind into 0.0.
        *((pl.col(c).round(3) + 0.0).alias(c) for c in ESTIMATES),
        *(pl.col(c).round_sig_figs(3).alias(c) for c in P_VALUES),
    )


def shareable(results: pl.DataFrame, *, small_cell: int) -> pl.DataFrame:
    """Return `protect` with the counts as text: ``<11`` where hidden, digits without separators elsewhere.

    Parameters and errors are those of `protect`. This is the table below ``report/tables/``.
    """
    return as_text(protect(results, small_cell=small_cell), small_cell=small_cell)


def as_text(protected: pl.DataFrame, *, small_cell: int) -> pl.DataFrame:
    """Return a `protect`-ed table with the counts as text, as `shareable` does."""
    return protected.with_columns(
        pl.col(c).cast(pl.String).fill_null(f"<{small_cell}").alias(c) for c in COUNTS
    )


def csv_safe(frame: pl.DataFrame) -> pl.DataFrame:
    """Return `frame` with text that a spreadsheet would run as a formula made harmless by a leading apostrophe.

    Concerned are text cells that begin with ``=``, ``+``, ``-``, ``@``, tab or a line break. Numbers are left alone.
    """
    risky = "^[" + "".join("\\" + c if c in "-+=@" else c for c in FORMULA_STARTS) + "]"
    return frame.with_columns(
        pl.when(pl.col(c).str.contains(risky)).then(pl.concat_str(pl.lit("'"), pl.col(c))).otherwise(pl.col(c)).alias(c)
        for c, dtype in frame.schema.items() if dtype == pl.String
    )


def write_phenotypes(table: pl.DataFrame, folder: Path) -> tuple[Path, Path]:
    """Write a `shareable` table as ``phenotypes.csv`` and ``phenotypes.parquet`` in `folder`.

    The CSV is UTF-8 with Unix line ends; text is always quoted, so that readers which honour quotes keep ``008`` as
    text; blanks are empty. Parquet holds the same cells without the apostrophes of `csv_safe`.
    """
    csv, parquet = folder / "phenotypes.csv", folder / "phenotypes.parquet"
    with atomic(csv) as handle:
        csv_safe(table).write_csv(handle, quote_style="non_numeric")
    return csv, write_parquet(table, parquet)


def estimate_text(value: float | None, *, signed: bool = False) -> str:
    """Return an estimate with 3 decimals and a true minus sign, or a dash where it is blank."""
    if value is None or value != value:
        return "–"
    value = round(value, 3) + 0.0  # no "-0.000"
    return (f"{value:+.3f}" if signed else f"{value:.3f}").replace("-", "−")


def interval_text(low: float | None, high: float | None, *, signed: bool = False) -> str:
    """Return ``0.810 to 0.870``, or an empty text where a bound is missing."""
    if low is None or high is None or low != low or high != high:
        return ""
    return f"{estimate_text(low, signed=signed)} to {estimate_text(high, signed=signed)}"


def p_text(value: float | None) -> str:
    """Return a p- or q-value with 3 decimals, ``<0.001`` below, or a dash where it is blank."""
    if value is None or value != value:
        return "–"
    return "<0.001" if value < 0.001 else f"{value:.3f}"
