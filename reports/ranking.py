"""Lists with intervals: the best phenotypes, the chapters, and the groups of patients within phenotypes."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Any

import matplotlib
import numpy as np
import polars as pl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.transforms import blended_transform_factory

from phewas.reports.layout import drawable, shorten, two_lines
from phewas.reports.naming import first_of_each_parent
from phewas.reports.phenome import array, drawable_rows
from phewas.reports.style import GUIDE, RC, WIDTH, Colours, chapter_palette, nothing, panel, sheet
from phewas.reports.tables import estimate_text, interval_text

ROW = 0.145  # inches per line
NAMES = 2.75  # inches for words at the left
_OTHER = re.compile(r"\bothers?\b|\bNEC\b|\bNOS\b|unspecified", re.IGNORECASE)


def top(
    results: pl.DataFrame, *, n: int = 60, leave_out_other: bool = False, title: str = "", note: str = "",
    baseline: str = "age + sex", colours: Colours = "safe",
) -> Figure:
    """List the `n` phenotypes with the highest AUC, each with its interval and the baseline's AUC.

    Parameters
    ----------
    results
        `phewas.schema.PhenotypeResults`, raw or protected.
    n
        Most phenotypes to list.
    leave_out_other
        Leave out phenotypes whose description says "other", "NOS", "NEC" or "unspecified"; the foot tells how many of
        them would have been listed.
    title, note, baseline, colours
        As in `phewas.reports.manhattan.manhattan`.

    Returns
    -------
    matplotlib.figure.Figure
        7.2 inches wide; the height follows from the number of lines.
    """
    with matplotlib.rc_context(RC):
        ranked = drawable_rows(results).sort("auc", "phenotype", descending=[True, False])
        vague = [_OTHER.search(text) is not None for text in ranked.get_column("description").to_list()]
        foot = [note, "Highest AUC first: being best of many, the leading ones are likely to be somewhat too high."]
        if leave_out_other:
            left_out = sum(vague[: n + sum(vague[:n])])
            ranked = ranked.filter(~pl.Series(vague, dtype=pl.Boolean))
            foot.append(f"{left_out} with “other” in their description left out.")
        rows = ranked.head(n)
        depth = max(ROW * rows.height, 0.5)
        figure = sheet(height=depth + 1.25, title=title, foot=" ".join(foot).strip())
        if rows.is_empty():
            return nothing(figure, "No phenotype has an AUC to show.")
        ax = panel(figure, left=NAMES, bottom=0.68, width=WIDTH - NAMES - 1.75, height=depth)
        every = results.select("chapter_order", "chapter").unique().sort("chapter_order", "chapter")
        place = {c: i for i, c in enumerate(dict.fromkeys(every.get_column("chapter").to_list()))}
        palette = chapter_palette(colours)
        for i, row in enumerate(rows.iter_rows(named=True)):
            _line(ax, i, row, palette[place[row["chapter"]] % len(palette)])
        names = [_name(row) for row in rows.iter_rows(named=True)]
        _finish(ax, rows, names)
        handles: list[Any] = [
            ax.plot([], [], ls="none", marker="o", ms=3.4, color="#555555", label="encoder, 95 % interval")[0],
            ax.plot([], [], ls="none", marker="|", ms=5, color="#555555", label=baseline)[0],
        ]
        figure.legend(handles=handles, loc="lower left", bbox_to_anchor=(NAMES / WIDTH - 0.01, (0.72 + depth) /
                      figure.get_figheight()), frameon=False, ncols=2, fontsize=6, borderpad=0.2)
    return figure


def _name(row: dict[str, Any]) -> str:
    words = drawable(row["description"], instead="")
    code = drawable(row["phenotype"], instead="?")
    return shorten(f"{words} ({code})" if words else code, width=50)


def _line(ax: Axes, i: int, row: dict[str, Any], colour: str) -> None:
    if row["auc_low"] is not None and row["auc_high"] is not None:
        ax.plot([row["auc_low"], row["auc_high"]], [i, i], color=colour, lw=1.0, zorder=2, gid="interval",
                solid_capstyle="butt")
    ax.plot(row["auc"], i, marker="o", ms=3.4, mew=0, color=colour, zorder=3, gid="auc")
    if row.get("baseline_auc") is not None:
        ax.plot(row["baseline_auc"], i, marker="|", ms=5, color="#555555", zorder=2, gid="baseline")
    told = interval_text(row["auc_low"], row["auc_high"]).replace(" to ", "–")
    ax.text(1.02, i, f"{estimate_text(row['auc'])}{f' ({told})' if told else ''}", transform=ax.get_yaxis_transform(),
            va="center", fontsize=5.8, gid="number")


def _finish(ax: Axes, rows: pl.DataFrame, names: list[str]) -> None:
    known = np.concatenate([array(rows, c) for c in ("auc", "auc_low", "auc_high")])
    known = known[np.isfinite(known)]
    least, most = float(known.min(initial=0.5)), float(known.max(initial=0.6))
    ax.set_xlim(least - 0.02, most + 0.02)
    ax.axvline(0.5, color="#555555", lw=0.6, zorder=0)
    ax.axvline(0.7, color=GUIDE, lw=0.6, ls="--", zorder=0)
    ax.set_yticks(range(len(names)), names, fontsize=6)
    ax.set_ylim(len(names) - 0.4, -0.6)
    ax.tick_params(axis="y", length=0)
    ax.set_xlabel("AUC", fontsize=7)


def chapter_forest(
    chapters: pl.DataFrame, *, veiled: Collection[str] = (), title: str = "", note: str = "",
    baseline: str = "age + sex",
) -> Figure:
    """Draw by chapter the mean AUC and the mean difference to the baseline, with intervals over patients.

    Parameters
    ----------
    chapters
        `phewas.schema.ChapterResults`.
    veiled
        Chapters whose means must not be shown.
    title, note, baseline
        As in `phewas.reports.manhattan.manhattan`.

    Returns
    -------
    matplotlib.figure.Figure
        7.2 inches wide.
    """
    with matplotlib.rc_context(RC):
        rows = chapters.filter(pl.col("n_tested") > 0).sort("chapter_order", "chapter")
        depth = max(0.17 * rows.height, 0.5)
        foot = f"{note} Means over the tested phenotypes of a chapter; 95 % intervals over patients."
        figure = sheet(height=depth + 1.3, title=title, foot=foot.strip())
        if rows.is_empty():
            return nothing(figure, "No chapter has a tested phenotype.")
        left = panel(figure, left=1.95, bottom=0.7, width=2.35, height=depth, title="Mean AUC")
        right = panel(figure, left=4.65, bottom=0.7, width=2.35, height=depth, title=f"Mean AUC minus {baseline}")
        hidden = rows.get_column("chapter").is_in(list(veiled)).to_list()
        for ax, columns, line in ((left, ("mean_auc", "mean_auc_low", "mean_auc_high"), 0.5),
                                  (right, ("mean_delta_auc", "mean_delta_low", "mean_delta_high"), 0.0)):
            value, low, high = (np.where(hidden, np.nan, array(rows, c)) for c in columns)
            for i in range(rows.height):
                ax.plot([low[i], high[i]], [i, i], color="#0b5a8f", lw=1.2, gid="interval", solid_capstyle="butt")
                ax.plot(value[i], i, marker="o", ms=3.8, mew=0, color="#0b5a8f", gid="mean")
            ax.axvline(line, color="#555555", lw=0.6, zorder=0)
            ax.set_ylim(rows.height - 0.4, -0.6)
            ax.set_yticks([])
            ax.margins(x=0.08)
            ax.locator_params(axis="x", nbins=5)
        words = [f"{shorten(drawable(c, instead='chapter'), width=28)} ({n:,})"
                 for c, n in rows.select("chapter", "n_tested").rows()]
        left.set_yticks(range(rows.height), words)
        left.tick_params(axis="y", length=0)
    return figure


SUBGROUPS_SHOWN = 8
WORDS = 1.5  # inches for phenotypes at the left of the subgroups


def subgroup_forest(
    subgroups: pl.DataFrame, results: pl.DataFrame, *, phenotypes: Collection[str] = (), title: str = "",
    note: str = "",
) -> Figure:
    """Draw the AUC within groups of patients, a column per variable and a block per phenotype.

    Parameters
    ----------
    subgroups
        `phewas.schema.Subgroups` as `phewas.reports.material.protect_subgroups` returns it, or raw.
    results
        `phewas.schema.PhenotypeResults`, for descriptions and the order: best AUC first.
    phenotypes
        Which ones; empty for the eight with the highest AUC, one per parent.
    title, note
        As in `phewas.reports.manhattan.manhattan`.

    Returns
    -------
    matplotlib.figure.Figure
        7.2 inches wide.
    """
    with matplotlib.rc_context(RC):
        known = set(subgroups.get_column("phenotype").to_list())
        ranked = drawable_rows(results).sort("auc", "phenotype", descending=[True, False])
        ranked = ranked.filter(pl.col("phenotype").is_in(list(known)))
        if phenotypes:
            rows = ranked.filter(pl.col("phenotype").is_in(list(phenotypes)))
        else:
            names = ranked.get_column("phenotype").to_list()
            rows = ranked[first_of_each_parent(names, range(len(names)), most=SUBGROUPS_SHOWN)]
        chosen = rows.get_column("phenotype").to_list()
        part = subgroups.filter(pl.col("phenotype").is_in(chosen))
        variables = part.get_column("variable").unique(maintain_order=True).to_list()
        if not variables:
            return nothing(sheet(height=1.6, title=title, foot=note), "No subgroup has an AUC to show.")
        levels = {v: part.filter((pl.col("variable") == v) & (pl.col("level") != "") & pl.col("auc").is_not_null())
                  .sort("level_order").get_column("level").unique(maintain_order=True).to_list() for v in variables}
        variables = [v for v in variables if levels[v]][:4]
        if not variables:
            return nothing(sheet(height=1.6, title=title, foot=note), "No subgroup has an AUC to show.")
        tall = max(len(levels[v]) for v in variables)
        block = ROW * 0.95 * (tall + 1.2)
        foot = f"{note} Groups without an estimate are blank. p: equal AUCs in all groups (Wald, patient-clustered)."
        figure = sheet(height=block * len(chosen) + 1.25, title=title, foot=foot.strip())
        depth = block * len(chosen)
        _fill_groups(figure, part, rows, variables, levels, block=tall + 1.2, depth=depth)
    return figure


def _fill_groups(
    figure: Figure, part: pl.DataFrame, rows: pl.DataFrame, variables: list[str], levels: dict[str, list[str]], *,
    block: float, depth: float,
) -> None:
    values = part.filter(pl.col("level") != "").select("auc", "auc_low", "auc_high").to_numpy()
    known = values[np.isfinite(values.astype(float))].astype(float)
    limits = (float(known.min(initial=0.45)) - 0.02, float(known.max(initial=0.75)) + 0.02)
    # Each variable has the room that its longest level asks for; the panels share the rest.
    named = {v: [shorten(drawable(level, instead=f"group {i + 1}"), width=16) for i, level in enumerate(levels[v])]
             for v in variables}
    rooms = [0.14 + 0.043 * max(map(len, named[v])) for v in variables]
    width = (WIDTH - WORDS - sum(rooms)) / len(variables) - 0.1
    for k, variable in enumerate(variables):
        ax = panel(figure, left=WORDS + sum(rooms[: k + 1]) + k * (width + 0.1), bottom=0.68, width=width, height=depth,
                   title=variable.removeprefix("src_").replace("_", " "))
        ax.set_xlim(*limits)
        ticks, words = [], []
        for b, row in enumerate(rows.iter_rows(named=True)):
            mine = part.filter((pl.col("phenotype") == row["phenotype"]) & (pl.col("variable") == variable))
            at = {r["level"]: r for r in mine.iter_rows(named=True)}
            for i, level in enumerate(levels[variable]):
                y = b * block + i
                ticks.append(y)
                words.append(named[variable][i])
                found = at.get(level)
                if found is None or found["auc"] is None:
                    continue
                if found["auc_low"] is not None:
                    ax.plot([found["auc_low"], found["auc_high"]], [y, y], color="#0b5a8f", lw=1.0, gid="interval",
                            solid_capstyle="butt")
                ax.plot(found["auc"], y, marker="o", ms=3, mew=0, color="#0b5a8f", gid="auc")
            whole = at.get("")
            if whole is not None and whole["p_value"] is not None:
                p = whole["p_value"]
                ax.text(0.99, b * block - 0.62, "p < 0.001" if p < 0.001 else f"p = {p:.3f}", ha="right", va="center",
                        transform=ax.get_yaxis_transform(), fontsize=5.2, color="#666666", gid="p")
            if b:
                ax.axhline(b * block - 1.1, color="#e3e6e8", lw=0.5, zorder=0)
        ax.axvline(0.5, color="#555555", lw=0.6, zorder=0)
        ax.set_yticks(ticks, words, fontsize=5.4)
        ax.tick_params(axis="y", length=0)
        ax.set_ylim(rows.height * block - 0.9, -1.1)
        ax.set_xlabel("AUC", fontsize=6.5)
        step = 0.2 if limits[1] - limits[0] > 0.3 else 0.1
        ax.set_xticks([t for t in np.round(np.arange(0.1, 1.0, step), 1) if limits[0] <= t <= limits[1]])
        if k == 0:
            for b, row in enumerate(rows.iter_rows(named=True)):
                ax.text(0.1, 1 - (b * block + 1.1) / (rows.height * block + 0.2), _two(row), fontsize=6.2, va="top",
                        transform=_page(figure, ax), gid="phenotype")


def _two(row: dict[str, Any]) -> str:
    words = drawable(row["description"], instead="")
    text = f"{words} ({row['phenotype']})" if words else row["phenotype"]
    return two_lines(drawable(text, instead="?"), width=28)


def _page(figure: Figure, ax: Axes) -> Any:
    """Return a transform with x in inches from the left of the page and y as a share of the panel."""
    return blended_transform_factory(figure.dpi_scale_trans, ax.transAxes)


