"""Two results side by side: an encoder against another (scatter and Miami), or against a published table."""

from __future__ import annotations

import matplotlib
import numpy as np
import polars as pl
from matplotlib.figure import Figure
from numpy.typing import NDArray

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
from phewas.reports.style import ACCENT, GUIDE, RC, REST, SECOND, Colours, nothing, panel, sheet

PANEL = 2.35  # inches, of each half of a Miami plot


def paired(ours: pl.DataFrame, theirs: pl.DataFrame) -> pl.DataFrame:
    """Return the phenotypes with an AUC in both tables: the columns of `ours`, and those of `theirs` as ``other_``.

    Both are `phewas.schema.PhenotypeResults`, raw or protected; joined by identifier.
    """
    keep = ("auc", "auc_low", "auc_high", "q_fdr", "n_case_patients")
    other = theirs.filter(pl.col("auc").is_not_null() & pl.col("auc").is_not_nan()).select(
        "phenotype", *(pl.col(c).alias(f"other_{c}") for c in keep)
    )
    mine = ours.filter(pl.col("auc").is_not_null() & pl.col("auc").is_not_nan())
    return mine.join(other, on="phenotype", how="inner", maintain_order="left")


def scatter(
    both: pl.DataFrame, *, ours: str, theirs: str, title: str = "", note: str = "", labels: int = 14
) -> Figure:
    """Draw the AUC of each phenotype against its other AUC, with the line of equality and the intervals of those named.

    Parameters
    ----------
    both
        As `paired` returns it. A column ``outcome`` (``b``: ours better after a paired test, ``a``: theirs, else
        neither) colours the points, and greys those without a difference.
    ours, theirs
        Names of the two, for the axes.
    title, note
        Above and below the figure.
    labels
        Most phenotypes to name: those that differ most, one per parent.

    Returns
    -------
    matplotlib.figure.Figure
        5.2 x 5.4 inches.
    """
    with matplotlib.rc_context(RC):
        if "outcome" in both.columns:  # those that differ lie on top
            both = both.sort(pl.col("outcome").is_in(["a", "b"]), maintain_order=True)
        foot = f"{note} {both.height:,} phenotypes in both."
        if "outcome" in both.columns and (rest := both.filter(pl.col("outcome") == "").height):
            foot += f" {rest:,} of them with the same labels as another, or without a test, are not counted."
        figure = sheet(width=5.2, height=5.4, title=title, foot=foot.strip())
        if both.is_empty():
            return nothing(figure, "No phenotype has an AUC in both.")
        ax = panel(figure, left=0.62, bottom=0.66, width=4.4, height=4.4)
        x, y = array(both, "other_auc"), array(both, "auc")
        low = min(float(x.min()), float(y.min()), 0.5) - 0.02
        high = max(float(x.max()), float(y.max()), 0.7) + 0.03
        ax.set_xlim(low, high)
        ax.set_ylim(low, high)
        ax.set_xticks(ticks := [t for t in np.round(np.arange(0, 1.01, 0.1), 1) if low <= t <= high])
        ax.set_yticks(ticks)
        ax.plot([low, high], [low, high], color="#555555", lw=0.7, zorder=1, gid="equality")
        for value in (0.5, 0.7):
            ax.axhline(value, color=GUIDE, lw=0.5, ls="--", zorder=0)
            ax.axvline(value, color=GUIDE, lw=0.5, ls="--", zorder=0)
        colour = np.where(y > x, ACCENT, SECOND)
        if "outcome" in both.columns:
            told = both.get_column("outcome").to_numpy()
            colour = np.where(told == "b", ACCENT, np.where(told == "a", SECOND, REST))
            _legend(ax, told, shorten(drawable(ours, instead="this run"), width=24),
                    shorten(drawable(theirs, instead="the other"), width=24))
        points = ax.scatter(x, y, s=areas_of(array(both, "n_case_patients"), n_points=both.height) * 0.8,
                            c=list(colour), lw=0.3, edgecolors="white", alpha=0.85, zorder=3, gid="phenotypes")
        order = np.argsort(-np.abs(y - x), kind="stable")
        if "outcome" in both.columns:
            order = order[np.isin(both.get_column("outcome").to_numpy()[order], ["a", "b"])]
        chosen = first_of_each_parent(both.get_column("phenotype").to_list(), order, most=labels)
        whiskers = [
            {i: (float(a[i]), float(b[i])) for i in chosen if np.isfinite(a[i]) and np.isfinite(b[i])}
            for a, b in ((array(both, f"{w}auc_low"), array(both, f"{w}auc_high")) for w in ("", "other_"))
        ]
        placed = name_points(ax, x, y, dict(zip(chosen, names_of(both, chosen, width=24), strict=True)), points,
                             spans=whiskers[0], across=whiskers[1], max_distance=0.3)
        for i in placed:
            _cross(ax, both.row(i, named=True), str(colour[i]))
        ax.set_xlabel(f"AUC, {shorten(drawable(theirs, instead='the other'), width=60)}", fontsize=7)
        ax.set_ylabel(f"AUC, {shorten(drawable(ours, instead='this run'), width=60)}", fontsize=7)
    return figure


def _legend(ax: matplotlib.axes.Axes, told: NDArray[np.str_], ours: str, theirs: str) -> None:
    """Say how many points have which colour."""
    for outcome, colour, words in (("b", ACCENT, f"{ours} better"), ("a", SECOND, f"{theirs} better"),
                                   ("tie", REST, "no difference shown")):
        ax.plot([], [], ls="none", marker="o", ms=3.6, mew=0, color=colour,
                label=f"{words}: {int((told == outcome).sum()):,}")
    ax.legend(loc="lower right", fontsize=6, frameon=True, framealpha=0.9, edgecolor="none", title="paired, q < 0.05",
              title_fontsize=6)


def _cross(ax: matplotlib.axes.Axes, row: dict[str, float | None], colour: str) -> None:
    """Draw both intervals of a point."""
    x, y = row["other_auc"], row["auc"]
    bounds = [(row["auc_low"], row["auc_high"], True), (row["other_auc_low"], row["other_auc_high"], False)]
    for low, high, upright in bounds:
        if low is not None and high is not None:
            ends = ([x, x], [low, high]) if upright else ([low, high], [y, y])
            ax.plot(*ends, color=colour, lw=0.6, alpha=0.45, zorder=1, gid="interval", solid_capstyle="butt")


def miami(
    ours: pl.DataFrame, theirs: pl.DataFrame, *, names: tuple[str, str], title: str = "", note: str = "",
    labels: int = 10, colours: Colours = "safe", filled: str = "q < 0.05",
) -> Figure:
    """Draw two Manhattan plots of the AUC against each other: one upwards, the other hanging below it.

    Parameters
    ----------
    ours, theirs
        `phewas.schema.PhenotypeResults`, raw or protected. Places on the axis are those of the phenotypes of either.
    names
        What the two are called.
    title, note, labels, colours
        As in `phewas.reports.manhattan.manhattan`.
    filled
        What a ``q_fdr`` below 0.05, which fills a point, means.

    Returns
    -------
    matplotlib.figure.Figure
        7.2 inches wide.
    """
    with matplotlib.rc_context(RC):
        columns = [c for c in ours.columns if c in theirs.columns]
        either = pl.concat([ours.select(columns), theirs.select(columns)], how="vertical_relaxed")
        first = either.filter((pl.col("status") == "tested") & pl.col("auc").is_not_null() & pl.col("auc").is_finite())
        # The others come along so that every chapter keeps the colour that it has elsewhere.
        others = either.filter(pl.col("status") != "tested")
        shown = pl.concat([first.unique("phenotype", keep="first", maintain_order=True), others])
        rows, axis = arrange(shown, colours=colours)
        chapters = fit_names(axis)
        bottom = 0.26 + chapters.depth
        figure = sheet(height=bottom + 2 * PANEL + 0.6, title=title, foot=note)
        words = [shorten(drawable(n, instead=f"encoder {k + 1}"), width=30) for k, n in enumerate(names)]
        upper = phenome_panel(figure, bottom=bottom + PANEL + 0.12, height=PANEL, letter="", label=f"AUC, {words[0]}")
        lower = phenome_panel(figure, bottom=bottom, height=PANEL, letter="", label=f"AUC, {words[1]}")
        if rows.is_empty():
            for ax in (upper, lower):
                ax.set_yticks([])
            return nothing(figure, "No phenotype has an AUC to show.")
        write_names(lower, axis, chapters)
        shade((upper, lower), axis)
        order = rows.select("phenotype")
        low, high = 0.48, 0.72
        found = []
        for table in (ours, theirs):
            mine = order.join(table, on="phenotype", how="left", maintain_order="left")
            auc = array(mine, "auc")
            found.append((mine, auc))
            if np.isfinite(auc).any():
                low, high = min(low, float(np.nanmin(auc)) - 0.02), max(high, float(np.nanmax(auc)))
        reach = high + 0.4 * (high - low)
        for ax, (mine, auc), limits in zip((upper, lower), found, ((low, reach), (reach, low)), strict=True):
            ax.set_ylim(*limits)
            ax.set_yticks([t for t in np.round(np.arange(0, 1.01, 0.1), 1) if low <= t <= high + 0.05])
            for value in (0.5, 0.7):
                ax.axhline(value, color="#555555" if value == 0.5 else GUIDE, lw=0.6, zorder=1,
                           ls="-" if value == 0.5 else "--")
            areas = areas_of(array(mine, "n_case_patients"), n_points=rows.height)
            points = draw_points(ax, axis, auc, significant(mine), areas)
            usable: NDArray[np.bool_] = significant(mine) & (auc > 0.5)
            best = [i for i in np.argsort(-np.nan_to_num(auc), kind="stable") if usable[i]]
            chosen = first_of_each_parent(mine.get_column("phenotype").to_list(), best, most=labels)
            name_points(ax, axis.x, auc, dict(zip(chosen, names_of(mine, chosen), strict=True)), points,
                        ylims=(0.5, reach) if limits[0] < limits[1] else (reach, 0.5))
        figure.text(LEFT / 7.2, (bottom + 2 * PANEL + 0.18) / figure.get_figheight(),
                    f"Filled: {filled}. Area grows with the number of case patients.", fontsize=6, color=REST,
                    va="bottom")
    return figure
