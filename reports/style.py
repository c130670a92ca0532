"""The hand in which every figure is drawn: sizes, fonts, colours, and saving to the same bytes each time."""

from __future__ import annotations

import io
from typing import Any, Literal

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from phewas.reports.layout import FONT, PALETTE, drawable, shorten, two_lines

DPI, PRINT_DPI, SCREEN_DPI = 200, 300, 130
WIDTH = 7.2  # inches: the double column of most journals (183 mm)
INK, PALE, GUIDE = "#222222", "#8a8a8a", "#c4c4c4"
#: One accent for what stands out, grey for the rest, and a warm second where two things are compared.
ACCENT, SECOND, REST = PALETTE[0], PALETTE[4], "#9aa3ab"
RC: Any = {  # Any: matplotlib types each key as a literal of its own
    "font.family": [FONT], "font.size": 6.5, "axes.linewidth": 0.5, "axes.edgecolor": INK, "axes.labelcolor": INK,
    "xtick.color": INK, "ytick.color": INK, "text.color": INK, "pdf.fonttype": 42, "svg.fonttype": "none",
    "svg.hashsalt": "phewas", "text.parse_math": False, "text.usetex": False, "axes.unicode_minus": True,
    "path.simplify": False, "agg.path.chunksize": 0,
}
Colours = Literal["safe", "classic"]

# The chapter colours that readers of phecode plots know, in the order of phecode 1.2: those of the table `pheinfo` of
# the R package PheWAS, as `phewas.mappings` ships them with the vocabulary. On request only, since several of them look
# alike to colour-blind readers and in grey.
CLASSIC = (
    "#0000FF", "#008B8B", "#A52A2A", "#FF7F00", "#FF00FF", "#00008B", "#698B69", "#FF0000", "#8B3E2F", "#458B00",
    "#000000", "#27408B", "#B22222", "#556B2F", "#00FA9A", "#A020F0", "#7F7F7F",
)


def chapter_palette(colours: Colours) -> tuple[str, ...]:
    """Return the colours that chapters take in turn, in the vocabulary's chapter order."""
    return CLASSIC if colours == "classic" else PALETTE


def sheet(*, height: float, width: float = WIDTH, title: str = "", foot: str = "") -> Figure:
    """Return an empty white figure of the given size in inches, with a title line and a line at the foot.

    Text that the font cannot draw is left out, and what is too long is cut. Call it within `matplotlib.rc_context`
    of `RC`.
    """
    figure = Figure(figsize=(width, height), dpi=DPI, facecolor="white")
    FigureCanvasAgg(figure)
    letters = int(width * 12.2)
    if title:
        figure.text(0.1 / width, 1 - 0.1 / height, shorten(drawable(title, instead=""), width=letters), fontsize=8,
                    fontweight="bold", va="top", gid="title")
    if foot:
        text = two_lines(drawable(foot, instead=""), width=int(width * 20.5))
        figure.text(0.1 / width, 0.06 / height, text, fontsize=5.6, color="#444444", va="bottom", gid="caption",
                    linespacing=1.3)
    return figure


def panel(
    figure: Figure, *, left: float, bottom: float, width: float, height: float, letter: str = "", title: str = ""
) -> Axes:
    """Add axes at a place given in inches, without a box around them; `letter` names the panel."""
    total_w, total_h = figure.get_size_inches()
    ax = figure.add_axes((left / total_w, bottom / total_h, width / total_w, height / total_h))
    ax.spines[["top", "right"]].set_visible(False)
    ax.tick_params(length=2.5, width=0.5, pad=2)
    if letter:
        figure.text(max(left - 0.5, 0.06) / total_w, (bottom + height + 0.06) / total_h, letter, fontsize=8,
                    fontweight="bold", va="bottom")
    if title:
        ax.set_title(title, fontsize=7, loc="left", pad=4)
    return ax


def nothing(figure: Figure, words: str) -> Figure:
    """Write in the middle of a figure why it shows nothing."""
    figure.text(0.5, 0.5, words, ha="center", va="center", fontsize=8, color="#555555", gid="nothing")
    return figure


def png(figure: Figure, *, dpi: int) -> bytes:
    """Return the figure as PNG bytes at `dpi` dots per inch, without software name or date."""
    buffer = io.BytesIO()
    with matplotlib.rc_context(RC):
        figure.savefig(buffer, format="png", dpi=dpi, metadata={"Software": None})
    return buffer.getvalue()


def pdf(figure: Figure, *, title: str = "") -> bytes:
    """Return the figure as PDF bytes: vectors, text as text (TrueType, editable), without a creation date."""
    buffer = io.BytesIO()
    with matplotlib.rc_context(RC):
        figure.savefig(buffer, format="pdf",
                       metadata={"CreationDate": None, "Title": title or None, "Creator": None, "Producer": None})
    return buffer.getvalue()


def svg(figure: Figure) -> bytes:
    """Return the figure as SVG bytes: vectors, text as text (DejaVu Sans or what the viewer has), without a date."""
    buffer = io.BytesIO()
    with matplotlib.rc_context(RC):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return buffer.getvalue()
