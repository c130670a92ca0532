"""The phenome-wide axis: one place per drawn phenotype, one stretch and colour per chapter, and the names below."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import PathCollection
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from numpy.typing import NDArray

from phewas.reports.layout import chapter_widths, drawable, natural_key, shorten
from phewas.reports.naming import first_of_each_parent
from phewas.reports.style import DPI, WIDTH, Colours, chapter_palette

# Inches.
LEFT, RIGHT = 0.74, 0.12
LENGTH = WIDTH - LEFT - RIGHT
NAME_PITCH, NAME_DEPTH, GAP = 0.165, 1.1, 0.05


def drawable_rows(results: pl.DataFrame) -> pl.DataFrame:
    """Return the tested phenotypes that have a finite AUC."""
    return results.filter((pl.col("status") == "tested") & pl.col("auc").is_not_null() & pl.col("auc").is_finite())


def significant(rows: pl.DataFrame, column: str = "q_fdr") -> NDArray[np.bool_]:
    """Return which rows have a q below 0.05 in `column`; False where it is blank."""
    return (rows.get_column(column).fill_nan(None).fill_null(1.0) < 0.05).to_numpy()


def array(rows: pl.DataFrame, column: str) -> NDArray[np.float64]:
    """Return a column as float64, NaN where it is blank."""
    return rows.get_column(column).cast(pl.Float64).fill_null(float("nan")).to_numpy().astype(np.float64)


@dataclass(frozen=True)
class Axis:
    """The shared x axis, in inches: one place per drawn phenotype, one stretch per chapter."""

    x: NDArray[np.float64]
    colours: list[str]
    names: list[str]
    starts: NDArray[np.float64]
    widths: NDArray[np.float64]


def arrange(
    results: pl.DataFrame, *, length: float = LENGTH, colours: Colours = "safe"
) -> tuple[pl.DataFrame, Axis]:
    """Sort the drawn phenotypes and give each its place."""
    chapters = results.select("chapter_order", "chapter").unique().sort("chapter_order", "chapter").rows()
    place = {chapter: i for i, (_, chapter) in reversed(list(enumerate(chapters)))}
    rows = drawable_rows(results)
    keys = [(place[c], natural_key(p)) for c, p in rows.select("chapter", "phenotype").rows()]
    rows = rows[sorted(range(len(keys)), key=keys.__getitem__)]
    counts = Counter(rows.get_column("chapter").to_list())  # keeps the order of first sight, which is chapter order
    if not counts:
        nothing = np.zeros(0)
        return rows, Axis(nothing, [], [], nothing, nothing)
    widths = chapter_widths(list(counts.values()), total=length, gap=GAP, least=NAME_PITCH)
    gap = (length - widths.sum()) / max(len(counts) - 1, 1)
    starts = np.concatenate([[0.0], np.cumsum(widths + gap)[:-1]])
    x = np.concatenate([s + (np.arange(n) + 0.5) / n * w
                        for s, w, n in zip(starts, widths, counts.values(), strict=True)])
    palette = chapter_palette(colours)
    own = [palette[place[c] % len(palette)] for c in rows.get_column("chapter").to_list()]
    names = [drawable(c, instead=f"chapter {place[c] + 1}") for c in counts]
    return rows, Axis(x, own, names, starts, widths)


def areas_of(patients: NDArray[np.float64], *, n_points: int) -> NDArray[np.float64]:
    """Return marker areas in points²: they grow with the logarithm of case patients, from 10 to 100,000."""
    scale = 1.0 if n_points <= 400 else 0.7
    step = np.clip((np.log10(np.maximum(np.nan_to_num(patients, nan=10.0), 10.0)) - 1) / 4, 0, 1)
    return np.asarray(scale * (3.0 + 80 * step**1.6), dtype=np.float64)


def draw_points(ax: Axes, axis: Axis, y: NDArray[np.float64], filled: NDArray[np.bool_],
            areas: NDArray[np.float64]) -> PathCollection:
    """Draw one panel's points: filled where significant, hollow elsewhere."""
    faces = [to_rgba(c, 0.88) if f else (1.0, 1.0, 1.0, 0.55) for c, f in zip(axis.colours, filled, strict=True)]
    # Small points come last, so that a large one does not cover them.
    order = np.argsort(-areas, kind="stable")
    return ax.scatter(axis.x[order], y[order], s=areas[order], facecolors=[faces[i] for i in order],
                      edgecolors=[axis.colours[i] for i in order], linewidths=0.55, zorder=3,
                      clip_on=False, gid="phenotypes")


def best(rows: pl.DataFrame, *, labels: int) -> list[int]:
    """Return the rows to label, best AUC first, one per parent phecode; only significant ones where q is known."""
    auc, q_known = array(rows, "auc"), rows.get_column("q_fdr").fill_nan(None).null_count() < rows.height
    usable = significant(rows) & (auc > 0.5) if q_known else auc > 0.5
    order = [i for i in np.argsort(-auc, kind="stable") if usable[i]]
    return first_of_each_parent(rows.get_column("phenotype").to_list(), order, most=labels)


@dataclass(frozen=True)
class ChapterNames:
    """Chapter names as they fit below the lowest panel; `size` in points, `depth` in inches."""

    texts: list[str]
    size: float
    slanted: bool
    depth: float


def fit_names(axis: Axis) -> ChapterNames:
    """Measure the chapter names: level where all fit their stretch, else slanted, small enough and cut to size."""
    scratch = Figure(dpi=DPI)
    renderer = FigureCanvasAgg(scratch).get_renderer()  # type: ignore[no-untyped-call]

    def measure(text: str, size: float) -> tuple[float, float]:
        box = scratch.text(0, 0, text, fontsize=size).get_window_extent(renderer)
        return box.width / DPI, box.height / DPI

    if all(measure(n, 6.5)[0] <= w for n, w in zip(axis.names, axis.widths, strict=True)):
        return ChapterNames(axis.names, 6.5, slanted=False, depth=0.25)
    middles = axis.starts + axis.widths / 2
    pitch = float(np.diff(middles).min()) if len(middles) > 1 else 1.0
    # Lines slanted by 45 degrees lie 0.707 of their pitch apart; a line is 1.25 times its font size high.
    size = float(np.clip(pitch * 0.707 * 72 / 1.25, 2.0, 6.5))
    texts, depth = [], 0.0
    for name, middle in zip(axis.names, middles, strict=True):
        room = min(NAME_DEPTH, LEFT + middle - 0.05)
        for width in range(40, 3, -1):
            text = shorten(name, width=width)
            reach = sum(measure(text, size)) * 0.707
            if reach <= room:
                break
        texts.append(text)
        depth = max(depth, reach)
    return ChapterNames(texts, size, slanted=True, depth=depth + 0.12)


def write_names(ax: Axes, axis: Axis, names: ChapterNames) -> None:
    """Write the chapter names below a panel."""
    ax.set_xticks(axis.starts + axis.widths / 2)
    slant: dict[str, Any] = {"rotation": 45, "ha": "right", "rotation_mode": "anchor"} if names.slanted else {}
    ax.set_xticklabels(names.texts, fontsize=names.size, **slant)


def shade(axes: Sequence[Axes], axis: Axis) -> None:
    """Shade every second chapter."""
    for start, width in list(zip(axis.starts, axis.widths, strict=True))[1::2]:
        for ax in axes:
            ax.axvspan(start - GAP / 2, start + width + GAP / 2, color="#f4f4f2", lw=0, zorder=0)


def phenome_panel(figure: Figure, *, bottom: float, height: float, letter: str, label: str) -> Axes:
    """Add a panel over the phenome-wide axis; `bottom` and `height` in inches."""
    total = figure.get_figheight()
    ax = figure.add_axes((LEFT / WIDTH, bottom / total, LENGTH / WIDTH, height / total))
    ax.set_xlim(-0.06, LENGTH + 0.06)
    ax.set_xticks([])
    ax.spines[["top", "right"]].set_visible(False)
    ax.tick_params(length=2.5, width=0.5, pad=2)
    ax.tick_params(axis="x", length=0)
    ax.set_ylabel(label, fontsize=7, linespacing=1.15)
    ax.yaxis.set_label_coords(-0.42 / LENGTH, 0.5)
    figure.text(0.08 / WIDTH, (bottom + height) / total, letter, fontsize=8, fontweight="bold", va="top")
    return ax
