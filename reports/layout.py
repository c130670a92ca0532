"""Where things go on a phenome-wide axis: order, places, colours and names that fit."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Sequence
from functools import cache

import matplotlib.font_manager
import numpy as np
from matplotlib.ft2font import FT2Font
from numpy.typing import NDArray

# Dark and light take turns, so that neighbours differ in lightness too and stay apart in grey and for colour-blind
# readers. Hues follow Okabe and Ito (2008, jfly.uni-koeln.de/color), darkened where white paper asks for it.
PALETTE = ("#0072B2", "#E69F00", "#7A1F5C", "#2FA58A", "#B3400A", "#56B4E9", "#3D3D3D", "#CC79A7")
FONT = "DejaVu Sans"  # ships with matplotlib: the same glyphs, hence the same bytes, on every machine


def chapter_colour(place: int) -> str:
    """Return the colour of the chapter in the given place (0-based) of the vocabulary's chapter order."""
    return PALETTE[place % len(PALETTE)]


def natural_key(phenotype: str) -> tuple[str, float, str]:
    """Return a sort key that puts phecodes in the vocabulary's order: 8, 38.1, 250.11, 250.2; prefixes first.

    Examples
    --------
    >>> sorted(["250.2", "038.1", "250.11", "CV_401"], key=natural_key)
    ['038.1', '250.11', '250.2', 'CV_401']
    """
    match = re.fullmatch(r"(\D*?)(\d+(?:\.\d+)?)", phenotype, flags=re.ASCII)
    if match is None:
        return phenotype, 0.0, phenotype
    return match[1], float(match[2]), phenotype


def parent(phenotype: str) -> str:
    """Return the parent phecode: what stands before the dot, without leading zeros."""
    return phenotype.partition(".")[0].lstrip("0") or "0"


def chapter_widths(counts: Sequence[int], *, total: float, gap: float, least: float) -> NDArray[np.float64]:
    """Share an axis between chapters by their number of points, none narrower than its name needs.

    Parameters
    ----------
    counts
        Points per chapter, each >= 1; shape [chapters].
    total
        Length of the axis, in inches; `gap` of it lies between neighbours.
    least
        Smallest width of a chapter, in inches; lowered where the chapters are too many for it.

    Returns
    -------
    numpy.ndarray
        float64 [chapters], inches; with the gaps they add up to `total`.
    """
    n = np.asarray(counts, dtype=np.float64)
    room = max(total - gap * (len(n) - 1), total * 0.5)
    floor = min(least, room / len(n))
    narrow = np.zeros(len(n), dtype=bool)
    while True:
        left = room - floor * narrow.sum()
        widths = np.where(narrow, floor, left * n / max(n[~narrow].sum(), 1.0))
        more = ~narrow & (widths < floor - 1e-12)
        if not more.any():
            return widths
        narrow |= more


@cache
def _glyphs() -> frozenset[int]:
    """Return the code points that the figure's font can draw."""
    return frozenset(FT2Font(matplotlib.font_manager.findfont(FONT)).get_charmap())


def drawable(text: str, *, instead: str) -> str:
    """Return `text` on one line, or `instead` where the figure's font lacks one of its letters.

    A row of empty boxes says nothing, so a label in a script that the font does not have gives way to the phenotype's
    identifier; the page shows the words in full.
    """
    line = " ".join(text.split())
    return line if line and all(ord(c) in _glyphs() for c in line) else instead


def shorten(text: str, *, width: int) -> str:
    """Cut `text` to `width` characters, at a word where one ends late enough, with an ellipsis."""
    if len(text) <= width:
        return text
    head = text[: width - 1]
    space = head.rfind(" ")
    return (head[:space] if space >= width * 0.6 else head).rstrip(" ,;:(-/") + "…"


def two_lines(text: str, *, width: int) -> str:
    """Wrap `text` to at most two lines of `width` characters, of like length; the rest gives way to an ellipsis."""
    if len(text) <= width:
        return text
    for narrower in range(-(-len(text) // 2), width + 1):
        lines = textwrap.wrap(text, width=narrower, break_on_hyphens=False)
        if len(lines) <= 2:
            return "\n".join(lines)
    first = textwrap.wrap(text[: width * 8], width=width, break_on_hyphens=False)[0]
    return f"{first}\n{shorten(text[len(first):].strip(), width=width)}"
