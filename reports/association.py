"""The classic views of many tests: -log10 p by chapter, and the difference to the baseline against -log10 q."""

from __future__ import annotations

import matplotlib
import numpy as np
import polars as pl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from phewas.reports.naming import first_of_each_parent, name_points, names_of
from phewas.reports.phenome import (
    LEFT,
    areas_of,
    arrange,
    array,
    draw_points,
    drawable_rows,
    fit_names,
    phenome_panel,
    shade,
    significant,
    write_names,
)
from phewas.reports.style import ACCENT, GUIDE, RC, REST, SECOND, WIDTH, Colours, nothing, panel, sheet

HEIGHT = 3.6  # inches, of the panel
FAR = 3.0  # a gap this many times the rest of the axis is folded


def neg_log10(rows: pl.DataFrame, column: str) -> NDArray[np.float64]:
    """Return -log10 of a column of p or q; 308 where it is 0 because it underflowed."""
    value = array(rows, column)
    with np.errstate(divide="ignore"):
        found = -np.log10(value)
    return np.where(np.isposinf(found), 308.0, np.abs(found))


def folded(y: NDArray[np.float64]) -> float | None:
    """Return where an axis should be cut so that a few extreme points do not press the others flat, or None.

    Points above are drawn as triangles at the upper edge.
    """
    known = np.sort(y[np.isfinite(y)])
    if len(known) < 8:
        return None
    bulk = float(known[int(len(known) * 0.97) - 1])
    return bulk * 1.3 if bulk > 2 and known[-1] > FAR * bulk else None


def manhattan_p(
    results: pl.DataFrame, *, title: str = "", note: str = "", labels: int = 20, colours: Colours = "safe"
) -> Figure:
    """Draw -log10 p against AUC 0.5 by chapter, with the lines of Bonferroni and of the false discovery rate.

    Points upwards have an AUC above 0.5, points downwards (triangles) below. Each line is the smallest -log10 p that
    the adjustment still calls significant at 5 %; it is left out where nothing is. p comes from ``neg_log10_p``, which
    does not underflow. Extreme points are drawn at the edge, with a mark.

    Parameters
    ----------
    results
        `phewas.schema.PhenotypeResults`, raw or after `phewas.reports.tables.protect`.
    title, note, labels, colours
        As in `phewas.reports.manhattan.manhattan`.

    Returns
    -------
    matplotlib.figure.Figure
        7.2 inches wide.
    """
    with matplotlib.rc_context(RC):
        known = results.filter(pl.col("neg_log10_p").is_not_null() & pl.col("neg_log10_p").is_not_nan()
                               | (pl.col("status") != "tested"))
        rows, axis = arrange(known, colours=colours)
        names = fit_names(axis)
        bottom = 0.26 + names.depth
        without = drawable_rows(results).height - rows.height
        foot = f"{note} {rows.height:,} tested phenotypes drawn."
        foot += f" {without:,} have no p-value." if without else ""
        figure = sheet(height=bottom + HEIGHT + 0.6, title=title, foot=foot.strip())
        ax = phenome_panel(figure, bottom=bottom, height=HEIGHT, letter="", label="−log₁₀ p against AUC 0.5")
        if rows.is_empty():
            ax.set_yticks([])
            return nothing(figure, "No phenotype has a p-value to show.")
        write_names(ax, axis, names)
        shade((ax,), axis)
        y, auc = array(rows, "neg_log10_p"), array(rows, "auc")
        top = folded(y)
        over = np.zeros(len(y), dtype=bool) if top is None else y > top
        place = np.where(over, top or 0.0, y)
        ax.set_ylim(0, max(float(place.max()), 2.0) * 1.34)
        lines = _lines(ax, rows, y)
        areas = areas_of(array(rows, "n_case_patients"), n_points=rows.height)
        points = draw_points(ax, axis, place, significant(rows), areas)
        below = auc < 0.5
        ax.scatter(axis.x[below], place[below], marker="v", s=9, c="#222222", lw=0, zorder=4, gid="below")
        ax.scatter(axis.x[over], place[over], marker="^", s=11, c="#222222", lw=0, zorder=4, gid="folded")
        usable = significant(rows) & (auc > 0.5)
        order = [i for i in np.argsort(-y, kind="stable") if usable[i]]
        chosen = first_of_each_parent(rows.get_column("phenotype").to_list(), order, most=labels)
        name_points(ax, axis.x, place, dict(zip(chosen, names_of(rows, chosen), strict=True)), points)
        handles = [_marker("o", "#555555", "q < 0.05"), _marker("o", "none", "q ≥ 0.05"), *lines]
        if below.any():
            handles.append(_marker("v", "#222222", "AUC below 0.5"))
        if over.any():
            handles.append(_marker("^", "#222222", f"beyond the axis (up to {y.max():,.0f})"))
        box = ax.get_position()
        figure.legend(handles=handles, loc="lower left", bbox_to_anchor=(box.x0 - 0.008, box.y1 + 0.002), frameon=False,
                      ncols=len(handles), fontsize=6, handletextpad=0.3, columnspacing=1.2, borderpad=0.2)
    return figure


def _marker(shape: str, face: str, label: str) -> Line2D:
    return Line2D([], [], ls="none", marker=shape, ms=3.7, mfc=face, mec="#555555", mew=0.55, label=label)


def _lines(ax: Axes, rows: pl.DataFrame, y: NDArray[np.float64]) -> list[Line2D]:
    """Draw the lowest -log10 p that each adjustment calls significant."""
    lines = []
    for column, words, style in (("p_bonferroni", "Bonferroni 5 %", "--"), ("q_fdr", "false discovery rate 5 %", ":")):
        kept = y[significant(rows, column)]
        if len(kept):
            ax.axhline(float(kept.min()), color="#555555", lw=0.7, ls=style, zorder=1, gid=column)
            lines.append(Line2D([], [], color="#555555", lw=0.7, ls=style, label=words))
    return lines


def volcano(
    results: pl.DataFrame, *, title: str = "", note: str = "", labels: int = 16, baseline: str = "age + sex"
) -> Figure:
    """Draw what the encoder adds to the baseline against -log10 q of that difference.

    Parameters
    ----------
    results
        `phewas.schema.PhenotypeResults`, raw or protected.
    title, note, labels, baseline
        As in `phewas.reports.manhattan.manhattan`; q that underflowed stands at 308.

    Returns
    -------
    matplotlib.figure.Figure
        7.2 x 4.6 inches.
    """
    with matplotlib.rc_context(RC):
        rows = drawable_rows(results).filter(pl.col("delta_auc").is_not_null() & pl.col("delta_q").is_not_null())
        foot = f"{note} {rows.height:,} phenotypes with a difference to {baseline} drawn."
        figure = sheet(height=4.6, title=title, foot=foot.strip())
        if rows.is_empty():
            return nothing(figure, "No phenotype has a difference to show.")
        ax = panel(figure, left=LEFT, bottom=0.62, width=WIDTH - LEFT - 0.2, height=3.5)
        x, y = array(rows, "delta_auc"), neg_log10(rows, "delta_q")
        top = folded(y)
        over = np.zeros(len(y), dtype=bool) if top is None else y > top
        place = np.where(over, top or 0.0, y)
        kept = significant(rows, "delta_q")
        spread = max(float(np.nanmax(np.abs(x))), 0.02) * 1.25
        ax.set_xlim(-spread, spread)
        ax.set_ylim(-0.03 * max(float(place.max()), 2), max(float(place.max()), 2) * 1.25)
        colour = np.where(kept & (x > 0), ACCENT, np.where(kept, SECOND, REST))
        areas = areas_of(array(rows, "n_case_patients"), n_points=rows.height)
        ax.axvline(0, color="#555555", lw=0.6, zorder=1)
        ax.axhline(-np.log10(0.05), color=GUIDE, lw=0.6, ls="--", zorder=1)
        points = ax.scatter(x, place, s=areas, c=list(colour), lw=0.3, edgecolors="white", alpha=0.9, zorder=3,
                            gid="phenotypes")
        ax.scatter(x[over], place[over], marker="^", s=9, c="#222222", lw=0, zorder=4, gid="folded")
        order = [i for i in np.argsort(-(place + np.abs(x) / spread), kind="stable") if kept[i]]
        chosen = first_of_each_parent(rows.get_column("phenotype").to_list(), order, most=labels)
        name_points(ax, x, place, dict(zip(chosen, names_of(rows, chosen), strict=True)), points, max_distance=0.35)
        ax.set_xlabel(f"AUC minus AUC of {baseline}", fontsize=7)
        ax.set_ylabel("−log₁₀ q of the difference", fontsize=7)
        handles = [_marker("o", ACCENT, f"better than {baseline} (q < 0.05)"),
                   _marker("o", SECOND, f"worse than {baseline} (q < 0.05)"), _marker("o", REST, "q ≥ 0.05")]
        figure.legend(handles=handles, loc="lower left", bbox_to_anchor=(LEFT / WIDTH - 0.008, 4.14 / 4.6),
                      frameon=False, ncols=3, fontsize=6, handletextpad=0.3, columnspacing=1.2, borderpad=0.2)
    return figure
