"""The sheets of the workbook that stand beside the main table: subgroups, calibration, operating points and others."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import polars as pl

from phewas.reports.material import SUBGROUP_COUNTS, Material
from phewas.reports.tables import ROUNDED
from phewas.schema import (
    Calibration,
    Controls,
    Multiplicity,
    NetBenefit,
    OperatingPoints,
    RivalInputs,
    Rivals,
    Specificity,
    Subgroups,
    Table,
)


@dataclass(frozen=True)
class Sheet:
    """One sheet: its rows, and what its columns mean.

    Attributes
    ----------
    name
        At most 31 characters.
    columns
        Heads, and what each means; an empty meaning leaves the column out of the sheet that explains them.
    rows
        Cells: numbers, text, True and False, or None for an empty one.
    note
        A sentence above the table.
    """

    name: str
    columns: Mapping[str, str]
    rows: Sequence[Sequence[Any]]
    note: str = ""
    formats: Mapping[str, str] = field(default_factory=dict)


def meanings(table: type[Table], names: Iterable[str]) -> dict[str, str]:
    """Return what the schema says of each named column; empty where it says nothing."""
    columns = table.columns()
    return {name: columns[name].doc if name in columns else "" for name in names}


def hidden(value: int | None, *, small_cell: int) -> int | str:
    """Return a count, or the words that stand for a hidden one."""
    return f"<{small_cell}" if value is None else value


# Each group is a row of every phenotype: what nobody would read here stays in results/subgroups.parquet.
_NOT_SHOWN = ("level_order", "auc_se", "statistic", "df1", "df2", "n_levels", "n_cases", "n_controls", "n_patients")


def further_sheets(m: Material) -> list[Sheet]:
    """Return the sheets for which the run has tables, small cells hidden as `phewas.reports.material` does."""
    sheets = []
    if m.multiplicity.height:
        sheets.append(Sheet("Multiplicity", meanings(Multiplicity, m.multiplicity.columns), m.multiplicity.rows()))
    if m.subgroups.height:
        columns = meanings(Subgroups, [c for c in m.subgroups.columns if c not in _NOT_SHOWN])
        columns[ROUNDED] = "whether the counts of this phenotype and variable are rounded, because one is hidden"
        rows = [
            [hidden(v, small_cell=m.small_cell) if name in SUBGROUP_COUNTS else v for name, v in row.items()]
            for row in m.subgroups.select(list(columns)).iter_rows(named=True)
        ]
        sheets.append(_named("Subgroups", m, columns, rows))
    if m.calibration.height:
        columns = meanings(Calibration, m.calibration.columns)
        place = [m.calibration.columns.index(c) for c in ("n_cases", "n_controls")]
        rows = [[hidden(v, small_cell=m.small_cell) if i in place else v for i, v in enumerate(row)]
                for row in m.calibration.rows()]  # fmt: skip
        sheets.append(_named("Calibration", m, columns, rows))
    further: list[tuple[str, type[Table], pl.DataFrame]] = [
        ("Operating points", OperatingPoints, m.operating), ("Specificity", Specificity, m.specificity)]
    for name, table, frame in further:
        if frame.height:
            shown = frame.with_columns(pl.col(pl.Float64).round(3))
            sheets.append(_named(name, m, meanings(table, frame.columns), [list(row) for row in shown.rows()]))
    further = [("Rivals", Rivals, m.beside.rivals), ("Controls", Controls, m.beside.controls),
               ("Net benefit", NetBenefit, m.beside.benefit)]
    for name, table, frame in further:
        if frame.height:
            sheets.append(_named(name, m, meanings(table, frame.columns), [list(row) for row in frame.rows()]))
    if m.beside.told.height:
        sheets.append(Sheet("Rival inputs", meanings(RivalInputs, m.beside.told.columns), m.beside.told.rows()))
    return sheets


def _named(name: str, m: Material, columns: Mapping[str, str], rows: Sequence[Sequence[Any]]) -> Sheet:
    """Put the description behind the identifier, which is the first column."""
    words = dict(m.results.select("phenotype", "description").iter_rows())
    first, *rest = columns
    heads = {first: columns[first], "description": "of the phenotype, in words", **{c: columns[c] for c in rest}}
    return Sheet(name, heads, [[row[0], words.get(row[0], ""), *row[1:]] for row in rows])
