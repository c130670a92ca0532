"""How the tested differ from those who trained, as the page shows it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl

from phewas.reports.tables import is_small
from phewas.schema import Shift

NOTABLE = 0.1  # |SMD| from which a difference is pointed out (Austin, Stat Med 28:3083, 2009)
LEVELS = 8  # of a category, the ones that differ most
WORDS = {
    "age": "Age at the encounter, years",
    "sex": "Sex",
    "race": "Race",
    "ethnicity": "Ethnicity",
    "encounters_per_patient": "Encounters per patient",
    "prior_codes": "Codes before the encounter",
    "chapter": "Any diagnosis of the chapter",
}
NOTHING = "–"
SIDES = ("tested", "training")
LARGE = 1000  # units from which a whole per cent tells nothing about a handful of them


def shift_rows(run: Path, *, small_cell: int) -> list[dict[str, Any]]:
    """Return the rows of the comparison table: held-out against training; empty where a run has no such sides.

    Parameters
    ----------
    run
        Run directory.
    small_cell
        Shares that rest on 1 to ``small_cell - 1`` units of either side are hidden, and the variable's other shares
        rounded, so that the hidden one is not their difference to 100 %.

    Returns
    -------
    list of dict
        what, tested, training, smd (text), notable (bool), level (bool: a level of the variable above).
    """
    if not (run / Shift.file).is_file():
        return []
    table = Shift.read(run).filter(pl.col("comparison") == "held_out")
    rows: list[dict[str, Any]] = []
    for variable in table.get_column("variable").unique(maintain_order=True):
        part = table.filter(pl.col("variable") == variable)
        whole = part.filter(pl.col("level") == "")
        levels = part.filter(pl.col("level") != "").with_columns(pl.col("smd").abs().fill_null(0).alias("size"))
        words = WORDS.get(variable, variable)
        rows += [_whole(row, words) for row in whole.iter_rows(named=True)]
        if whole.is_empty():  # a patient can have several of its levels, so that there is no difference as a whole
            rows.append({"what": f"{words} (those that differ most)" if levels.height > LEVELS else words,
                         "tested": "", "training": "", "smd": "", "notable": False, "level": False})
        coarse = any(_hidden(row, small_cell=small_cell) for row in levels.iter_rows(named=True))
        chosen = levels.sort("size", "level", descending=[True, False]).head(LEVELS)
        rows += [_level(row, small_cell=small_cell, coarse=coarse) for row in chosen.iter_rows(named=True)]
    return rows


def _whole(row: dict[str, Any], words: str) -> dict[str, Any]:
    continuous = row["kind"] == "continuous"
    return {
        "what": words,
        "tested": mean_text(row["mean_tested"], row["sd_tested"]) if continuous else "",
        "training": mean_text(row["mean_training"], row["sd_training"]) if continuous else "",
        "smd": smd_text(row["smd"]),
        "notable": row["smd"] is not None and abs(row["smd"]) >= NOTABLE,
        "level": False,
    }


def _hidden(row: dict[str, Any], *, small_cell: int) -> bool:
    return any(is_small(row[f"count_{side}"] or 0, small_cell=small_cell) for side in SIDES)


def _level(row: dict[str, Any], *, small_cell: int, coarse: bool) -> dict[str, Any]:
    hidden = _hidden(row, small_cell=small_cell)
    shares = {
        side: NOTHING if hidden else percent(row[f"count_{side}"], row[f"n_{side}"], coarse=coarse) for side in SIDES
    }
    smd = None if hidden else row["smd"]
    return {
        "what": row["level"],
        **shares,
        "smd": smd_text(smd),
        "notable": smd is not None and abs(smd) >= NOTABLE,
        "level": True,
    }


def shift_warnings(rows: list[dict[str, Any]]) -> list[str]:
    """Return a sentence where age differs notably between the sides."""
    return [
        f"Tested and training patients differ in age: {row['tested']} against {row['training']} years "
        f"(mean (SD); standardised difference {row['smd']})."
        for row in rows
        if row["what"] == WORDS["age"] and row["notable"]
    ]


def percent(count: int | None, n: int, *, coarse: bool) -> str:
    """Return a share; coarsely where another level is hidden, whose count would be the rest up to 100 %."""
    if not n:
        return NOTHING
    share = 100 * (count or 0) / n
    if not coarse:
        return f"{share:.1f} %"
    step = 1 if n >= LARGE else 5
    return f"≈{step * round(share / step)} %"


def mean_text(mean: float | None, sd: float | None) -> str:
    """Return mean and standard deviation with one decimal, or a dash."""
    return NOTHING if mean is None else f"{mean:.1f} ({NOTHING if sd is None else f'{sd:.1f}'})"


def smd_text(value: float | None) -> str:
    """Return a standardised mean difference with two decimals and a true minus sign, or a dash."""
    return NOTHING if value is None else f"{value + 0.0:.2f}".replace("-", "−")
