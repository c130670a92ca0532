"""Saving figures so that the same figure is the same bytes: no dates, fixed salt, fonts as text."""

from __future__ import annotations

import io

import matplotlib
from matplotlib.figure import Figure

from phewas.reports.manhattan import RC


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
