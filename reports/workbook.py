"""One Excel workbook with everything a co-author asks for: results, Table 1, flow, definitions, settings, columns.

Numbers are numbers, phenotypes and codes are text (``008`` stays ``008``), and text that a spreadsheet would take for a
formula is marked as text in the cell itself, so that it stays harmless when somebody edits it. Small cells are hidden
as everywhere below ``report/``.
"""

from __future__ import annotations

import functools
import io
import math
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from platform import python_version
from typing import Any

import polars as pl
import xlsxwriter
import xlsxwriter.worksheet
from xlsxwriter.utility import xl_col_to_name

from phewas.reports import flow
from phewas.reports.html import clean, overview_rows
from phewas.reports.material import Material, veiled_chapters
from phewas.reports.meta import ReportMeta, flat
from phewas.reports.sheets import Sheet, further_sheets, hidden, meanings
from phewas.reports.table1 import table1_rows
from phewas.reports.tables import COUNTS, FORMULA_STARTS, P_VALUES, ROUNDED, hide_small
from phewas.rundir import atomic
from phewas.schema import (
    ChapterResults,
    Definitions,
    Flow,
    PhenotypeResults,
    Phenotypes,
    Rejects,
    Unmapped,
)

#: What a cell of Excel holds at most, less what an ellipsis takes.
LONGEST_TEXT = 32_000
LONGEST_SHEET = 1_048_000
PACKAGES = ("phewas", "numpy", "scipy", "polars", "torch", "scikit-learn", "wfdb", "matplotlib", "xlsxwriter")
_NARROW, _WIDE = 6, 60
_MEASURED = 500  # rows whose longest text makes the width of a column


def write_workbook(
    run: Path, path: Path, *, meta: ReportMeta, material: Material, rounded: bool
) -> Path:
    """Write the workbook of a run; the same tables and `meta` give the same bytes.

    Parameters
    ----------
    run
        Run directory.
    path
        Where to.
    meta
        What is said about the run.
    material
        The tables with small cells hidden.
    rounded
        Whether totals of the cohort are rounded (`phewas.reports.flow.must_round`).
    """
    protected, small_cell = material.results, material.small_cell
    sheets = [
        _results(protected, small_cell=small_cell),
        _chapters(material.chapters, protected),
        _overview(material.overview, small_cell=small_cell, rounded=rounded),
        *further_sheets(material),
        *_table1(run, small_cell=small_cell),
        _flow(run, small_cell=small_cell, rounded=rounded),
        _rejected(run, small_cell=small_cell),
        *_definitions(run),
        _unmapped(Unmapped.read(run), small_cell=small_cell),
        _settings(meta),
    ]
    with atomic(path) as handle:
        handle.write(pack([_front(meta, sheets, small_cell=small_cell), *sheets, _explained(sheets)], title=meta.title))
    return path


def pack(sheets: Iterable[Sheet], *, title: str) -> bytes:
    """Return sheets as the bytes of an ``.xlsx`` file: frozen heads, filters, widths that fit, no formula, no link."""
    buffer = io.BytesIO()
    options = {
        "in_memory": True, "strings_to_formulas": False, "strings_to_urls": False, "strings_to_numbers": False,
        "nan_inf_to_errors": False,
    }  # fmt: skip
    with xlsxwriter.Workbook(buffer, options) as book:
        # A fixed date: the same content is the same file.
        book.set_properties({"title": clean(title, width=200), "created": datetime(2000, 1, 1, tzinfo=UTC)})
        formats = _Formats(book)
        for sheet in sheets:
            _write(book.add_worksheet(sheet.name[:31], _Page), sheet, formats)
    return buffer.getvalue()


class _Page(xlsxwriter.worksheet.Worksheet):  # type: ignore[misc]
    """A sheet that writes plain cells in one go, which takes a third of the whole report's time otherwise.

    xlsxwriter builds each cell from a list of attributes. Should a later version ask for its cells by another name, it
    writes them in its own way, as it does here with everything that is not plain text or a number.
    """

    def _write_cell(self, row: int, col: int, cell: Any) -> None:
        kind = type(cell).__name__
        if kind not in ("String", "Number") or cell.format is None or self.constant_memory:
            super()._write_cell(row, col, cell)
            return
        place = f'<c r="{_letters(col)}{row + 1}" s="{cell.format._get_xf_index()}"'
        if kind == "String":
            self.fh.write(f'{place} t="s"><v>{cell.string}</v></c>')
        else:
            self.fh.write(f"{place}><v>{cell.number:.16G}</v></c>")

    def _calculate_spans(self) -> None:
        """Leave out which cells each row holds: readers need not be told, and it takes a pass over all cells."""


@functools.cache
def _letters(col: int) -> str:
    return str(xl_col_to_name(col))


class _Formats:
    """The looks of cells, made once."""

    def __init__(self, book: xlsxwriter.Workbook) -> None:
        self._book, self._made = book, {}  # type: ignore[var-annotated]
        self._texts: dict[str, tuple[str, Any]] = {}
        self.head = book.add_format({"bold": True, "text_wrap": True, "valign": "top", "bottom": 1})
        self.note = book.add_format({"italic": True, "font_color": "#555555"})
        self.text = book.add_format({"num_format": "@", "valign": "top"})
        # The cell says itself that it is text, as a leading apostrophe does when typed.
        self.quoted = book.add_format({"num_format": "@", "valign": "top", "quote_prefix": True})

    def number(self, shape: str) -> Any:
        if shape not in self._made:
            self._made[shape] = self._book.add_format({"num_format": shape, "valign": "top"})
        return self._made[shape]

    def words(self, value: Any) -> tuple[str, Any]:
        """Return text as a cell takes it, and the look that keeps it harmless; the same words are looked at once."""
        text = str(value)
        if text not in self._texts:
            safe = clean(text, width=LONGEST_TEXT)
            self._texts[text] = safe, self.quoted if safe.startswith(FORMULA_STARTS) else self.text
        return self._texts[text]


def _write(page: Any, sheet: Sheet, formats: _Formats) -> None:
    top = 0
    if sheet.note:
        page.write_string(0, 0, clean(sheet.note, width=1000), formats.note)
        top = 1
    heads = list(sheet.columns)
    for place, head in enumerate(heads):
        page.write_string(top, place, clean(head), formats.head)
    rows = sheet.rows[:LONGEST_SHEET]
    whole = [formats.number(sheet.formats.get(head, "#,##0")) for head in heads]
    broken = [formats.number(sheet.formats.get(head, "0.000")) for head in heads]
    for down, row in enumerate(rows, start=top + 1):
        for place, value in enumerate(row):
            if value is None:
                continue
            if isinstance(value, str):
                page.write_string(down, place, *formats.words(value))
            elif isinstance(value, bool):
                page.write_string(down, place, "yes" if value else "no", formats.text)
            elif isinstance(value, int):
                page.write_number(down, place, value, whole[place])
            elif not isinstance(value, float):
                page.write_string(down, place, *formats.words(value))
            elif math.isfinite(value):
                page.write_number(down, place, value, broken[place])
    page.freeze_panes(top + 1, 1)
    if rows:
        page.autofilter(top, 0, top + len(rows), len(heads) - 1)
    for place, head in enumerate(heads):
        longest = max([len(head) // 2 + 1, *(len(_plain(row[place])) for row in rows[:_MEASURED])])
        page.set_column(place, place, min(max(longest + 2, _NARROW), _WIDE))


def _plain(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str("" if value is None else value)


def _number(text: str) -> int | float | str | None:
    """Return a shown number as a number again; what is hidden or rounded stays text, and a dash is an empty cell."""
    bare = text.replace(",", "").replace("−", "-")
    if bare == "–":
        return None
    try:
        return int(bare) if bare.lstrip("-").isdigit() else float(bare)
    except ValueError:
        return text


def _results(protected: pl.DataFrame, *, small_cell: int) -> Sheet:
    columns = meanings(PhenotypeResults, protected.columns)
    columns[ROUNDED] = "whether the counts of this row are rounded to tens, because one of them is hidden"
    rows = [
        [hidden(value, small_cell=small_cell) if name in COUNTS else value for name, value in row.items()]
        for row in protected.iter_rows(named=True)
    ]
    return Sheet("Results", columns, rows, formats=dict.fromkeys(P_VALUES, "0.00E+00"))


def _chapters(chapters: pl.DataFrame, protected: pl.DataFrame) -> Sheet:
    veiled = veiled_chapters(protected)
    blank = pl.col("chapter").is_in(sorted(veiled))
    shown = chapters.sort("chapter_order", "chapter").with_columns(
        pl.when(~blank).then(pl.col(c).round(3)).alias(c) for c in ("mean_auc", "median_auc")
    )
    return Sheet("Chapters", meanings(ChapterResults, shown.columns), shown.rows())


def _overview(overview: pl.DataFrame, *, small_cell: int, rounded: bool) -> Sheet:
    rows = overview_rows(overview, small_cell=small_cell, rounded=rounded)
    columns = {"figure": "name of the headline figure", "value": "the figure", "meaning": "in words"}
    return Sheet("Overview", columns, [[r["measure"], _number(r["value"]), r["meaning"]] for r in rows])


def _table1(run: Path, *, small_cell: int) -> list[Sheet]:
    sides, rows = table1_rows(run, small_cell=small_cell)
    if not rows:
        return []
    columns = {"variable": "variable, or level of the variable above", "counted": "patients or encounters"}
    columns |= dict.fromkeys(sides, "number with a value, mean (SD), or count (share)")
    columns |= {f"missing, {side}": "number without a value" for side in sides}
    columns["SMD"] = "standardised mean difference, held out against training (Austin, Stat Med 2009)"
    cells = [
        [("    " if r["level"] else "") + r["what"], r["unit"], *r["cells"], *r["missing"], r["smd"]] for r in rows
    ]
    return [Sheet("Table 1", columns, cells)]


def _flow(run: Path, *, small_cell: int, rounded: bool) -> Sheet:
    steps = flow.flow_steps(Flow.read_all(run), small_cell=small_cell, rounded=rounded)
    columns = {
        "step": "step of the run",
        "counted": "patients, encounters, recordings, segments or rows",
        "in": "number before",
        "lost": "number taken away; for a note, number concerned",
        "out": "number after",
        "reason": "why, in words",
        "note": "whether this is a count and no loss",
    }
    rows = [
        [s.step, s.unit, *(_number(text) for text in (s.n_in, s.lost, s.n_out)), s.reason, s.is_note] for s in steps
    ]
    return Sheet("Flow", columns, rows, note="A count that is hidden or rounded is text.")


def _rejected(run: Path, *, small_cell: int) -> Sheet:
    rows = flow.reject_counts(Rejects.read_all(run), small_cell=small_cell)
    columns = {
        "table": "table that the rows would have entered",
        "rows": "source rows or files",
        "reason": "why they were not taken as they stood",
        "code": "the reason's code",
    }
    return Sheet("Rejected", columns, [[r["table"], _number(r["n"]), r["reason"], r["code"]] for r in rows])


def _definitions(run: Path) -> list[Sheet]:
    named = Phenotypes.read(run)
    columns = meanings(Phenotypes, ["phenotype", "description", "chapter", "sex", "vocabulary", "same_as"])
    sheets = [Sheet("Phenotypes", columns, named.select(list(columns)).rows())]
    if (run / Definitions.file).is_file():
        words = named.select("phenotype", "description")
        pairs = Definitions.read(run).join(words, on="phenotype", how="left", maintain_order="left")
        columns = meanings(Definitions, Definitions.columns()) | {"description": "of the phenotype, in words"}
        note = "A phenotype also counts the codes of the phenotypes that roll up to it."
        if pairs.height > LONGEST_SHEET:
            note = f"The first {LONGEST_SHEET:,} of {pairs.height:,} codes. {note}"
        sheets.append(Sheet("Codes", columns, pairs.select(list(columns)).rows(), note=note))
    return sheets


def _unmapped(unmapped: pl.DataFrame, *, small_cell: int) -> Sheet:
    counts = hide_small(
        unmapped.sort(["n_rows", "code", "vocabulary"], descending=[True, False, False]),
        ["n_rows", "n_patients"], small_cell=small_cell,
    )  # fmt: skip
    columns = meanings(Unmapped, ["code", "vocabulary", "n_rows", "n_patients", "reason"])
    rows = [
        [r["code"], r["vocabulary"], *(hidden(r[c], small_cell=small_cell) for c in ("n_rows", "n_patients")),
         r["reason"]]
        for r in counts.iter_rows(named=True)
    ]  # fmt: skip
    return Sheet("Not mapped", columns, rows, note="Codes of the cohort that reached no phenotype.")


def _settings(meta: ReportMeta) -> Sheet:
    rows: list[list[Any]] = [["command", meta.command], ["seed", str(meta.seed)]]
    rows += [[f"encoder: {name}", text] for name, text in meta.encoder_card.items()]
    rows += [[name, text] for name, text in flat(meta.settings)]
    rows += [["version: python", python_version()], *([f"version: {p}", v] for p, v in _versions())]
    return Sheet("Settings", {"setting": "name", "value": "what it was for this run"}, rows)


def _versions() -> list[tuple[str, str]]:
    found = []
    for package in PACKAGES:
        try:
            found.append((package, metadata.version(package)))
        except metadata.PackageNotFoundError:
            continue
    return found


def _front(meta: ReportMeta, sheets: Sequence[Sheet], *, small_cell: int) -> Sheet:
    hidden = (
        f"Counts of 1 to {small_cell - 1} are hidden, counts beside them rounded to tens, and estimates that rest on "
        f"fewer than {small_cell} patients blank."
    )
    rows = [
        ["question", "Which diseases can this biosignal encoder see?"],
        ["cohort", meta.title],
        ["encoder", meta.encoder],
        ["made by", f"phewas {meta.version}"],
        *(["warning", text] for text in meta.warnings),
        ["small cells", hidden if small_cell > 1 else "None are hidden: the cohort is public."],
        *(["sheet", sheet.name] for sheet in sheets),
        ["sheet", "Columns (what every column means)"],
    ]
    return Sheet("Read me", {"what": "", "text": ""}, rows)


def _explained(sheets: Sequence[Sheet]) -> Sheet:
    rows = [[sheet.name, name, doc] for sheet in sheets for name, doc in sheet.columns.items() if doc]
    return Sheet("Columns", {"sheet": "", "column": "", "meaning": ""}, rows)
