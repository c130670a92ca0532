"""The table of phenotypes for a paper's supplement: one LaTeX longtable, everything in it escaped."""

from __future__ import annotations

from pathlib import Path

import polars as pl

from phewas.reports.html import clean
from phewas.reports.tables import ROUNDED, estimate_text, interval_text, p_text, shown
from phewas.rundir import write_text

DESCRIPTION_WIDTH = 70
_SPECIAL = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#", "%": r"\%", "_": r"\_",
    "^": r"\textasciicircum{}", "~": r"\textasciitilde{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "|": r"\textbar{}", '"': r"\textquotedbl{}", "-": "{-}", "`": r"\textasciigrave{}", "'": r"\textquotesingle{}",
    "\t": " ", "\n": " ", "\r": " ",
}  # fmt: skip
_TRANSLATION = str.maketrans(_SPECIAL)
_COLUMNS = (
    r"Phenotype & Description & N pos & N neg & AUC (95\,\% CI) & $p$ & $q$ & AP lift & Age + sex (95\,\% CI) & "
    r"Difference (95\,\% CI) \\"
)
_BEFORE = r"""% Needs the packages longtable, array, booktabs and textcomp; for text
% outside of ASCII use xelatex or lualatex.
\begingroup\footnotesize
\begin{longtable}{l>{\raggedright\arraybackslash}p{5.2cm}rrlrrlll}
\caption{"""
_AFTER = (
    "}\\\\\n\\toprule\n" + _COLUMNS + "\n\\midrule\n\\endfirsthead\n"
    "\\toprule\n" + _COLUMNS + "\n\\midrule\n\\endhead\n\\bottomrule\n\\endfoot\n"
)


def escape(text: str) -> str:
    r"""Return text that LaTeX prints as it is: no command, no ligature, no control character.

    Examples
    --------
    >>> escape(r"50 % of A_1 & \input{x}")
    '50 \\% of A\\_1 \\& \\textbackslash{}input\\{x\\}'
    """
    return clean(text).translate(_TRANSLATION)


def longtable(protected: pl.DataFrame, *, caption: str, small_cell: int) -> str:
    """Return the tested phenotypes as a LaTeX longtable, best AUC first.

    Parameters
    ----------
    protected
        As `phewas.reports.tables.protect` returns it: what it hides stays hidden.
    caption
        Plain text; escaped here. What N counts is added to it.
    small_cell
        For the words that stand for hidden counts.
    """
    rows = protected.filter(pl.col("status") == "tested").sort(
        ["auc", "phenotype"], descending=[True, False], nulls_last=True
    )
    units = " and ".join(f"{unit}s" for unit in sorted(set(rows.get_column("unit").to_list()))) or "encounters"
    text = f"{escape(caption)} N counts {escape(units)}; a dash stands where nothing may be or could be told."
    lines = [_BEFORE, text, _AFTER]
    for r in rows.iter_rows(named=True):
        cells = [
            escape(r["phenotype"]),
            escape(clean(r["description"], width=DESCRIPTION_WIDTH)),
            *(_count(r[c], small_cell=small_cell, rounded=r[ROUNDED]) for c in ("n_cases", "n_controls")),
            _estimate(r["auc"], r["auc_low"], r["auc_high"]),
            _math(p_text(r["p_value"])),
            _math(p_text(r["q_fdr"])),
            "--" if r["ap_lift"] is None else f"{r['ap_lift']:.1f}",
            _estimate(r["baseline_auc"], r["baseline_low"], r["baseline_high"]),
            _estimate(r["delta_auc"], r["delta_low"], r["delta_high"], signed=True),
        ]
        lines.append(" & ".join(cells) + " \\\\\n")
    return "".join([*lines, "\\end{longtable}\n\\endgroup\n"])


def write_longtable(protected: pl.DataFrame, folder: Path, *, caption: str, small_cell: int) -> Path:
    """Write `longtable` as ``phenotypes.tex`` in `folder`."""
    return write_text(longtable(protected, caption=caption, small_cell=small_cell), folder / "phenotypes.tex")


def _count(n: int | None, *, small_cell: int, rounded: bool) -> str:
    text = shown(n, small_cell=small_cell, rounded=rounded)
    return text.replace("<", "$<$").replace("≈", r"$\approx$").replace(",", "{,}")


def _estimate(value: float | None, low: float | None, high: float | None, *, signed: bool = False) -> str:
    interval = interval_text(low, high, signed=signed)
    whole = f"{estimate_text(value, signed=signed)} ({interval})" if interval else estimate_text(value, signed=signed)
    return whole.replace("−", "$-$").replace("–", "--").replace("+", "$+$")


def _math(text: str) -> str:
    return text.replace("<", "$<$").replace("–", "--")
