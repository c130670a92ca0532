"""Table 1: who was studied, side by side, as the page and the workbook show it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl

from phewas.reports.flow import SPLIT_WORDS
from phewas.reports.shift import NOTHING, WORDS, mean_text, percent, smd_text
from phewas.reports.tables import any_small, is_small, shown
from phewas.schema import SPLITS, Shift, Table1

#: Levels of a category that are listed, most frequent first; the rest is one line.
LEVELS = 12
OTHER = "other"


def table1_rows(run: Path, *, small_cell: int) -> tuple[list[str], list[dict[str, Any]]]:
    """Return the sides of the study in words, and the rows of the table; both empty where a run has no such table.

    Parameters
    ----------
    run
        Run directory.
    small_cell
        Counts of 1 to ``small_cell - 1`` are hidden, and then all shares of that variable on that side are rounded, so
        that the hidden one is not their difference to the whole.

    Returns
    -------
    sides, rows
        rows of dict: what (variable or level in words), unit (``patients`` or ``encounters``; empty for a level), level
        (bool), cells (text by side: number with a value; mean (SD); or count (share)), missing (text by side; empty for
        a level), smd (text: held-out against training; a dash where there is no such comparison).
    """
    if not (run / Table1.file).is_file():
        return [], []
    table = Table1.read(run)
    present = set(table.get_column("side").to_list())
    sides = [side for side in SPLITS if side in present]
    differences = _differences(run)
    rows: list[dict[str, Any]] = []
    for variable in table.get_column("variable").unique(maintain_order=True):
        part = table.filter(pl.col("variable") == variable)
        continuous = part.filter(pl.col("level") != "").is_empty()
        by_side = {side: part.filter(pl.col("side") == side) for side in sides}
        rows.append(_variable(variable, by_side, differences, continuous=continuous, small_cell=small_cell))
        if not continuous:
            rows += _levels(variable, part, by_side, differences, small_cell=small_cell)
    return [SPLIT_WORDS.get(side, side) for side in sides], rows


def _differences(run: Path) -> dict[tuple[str, str], float | None]:
    if not (run / Shift.file).is_file():
        return {}
    held_out = Shift.read(run).filter(pl.col("comparison") == "held_out")
    return {(v, level): smd for v, level, smd in held_out.select("variable", "level", "smd").iter_rows()}


def _variable(
    variable: str,
    by_side: dict[str, pl.DataFrame],
    differences: dict[tuple[str, str], float | None],
    *,
    continuous: bool,
    small_cell: int,
) -> dict[str, Any]:
    cells, missing, unit = [], [], ""
    for part in by_side.values():
        if part.is_empty():
            cells.append(NOTHING)
            missing.append(NOTHING)
            continue
        row = part.row(0, named=True)
        unit = row["unit"]
        # Numbers with and without a value add up to the side, so that one small number rounds both.
        rounded = is_small(row["missing"], small_cell=small_cell) or is_small(row["n"], small_cell=small_cell)
        missing.append(shown(row["missing"], small_cell=small_cell, rounded=rounded))
        hidden = is_small(row["n"], small_cell=small_cell)
        if not continuous:
            cells.append(shown(row["n"], small_cell=small_cell, rounded=rounded))
        elif hidden or row["mean"] is None:
            cells.append(NOTHING)
        else:
            cells.append(mean_text(row["mean"], row["sd"]))
    return {
        "what": WORDS.get(variable, variable),
        "unit": unit,
        "level": False,
        "cells": cells,
        "missing": missing,
        "smd": smd_text(differences.get((variable, ""))),
    }


def _levels(
    variable: str,
    part: pl.DataFrame,
    by_side: dict[str, pl.DataFrame],
    differences: dict[tuple[str, str], float | None],
    *,
    small_cell: int,
) -> list[dict[str, Any]]:
    levels = part.filter(pl.col("level") != "").group_by("level").agg(pl.col("count").sum())
    # Chapters overlap and are all told; the levels of any other category are few or not worth a line each.
    names = levels.sort("count", "level", descending=[True, False]).get_column("level").to_list()
    listed = names if variable == "chapter" or len(names) <= LEVELS + 1 else names[:LEVELS]
    counts = {side: dict(one.select("level", "count").iter_rows()) for side, one in by_side.items()}
    totals = {side: int(one.get_column("n")[0]) if one.height else 0 for side, one in by_side.items()}
    missing = {side: int(one.get_column("missing")[0]) if one.height else 0 for side, one in by_side.items()}
    if len(listed) < len(names):
        rest = set(names) - set(listed)
        for side in counts:
            counts[side][OTHER] = sum(counts[side].get(name) or 0 for name in rest)
        listed = [*listed, OTHER]
    rows = []
    for name in listed:
        cells, hidden = [], False
        for side in by_side:
            own = {level: counts[side].get(level) or 0 for level in listed}
            # Levels and those without a value add up to the side.
            coarse = any_small([*own.values(), missing[side]], small_cell=small_cell)
            hidden = hidden or is_small(own[name], small_cell=small_cell)
            cells.append(_share(own[name], totals[side], coarse=coarse, small_cell=small_cell))
        smd = None if hidden else differences.get((variable, name))
        rows.append({"what": name, "unit": "", "level": True, "cells": cells, "missing": [""] * len(cells),
                     "smd": smd_text(smd)})  # fmt: skip
    return rows


def _share(count: int, n: int, *, coarse: bool, small_cell: int) -> str:
    text = shown(count, small_cell=small_cell, rounded=coarse)
    if is_small(count, small_cell=small_cell) or not n:
        return text
    return f"{text} ({percent(count, n, coarse=coarse)})"
