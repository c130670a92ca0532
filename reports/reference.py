"""A published table beside ours, as `phewas.stats.published` compared them: a figure, words and a table for people."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import polars as pl
from matplotlib.figure import Figure

from phewas.reports.pairs import scatter
from phewas.reports.tables import csv_safe
from phewas.rundir import atomic


@dataclass(frozen=True)
class Reference:
    """A comparison with a published table.

    Attributes
    ----------
    both
        `phewas.schema.PublishedComparison`, made of results whose small cells are hidden.
    counts
        `phewas.schema.Overview` of it: n_published, n_compared, n_absent, n_inside.
    name, unit, citation
        What the published table is called, what its counts count, and how to cite it.
    """

    both: pl.DataFrame
    counts: pl.DataFrame
    name: str
    unit: str = "not stated"
    citation: str = ""

    @property
    def units(self) -> str:
        """Our units of analysis, in words."""
        known = self.both.filter(pl.col("auc").is_not_null()).get_column("unit").drop_nulls()
        return " and ".join(sorted(set(known.to_list()))) or "encounter"


def agreement(reference: Reference, *, name: str, title: str = "", note: str = "") -> Figure:
    """Draw our AUCs against the published ones, with the unit of each in words."""
    seen = reference.both.filter(pl.col("auc").is_not_null()).rename(
        {"published_auc": "other_auc", "published_low": "other_auc_low", "published_high": "other_auc_high"})
    return scatter(seen, ours=f"{name} (unit: {reference.units})",
                   theirs=f"{reference.name} (unit: {reference.unit})", title=title, note=note)


def summary_words(reference: Reference) -> list[str]:
    """Return what the comparison holds, in sentences: how many match, and what the units are."""
    n = {measure: int(value) for measure, value in reference.counts.select("measure", "value").iter_rows()}
    text = [f"{reference.name} lists {n['n_published']:,} phenotypes; {n['n_compared']:,} of them have an AUC here"
            + (f", {n['n_absent']:,} are not in the vocabulary" if n["n_absent"] else "") + "."]
    if n["n_compared"]:
        text.append(f"{n['n_inside']:,} of the {n['n_compared']:,} published AUCs lie within our 95 % interval.")
    text.append(f"Ours counts by the {reference.units}; the published counts are of: {reference.unit}. "
                "Counts and intervals compare only where the units agree.")
    return text


def write_compared(reference: Reference, folder: Path, *, small_cell: int) -> Path:
    """Write the comparison as ``reference.csv``; hidden counts of ours as ``<small_cell``."""
    hidden = pl.when(pl.col("phenotype").is_null()).then(None).otherwise(
        pl.col("n_cases").cast(pl.String).fill_null(f"<{small_cell}"))
    table = reference.both.with_columns(hidden.alias("n_cases")).drop("chapter_order", "n_case_patients")
    with atomic(folder / "reference.csv") as handle:
        csv_safe(table).write_csv(handle, quote_style="non_numeric")
    return folder / "reference.csv"
