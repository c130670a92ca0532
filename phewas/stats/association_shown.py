"""What of an association table may be shown: small counts hidden, like everything under ``report/`` of a run."""

from __future__ import annotations

import polars as pl

COUNTS = ("n_total", "n_cases", "n_controls", "n_case_patients", "n_control_patients")
ESTIMATES = ("beta", "SE", "beta_low", "beta_high", "OR", "OR_low", "OR_high", "HR", "HR_low", "HR_high", "p",
             "neg_log10_p", "p_bonferroni", "q_fdr")


def hide_small(table: pl.DataFrame, *, small_cell: int) -> pl.DataFrame:
    """Return the table of `phewas.stats.association_table.associate` with small counts null.

    Small are 1 to ``small_cell - 1``; 0 hides nothing. The other counts of such a row are rounded to tens, since the
    hidden one would follow from them, and `counts_rounded` says so; estimates are blank where case or control patients
    are below `small_cell`; notes say ``<11``.
    """
    def small(name: str) -> pl.Expr:
        return (pl.col(name) > 0) & (pl.col(name) < small_cell)

    few = pl.any_horizontal(small("n_case_patients"), small("n_control_patients"))
    hidden = pl.any_horizontal(small(name) for name in COUNTS)
    shown = [
        pl.when(hidden).then(pl.when(small(name)).then(None).otherwise((pl.col(name) + 5) // 10 * 10))
        .otherwise(pl.col(name)).alias(name) for name in COUNTS
    ]
    return table.with_columns(
        *shown, *(pl.when(~few).then(pl.col(name)).alias(name) for name in ESTIMATES if name in table.columns),
        pl.when(~small("n_missing")).then(pl.col("n_missing")).alias("n_missing"),
        note=pl.when(few).then(pl.col("note").str.replace(r"no model: \d+ ", f"no model: <{small_cell} "))
        .otherwise(pl.col("note")), counts_rounded=hidden)


def as_text(shown: pl.DataFrame, *, small_cell: int) -> pl.DataFrame:
    """Return a `hide_small` table whose counts are text, ``<11`` where hidden, for CSV."""
    return shown.with_columns(pl.col(name).cast(pl.String).fill_null(f"<{small_cell}")
                              for name in (*COUNTS, "n_missing"))
