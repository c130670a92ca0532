"""The study in three panels: all AUCs with counts above 0.5, 0.6 and 0.7; chapter means; strong ones by chapter."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import matplotlib
import numpy as np
import polars as pl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from phewas.reports.layout import drawable, shorten
from phewas.reports.phenome import array, drawable_rows
from phewas.reports.style import GUIDE, RC, WIDTH, Colours, chapter_palette, nothing, panel, sheet

ROW = 0.17  # inches per chapter
BOUNDS = ((50, "> 0.5"), (60, "≥ 0.6"), (70, "≥ 0.7"))
NAME_ROOM = 1.55


def count_words(overview: pl.DataFrame, measure: str) -> str:
    """Return a headline count with its interval in words, such as ``812 (795 to 829)``; empty where there is none."""
    row = overview.filter(pl.col("measure") == measure)
    if row.is_empty() or row["value"][0] is None:
        return ""
    low, high = row["low"][0], row["high"][0]
    interval = "" if low is None or high is None else f" ({np.floor(low):,.0f} to {np.ceil(high):,.0f})"
    return f"{row['value'][0]:,.0f}{interval}"


def overview_figure(
    results: pl.DataFrame, chapters: pl.DataFrame, overview: pl.DataFrame, *, veiled: Collection[str] = (),
    title: str = "", note: str = "", colours: Colours = "safe",
) -> Figure:
    """Draw the study at a glance.

    Panel a: the AUC of each tested phenotype from best to worst, with its interval, and how many lie above 0.5, 0.6
    and 0.7, with an interval over patients. Panel b: mean AUC by chapter with its interval. Panel c: phenotypes at or
    above 0.7 by chapter, with the interval of that count, as a share of those tested.

    Parameters
    ----------
    results
        `phewas.schema.PhenotypeResults`, raw or protected.
    chapters
        `phewas.schema.ChapterResults`.
    overview
        `phewas.schema.Overview`; ``n_auc_50``, ``n_auc_60`` and ``n_auc_70`` are read.
    veiled
        Chapters whose means must not be shown (`phewas.reports.html.veiled_chapters`).
    title, note, colours
        As in `phewas.reports.manhattan.manhattan`.

    Returns
    -------
    matplotlib.figure.Figure
        7.2 inches wide; the height follows from the number of chapters.
    """
    with matplotlib.rc_context(RC):
        shown = chapters.filter(pl.col("n_tested") > 0).sort("chapter_order", "chapter")
        depth = max(ROW * shown.height, 0.9)
        rows = drawable_rows(results).sort("auc", "phenotype", descending=[True, False])
        twins = rows.get_column("same_as").count()
        rows = rows.filter(pl.col("same_as").is_null())  # as the counts and the chapters have it
        foot = f"{note} Intervals: 95 %, over patients. Chapters without a tested phenotype are left out."
        if twins:
            foot += f" Phenotypes with the same labels count once ({twins:,} left out)."
        figure = sheet(height=depth + 3.6, title=title, foot=foot.strip())
        if rows.is_empty():
            return nothing(figure, "No phenotype has an AUC to show.")
        top = panel(figure, left=0.62, bottom=depth + 1.35, width=WIDTH - 0.74, height=1.75, letter="a")
        _ranked(top, rows, overview)
        every = chapters.sort("chapter_order", "chapter").get_column("chapter").to_list()
        palette = chapter_palette(colours)
        own = {c: palette[i % len(palette)] for i, c in enumerate(every)}
        left = panel(figure, left=NAME_ROOM, bottom=0.62, width=2.5, height=depth, letter="b",
                     title="Mean AUC of the tested")
        right = panel(figure, left=NAME_ROOM + 2.95, bottom=0.62, width=2.4, height=depth, letter="c",
                      title="Phenotypes with AUC ≥ 0.7")
        _means(left, shown, own, frozenset(veiled))
        _strong(right, shown, own)
        names = [shorten(drawable(c, instead=f"chapter {every.index(c) + 1}"), width=26) for c in shown["chapter"]]
        left.set_yticks(range(shown.height), names)
        right.set_yticks([])
        for ax in (left, right):
            ax.set_ylim(shown.height - 0.4, -0.6)
    return figure


def _ranked(ax: Axes, rows: pl.DataFrame, overview: pl.DataFrame) -> None:
    x = np.arange(1, rows.height + 1)
    auc, low, high = (array(rows, c) for c in ("auc", "auc_low", "auc_high"))
    ax.vlines(x, low, high, color="#b9d3e6", lw=max(0.15, min(1.0, 330 / rows.height)), zorder=1, gid="intervals")
    ax.plot(x, auc, ls="none", marker="o", ms=1.6 if rows.height > 300 else 2.6, mew=0, color="#0b5a8f", zorder=2,
            gid="phenotypes")
    least = float(np.nanmin(np.concatenate([auc, low, [0.48]])))
    most = float(np.nanmax(np.concatenate([auc, high, [0.72]])))
    ax.set_ylim(least - 0.02, most + 0.03)
    ax.set_xlim(0, rows.height + 1)
    ax.xaxis.set_major_locator(MaxNLocator(nbins=9, integer=True))
    ax.set_yticks([t for t in np.round(np.arange(0, 1.01, 0.1), 1) if least - 0.02 <= t <= most + 0.03])
    lines = []
    for bound, words in BOUNDS:
        ax.axhline(bound / 100, color="#555555" if bound == 50 else GUIDE, lw=0.6, ls="-" if bound == 50 else "--",
                   zorder=0)
        if told := count_words(overview, f"n_auc_{bound}"):
            lines.append(f"AUC {words}:  {told}")
    lines.append(f"of {rows.height:,} tested")
    ax.text(0.985, 0.95, "\n".join(lines), transform=ax.transAxes, ha="right", va="top", fontsize=6.5, linespacing=1.5,
            gid="counts", bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.85, "pad": 2})
    ax.set_xlabel("phenotypes, best first", fontsize=7)
    ax.set_ylabel("AUC", fontsize=7)


def _means(ax: Axes, shown: pl.DataFrame, own: Mapping[str, str], veiled: frozenset[str]) -> None:
    mean, low, high = (array(shown, c) for c in ("mean_auc", "mean_auc_low", "mean_auc_high"))
    for i, chapter in enumerate(shown.get_column("chapter").to_list()):
        if chapter in veiled:
            ax.text(0.5, i, " not shown", va="center", fontsize=5.6, color="#777777")
            continue
        ax.plot([low[i], high[i]], [i, i], color=own[chapter], lw=1.2, zorder=2, gid="interval", solid_capstyle="butt")
        ax.plot(mean[i], i, marker="o", ms=3.6, mew=0, color=own[chapter], zorder=3, gid="mean")
    ax.axvline(0.5, color="#555555", lw=0.6, zorder=0)
    known = np.concatenate([mean, low, high])
    known = known[np.isfinite(known)]
    ends = (min(0.48, float(known.min()) - 0.01), max(0.6, float(known.max()) + 0.01)) if len(known) else (0.48, 0.6)
    ax.set_xlim(*ends)
    ax.locator_params(axis="x", nbins=5)
    ax.set_xlabel("mean AUC", fontsize=7)
    ax.tick_params(axis="y", length=0)


def _strong(ax: Axes, shown: pl.DataFrame, own: Mapping[str, str]) -> None:
    n, total, low, high = (array(shown, c) for c in ("n_auc_70", "n_tested", "n_auc_70_low", "n_auc_70_high"))
    most = max(float(np.nanmax(np.concatenate([n, high]))), 1.0)
    for i, chapter in enumerate(shown.get_column("chapter").to_list()):
        ax.barh(i, n[i], height=0.62, color=own[chapter], alpha=0.85, zorder=1)
        ax.plot([low[i], high[i]], [i, i], color="#222222", lw=0.8, zorder=2, gid="interval", solid_capstyle="butt")
        end = float(np.nanmax([n[i], high[i]]))
        ax.text(end + most * 0.02, i, f"{n[i]:.0f} of {total[i]:.0f}", va="center", fontsize=5.8, gid="count")
    ax.set_xlim(0, most * 1.3)
    ax.locator_params(axis="x", nbins=5, integer=True)
    ax.set_xlabel("phenotypes (interval of the count)", fontsize=7)
