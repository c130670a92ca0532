"""Comma-separated tables read as text, by column name, with every data row numbered and none lost.

The rows are taken apart by the parser of the standard library (RFC 4180: quoted commas, quotes and line breaks),
because it alone says how many fields each row had; a row with another number than the header is handed back as a loss
instead of being filled up or cut.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from phewas.cohorts.base import lose
from phewas.errors import CohortError, nearest
from phewas.schema import DATETIME, Rejects

CHUNK_ROWS = 200_000  # bounds the memory that Python strings take before they become a column


@dataclass(frozen=True)
class TextTable:
    """A table as read. `rows` holds ``source_row`` (Int64, from 1) and text columns; a blank cell is null.

    `n_rows` counts every data row of the file, those in `rejects` (too few or too many fields) included.
    """

    rows: pl.DataFrame
    rejects: pl.DataFrame
    n_rows: int


def header_of(path: Path) -> list[str]:
    """Return the column names of a file, trimmed.

    Raises
    ------
    CohortError
        The file is empty, is not text, or names a column twice.
    """
    for _, row in _parse(path):
        names = [name.strip() for name in row]
        twice = sorted({n for n in names if names.count(n) > 1})
        if twice:
            raise CohortError(f"{path.name} names the column {twice[0]!r} twice", expected="one column of each name")
        return names
    raise CohortError(f"{path.name} is empty", expected="a header line and data rows", cure="download the file again")


def count_rows(path: Path) -> int:
    """Return the number of data rows of a file with a header, without keeping them."""
    return max(sum(1 for _ in _parse(path)) - 1, 0)


def read_table(
    path: Path, *, needs: Sequence[str], table: str, others: bool = False,
    keep: Callable[[pl.DataFrame], pl.Series] | None = None,
) -> TextTable:  # fmt: skip
    """Read columns of a comma-separated file as text.

    Parameters
    ----------
    path
        File in UTF-8, with or without byte order mark; a byte that is no UTF-8 becomes U+FFFD.
    needs
        Columns that must be there; order and further columns do not matter.
    table
        Name of the table that the rows were to enter; it goes into the rejects.
    others
        Keep the file's further columns too.
    keep
        Says for a part of the rows which of them stay, so that memory is bounded by those. None keeps all.

    Returns
    -------
    TextTable
        Cells are trimmed of surrounding white space. Blank lines count as rows with too few fields, so that row
        numbers agree with those of a spreadsheet.

    Raises
    ------
    CohortError
        A column is missing (the nearest name is suggested), or the file is empty or no such table.
    """
    names = header_of(path)
    for need in needs:
        if need not in names:
            raise CohortError(
                f"{path.name} has no column {need!r}.{nearest(need, [n for n in names if n not in needs])}",
                expected=", ".join(needs),
                cure=f"{path.name} holds: {', '.join(names[:40])}. Rename the column, or download the file again",
            )
    wanted = [*needs, *(n for n in names if others and n not in needs)]
    places = [names.index(n) for n in wanted]
    parts, bad_rows, bad_found = [], [], []
    cells: list[list[str]] = [[] for _ in wanted]
    numbers: list[int] = []
    n_rows = 0

    def flush() -> None:
        frame = pl.DataFrame(
            {"source_row": pl.Series(numbers, dtype=pl.Int64)}
            | {n: pl.Series(c, dtype=pl.String) for n, c in zip(wanted, cells, strict=True)}
        )
        frame = frame.with_columns(blank_to_null(pl.col(n)).alias(n) for n in wanted)
        parts.append(frame if keep is None else frame.filter(keep(frame)))
        numbers.clear()
        for column in cells:
            column.clear()

    for number, row in _parse(path):
        if number == 0:
            continue
        n_rows = number
        if len(row) != len(names):
            bad_rows.append(number)
            bad_found.append(f"{len(row)} fields instead of {len(names)}")
            continue
        numbers.append(number)
        for column, place in zip(cells, places, strict=True):
            column.append(row[place])
        if len(numbers) == CHUNK_ROWS:
            flush()
    flush()
    bad = pl.DataFrame({"source_row": pl.Series(bad_rows, dtype=pl.Int64), "d": pl.Series(bad_found, dtype=pl.String)})
    rejects = (
        lose(bad, table=table, source=path.stem, reason="short_row", detail=pl.col("d"))
        if bad_rows
        else Rejects.empty()
    )
    return TextTable(pl.concat(parts), rejects, n_rows)


def _parse(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Yield (row number, fields) with 0 for the header; a damaged file is told in words."""
    try:
        with path.open(encoding="utf-8-sig", errors="replace", newline="") as handle:
            reader = csv.reader(handle, strict=True)
            try:
                yield from enumerate(reader)
            except csv.Error as error:
                raise CohortError(
                    f"{path.name} is damaged near line {reader.line_num}: {error}",
                    expected="comma-separated rows; a field with commas, quotes or line breaks stands in double quotes",
                    cure="compare the file's checksum with the publisher's, and download it again",
                ) from error
    except OSError as error:
        raise CohortError(
            f"{path.name} cannot be read: {error.strerror}", cure="check the file's permissions"
        ) from error


def blank_to_null(text: pl.Expr) -> pl.Expr:
    """Return trimmed text, null where nothing is left."""
    trimmed = text.str.strip_chars()
    return pl.when(trimmed != "").then(trimmed)


def parse_time(text: pl.Expr) -> pl.Expr:
    """Return ``datetime[us]`` of times such as ``2264-03-01T07:05:09Z``; null where the text is no time.

    The ``Z``, the fraction, the seconds and the whole time of day may be missing, and a blank may stand for the ``T``.
    Shifted hospital clocks carry a ``Z`` without being UTC, so it is dropped, not converted. Microseconds, because
    nanoseconds end in the year 2262.
    """
    plain = text.str.strip_chars().str.replace(r"(?:Z|z|\+00:?00)$", "").str.replace(r"^(.{10})[ t]", "${1}T")
    full = (
        pl.when(plain.str.contains(r"^\d{4}-\d{2}-\d{2}$")).then(plain + "T00:00:00")
        .when(plain.str.contains(r"^\d{4}-\d{2}-\d{2}T\d{2}:\d{2}$")).then(plain + ":00")
        .when(plain.str.contains(r"^\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}(?:\.\d{1,9})?$")).then(plain)
    )  # fmt: skip
    return full.str.to_datetime("%Y-%m-%dT%H:%M:%S%.f", time_unit="us", strict=False).cast(DATETIME)


def parse_number(text: pl.Expr) -> pl.Expr:
    """Return Float64; a decimal comma is read as a point, anything else that is no finite number is null."""
    value = text.str.strip_chars().str.replace(r"^([+-]?\d+),(\d+)$", "${1}.${2}").cast(pl.Float64, strict=False)
    return pl.when(value.is_finite()).then(value)
