"""What the page's script works with: places on the figure, and a card per phenotype, small enough for a mail."""

from __future__ import annotations

import base64
import gzip
import json
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import polars as pl

from phewas.reports.html import clean, flag_words
from phewas.reports.material import Material
from phewas.reports.phenome import LENGTH, arrange
from phewas.reports.tables import ROUNDED, estimate_text, interval_text, p_text, shown
from phewas.schema import Definitions, Phenotypes

MOST_CODES = 400  # of one phenotype and code system on its card; the workbook has all
POINTS = 45  # of a curve on a card


def plotly_script() -> str:
    """Return plotly.js as its Python package ships it, to be packed into the page once."""
    return (files("plotly") / "package_data" / "plotly.min.js").read_text(encoding="utf-8")


def licence_of(script: str) -> str:
    """Return the first comment of a script, which names it, its makers and its licence."""
    head, end, _ = script.strip().partition("*/")
    words = (line.strip(" *") for line in head.removeprefix("/**").splitlines())
    return ". ".join(line for line in words if line) if end and head.startswith("/**") else ""


def figure_data(m: Material) -> dict[str, Any]:
    """Return the interactive figure: one entry per drawn phenotype, in the order of the axis, and the chapters.

    Numbers are those of `phewas.reports.tables.protect`; x is in inches of the print figure's axis. The area of a point
    follows case patients as in print, and a hidden number of them draws the smallest.
    """
    rows, axis = arrange(m.results)
    points = [
        [clean(r["phenotype"], width=40), clean(r["description"], width=120), round(float(x), 4), colour, r["auc"],
         r["auc_low"], r["auc_high"], r["q_fdr"], r["delta_auc"], r["delta_low"], r["delta_high"], r["delta_q"],
         r["neg_log10_p"], r["n_case_patients"] or 0,
         shown(r["n_case_patients"], small_cell=m.small_cell, rounded=r[ROUNDED])]
        for r, x, colour in zip(rows.iter_rows(named=True), axis.x, axis.colours, strict=True)
    ]
    middles = axis.starts + axis.widths / 2
    names = [clean(name, width=32) for name in dict.fromkeys(rows.get_column("chapter").to_list())]
    return {
        "length": round(LENGTH, 2), "points": points,
        "chapters": [[name, round(float(x), 4)] for name, x in zip(names, middles, strict=True)],
    }


def cards(m: Material) -> dict[str, Any]:
    """Return what is told of each tested phenotype when it is opened.

    Returns
    -------
    dict
        By identifier: ``d`` description, ``c`` chapter, ``n`` pairs of name and text, ``k`` codes by code system (and
        how many were cut), ``r`` ROC and ``a`` precision-recall curve as whole thousandths x, y, x, y, ..., ``b``
        prevalence in thousandths or None, ``s`` groups of patients.
    """
    tested = m.results.filter(pl.col("status") == "tested")
    names = tested.get_column("phenotype").to_list()
    codes = _codes(m.run, names)
    roc, precision, groups = _curves(m.curves, "roc"), _curves(m.curves, "pr"), _groups(m)
    found = {}
    for r in tested.iter_rows(named=True):
        name = r["phenotype"]
        found[clean(name, width=40)] = {
            "d": clean(r["description"], width=600), "c": clean(r["chapter"], width=120), "n": _facts(r, m.small_cell),
            "k": codes.get(name, {}), "r": roc.get(name, []), "a": precision.get(name, []),
            "b": None if r["prevalence"] is None else round(r["prevalence"] * 1000, 1), "s": groups.get(name, []),
        }
    return found


def _facts(r: Mapping[str, Any], small_cell: int) -> list[list[str]]:
    def number(column: str) -> str:
        return shown(r[column], small_cell=small_cell, rounded=r[ROUNDED])

    def estimate(stem: str, low: str, high: str, *, signed: bool = False) -> str:
        interval = interval_text(r[low], r[high], signed=signed)
        return estimate_text(r[stem], signed=signed) + (f" ({interval})" if interval else "")

    pairs = [
        ["AUC (95 % interval)", estimate("auc", "auc_low", "auc_high")],
        ["p against 0.5; q", f"{p_text(r['p_value'])}; {p_text(r['q_fdr'])}"],
        ["Age + sex", estimate("baseline_auc", "baseline_low", "baseline_high")],
        ["Difference", estimate("delta_auc", "delta_low", "delta_high", signed=True)],
        ["Average precision", estimate("average_precision", "ap_low", "ap_high")],
        ["Case patients", number("n_case_patients")], ["Control patients", number("n_control_patients")],
        [f"Case {r['unit']}s", number("n_cases")], [f"Control {r['unit']}s", number("n_controls")],
        [f"Excluded {r['unit']}s", number("n_excluded")],
        ["Sex", {"F": "women only", "M": "men only"}.get(r["sex"], "both")],
        ["Label window", clean(r["label_window"], width=40).replace("_", " ")],
    ]
    if r["same_as"]:
        pairs.append(["Same labels as", clean(r["same_as"], width=40)])
    if words := flag_words(r["flags"]):
        pairs.append(["Note", clean("; ".join(words), width=200)])
    return pairs


def _codes(run: Path, names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Return the codes of each phenotype by code system, the first `MOST_CODES`, and how many there are in all."""
    if not (run / Definitions.file).is_file():
        return {}
    known = set(Phenotypes.read(run).get_column("phenotype").to_list()) & set(names)
    table = Definitions.read(run).filter(pl.col("phenotype").is_in(list(known)))
    listed = table.group_by("phenotype", "code_system", maintain_order=True).agg(
        pl.col("code").sort().head(MOST_CODES).str.join(" "), n=pl.len())
    found: dict[str, dict[str, Any]] = {}
    for phenotype, system, codes, n in listed.sort("phenotype", "code_system").iter_rows():
        found.setdefault(phenotype, {})[clean(system, width=20)] = [clean(codes, width=40 * MOST_CODES), n]
    return found


def _curves(curves: pl.DataFrame, kind: str) -> dict[str, list[int]]:
    mine = curves.filter(pl.col("curve") == kind).sort("phenotype", "point")
    place, size = pl.int_range(pl.len()).over("phenotype"), pl.len().over("phenotype")
    step = ((size - 1) // POINTS + 1).cast(pl.Int64)
    kept = mine.filter((place % step == 0) | (place == size - 1)).select(
        "phenotype", *((pl.col(c) * 1000).round(0).cast(pl.Int64) for c in ("x", "y")))
    listed = kept.group_by("phenotype", maintain_order=True).agg(pl.concat_list("x", "y").explode().alias("xy"))
    return dict(listed.iter_rows())


def _groups(m: Material) -> dict[str, list[list[str]]]:
    """Return the AUC within groups: variable, level, AUC with interval, case patients; and p of equal AUCs."""
    found: dict[str, list[list[str]]] = {}
    for r in m.subgroups.sort("phenotype", "variable", "level_order").iter_rows(named=True):
        variable = clean(r["variable"], width=40).removeprefix("src_").replace("_", " ")
        if not r["level"]:
            if r["p_value"] is not None:
                found.setdefault(r["phenotype"], []).append([variable, "", f"p = {p_text(r['p_value'])}", ""])
            continue
        interval = interval_text(r["auc_low"], r["auc_high"])
        told = estimate_text(r["auc"]) + (f" ({interval})" if interval else "")
        cases = shown(r["n_case_patients"], small_cell=m.small_cell, rounded=r[ROUNDED])
        found.setdefault(r["phenotype"], []).append([variable, clean(r["level"], width=40), told, cases])
    return found


def as_json(value: Any) -> str:
    """Return JSON that may stand in a script element: no sign in it can end the element."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026").replace("\u2028", "\\u2028")


def packed(value: Any) -> str:
    """Return JSON, or a text as it is, as base64 of gzip, the same for the same value; the browser unpacks it."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, separators=(",", ":"),
                                                           allow_nan=False)
    raw = text.encode()
    return base64.b64encode(gzip.compress(raw, compresslevel=9, mtime=0)).decode("ascii")
