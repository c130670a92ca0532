"""Grids of small panels: ROC and precision-recall curves, calibration, and whose score sees whose labels."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import matplotlib
import matplotlib.patches
import numpy as np
import polars as pl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from phewas.reports.layout import drawable, shorten, two_lines
from phewas.reports.naming import first_of_each_parent
from phewas.reports.phenome import drawable_rows
from phewas.reports.style import ACCENT, GUIDE, RC, nothing, panel, sheet
from phewas.reports.tables import estimate_text, interval_text

COLUMNS, SHOWN = 4, 12
CELL, PITCH_X, PITCH_Y = 1.28, 1.72, 1.95  # inches


def best_of(
    results: pl.DataFrame, known: Collection[str], *, phenotypes: Collection[str] = (), most: int
) -> pl.DataFrame:
    """Return the rows of the phenotypes asked for, or of the `most` with the highest AUC, one per parent.

    Only phenotypes in `known` and with a finite AUC; best first.
    """
    ranked = drawable_rows(results).sort("auc", "phenotype", descending=[True, False])
    ranked = ranked.filter(pl.col("phenotype").is_in(list(known)))
    if phenotypes:
        return ranked.filter(pl.col("phenotype").is_in(list(phenotypes)))
    names = ranked.get_column("phenotype").to_list()
    return ranked[first_of_each_parent(names, range(len(names)), most=most)]


def _grid(n: int, *, title: str, foot: str) -> tuple[Figure, list[Axes]]:
    lines = -(-n // COLUMNS)
    figure = sheet(height=lines * PITCH_Y + 0.75, title=title, foot=foot)
    top = figure.get_figheight() - 0.3
    axes = [panel(figure, left=0.5 + (i % COLUMNS) * PITCH_X, bottom=top - (i // COLUMNS + 1) * PITCH_Y + 0.32,
                  width=CELL, height=CELL) for i in range(n)]
    return figure, axes


def _head(ax: Axes, row: dict[str, Any], told: str = "") -> None:
    """Write the phenotype, and its numbers, above a panel."""
    words = drawable(row["description"], instead=drawable(row["phenotype"], instead="?"))
    text = two_lines(words, width=30)
    ax.set_title(text + (f"\n{told}" if told else ""), fontsize=5.8, loc="left", pad=2, linespacing=1.15)


def curve_grid(
    curves: pl.DataFrame, results: pl.DataFrame, *, curve: str, phenotypes: Collection[str] = (), title: str = "",
    note: str = "",
) -> Figure:
    """Draw ROC or precision-recall curves, a small panel each.

    Parameters
    ----------
    curves
        `phewas.schema.Curves`, as `phewas.reports.material.protect_curves` returns it, or raw.
    results
        `phewas.schema.PhenotypeResults`; AUC, or average precision and prevalence (dashed), stand above the panel.
    curve
        ``roc`` or ``pr``.
    phenotypes
        Which ones; empty for the twelve with the highest AUC, one per parent.
    title, note
        As in `phewas.reports.manhattan.manhattan`.

    Returns
    -------
    matplotlib.figure.Figure
        7.2 inches wide.
    """
    with matplotlib.rc_context(RC):
        mine = curves.filter(pl.col("curve") == curve).sort("phenotype", "point")
        rows = best_of(results, set(mine.get_column("phenotype").to_list()), phenotypes=phenotypes, most=SHOWN)
        what = "ROC curves" if curve == "roc" else "Precision-recall curves"
        foot = f"{note} {what}; dashed: {'chance' if curve == 'roc' else 'prevalence'}."
        if rows.is_empty():
            return nothing(sheet(height=1.6, title=title, foot=foot.strip()), "No phenotype has a curve to show.")
        figure, axes = _grid(rows.height, title=title, foot=foot.strip())
        for i, (ax, row) in enumerate(zip(axes, rows.iter_rows(named=True), strict=True)):
            points = mine.filter(pl.col("phenotype") == row["phenotype"])
            x, y = points["x"].to_list(), points["y"].to_list()
            if curve == "pr":  # precision holds for the cases gained up to its point; between points it is not linear
                x, y = [0.0, *x], [y[0], *y]
            ax.plot(x, y, color=ACCENT, lw=1.1, gid="curve", drawstyle="steps-pre" if curve == "pr" else "default")
            ax.set_xlim(-0.02, 1.02)
            ax.set_ylim(-0.02, 1.02)
            ax.set_xticks([0, 0.5, 1], ["0", "0.5", "1"])
            ax.set_yticks([0, 0.5, 1], ["0", "0.5", "1"])
            if curve == "roc":
                ax.plot([0, 1], [0, 1], color=GUIDE, lw=0.7, ls="--", zorder=0)
                told = interval_text(row["auc_low"], row["auc_high"]).replace(" to ", "–")
                _head(ax, row, f"AUC {estimate_text(row['auc'])}{f' ({told})' if told else ''}")
            else:
                if row["prevalence"] is not None:
                    ax.axhline(row["prevalence"], color=GUIDE, lw=0.7, ls="--", zorder=0)
                _head(ax, row, f"average precision {estimate_text(row['average_precision'])}")
            words = ("1 − specificity", "sensitivity") if curve == "roc" else ("recall", "precision")
            _outer(ax, i, rows.height, words)
    return figure


def _outer(ax: Axes, i: int, n: int, words: Sequence[str]) -> None:
    """Name the axes of the panels at the left and at the bottom only."""
    if i + COLUMNS >= n:
        ax.set_xlabel(words[0], fontsize=6)
    if i % COLUMNS == 0:
        ax.set_ylabel(words[1], fontsize=6)


def calibration_grid(
    bins: pl.DataFrame, calibration: pl.DataFrame, results: pl.DataFrame, *, phenotypes: Collection[str] = (),
    title: str = "", note: str = "",
) -> Figure:
    """Draw observed against predicted share of cases in bins of equal size, a small panel each.

    Parameters
    ----------
    bins
        `phewas.schema.CalibrationBins`, as `phewas.reports.material.protect_bins` returns it, or raw.
    calibration
        `phewas.schema.Calibration`; slope and intercept stand above the panel.
    results
        `phewas.schema.PhenotypeResults`, for descriptions and the order.
    phenotypes
        Which ones; empty for the twelve with the highest AUC, one per parent.
    title, note
        As in `phewas.reports.manhattan.manhattan`.

    Returns
    -------
    matplotlib.figure.Figure
        7.2 inches wide.
    """
    with matplotlib.rc_context(RC):
        rows = best_of(results, set(bins.get_column("phenotype").to_list()), phenotypes=phenotypes, most=SHOWN)
        foot = f"{note} Bins of equal size; whiskers: 95 % intervals; grey line: perfect calibration."
        if rows.is_empty():
            words = "No phenotype has probabilities to show."
            return nothing(sheet(height=1.6, title=title, foot=foot.strip()), words)
        figure, axes = _grid(rows.height, title=title, foot=foot.strip())
        fitted = {r["phenotype"]: r for r in calibration.iter_rows(named=True)}
        for i, (ax, row) in enumerate(zip(axes, rows.iter_rows(named=True), strict=True)):
            part = bins.filter(pl.col("phenotype") == row["phenotype"]).sort("bin")
            x, y, low, high = (part[c].to_numpy().astype(float) for c in ("predicted", "observed", "low", "high"))
            top = float(np.nanmax(np.concatenate([x, y, high, [0.01]]))) * 1.05
            ax.plot([0, top], [0, top], color=GUIDE, lw=0.7, zorder=0)
            ax.vlines(x, low, high, color=ACCENT, lw=0.8, gid="interval")
            ax.plot(x, y, color=ACCENT, lw=0.6, marker="o", ms=2.4, mew=0, gid="bins")
            ax.set_xlim(0, top)
            ax.set_ylim(0, top)
            ax.locator_params(nbins=3)
            known = fitted.get(row["phenotype"], {})
            slope = known.get("slope")
            _head(ax, row, "" if slope is None else f"slope {slope:.2f}, observed/expected "
                  + ("–" if known.get("oe_ratio") is None else f"{known['oe_ratio']:.2f}"))
            _outer(ax, i, rows.height, ("predicted", "observed"))
    return figure


def specificity_map(
    cross: pl.DataFrame, results: pl.DataFrame, *, title: str = "", note: str = "", most: int = 40
) -> Figure:
    """Draw as a heat map how well the score of one phenotype (row) tells the labels of another (column).

    A score that sees its own phenotype alone is bright on the diagonal only; one that sees "old and sick" is bright
    along its row. Order: chapters, then the vocabulary's.

    Parameters
    ----------
    cross
        `phewas.schema.CrossAuc`, with blanks where it must not be shown.
    results
        `phewas.schema.PhenotypeResults`, for descriptions and the order.
    title, note
        As in `phewas.reports.manhattan.manhattan`.
    most
        Most phenotypes: those with the highest AUC.

    Returns
    -------
    matplotlib.figure.Figure
        7.2 inches wide, square map.
    """
    import seaborn

    with matplotlib.rc_context(RC):
        both = set(cross.get_column("score_of").to_list()) & set(cross.get_column("phenotype").to_list())
        best = drawable_rows(results).filter(pl.col("phenotype").is_in(list(both)))
        best = best.sort("auc", descending=True).head(most)
        order = best.sort("chapter_order", "phenotype").get_column("phenotype").to_list()
        foot = f"{note} Rows: whose score; columns: whose labels. 0.5 is white."
        if len(order) < 2:
            return nothing(sheet(height=1.6, title=title, foot=foot.strip()), "Too few phenotypes for a map.")
        table = cross.filter(pl.col("score_of").is_in(order) & pl.col("phenotype").is_in(order))
        wide = table.pivot(on="phenotype", index="score_of", values="auc")
        wide = pl.DataFrame({"score_of": order}).join(wide, on="score_of", how="left", maintain_order="left")
        values = wide.select(order).to_numpy().astype(float)
        words = {r["phenotype"]: shorten(drawable(r["description"], instead=r["phenotype"]), width=34)
                 for r in best.iter_rows(named=True)}
        side = 4.5
        size = float(np.clip(side / len(order) * 72 / 1.25, 2.5, 6.0))
        figure = sheet(height=side + 2.35, title=title, foot=foot.strip())
        ax = panel(figure, left=1.85, bottom=1.95, width=side, height=side)
        bar = panel(figure, left=1.85 + side + 0.15, bottom=1.95 + side * 0.6, width=0.1, height=side * 0.4)
        spread = max(float(np.nanmax(np.abs(values - 0.5))) if np.isfinite(values).any() else 0.1, 0.1)
        seaborn.heatmap(values, ax=ax, cbar_ax=bar, cmap="vlag", vmin=0.5 - spread, vmax=0.5 + spread, square=True,
                        xticklabels=False, yticklabels=False, rasterized=len(order) > 60)
        middle = np.arange(len(order)) + 0.5
        names = [words[p] for p in order]
        ax.set_yticks(middle, names, fontsize=size, rotation=0)
        ax.set_xticks(middle, names, fontsize=size, rotation=90)
        ax.tick_params(length=0)
        ax.add_patch(matplotlib.patches.Rectangle((0, 0), len(order), len(order), fill=False, lw=0.4, ec="#777777"))
        bar.set_title("AUC", fontsize=6)
        bar.tick_params(labelsize=5.6)
    return figure
