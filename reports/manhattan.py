"""The phenome-wide figure: one point per tested phenotype, AUC above, what it adds to age and sex below."""

from __future__ import annotations

import contextlib
import io
from collections import Counter
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
import polars as pl
import textalloc
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import PathCollection
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.text import Text
from matplotlib.transforms import Bbox
from numpy.typing import NDArray

from phewas.reports.layout import (
    FONT,
    chapter_colour,
    chapter_widths,
    drawable,
    natural_key,
    parent,
    shorten,
    two_lines,
)

# Inches. 7.2 is the double column of most journals (183 mm); the height follows from the chapter names.
WIDTH, LEFT, RIGHT = 7.2, 0.74, 0.12
TOP, UPPER, BETWEEN, LOWER, FOOT = 0.52, 3.35, 0.14, 1.35, 0.26
LENGTH = WIDTH - LEFT - RIGHT
NAME_PITCH, NAME_DEPTH, GAP = 0.165, 1.1, 0.05
LONGEST_LEAD = 1.0
DPI = 200
INK, PALE = "#222222", "#8a8a8a"
RC: Any = {  # Any: matplotlib types each key as a literal of its own
    "font.family": [FONT], "font.size": 6.5, "axes.linewidth": 0.5, "axes.edgecolor": INK, "axes.labelcolor": INK,
    "xtick.color": INK, "ytick.color": INK, "text.color": INK, "pdf.fonttype": 42, "svg.fonttype": "none",
    "svg.hashsalt": "phewas", "text.parse_math": False, "text.usetex": False, "axes.unicode_minus": True,
    "path.simplify": False, "agg.path.chunksize": 0,
}

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
    drawn = _drawn(results).height
    parts = [f"{drawn:,} tested phenotype{'' if drawn == 1 else 's'} drawn, in {_n_chapters(results)}."]
    if tested.height > drawn:
        parts.append(f"{tested.height - drawn:,} tested without an AUC to show, not drawn.")
    rest = Counter(results.filter(pl.col("status") != "tested").get_column("status").to_list())
    if rest:
        why = "; ".join(f"{n:,} {status_words(s)}" for s, n in sorted(rest.items(), key=lambda i: (-i[1], i[0])))
        parts.append(f"{rest.total():,} not tested, not drawn ({why}).")
    if drawn and _drawn(results).get_column("q_fdr").fill_nan(None).null_count() == drawn:
        parts.append("Significance was not assessed.")
    elif drawn and not _significant(_drawn(results)).any():
        parts.append("No phenotype has q < 0.05.")
    return " ".join(parts)


def _n_chapters(results: pl.DataFrame) -> str:
    n = _drawn(results).get_column("chapter").n_unique()
    return f"{n} chapter" + ("" if n == 1 else "s")


def _drawn(results: pl.DataFrame) -> pl.DataFrame:
    return results.filter((pl.col("status") == "tested") & pl.col("auc").is_not_null() & pl.col("auc").is_finite())


def _significant(rows: pl.DataFrame, column: str = "q_fdr") -> NDArray[np.bool_]:
    return (rows.get_column(column).fill_nan(None).fill_null(1.0) < 0.05).to_numpy()


def _array(rows: pl.DataFrame, column: str) -> NDArray[np.float64]:
    return rows.get_column(column).cast(pl.Float64).fill_null(float("nan")).to_numpy().astype(np.float64)


@dataclass(frozen=True)
class _Axis:
    """The shared x axis, in inches: one place per drawn phenotype, one stretch per chapter."""

    x: NDArray[np.float64]
    colours: list[str]
    names: list[str]
    starts: NDArray[np.float64]
    widths: NDArray[np.float64]


def _arrange(results: pl.DataFrame, *, length: float) -> tuple[pl.DataFrame, _Axis]:
    """Sort the drawn phenotypes and give each its place."""
    chapters = results.select("chapter_order", "chapter").unique().sort("chapter_order", "chapter").rows()
    place = {chapter: i for i, (_, chapter) in reversed(list(enumerate(chapters)))}
    rows = _drawn(results)
    keys = [(place[c], natural_key(p)) for c, p in rows.select("chapter", "phenotype").rows()]
    rows = rows[sorted(range(len(keys)), key=keys.__getitem__)]
    counts = Counter(rows.get_column("chapter").to_list())  # keeps the order of first sight, which is chapter order
    if not counts:
        nothing = np.zeros(0)
        return rows, _Axis(nothing, [], [], nothing, nothing)
    widths = chapter_widths(list(counts.values()), total=length, gap=GAP, least=NAME_PITCH)
    gap = (length - widths.sum()) / max(len(counts) - 1, 1)
    starts = np.concatenate([[0.0], np.cumsum(widths + gap)[:-1]])
    x = np.concatenate([s + (np.arange(n) + 0.5) / n * w
                        for s, w, n in zip(starts, widths, counts.values(), strict=True)])
    colours = [chapter_colour(place[c]) for c in rows.get_column("chapter").to_list()]
    names = [drawable(c, instead=f"chapter {place[c] + 1}") for c in counts]
    return rows, _Axis(x, colours, names, starts, widths)


def _areas(patients: NDArray[np.float64], *, n_points: int) -> NDArray[np.float64]:
    """Return marker areas in points²: they grow with the logarithm of case patients, from 10 to 100,000."""
    scale = 1.0 if n_points <= 400 else 0.7
    step = np.clip((np.log10(np.maximum(np.nan_to_num(patients, nan=10.0), 10.0)) - 1) / 4, 0, 1)
    return np.asarray(scale * (3.0 + 80 * step**1.6), dtype=np.float64)


def _points(ax: Axes, axis: _Axis, y: NDArray[np.float64], filled: NDArray[np.bool_],
            areas: NDArray[np.float64]) -> PathCollection:
    """Draw one panel's points: filled where significant, hollow elsewhere."""
    faces = [to_rgba(c, 0.88) if f else (1.0, 1.0, 1.0, 0.55) for c, f in zip(axis.colours, filled, strict=True)]
    # Small points come last, so that a large one does not cover them.
    order = np.argsort(-areas, kind="stable")
    return ax.scatter(axis.x[order], y[order], s=areas[order], facecolors=[faces[i] for i in order],
                      edgecolors=[axis.colours[i] for i in order], linewidths=0.55, zorder=3,
                      clip_on=False, gid="phenotypes")


def _best(rows: pl.DataFrame, *, labels: int) -> list[int]:
    """Return the rows to label, best AUC first, one per parent phecode; only significant ones where q is known."""
    auc, q_known = _array(rows, "auc"), rows.get_column("q_fdr").fill_nan(None).null_count() < rows.height
    usable = _significant(rows) & (auc > 0.5) if q_known else auc > 0.5
    names = rows.get_column("phenotype").to_list()
    seen: set[str] = set()
    chosen: list[int] = []
    for i in np.argsort(-auc, kind="stable"):
        if usable[i] and parent(names[i]) not in seen and len(chosen) < labels:
            seen.add(parent(names[i]))
            chosen.append(int(i))
    return chosen


def _label(ax: Axes, rows: pl.DataFrame, axis: _Axis, chosen: list[int], points: PathCollection) -> None:
    """Write the names of the best phenotypes where they meet neither each other nor a point, with their intervals."""
    auc, low, high = (_array(rows, c) for c in ("auc", "auc_low", "auc_high"))
    words = rows.select("description", "phenotype").rows()
    texts = [two_lines(drawable(d, instead=drawable(p, instead="?")), width=28) for d, p in (words[i] for i in chosen)]
    spans = {k: (low[i], high[i]) for k, i in enumerate(chosen) if np.isfinite(low[i]) and np.isfinite(high[i])}
    low_y, high_y = ax.get_ylim()
    whiskers: Any = {} if not spans else {
        "x_lines": [[axis.x[chosen[k]]] * 2 for k in spans], "y_lines": [list(s) for s in spans.values()],
    }
    drawn: Any
    with contextlib.redirect_stdout(io.StringIO()):  # textalloc reports an empty result on standard output
        drawn = textalloc.allocate(
            ax, axis.x[chosen], auc[chosen], texts, x_scatter=axis.x, y_scatter=auc, scatter_plot=points,
            **whiskers,
            textsize=5.6, linecolor=PALE, linewidth=0.35, draw_all=False, nbr_candidates=2500, margin=0.008,
            min_distance=0.008, max_distance=0.5, avoid_label_lines_overlap=True, avoid_crossing_label_lines=True,
            textcolor=[INK] * len(chosen), linespacing=1.05, zorder=5,
            ylims=(max(low_y, float(auc[chosen].min()) - 0.08 * (high_y - low_y)), high_y),
        )
    placed: list[Text | None] = drawn[2]
    _drop_overlapping(ax, placed, drawn[3])
    for k, i in enumerate(chosen):
        if placed[k] is not None and k in spans:
            ax.plot([axis.x[i]] * 2, spans[k], color=axis.colours[i], lw=0.8, zorder=2, gid="interval",
                    solid_capstyle="butt")


def _drop_overlapping(ax: Axes, placed: list[Text | None], leads: list[Line2D | None]) -> None:
    """Take back labels that meet a better one, leave the panel or lie too far away, as the drawn sizes tell."""
    figure = ax.get_figure()
    assert figure is not None
    renderer = figure.canvas.get_renderer()  # type: ignore[attr-defined]
    frame, kept = ax.get_window_extent(renderer), list[Bbox]()
    for k, text in enumerate(placed):
        if text is None:
            continue
        text.set_gid("label")
        box = text.get_window_extent(renderer)
        inside = frame.x0 - 2 <= box.x0 and box.x1 <= frame.x1 + 2 and frame.y0 <= box.y0 and box.y1 <= frame.y1 + 2
        lead = leads[k]
        far = lead is not None and float(np.hypot(*np.diff(ax.transData.transform(lead.get_xydata()), axis=0)[0])) > (
            LONGEST_LEAD * DPI)
        if inside and not far and not any(box.overlaps(other) for other in kept):
            kept.append(box)
            continue
        text.remove()
        if lead is not None:
            lead.remove()
        placed[k] = None


@dataclass(frozen=True)
class _Names:
    """Chapter names as they fit below the lower panel."""

    texts: list[str]
    size: float
    slanted: bool
    depth: float


def _fit_names(axis: _Axis) -> _Names:
    """Measure the chapter names: level where all fit their stretch, else slanted, small enough and cut to size."""
    scratch = Figure(dpi=DPI)
    renderer = FigureCanvasAgg(scratch).get_renderer()  # type: ignore[no-untyped-call]

    def measure(text: str, size: float) -> tuple[float, float]:
        box = scratch.text(0, 0, text, fontsize=size).get_window_extent(renderer)
        return box.width / DPI, box.height / DPI

    if all(measure(n, 6.5)[0] <= w for n, w in zip(axis.names, axis.widths, strict=True)):
        return _Names(axis.names, 6.5, slanted=False, depth=0.25)
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
    return _Names(texts, size, slanted=True, depth=depth + 0.12)


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
            area = float(_areas(np.array([n], dtype=float), n_points=n_points)[0])
            handles.append(marker(area, f"{n:,} case patients", "#bbbbbb"))
    if intervals:
        handles.append(Line2D([], [], color="#555555", lw=0.8, label="95 % interval of labelled"))
    box = ax.get_position()
    figure.legend(handles=handles, loc="lower left", bbox_to_anchor=(box.x0 - 0.008, box.y1 + 0.002), frameon=False,
                  ncols=len(handles), fontsize=6, handletextpad=0.3, columnspacing=1.2, borderpad=0.2)


def _panel(figure: Figure, *, bottom: float, height: float, letter: str, label: str) -> Axes:
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


def _auc_limits(rows: pl.DataFrame, chosen: list[int]) -> tuple[float, float]:
    """Return limits that hold all points, the 0.5 and 0.7 lines, the whiskers, and room for labels above."""
    auc = _array(rows, "auc")
    ends = np.concatenate([auc, _array(rows, "auc_low")[chosen], _array(rows, "auc_high")[chosen], [0.5, 0.72]])
    low, high = float(np.nanmin(ends)), float(np.nanmax(ends))
    room = 0.36 if chosen else 0.06
    return low - 0.04 * (high - low), high + room * (high - low)


def manhattan(
    results: pl.DataFrame, *, title: str = "", note: str = "", labels: int = 20, baseline: str = "age + sex"
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

    Returns
    -------
    matplotlib.figure.Figure
        7.2 inches wide and about 6.3 high, with an Agg canvas. The same table gives the same bytes when saved by
        `phewas.reports.figures.png` or `phewas.reports.figures.pdf`.
    """
    with matplotlib.rc_context(RC):
        rows, axis = _arrange(results, length=LENGTH)
        names = _fit_names(axis)
        bottom = FOOT + names.depth
        height = bottom + LOWER + BETWEEN + UPPER + TOP
        figure = Figure(figsize=(WIDTH, height), dpi=DPI, facecolor="white")
        FigureCanvasAgg(figure)
        upper = _panel(figure, bottom=bottom + LOWER + BETWEEN, height=UPPER, letter="a", label="AUC")
        lower = _panel(figure, bottom=bottom, height=LOWER, letter="b",
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
        lower.set_xticks(axis.starts + axis.widths / 2)
        slant: dict[str, Any] = {"rotation": 45, "ha": "right", "rotation_mode": "anchor"} if names.slanted else {}
        lower.set_xticklabels(names.texts, fontsize=names.size, **slant)
        _fill(figure, upper, lower, rows, axis, labels=labels)
    return figure


def _fill(figure: Figure, upper: Axes, lower: Axes, rows: pl.DataFrame, axis: _Axis, *, labels: int) -> None:
    """Draw everything that needs at least one point."""
    patients, auc, delta = (_array(rows, c) for c in ("n_case_patients", "auc", "delta_auc"))
    areas = _areas(patients, n_points=rows.height)
    for start, width in list(zip(axis.starts, axis.widths, strict=True))[1::2]:
        for ax in (upper, lower):
            ax.axvspan(start - GAP / 2, start + width + GAP / 2, color="#f4f4f2", lw=0, zorder=0)
    chosen = _best(rows, labels=labels)
    low, high = _auc_limits(rows, chosen)
    upper.set_ylim(low, high)
    upper.set_yticks([t for t in np.round(np.arange(0, 1.01, 0.1), 1) if low <= t <= high])
    for value, style, colour in ((0.5, "-", "#555555"), (0.6, (0, (4, 3)), "#c4c4c4"), (0.7, (0, (4, 3)), "#c4c4c4")):
        upper.axhline(value, color=colour, lw=0.6, ls=style, zorder=1)
    points = _points(upper, axis, auc, _significant(rows), areas)
    _legend(figure, upper, patients, n_points=rows.height,
            intervals=bool(np.isfinite(_array(rows, "auc_low")[chosen]).any()))
    known = np.isfinite(delta)
    if known.any():
        # At least two hundredths either way, so that differences of no account do not look large.
        least, most = min(float(delta[known].min()), -0.02), max(float(delta[known].max()), 0.02)
        lower.set_ylim(least - 0.06 * (most - least), most + 0.06 * (most - least))
        lower.axhline(0, color="#555555", lw=0.6, zorder=1)
        _points(lower, axis, delta, _significant(rows, "delta_q"), areas)
    else:
        lower.set_yticks([])
        lower.text(0.5, 0.5, "No baseline to compare with.", transform=lower.transAxes, ha="center", color="#555555")
    if chosen:
        _label(upper, rows, axis, chosen, points)
