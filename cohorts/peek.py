"""The first rows of a large table, and an estimate of how many there are, in a fraction of a second."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from phewas.cohorts.csvtext import blank_to_null
from phewas.errors import CohortError

PEEK_BYTES = 8 * 2**20


@dataclass(frozen=True)
class Peek:
    """What the head of a table shows.

    Attributes
    ----------
    columns
        The header, trimmed; ``column_1``, ... for a file without one.
    rows
        Text columns, null where blank; rows with another number of fields than the header are left out.
    n_rows
        Data rows of the whole file: counted where the file was read to its end, else estimated from its size.
    exact
        Whether `n_rows` was counted.
    n_short
        Rows of the head with another number of fields than the header.
    """

    columns: list[str]
    rows: pl.DataFrame
    n_rows: int
    exact: bool
    n_short: int


def peek(path: Path, *, header: bool = True, max_bytes: int = PEEK_BYTES) -> Peek:
    """Read the head of a comma-separated file.

    Parameters
    ----------
    path
        File in UTF-8, with or without byte order mark.
    header
        Whether the first line names the columns.
    max_bytes
        How much of the file is read.

    Raises
    ------
    CohortError
        The file is empty or cannot be read.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as handle:
            head = handle.read(max_bytes)
    except OSError as error:
        raise CohortError(f"{path.name} cannot be read: {error.strerror}", cure="check the path") from error
    whole = len(head) == size
    text = head.decode("utf-8-sig", errors="replace")
    reader = csv.reader(io.StringIO(text, newline=""))
    try:
        rows = list(reader)
    except csv.Error as error:
        found = f"{path.name} is no comma-separated table: {error}"
        raise CohortError(found, cure="download the file again") from error
    if not whole and rows:
        rows.pop()  # cut anywhere
    if not rows:
        raise CohortError(f"{path.name} is empty", expected="data rows", cure="download the file again")
    columns = [n.strip() for n in rows.pop(0)] if header else [f"column_{i + 1}" for i in range(len(rows[0]))]
    good = [row for row in rows if len(row) == len(columns)]
    names = [name if columns.count(name) == 1 else f"{name}_{i}" for i, name in enumerate(columns)]
    frame = pl.DataFrame(good, schema=dict.fromkeys(names, pl.String), orient="row")
    n_rows = len(rows) if whole else round(len(rows) * size / len(head))
    cells = frame.with_columns(blank_to_null(pl.col(n)).alias(n) for n in names)
    return Peek(columns, cells, n_rows, whole, len(rows) - len(good))
