"""Names beside points: as many of the best as find room, none over another, none over a point."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl
import textalloc
from matplotlib.axes import Axes
from matplotlib.collections import PathCollection
from matplotlib.lines import Line2D
from matplotlib.text import Text
from matplotlib.transforms import Bbox
from numpy.typing import NDArray

from phewas.reports.layout import drawable, parent, two_lines
from phewas.reports.style import DPI, INK, PALE

LONGEST_LEAD = 1.0  # inches


def names_of(rows: pl.DataFrame, chosen: Sequence[int], *, width: int = 28) -> list[str]:
    """Return the descriptions of the chosen rows in at most two lines; the identifier where the font lacks letters."""
    every = rows.select("description", "phenotype").rows()
    words = (drawable(d, instead=drawable(p, instead="?")) for d, p in (every[i] for i in chosen))
    return [two_lines(text, width=width) for text in words]


def first_of_each_parent(phenotypes: Sequence[str], order: Sequence[int] | NDArray[np.intp], *, most: int) -> list[int]:
    """Return the first `most` places of `order` that have different parent phenotypes."""
    seen: set[str] = set()
    chosen: list[int] = []
    for i in order:
        if len(chosen) == most:
            break
        if (root := parent(phenotypes[i])) not in seen:
            seen.add(root)
            chosen.append(int(i))
    return chosen


def name_points(
    ax: Axes, x: NDArray[np.float64], y: NDArray[np.float64], names: Mapping[int, str], points: PathCollection, *,
    spans: Mapping[int, tuple[float, float]] | None = None, across: Mapping[int, tuple[float, float]] | None = None,
    ylims: tuple[float, float] | None = None,
    max_distance: float = 0.5,
) -> list[int]:
    """Write names beside points where they meet neither each other nor a point; the first given are placed first.

    Parameters
    ----------
    ax
        Panel, with its final limits, of a figure with an Agg canvas.
    x, y
        float64 [points], places of all points, in data units.
    names
        Text by point.
    points
        The drawn points.
    spans, across
        Vertical and horizontal intervals to be kept free, by point.
    ylims
        Names stay between these.
    max_distance
        Of a name from its point, as a share of the panel.

    Returns
    -------
    list of int
        The points that got their name; the others found no room.
    """
    chosen = list(names)
    if not chosen:
        return []
    upright, level = spans or {}, across or {}
    free: Any = {}
    if upright or level:
        free = {"x_lines": [[x[i]] * 2 for i in upright] + [list(s) for s in level.values()],
                "y_lines": [list(s) for s in upright.values()] + [[y[i]] * 2 for i in level]}
    if ylims is not None:
        free["ylims"] = ylims
    seen = np.isfinite(x) & np.isfinite(y)
    drawn: Any
    with contextlib.redirect_stdout(io.StringIO()):  # textalloc reports an empty result on standard output
        drawn = textalloc.allocate(
            ax, x[chosen], y[chosen], list(names.values()), x_scatter=x[seen], y_scatter=y[seen], scatter_plot=points,
            **free, textsize=5.6, linecolor=PALE, linewidth=0.35, draw_all=False, nbr_candidates=2500, margin=0.008,
            min_distance=0.008, max_distance=max_distance, avoid_label_lines_overlap=True,
            avoid_crossing_label_lines=True, textcolor=[INK] * len(chosen), linespacing=1.05, zorder=5,
        )
    placed: list[Text | None] = drawn[2]
    drop_overlapping(ax, placed, drawn[3])
    drop_astray(ax, placed, drawn[3], np.column_stack([x[chosen], y[chosen]]))
    return [i for i, text in zip(chosen, placed, strict=True) if text is not None]


def drop_astray(
    ax: Axes, placed: list[Text | None], leads: list[Line2D | None], spots: NDArray[np.float64]
) -> None:
    """Take back names that, without a line to their own point, stand nearer to another's: they would be misread."""
    figure = ax.get_figure()
    assert figure is not None
    renderer = figure.canvas.get_renderer()  # type: ignore[attr-defined]
    at = ax.transData.transform(spots)
    for k, text in enumerate(placed):
        if text is None or leads[k] is not None:
            continue
        box = text.get_window_extent(renderer)
        away = np.hypot(*(np.maximum(np.maximum(np.array(low) - at[:, i], at[:, i] - high), 0)
                          for i, (low, high) in enumerate(((box.x0, box.x1), (box.y0, box.y1)))))
        if (np.delete(away, k) < away[k]).any():
            text.remove()
            placed[k] = None


def drop_overlapping(ax: Axes, placed: list[Text | None], leads: list[Line2D | None]) -> None:
    """Take back names that meet a better one, leave the panel or lie too far away, as the drawn sizes tell."""
    figure = ax.get_figure()
    assert figure is not None
    renderer = figure.canvas.get_renderer()  # type: ignore[attr-defined]
    frame, kept = ax.get_window_extent(renderer), list[Bbox]()
    others = [t.get_window_extent(renderer) for t in ax.texts if t not in placed and t.get_text()]
    for k, text in enumerate(placed):
        if text is None:
            continue
        text.set_gid("label")
        box = text.get_window_extent(renderer)
        inside = frame.x0 - 2 <= box.x0 and box.x1 <= frame.x1 + 2 and frame.y0 <= box.y0 and box.y1 <= frame.y1 + 2
        lead = leads[k]
        far = lead is not None and float(np.hypot(*np.diff(ax.transData.transform(lead.get_xydata()), axis=0)[0])) > (
            LONGEST_LEAD * DPI)
        if inside and not far and not any(box.overlaps(other) for other in (*kept, *others)):
            kept.append(box)
            continue
        text.remove()
        if lead is not None:
            lead.remove()
        placed[k] = None
