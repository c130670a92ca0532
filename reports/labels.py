"""What the label rules cost, from ``phenotypes/summary.json``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from phewas.reports.tables import any_small, shown

SUMMARY = "phenotypes/summary.json"


def label_rules(run: Path, *, small_cell: int) -> dict[str, Any]:
    """Return the rows of the table of rule costs and the notes, for the page; both empty where there is no summary.

    Parameters
    ----------
    run
        Run directory.
    small_cell
        Counts of 1 to ``small_cell - 1`` are hidden, and the others then rounded to tens; the notes, which
        count in words, are shown for public cohorts only.
    """
    file = run / SUMMARY
    summary = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    rules = summary.get("rules", [])
    rounded = any_small([int(rule["n"]) for rule in rules], small_cell=small_cell)
    rows = [
        {
            "rule": str(rule["rule"]),
            "setting": f"{rule['option']} = {_word(rule['value'])}",
            "n": shown(int(rule["n"]), small_cell=small_cell, rounded=rounded),
            "lost": str(rule["lost"]),
        }
        for rule in rules
    ]
    notes = [str(note) for note in summary.get("notes", [])] if small_cell == 0 else []
    return {"rules": rows, "label_notes": notes}


def _word(value: object) -> str:
    return {True: "on", False: "off"}.get(value, str(value)) if isinstance(value, bool) else str(value)
