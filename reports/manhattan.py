"""The phenome-wide figure: one point per tested phenotype, AUC above, what it adds to age and sex below."""

from __future__ import annotations

from collections import Counter

import matplotlib
import numpy as np
import polars as pl
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import PathCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from phewas.reports.layout import drawable, shorten, two_lines
from phewas.reports.naming import name_points, names_of
from phewas.reports.phenome import (
    LEFT,
    Axis,
    areas_of,
    arrange,
    array,
    best,
    draw_points,
    drawable_rows,
    fit_names,
    phenome_panel,
    shade,
    significant,
    write_names,
)
from phewas.reports.style import DPI, RC, WIDTH, Colours

# Inches; the height follows from the chapter names.
TOP, UPPER, BETWEEN, LOWER, FOOT = 0.52, 3.35, 0.14, 1.35, 0.26

STATUS_WORDS = {
    "too_few_cases": "too few case patients",
    "too_few_controls": "too few control patients",
    "too_few_training_cases": "too few case patients in training",
    "no_cases": "no case",
}


def status_words(status: str) -> str:
    """Return why a phenotype was not tested, in words; an unknown code is shown with blanks for underscores."""
    return STATUS_WORDS.get(status, status.replace("_", " "))


def caption(results: pl.DataFrame) -> str:
    """Return what the figure shows and what it leaves out, with counts of phenotypes.

    Parameters
    ----------
    results
        A `phewas.schema.PhenotypeResults` table, raw or after `phewas.reports.tables.protect`.
    """
    tested = results.filter(pl.col("status") == "tested")
    drawn = drawable_rows(results).height
    parts = [f"{drawn:,} tested phenotype{'' if drawn == 1 else 's'} drawn, in {_n_chapters(results)}."]
    if tested.height > drawn:
        parts.append(f"{tested.height - drawn:,} tested without an AUC to show, not drawn.")
    rest = Counter(results.filter(pl.col("status") != "tested").get_column("status").to_list())
    if rest:
        why = "; ".join(f"{n:,} {status_words(s)}" for s, n in sorted(rest.items(), key=lambda i: (-i[1], i[0])))
        parts.append(f"{rest.total():,} not tested, not drawn ({why}).")
    if drawn and drawable_rows(results).get_column("q_fdr").fill_nan(None).null_count() == drawn:
        parts.append("Significance was not assessed.")
    elif drawn and not significant(drawable_rows(results)).any():
        parts.append("No phenotype has q < 0.05.")
    return " ".join(parts)


def _n_chapters(results: pl.DataFrame) -> str:
    n = drawable_rows(results).get_column("chapter").n_unique()
    return f"{n} chapter" + ("" if n == 1 else "s")


def _label(ax: Axes, rows: pl.DataFrame, axis: Axis, chosen: list[int], points: PathCollection) -> None:
    """Write the names of the best phenotypes where they meet neither each other nor a point, with their intervals."""
    auc, low, high = (array(rows, c) for c in ("auc", "auc_low", "auc_high"))
    spans = {i: (low[i], high[i]) for i in chosen if np.isfinite(low[i]) and np.isfinite(high[i])}
    low_y, high_y = ax.get_ylim()
    placed = name_points(
        ax, axis.x, auc, dict(zip(chosen, names_of(rows, chosen), strict=True)), points, spans=spans,
        ylims=(max(low_y, float(auc[chosen].min()) - 0.08 * (high_y - low_y)), high_y),
    )
    for i in placed:
        if i in spans:
            ax.plot([axis.x[i]] * 2, spans[i], color=axis.colours[i], lw=0.8, zorder=2, gid="interval",
                    solid_capstyle="butt")


def _legend(figure: Figure, ax: Axes, patients: NDArray[np.float64], *, n_points: int, intervals: bool) -> None:
    """Explain fill, size and whiskers in one line above the panels."""
    def marker(area: float, label: str, face: str) -> Line2D:
        return Line2D([], [], ls="none", marker="o", ms=float(np.sqrt(area)), mfc=face, mec="#555555", mew=0.55,
                      label=label)

    handles = [marker(14, "q < 0.05", "#555555"), marker(14, "q ≥ 0.05", "none")]
    known = patients[np.isfinite(patients)]
    if len(known):
        nice = [n for e in range(1, 7) for n in (10**e, 2 * 10**e, 5 * 10**e) if known.min() <= n <= known.max()]
        steps = [nice[0], nice[len(nice) // 2], nice[-1]] if nice else [int(known.max())]
        for n in sorted(set(steps)):
            area = float(areas_of(np.array([n], dtype=float), n_points=n_points)[0])
            handles.append(marker(area, f"{n:,} case patients", "#bbbbbb"))
    if intervals:
        handles.append(Line2D([], [], color="#555555", lw=0.8, label="95 % interval of labelled"))
    box = ax.get_position()
    figure.legend(handles=handles, loc="lower left", bbox_to_anchor=(box.x0 - 0.008, box.y1 + 0.002), frameon=False,
                  ncols=len(handles), fontsize=6, handletextpad=0.3, columnspacing=1.2, borderpad=0.2)


def _auc_limits(rows: pl.DataFrame, chosen: list[int]) -> tuple[float, float]:
    """Return limits that hold all points, the 0.5 and 0.7 lines, the whiskers, and room for labels above."""
    auc = array(rows, "auc")
    ends = np.concatenate([auc, array(rows, "auc_low")[chosen], array(rows, "auc_high")[chosen], [0.5, 0.72]])
    low, high = float(np.nanmin(ends)), float(np.nanmax(ends))
    room = 0.36 if chosen else 0.06
    return low - 0.04 * (high - low), high + room * (high - low)


def manhattan(
    results: pl.DataFrame, *, title: str = "", note: str = "", labels: int = 20, baseline: str = "age + sex",
    colours: Colours = "safe",
) -> Figure:
    """Draw the AUC of every tested phenotype by chapter, and below it the difference to the baseline.

    Filled points have a Benjamini-Hochberg q below 0.05 (of the AUC above, of the difference below); the area of a
    point grows with the logarithm of its case patients. The best phenotypes are named, one per parent phecode, as far
    as names find room without meeting another name; their intervals are drawn. Lines mark AUC 0.5, 0.6 and 0.7.

    Parameters
    ----------
    results
        A `phewas.schema.PhenotypeResults` table, raw or after `phewas.reports.tables.protect` (null counts: hidden).
        Only rows with status ``tested`` and a finite AUC are drawn; the line at the foot counts the others. Estimates
        that are null or NaN leave out their mark and nothing else.
    title
        One line above the figure, e.g. encoder and cohort.
    note
        A sentence added to the foot, e.g. that segments were counted as if independent.
    labels
        Most names to place, 0 for none. Where q-values exist only significant phenotypes with AUC > 0.5 are named.
    baseline
        What the AUC is compared with in the lower panel, in words.
    colours
        ``safe`` (apart also in grey and for colour-blind readers) or ``classic`` (those of phecode plots).

    Returns
    -------
    matplotlib.figure.Figure
        7.2 inches wide and about 6.3 high, with an Agg canvas. The same table gives the same bytes when saved by
        `phewas.reports.style.png` or `phewas.reports.style.pdf`.
    """
    with matplotlib.rc_context(RC):
        rows, axis = arrange(results, colours=colours)
        names = fit_names(axis)
        bottom = FOOT + names.depth
        height = bottom + LOWER + BETWEEN + UPPER + TOP
        figure = Figure(figsize=(WIDTH, height), dpi=DPI, facecolor="white")
        FigureCanvasAgg(figure)
        upper = phenome_panel(figure, bottom=bottom + LOWER + BETWEEN, height=UPPER, letter="a", label="AUC")
        lower = phenome_panel(figure, bottom=bottom, height=LOWER, letter="b",
                       label=f"AUC minus\n{shorten(drawable(baseline, instead='baseline'), width=22)}")
        figure.text(LEFT / WIDTH, 1 - 0.1 / height, shorten(drawable(title, instead=""), width=88), fontsize=8,
                    fontweight="bold", va="top", gid="title")
        foot = two_lines(f"{drawable(note, instead='')} {caption(results)}".strip(), width=150)
        figure.text(LEFT / WIDTH, 0.06 / height, foot, fontsize=5.6, color="#444444", va="bottom", gid="caption",
                    linespacing=1.3)
        if rows.is_empty():
            upper.set_yticks([])
            lower.set_yticks([])
            upper.text(0.5, 0.5, "No phenotype has an AUC to show.", transform=upper.transAxes, ha="center")
            return figure
        write_names(lower, axis, names)
        _fill(figure, upper, lower, rows, axis, labels=labels)
    return figure


def _fill(figure: Figure, upper: Axes, lower: Axes, rows: pl.DataFrame, axis: Axis, *, labels: int) -> None:
    """Draw everything that needs at least one point."""
    patients, auc, delta = (array(rows, c) for c in ("n_case_patients", "auc", "delta_auc"))
    areas = areas_of(patients, n_points=rows.height)
    shade((upper, lower), axis)
    chosen = best(rows, labels=labels)
    low, high = _auc_limits(rows, chosen)
    upper.set_ylim(low, high)
    upper.set_yticks([t for t in np.round(np.arange(0, 1.01, 0.1), 1) if low <= t <= high])
    for value, style, colour in ((0.5, "-", "#555555"), (0.6, (0, (4, 3)), "#c4c4c4"), (0.7, (0, (4, 3)), "#c4c4c4")):
        upper.axhline(value, color=colour, lw=0.6, ls=style, zorder=1)
    points = draw_points(upper, axis, auc, significant(rows), areas)
    _legend(figure, upper, patients, n_points=rows.height,
            intervals=bool(np.isfinite(array(rows, "auc_low")[chosen]).any()))
    known = np.isfinite(delta)
    if known.any():
        # At least two hundredths either way, so that differences of no account do not look large.
        least, most = min(float(delta[known].min()), -0.02), max(float(delta[known].max()), 0.02)
        lower.set_ylim(least - 0.06 * (most - least), most + 0.06 * (most - least))
        lower.axhline(0, color="#555555", lw=0.6, zorder=1)
        draw_points(lower, axis, delta, significant(rows, "delta_q"), areas)
    else:
        lower.set_yticks([])
        lower.text(0.5, 0.5, "No baseline to compare with.", transform=lower.transAxes, ha="center", color="#555555")
    if chosen:
        _label(upper, rows, axis, chosen, points)
