"""The page: words and numbers for the template, and one self-contained file out of it."""

from __future__ import annotations

import base64
import hashlib
import math
import re
from collections.abc import Mapping
from importlib.resources import files
from typing import Any

import jinja2
import polars as pl
from markupsafe import Markup

from phewas.reports.layout import chapter_colour, shorten
from phewas.reports.manhattan import status_words
from phewas.reports.material import veiled_chapters
from phewas.reports.meta import ReportMeta
from phewas.reports.tables import ROUNDED, estimate_text, interval_text, p_text, shown

CELL_WIDTH = 200  # characters of a description on the page; the CSV has it in full
PERSONS = ("patient", "case", "control", "encounter", "segment", "recording", "person")
FLAG_WORDS = {"few_cases": "few cases", "acquisition_explains": "acquisition explains it"}


# Control characters but tab and line feed, marks that turn the reading order, half surrogate pairs, non-characters.
_UNSAFE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]")


def clean(value: Any, width: int = 0) -> str:
    """Return text without control and direction-changing characters, cut to `width` characters if that is above 0.

    Escaping is the template's work; this removes what escaping leaves: characters that are invalid in HTML, and those
    that turn the reading order of the words around them.
    """
    text = _UNSAFE.sub("", str(value))
    return shorten(text, width=width) if width else text


def flags(text: str) -> list[str]:
    """Return the flags of one row, which the table keeps in one cell."""
    return [f for f in (part.strip() for part in text.split(";")) if f]


def flag_words(text: str) -> list[str]:
    """Return the flags of one row in words."""
    return [FLAG_WORDS.get(f, f.replace("_", " ")) for f in flags(text)]


def tested_rows(protected: pl.DataFrame, *, small_cell: int, colours: Mapping[str, str]) -> list[dict[str, Any]]:
    """Return the page's main table: tested phenotypes, best AUC first, ties and blanks by identifier.

    Parameters
    ----------
    protected
        As `phewas.reports.tables.protect` returns it.
    small_cell
        For the words that stand for hidden counts.
    colours
        Colour by chapter name.
    """
    rows = protected.filter(pl.col("status") == "tested").sort(
        ["auc", "phenotype"], descending=[True, False], nulls_last=True
    )
    return [
        {
            "phenotype": clean(r["phenotype"], width=40), "description": clean(r["description"], width=CELL_WIDTH),
            "chapter": clean(r["chapter"], width=60), "colour": colours.get(r["chapter"], "#777777"),
            "sex": {"F": "women", "M": "men"}.get(r["sex"], ""), "sex_code": r["sex"],
            "cases": shown(r["n_case_patients"], small_cell=small_cell, rounded=r[ROUNDED]),
            "cases_sort": r["n_case_patients"] or 0,
            "auc": estimate_text(r["auc"]), "auc_sort": _sortable(r["auc"]),
            "interval": interval_text(r["auc_low"], r["auc_high"]),
            "q": p_text(r["q_fdr"]), "q_sort": _sortable(r["q_fdr"]),
            "baseline": estimate_text(r["baseline_auc"]), "baseline_sort": _sortable(r["baseline_auc"]),
            "delta": estimate_text(r["delta_auc"], signed=True), "delta_sort": _sortable(r["delta_auc"]),
            "delta_interval": interval_text(r["delta_low"], r["delta_high"], signed=True),
            "lift": "–" if r["ap_lift"] is None else f"{r['ap_lift']:.1f}", "lift_sort": _sortable(r["ap_lift"]),
            "flags": [clean(f, width=60) for f in flag_words(r["flags"])],
        }
        for r in rows.iter_rows(named=True)
    ]


def _sortable(value: float | None) -> str:
    return "" if value is None else repr(value)


def untested_rows(protected: pl.DataFrame, *, small_cell: int) -> dict[str, Any]:
    """Return the phenotypes that were not tested: how many for which reason, and one by one."""
    rows = protected.filter(pl.col("status") != "tested")
    reasons = rows.group_by("status").len("n").sort(["n", "status"], descending=[True, False])
    return {
        "reasons": [(clean(status_words(s), width=80), f"{n:,}") for s, n in reasons.rows()],
        "rows": [
            {"phenotype": clean(r["phenotype"], width=40), "description": clean(r["description"], width=CELL_WIDTH),
             "chapter": clean(r["chapter"], width=60), "reason": clean(status_words(r["status"]), width=80),
             "cases": shown(r["n_case_patients"], small_cell=small_cell, rounded=r[ROUNDED])}
            for r in rows.iter_rows(named=True)
        ],
        "n": f"{rows.height:,}",
    }


def chapter_rows(
    chapters: pl.DataFrame, protected: pl.DataFrame, *, colours: Mapping[str, str]
) -> list[dict[str, Any]]:
    """Return the chapter table, in the vocabulary's order.

    Mean and median are blank in a chapter with a tested phenotype whose AUC `protected` hides: with few phenotypes they
    would give it away.
    """
    veiled = veiled_chapters(protected)
    return [
        {"chapter": clean(r["chapter"], width=60), "colour": colours.get(r["chapter"], "#777777"),
         **{k: f"{r[k]:,}" for k in ("n_phenotypes", "n_tested", "n_significant", "n_auc_70", "n_beats_baseline")},
         "mean": estimate_text(None if r["chapter"] in veiled else r["mean_auc"]),
         "mean_interval": "" if r["chapter"] in veiled else interval_text(r["mean_auc_low"], r["mean_auc_high"]),
         "median": estimate_text(None if r["chapter"] in veiled else r["median_auc"])}
        for r in chapters.sort("chapter_order", "chapter").iter_rows(named=True)
    ]


def overview_rows(overview: pl.DataFrame, *, small_cell: int, rounded: bool) -> list[dict[str, str]]:
    """Return the headline figures with their meaning; numbers of people obey the small-cell rule."""
    rows = []
    for measure, value, low, high, meaning in overview.select("measure", "value", "low", "high", "meaning").iter_rows():
        if value is None or value != value:
            text = "–"
        elif float(value).is_integer():
            people = any(word in measure for word in PERSONS) and "phenotype" not in measure
            text = shown(int(value), small_cell=small_cell if people else 0, rounded=people and rounded)
        else:
            text = estimate_text(value)
        whole = value is not None and float(value).is_integer()
        interval = ("" if low is None or high is None else f"{math.floor(low):,} to {math.ceil(high):,}" if whole
                    else interval_text(low, high))
        rows.append({"value": text, "interval": interval, "measure": clean(measure, width=60),
                     "meaning": clean(meaning, width=300).replace(">=", "≥")})
    return rows


def chapter_colours(results: pl.DataFrame) -> dict[str, str]:
    """Return the colour of each chapter, as the figure uses it."""
    chapters = results.select("chapter_order", "chapter").unique().sort("chapter_order", "chapter")
    names = list(dict.fromkeys(chapters.get_column("chapter").to_list()))
    return {name: chapter_colour(i) for i, name in enumerate(names)}


def data_uri(png: bytes) -> str:
    """Return PNG bytes as a data URI, so that the page needs no second file."""
    return "data:image/png;base64," + base64.b64encode(png).decode("ascii")


def page_part(name: str) -> str:
    """Return a template, style sheet or script of this package."""
    return (files("phewas.reports") / "templates" / name).read_text(encoding="utf-8")


def render(
    *, meta: ReportMeta, plotly: str, plotly_packed: str, figure_json: str, cards_packed: str, **parts: Any
) -> str:
    """Fill the template; autoescape is on, undefined names are an error, nothing is loaded from elsewhere.

    The page forbids itself every request and every script but its own two, named by hash.
    """
    css, script = page_part("report.css"), page_part("report.js")
    names = ("report.html.j2", "results.html.j2", "beside.html.j2", "people.html.j2", "methods.html.j2")
    sources = {name: page_part(name) for name in names}
    environment = jinja2.Environment(
        loader=jinja2.DictLoader(sources), autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True,
        lstrip_blocks=True, keep_trailing_newline=True,
    )
    environment.filters["clean"] = clean
    # Style and scripts are files of this package and of plotly, not text from outside; the data escapes itself.
    return environment.get_template("report.html.j2").render(
        meta=meta, css=Markup(css), script=Markup(script), script_hash=_hash(script), plotly_hash=_hash(plotly),
        plotly_packed=Markup(plotly_packed), figure_json=Markup(figure_json), cards_packed=Markup(cards_packed),
        **parts,
    )


def _hash(script: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii")
