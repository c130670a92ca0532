"""What `phewas compare` shows: its tables with small cells hidden, the figures, and a page with both."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import jinja2
import polars as pl
from markupsafe import Markup
from matplotlib.figure import Figure

from phewas.errors import ConfigError, RunError, nearest
from phewas.reports import pairs
from phewas.reports.differences import chapter_differences, differences
from phewas.reports.gallery import FORMATS, SEGMENT_NOTE, write_figure
from phewas.reports.html import chapter_colours, clean, data_uri, page_part
from phewas.reports.style import SCREEN_DPI, Colours, png
from phewas.reports.tables import (
    ROUNDED,
    csv_safe,
    estimate_text,
    hide_small,
    interval_text,
    p_text,
    shown,
)
from phewas.rundir import atomic, write_text
from phewas.schema import Comparison, ComparisonChapters

ABOUT = "comparison.json"
COUNTS = ("n_case_patients", "n_control_patients")
ESTIMATES = ("auc_a", "low_a", "high_a", "auc_b", "low_b", "high_b", "difference", "se", "low", "high", "neg_log10_p")
P_VALUES = ("p_value", "q_fdr", "q_maxt")
PRIVATE = (
    "The tables beside this file hold exact counts, also small ones. They are not for sharing. What may be shown\n"
    "is in report/, where small cells are hidden.\n"
)
FIGURES = {
    "encoders": "AUC of both against each other", "miami": "Manhattan plots of both",
    "differences": "paired difference by chapter", "chapter_differences": "mean difference, wins and losses by chapter",
}


@dataclass(frozen=True, kw_only=True)
class About:
    """What no table of a comparison holds.

    Attributes
    ----------
    cohort
        What the runs were scored on, in words.
    encoders
        Encoder by run name.
    small_cell
        Counts of 1 to ``small_cell - 1`` are hidden; 0 for public cohorts.
    command
        What makes the comparison again.
    segments
        Whether segments were counted as if they were independent.
    chapters
        Number and name of every chapter of the vocabulary, so that each keeps the colour it has in the runs' reports.
    """

    cohort: str
    encoders: Mapping[str, str]
    small_cell: int
    command: str = ""
    segments: bool = False
    chapters: Sequence[tuple[int, str]] = ()


@dataclass(frozen=True)
class Pair:
    """One other run beside the first, small cells hidden; `veiled` chapters must not show their means."""

    names: tuple[str, str]
    table: pl.DataFrame
    chapters: pl.DataFrame
    veiled: frozenset[str]


def write_about(about: About, folder: Path) -> Path:
    """Write what `read_about` reads."""
    return write_text(json.dumps(asdict(about), indent=2, ensure_ascii=False) + "\n", folder / ABOUT)


def read_about(folder: Path) -> About:
    """Read ``comparison.json``.

    Raises
    ------
    RunError
        It is missing or damaged.
    """
    file = folder / ABOUT
    try:
        return About(**json.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise RunError(f"{file} is missing or damaged", expected="the folder of a comparison",
                       cure="phewas compare RUN RUN") from error


def protect_comparison(comparison: pl.DataFrame, *, small_cell: int) -> pl.DataFrame:
    """Return `phewas.schema.Comparison` as anyone may see it, with ``counts_rounded`` as last column.

    Hidden counts are null and the other of their row is rounded to tens; estimates are blank where case or control
    patients are below the threshold. Estimates have 3 decimals, p- and q-values 3 significant digits.
    """
    bare = pl.any_horizontal([pl.col(c) < small_cell for c in COUNTS])
    blanked = comparison.with_columns(
        *(pl.when(bare).then(None).otherwise(pl.col(c).fill_nan(None).round(3) + 0.0).alias(c) for c in ESTIMATES),
        *(pl.when(bare).then(None).otherwise(pl.col(c).round_sig_figs(3)).alias(c) for c in P_VALUES),
        pl.when(bare).then(pl.lit("")).otherwise("outcome").alias("outcome"))
    return hide_small(blanked, COUNTS, small_cell=small_cell)


def read_pairs(folder: Path, *, small_cell: int) -> list[Pair]:
    """Read the tables of a comparison, one `Pair` per other run in the order compared."""
    comparison = protect_comparison(Comparison.read(folder), small_cell=small_cell)
    sums = ComparisonChapters.read(folder)
    found = []
    for a, b in comparison.select("run_a", "run_b").unique(maintain_order=True).rows():
        mine = comparison.filter(pl.col("run_b") == b)
        veiled = mine.filter(pl.col("difference").is_null()).get_column("chapter").to_list()
        found.append(Pair((a, b), mine, sums.filter(pl.col("run_b") == b), frozenset(veiled)))
    return found


def _with_chapters(table: pl.DataFrame, about: About) -> pl.DataFrame:
    """Add a row without any number for each chapter in which nothing is compared; nothing is drawn of it."""
    known = set(table.get_column("chapter").to_list())
    rest = [{"chapter": name, "chapter_order": order, "phenotype": "", "outcome": ""}
            for order, name in about.chapters if name not in known]
    schema = {c: t for c, t in table.schema.items() if c in ("chapter", "chapter_order", "phenotype", "outcome")}
    return pl.concat([table, pl.DataFrame(rest, schema=schema)], how="diagonal")


def comparison_figures(
    pair: Pair, about: About, *, only: Collection[str] = (), colours: Colours = "safe"
) -> Iterator[tuple[str, Figure]]:
    """Yield the figures of a pair by name, those of `FIGURES` or of `only`.

    Raises
    ------
    ConfigError
        There is no figure of a name in `only`.
    """
    for name in only:
        if name not in FIGURES:
            raise ConfigError(f"a comparison has no figure {name!r}.{nearest(name, list(FIGURES))}",
                              expected=", ".join(FIGURES))
    a, b = pair.names
    title, note = f"{b} against {a}: {about.cohort}", SEGMENT_NOTE if about.segments else ""
    both = pair.table.filter(pl.col("auc_a").is_not_null() & pl.col("auc_b").is_not_null())
    every = _with_chapters(pair.table, about)
    side = every.with_columns(pl.when(pl.col("difference").is_null()).then(pl.lit("hidden")).otherwise(
        pl.lit("tested")).alias("status"))
    halves = [
        side.with_columns(pl.col(f"auc_{s}").alias("auc"),
                          pl.when(pl.col("outcome") == s).then("q_fdr").otherwise(None).alias("q_fdr"))
        for s in ("b", "a")
    ]
    scattered = both.rename({"auc_b": "auc", "low_b": "auc_low", "high_b": "auc_high", "auc_a": "other_auc",
                             "low_a": "other_auc_low", "high_a": "other_auc_high"})
    draw: dict[str, Callable[[], Figure]] = {
        "encoders": lambda: pairs.scatter(scattered, ours=b, theirs=a, title=title, note=note),
        "miami": lambda: pairs.miami(halves[0], halves[1], names=(b, a), title=title, note=note, colours=colours,
                                     filled="better than the other at q < 0.05 (paired)"),
        "differences": lambda: differences(every, names=(a, b), title=title, note=note, colours=colours),
        "chapter_differences": lambda: chapter_differences(pair.chapters, names=(a, b), veiled=pair.veiled,
                                                           title=title, note=note),
    }
    for name, make in draw.items():
        if not only or name in only:
            yield name, make()


def stem(name: str, pair: Pair, found: Collection[Pair]) -> str:
    """Return a figure's file name: with the other run's name where there are several."""
    return name if len(found) == 1 else f"{name}-{re.sub(r'[^A-Za-z0-9._-]+', '_', pair.names[1])}"


def write_comparison_figures(
    folder: Path, out: Path, *, small_cell: int | None = None, only: Collection[str] = (),
    formats: Collection[str] = FORMATS, colours: Colours = "safe",
) -> list[Path]:
    """Draw the figures of a comparison that lies in `folder` into `out`; `small_cell` None: as it was compared."""
    about = read_about(folder)
    found = read_pairs(folder, small_cell=about.small_cell if small_cell is None else small_cell)
    return [file for pair in found for name, figure in comparison_figures(pair, about, only=only, colours=colours)
            for file in write_figure(figure, out / stem(name, pair, found), formats=formats)]


def write_comparison(folder: Path) -> Path:
    """Write ``report/`` of a comparison: page, table, and figures as PNG and PDF. Nothing is computed.

    Parameters
    ----------
    folder
        Holds ``comparison.parquet``, ``comparison_chapters.parquet`` and ``comparison.json``.

    Returns
    -------
    pathlib.Path
        ``report/index.html``.
    """
    about = read_about(folder)
    report, found = folder / "report", read_pairs(folder, small_cell=about.small_cell)
    sections = []
    for pair in found:
        images = []
        for name, figure in comparison_figures(pair, about):
            file = stem(name, pair, found)
            write_figure(figure, report / "figures" / file, formats=("png", "pdf"))
            images.append({"name": name, "file": file, "shows": FIGURES[name],
                           "image": data_uri(png(figure, dpi=SCREEN_DPI))})
        sections.append(_section(pair, about, images))
    table = pl.concat([pair.table for pair in found]).with_columns(
        pl.col(c).cast(pl.String).fill_null(f"<{about.small_cell}") for c in COUNTS)
    with atomic(report / "tables" / "comparison.csv") as handle:
        csv_safe(table).write_csv(handle, quote_style="non_numeric")
    write_text(PRIVATE, folder / "NOT-FOR-SHARING.txt")
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True,
                                     lstrip_blocks=True, keep_trailing_newline=True)
    environment.filters["clean"] = clean
    page = environment.from_string(page_part("comparison.html.j2")).render(
        css=Markup(page_part("report.css")), about=about, sections=sections, segment_note=SEGMENT_NOTE)
    return write_text(page, report / "index.html")


def _section(pair: Pair, about: About, images: list[dict[str, str]]) -> dict[str, Any]:
    """Return what the page says of a pair."""
    colours = chapter_colours(_with_chapters(pair.table, about))
    rows = pair.table.sort(["q_fdr", "phenotype"], nulls_last=True)
    a, b = pair.names
    words = {"a": a, "b": b, "tie": "neither", "": "not judged"}
    whole = pair.chapters.filter(pl.col("chapter") == "")
    return {
        "a": a, "b": b, "images": images, "whole": [_chapter(r, frozenset()) for r in whole.iter_rows(named=True)],
        "chapters": [_chapter(r, pair.veiled) | {"colour": colours.get(r["chapter"], "#777777")}
                     for r in pair.chapters.filter(pl.col("chapter") != "").sort("chapter_order", "chapter")
                     .iter_rows(named=True)],
        "rows": [{
            "phenotype": clean(r["phenotype"], width=40), "description": clean(r["description"], width=200),
            "chapter": clean(r["chapter"], width=60), "colour": colours.get(r["chapter"], "#777777"),
            "cases": shown(r["n_case_patients"], small_cell=about.small_cell, rounded=r[ROUNDED]),
            "auc_a": estimate_text(r["auc_a"]), "interval_a": interval_text(r["low_a"], r["high_a"]),
            "auc_b": estimate_text(r["auc_b"]), "interval_b": interval_text(r["low_b"], r["high_b"]),
            "difference": estimate_text(r["difference"], signed=True),
            "interval": interval_text(r["low"], r["high"], signed=True), "q": p_text(r["q_fdr"]),
            "q_maxt": p_text(r["q_maxt"]),
            "outcome": f"same labels as {clean(r['same_as'], width=40)}" if r["same_as"] else words[r["outcome"]],
        } for r in rows.iter_rows(named=True)],
    }


def _chapter(r: Mapping[str, Any], veiled: Collection[str]) -> dict[str, str]:
    blank = r["chapter"] in veiled
    return {
        "chapter": clean(r["chapter"], width=60),
        **{c: f"{r[c]:,}" for c in ("n_phenotypes", "n_a_better", "n_b_better")},
        **{c: estimate_text(None if blank else r[c]) for c in ("mean_auc_a", "mean_auc_b")},
        "difference": estimate_text(None if blank else r["mean_difference"], signed=True),
        "interval": "" if blank else interval_text(r["low"], r["high"], signed=True),
    }
