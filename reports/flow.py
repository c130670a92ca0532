"""Who was counted where: participant flow, rejected rows, sides of the study, all with small cells hidden."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import polars as pl

from phewas.errors import SchemaError
from phewas.reports.tables import ROUNDED, any_small, hide_small, shown
from phewas.schema import REASONS, SPLITS

SPLIT_WORDS = {
    "train": "training", "tuning": "tuning", "held_out": "held out (tested)", "crossfit": "cross-fitted (tested)",
    "excluded": "excluded",
}


@dataclass(frozen=True)
class Loss:
    """One arrow of the diagram."""

    step: str
    reason: str
    lost: str
    n_in: str
    n_out: str
    unit: str
    starts: bool
    is_loss: bool
    is_note: bool
    ends: bool = False


def side_counts(splits: pl.DataFrame, disjointness: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return patients per side of the study, with encounters where ``cohort/disjointness.json`` tells them.

    Returns
    -------
    list of dict
        split, words, patients (int), encounters (int or None), in the order of `phewas.schema.SPLITS`.
    """
    patients = dict(splits.group_by("split").len().rows())
    told = disjointness.get("counts", {})
    return [
        {"split": s, "words": SPLIT_WORDS.get(s, s), "patients": patients[s],
         "encounters": told.get(s, {}).get("encounters")}
        for s in SPLITS if s in patients
    ]


def must_round(flow: pl.DataFrame, sides: list[dict[str, Any]], *, small_cell: int) -> bool:
    """Return whether cohort totals must be rounded everywhere, because some loss or side of the study is small.

    Flow and sides add up to each other, so one exact total would give a hidden number away.
    """
    lost = (flow.get_column("n_in") - flow.get_column("n_out")).abs().to_list()
    totals = [*flow.get_column("n_in").to_list(), *flow.get_column("n_out").to_list(), *lost]
    totals += [n for side in sides for n in (side["patients"], side["encounters"]) if n is not None]
    return any_small(totals, small_cell=small_cell)


def flow_steps(flow: pl.DataFrame, *, small_cell: int, rounded: bool) -> list[Loss]:
    """Return the flow as arrows in table order; a new chain starts where the unit or the number before changes.

    Notes that follow each other within a step are put together by unit, so that each total stands there once.
    """
    steps: list[Loss] = []
    before: tuple[str, int] | None = None
    for row in _together(flow.rows(named=True)):
        lost = row["n_in"] - row["n_out"]

        def say(n: int) -> str:
            return shown(n, small_cell=small_cell, rounded=rounded)

        steps.append(Loss(
            step=row["step"], reason=row["reason"], lost=say(abs(lost)), n_in=say(row["n_in"]), n_out=say(row["n_out"]),
            unit=row["unit"], starts=before != (row["unit"], row["n_in"]), is_loss=lost > 0 and row["kind"] is None,
            is_note=row["kind"] is not None,
        ))
        before = row["unit"], row["n_in"] if row["kind"] else row["n_out"]
    after = [*(step.starts for step in steps[1:]), True]
    return [replace(step, ends=last) for step, last in zip(steps, after, strict=False)]


def _together(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Sort each run of notes of one step by unit and number before, in the order of first sight."""
    found: list[dict[str, Any]] = []
    for (_, noted), part in itertools.groupby(rows, key=lambda row: (row["step"], row["kind"] is not None)):
        block = list(part)
        if noted:
            seen = list(dict.fromkeys((row["unit"], row["n_in"]) for row in block))
            block.sort(key=lambda row: seen.index((row["unit"], row["n_in"])))
        found += block
    return found


def reject_counts(rejects: pl.DataFrame, *, small_cell: int) -> list[dict[str, str]]:
    """Return rejected rows and files by table and reason, most frequent first; the reason in words."""
    counts = rejects.group_by("table", "reason").len("n")
    counts = counts.sort(["n", "table", "reason"], descending=[True, False, False])
    counts = hide_small(counts, ["n"], small_cell=small_cell, together=True)
    return [
        {"table": r["table"], "reason": REASONS.get(r["reason"], r["reason"]), "code": r["reason"],
         "n": shown(r["n"], small_cell=small_cell, rounded=r[ROUNDED])}
        for r in counts.iter_rows(named=True)
    ]


def unmapped_counts(unmapped: pl.DataFrame, *, small_cell: int, top: int = 20) -> list[dict[str, str]]:
    """Return the `top` codes that reached no phenotype, by number of diagnosis rows."""
    counts = unmapped.sort(["n_rows", "code", "vocabulary"], descending=[True, False, False]).head(top)
    counts = hide_small(counts, ["n_rows", "n_patients"], small_cell=small_cell)
    return [
        {"code": r["code"], "vocabulary": r["vocabulary"], "reason": r["reason"],
         "n_rows": shown(r["n_rows"], small_cell=small_cell, rounded=r[ROUNDED]),
         "n_patients": shown(r["n_patients"], small_cell=small_cell, rounded=r[ROUNDED])}
        for r in counts.iter_rows(named=True)
    ]


def read_disjointness(path: Path) -> dict[str, Any]:
    """Read ``cohort/disjointness.json``; an empty dictionary where the run has none.

    Raises
    ------
    SchemaError
        The file is no JSON object.
    """
    if not path.is_file():
        return {}
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, UnicodeDecodeError) as error:
        raise SchemaError(f"{path} is not valid JSON", cure="redo the split step") from error
    if not isinstance(told, dict):
        raise SchemaError(f"{path} holds a {type(told).__name__}", expected="a JSON object", cure="redo the split step")
    return told
