"""One encoder against another from the paired tables: differences along the phenome, and chapter by chapter."""

from __future__ import annotations

from collections.abc import Collection

import matplotlib
import numpy as np
import polars as pl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from phewas.reports.layout import drawable, shorten
from phewas.reports.naming import first_of_each_parent, name_points, names_of
from phewas.reports.phenome import (
    LEFT,
    areas_of,
    arrange,
    array,
    draw_points,
    fit_names,
    phenome_panel,
    shade,
    significant,
    write_names,
)
from phewas.reports.style import ACCENT, RC, REST, SECOND, WIDTH, Colours, nothing, panel, sheet

PANEL = 3.1  # inches
NARROWEST = 0.02  # of the axis of differences, either way: what is of no account shall not look large


def differences(
    comparison: pl.DataFrame, *, names: tuple[str, str], title: str = "", note: str = "", labels: int = 16,
    colours: Colours = "safe",
) -> Figure:
    """Draw the paired difference of AUC, second minus first, of every phenotype by chapter.

    Parameters
    ----------
    comparison
        `phewas.schema.Comparison` of two runs, raw or protected; rows without a difference are left out.
    names
        What the first and the second are called.
    title, note, colours
        As in `phewas.reports.manhattan.manhattan`.
    labels
        Most names to place: the largest differences with q < 0.05, one per parent.

    Returns
    -------
    matplotlib.figure.Figure
        7.2 inches wide. Filled where the paired q is below 0.05; whiskers are the intervals of those named.
    """
    with matplotlib.rc_context(RC):
        drawn = comparison.filter(pl.col("difference").is_not_null() & pl.col("difference").is_not_nan())
        # A phenotype without a difference comes along, so that every chapter keeps its colour.
        rows, axis = arrange(comparison.with_columns(
            pl.when(pl.col("phenotype").is_in(drawn.get_column("phenotype").to_list())).then(pl.lit("tested"))
            .otherwise(pl.lit("hidden")).alias("status"), pl.col("difference").alias("auc")), colours=colours)
        chapters = fit_names(axis)
        bottom = 0.26 + chapters.depth
        figure = sheet(height=bottom + PANEL + 0.62, title=title,
                       foot=f"{note} {foot_words(comparison, names)}".strip())
        if rows.is_empty():
            return nothing(figure, "No phenotype has a difference to show.")
        first, second = called(names)
        ax = phenome_panel(figure, bottom=bottom, height=PANEL, letter="",
                           label=f"AUC, {shorten(second, width=26)}\nminus {shorten(first, width=26)}")
        write_names(ax, axis, chapters)
        shade((ax,), axis)
        y, low, high = (array(rows, c) for c in ("difference", "low", "high"))
        order = [int(i) for i in np.argsort(-np.abs(y), kind="stable") if significant(rows)[i]]
        chosen = first_of_each_parent(rows.get_column("phenotype").to_list(), order, most=labels)
        ends = np.concatenate([y, low[chosen], high[chosen], [-NARROWEST, NARROWEST]])
        least, most = float(np.nanmin(ends)), float(np.nanmax(ends))
        span = most - least
        # Room for names on the sides that have some.
        ax.set_ylim(least - span * (0.3 if (y[chosen] < 0).any() else 0.06),
                    most + span * (0.3 if (y[chosen] > 0).any() else 0.06))
        ax.axhline(0, color="#555555", lw=0.6, zorder=1)
        points = draw_points(ax, axis, y, significant(rows),
                             areas_of(array(rows, "n_case_patients"), n_points=rows.height))
        spans = {i: (low[i], high[i]) for i in chosen if np.isfinite(low[i]) and np.isfinite(high[i])}
        for i in name_points(ax, axis.x, y, dict(zip(chosen, names_of(rows, chosen), strict=True)), points,
                             spans=spans):
            if i in spans:
                ax.plot([axis.x[i]] * 2, spans[i], color=axis.colours[i], lw=0.8, zorder=2, gid="interval",
                        solid_capstyle="butt")
        figure.text(LEFT / WIDTH, (bottom + PANEL + 0.06) / figure.get_figheight(),
                    "Filled: q < 0.05 for the paired difference. Area grows with the number of case patients. "
                    "Whiskers: 95 % interval of those named.", fontsize=6, color=REST, va="bottom")
    return figure


def called(names: tuple[str, str]) -> tuple[str, str]:
    """Return the names of two runs as the figure's font can write them."""
    return drawable(names[0], instead="the first"), drawable(names[1], instead="the second")


def foot_words(comparison: pl.DataFrame, names: tuple[str, str]) -> str:
    """Return wins and losses in words: at q < 0.05, phenotypes with the same labels once."""
    first, second = (shorten(n, width=30) for n in called(names))
    count = {o: comparison.filter(pl.col("outcome") == o).height for o in ("a", "b", "tie")}
    return (f"{sum(count.values()):,} phenotypes compared on the same encounters: {second} better in {count['b']:,}, "
            f"{first} better in {count['a']:,}, no difference shown in {count['tie']:,} (paired, q < 0.05).")


def chapter_differences(
    chapters: pl.DataFrame, *, names: tuple[str, str], veiled: Collection[str] = (), title: str = "", note: str = "",
) -> Figure:
    """Draw by chapter the mean paired difference with its interval, and how many phenotypes either one wins.

    Parameters
    ----------
    chapters
        `phewas.schema.ComparisonChapters` of two runs; the row of all phenotypes comes first.
    names
        What the first and the second are called.
    veiled
        Chapters whose means must not be shown.
    title, note
        As in `phewas.reports.manhattan.manhattan`.

    Returns
    -------
    matplotlib.figure.Figure
        7.2 inches wide.
    """
    with matplotlib.rc_context(RC):
        rows = chapters.sort("chapter_order", "chapter")
        depth = max(0.18 * rows.height, 0.5)
        first, second = (shorten(n, width=24) for n in called(names))
        figure = sheet(height=depth + 1.35, title=title, foot=f"{note} Means over phenotypes; 95 % intervals over "
                       "patients. In brackets phenotypes tested in both, same labels once.".strip())
        if rows.is_empty():
            return nothing(figure, "No phenotype is tested in both.")
        left = panel(figure, left=2.0, bottom=0.7, width=2.5, height=depth, title="Mean difference of AUC")
        right = panel(figure, left=4.85, bottom=0.7, width=2.15, height=depth, title="Better at q < 0.05")
        hidden = rows.get_column("chapter").is_in(list(veiled)).to_list()
        value, low, high = (np.where(hidden, np.nan, array(rows, c)) for c in ("mean_difference", "low", "high"))
        for i in range(rows.height):
            left.plot([low[i], high[i]], [i, i], color=ACCENT, lw=1.2, gid="interval", solid_capstyle="butt")
            left.plot(value[i], i, marker="o" if i else "D", ms=3.8, mew=0, color=ACCENT, gid="mean")
        left.axvline(0, color="#555555", lw=0.6, zorder=0)
        left.margins(x=0.08)
        left.locator_params(axis="x", nbins=5)
        left.set_xlabel(f"{second} minus {first}", fontsize=6.5)
        _wins(right, rows, first, second)
        for ax in (left, right):
            ax.set_ylim(rows.height - 0.4, -0.6)
            ax.set_yticks([])
            ax.axhline(0.5, color="#c9ced2", lw=0.5)
        words = [f"{shorten(drawable(c, instead='chapter'), width=28) if c else 'all phenotypes'} ({n:,})"
                 for c, n in rows.select("chapter", "n_phenotypes").rows()]
        left.set_yticks(range(rows.height), words)
        left.tick_params(axis="y", length=0)
    return figure


def _wins(ax: Axes, rows: pl.DataFrame, first: str, second: str) -> None:
    """Draw wins of the second to the right and of the first to the left, as shares of the phenotypes compared."""
    for i, (n, a, b) in enumerate(rows.select("n_phenotypes", "n_a_better", "n_b_better").rows()):
        for count, side, colour in ((b, 1, ACCENT), (a, -1, SECOND)):
            share = side * count / max(n, 1)
            ax.barh(i, share, height=0.55, color=colour, lw=0, gid="wins")
            ax.text(share + side * 0.03, i, f"{count:,}", ha="left" if side > 0 else "right", va="center",
                    fontsize=5.8, gid="number")
    ax.axvline(0, color="#555555", lw=0.6)
    ax.set_xlim(-1.35, 1.35)
    ax.set_xticks([-1, -0.5, 0, 0.5, 1], ["100 %", "50 %", "0", "50 %", "100 %"])
    ax.set_xlabel(f"← {shorten(first, width=16)}     {shorten(second, width=16)} →", fontsize=6.5)
