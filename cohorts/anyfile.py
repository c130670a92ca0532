"""Tables in whatever file they come: comma or tab separated text, the same compressed with gzip, or Parquet.

Every table leaves here as text columns with numbered rows (`phewas.cohorts.csvtext.TextTable`), so that a source says
once what its columns mean and not once per file format. Column names are compared in lower case, because the same
release comes in both spellings.
"""

from __future__ import annotations

import contextlib
import csv
import gzip
import re
import shutil
import tempfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import polars as pl

from phewas.cohorts.base import CohortCard
from phewas.cohorts.csvtext import TextTable, blank_to_null, header_of, read_table
from phewas.errors import CohortError, nearest
from phewas.schema import Rejects

SUFFIXES = (".csv", ".csv.gz", ".tsv", ".tsv.gz", ".parquet")
# What `column_of` puts where a table has no such column.
ABSENT = pl.lit(None, dtype=pl.String)


def stem_of(path: Path) -> str:
    """Return a table's name without its suffixes, in lower case: ``PATIENTS.csv.gz`` is ``patients``."""
    return re.sub(r"\.(csv|tsv|parquet)(\.gz)?$", "", path.name, flags=re.IGNORECASE).lower()


def find_table(folder: Path, name: str) -> Path | None:
    """Return the file of the table `name` in a folder, whatever its case and suffix; None where there is none.

    Raises
    ------
    CohortError
        Two files hold that table, and they may differ.
    """
    if not folder.is_dir():
        return None
    found = sorted(p for p in folder.iterdir() if p.is_file() and _is_table(p) and stem_of(p) == name.lower())
    if len(found) > 1:
        raise CohortError(
            f"{folder.name}/ holds the table {name} more than once: {', '.join(p.name for p in found)}",
            expected=f"one file, such as {name}.csv.gz",
            cure="keep one of them, and move the others out of the data folder",
        )
    return found[0] if found else None


def _is_table(path: Path) -> bool:
    return not path.name.startswith(".") and path.name.lower().endswith(SUFFIXES)


def find_tables(
    places: Sequence[Path], names: Sequence[str], *, optional: Sequence[str] = (), card: CohortCard
) -> dict[str, Path]:
    """Return the files of the tables by name, all from the first of `places` that holds any of the needed ones.

    Raises
    ------
    CohortError
        A needed table is missing; the message names each, and what the folder holds instead.
    """
    base = next((p for p in places if any(find_table(p, n) for n in names)), None)
    held = {n: find_table(base, n) for n in (*names, *optional)} if base else {}
    missing = [n for n in names if held.get(n) is None]
    if missing:
        shown = base or places[0]
        inside = sorted(p.name + ("/" if p.is_dir() else "") for p in shown.iterdir() if not p.name.startswith("."))
        raise CohortError(
            f"{shown} is not a folder of {card.title}: {', '.join(missing)} missing. Found there: "
            f"{', '.join(inside[:12]) or 'nothing'}{', ...' if len(inside) > 12 else ''}",
            expected=", ".join(f"{n}.csv or {n}.csv.gz" for n in names),
            cure=card.obtain,
        )
    return {n: p for n, p in held.items() if p is not None}


@contextlib.contextmanager
def as_plain_csv(path: Path) -> Iterator[Path]:
    """Give a comma-separated, uncompressed file of the same name; the very file where it is one already.

    Raises
    ------
    CohortError
        The file is damaged or is not text.
    """
    packed = path.name.lower().endswith(".gz")
    if not packed and not has_tabs(path):
        yield path
        return
    with tempfile.TemporaryDirectory() as scratch:
        plain = path
        if packed:
            plain = Path(scratch) / re.sub(r"\.gz$", "", path.name, flags=re.IGNORECASE)
            try:
                with gzip.open(path) as source, plain.open("wb") as target:
                    shutil.copyfileobj(source, target, 1 << 20)
            except (OSError, EOFError, zlib.error) as error:
                raise CohortError(
                    f"{path.name} is damaged: it cannot be unpacked",
                    expected="a whole gzip file",
                    cure="compare the file's checksum with the publisher's, and download it again",
                ) from error
        if has_tabs(plain):
            commas = Path(scratch) / "commas" / plain.name
            commas.parent.mkdir()
            try:
                with (
                    plain.open(encoding="utf-8-sig", errors="replace", newline="") as source,
                    commas.open("w", encoding="utf-8", newline="") as target,
                ):
                    # Tab separated tables of vocabularies and exports do not quote: a quote is a character there.
                    rows = csv.reader(source, delimiter="\t", quoting=csv.QUOTE_NONE)
                    csv.writer(target).writerows(rows)
            except csv.Error as error:
                raise CohortError(f"{path.name} is damaged: {error}", cure="download the file again") from error
            plain = commas
        yield plain


def has_tabs(path: Path) -> bool:
    """Tell whether the first line is separated by tabs and not by commas.

    Raises
    ------
    CohortError
        The file cannot be opened or unpacked.
    """
    try:
        opened = gzip.open if path.name.lower().endswith(".gz") else Path.open
        with opened(path, "rb") as handle:
            first = handle.readline(65_536).decode("utf-8", "replace")
    except (OSError, EOFError, zlib.error) as error:
        raise CohortError(
            f"{path.name} cannot be read: {type(error).__name__}", cure="check its permissions, or obtain it again"
        ) from error
    return "\t" in first and "," not in first


def read_any(
    path: Path, *, needs: Sequence[str], table: str, optional: Sequence[str] = (), source: str | None = None,
    only: pl.Expr | None = None,
) -> TextTable:  # fmt: skip
    """Read columns of a table as text, whatever its file format.

    Parameters
    ----------
    path
        ``.csv``, ``.tsv``, either with ``.gz``, or ``.parquet``.
    needs, optional
        Columns in lower case; a needed one must be there, an optional one is null throughout where it is not.
    table
        Name of the table that the rows were to enter; it goes into the rejects.
    source
        Name of the source table in the rejects; the file's name without suffix by default.
    only
        Keep the rows for which this expression over text columns that must be there is true; `n_rows` counts all. A
        table larger than memory can then be read.

    Returns
    -------
    TextTable
        `rows` holds ``source_row`` and exactly the columns asked for, in lower case.

    Raises
    ------
    CohortError
        A column is missing or there twice, or the file cannot be read.
    """
    wanted = list(dict.fromkeys([*needs, *optional]))
    name = source or stem_of(path)
    if path.name.lower().endswith(".parquet"):
        frame, n_rows = _parquet(path, wanted, needs, only)
        return TextTable(frame, Rejects.empty(), n_rows)
    with as_plain_csv(path) as plain:
        places = by_lower_case(header_of(plain), path.name, needs)
        there = [c for c in wanted if c in places]
        ours = {places[c]: c for c in there}

        def keep(part: pl.DataFrame) -> pl.Series:
            return part.rename(ours).select(only).to_series()

        got = read_table(plain, needs=list(ours), table=table, keep=None if only is None else keep)
    rows = got.rows.select("source_row", *(pl.col(places[c]).alias(c) if c in places else ABSENT.alias(c)
                                           for c in wanted))  # fmt: skip
    return TextTable(rows, got.rejects.with_columns(pl.lit(name).alias("source")), got.n_rows)


def by_lower_case(names: Sequence[str], file: str, needs: Sequence[str]) -> dict[str, str]:
    """Return the file's column names by their lower case.

    Raises
    ------
    CohortError
        Two names differ in case only, or a needed one is missing.
    """
    lower = [n.lower() for n in names]
    twice = sorted({n for n in lower if n and lower.count(n) > 1})
    if twice:
        raise CohortError(f"{file} names the column {twice[0]!r} twice", expected="one column of each name")
    for need in needs:
        if need not in lower:
            raise CohortError(
                f"{file} has no column {need!r}.{nearest(need, [n for n in lower if n not in needs])}",
                expected=", ".join(needs),
                cure=f"{file} holds: {', '.join(names[:40])}. Rename the column, or obtain the file again",
            )
    return dict(zip(lower, names, strict=True))


def scan_parquet(path: Path, *, needs: Sequence[str]) -> tuple[pl.LazyFrame, Mapping[str, str]]:
    """Open a Parquet file without reading its rows; return it and its column names by lower case.

    Raises
    ------
    CohortError
        The file is no Parquet file, or a column is missing.
    """
    try:
        lazy = pl.scan_parquet(path, hive_partitioning=False)
        names = lazy.collect_schema().names()
    except (pl.exceptions.PolarsError, OSError) as error:
        raise CohortError(
            f"{path.name} is not a readable Parquet file", expected="a Parquet file", cure="obtain the file again"
        ) from error
    return lazy, by_lower_case(names, path.name, needs)


def text_of(frame: pl.DataFrame) -> pl.DataFrame:
    """Return every column as text: identifiers stored as floats lose their ``.0``, dates and times become ISO.

    Raises
    ------
    CohortError
        A column holds lists, structures or bytes.
    """
    out = []
    for column in frame.get_columns():
        kind = column.dtype
        if kind.is_nested() or kind == pl.Binary or kind == pl.Object:
            raise CohortError(f"the column {column.name!r} holds {kind}", expected="text, numbers, dates or times")
        if kind.is_float():
            whole = column.drop_nulls().is_finite().all() and (column.drop_nulls() % 1 == 0).all()
            if whole and (not column.drop_nulls().len() or column.abs().max() < 2**53):  # type: ignore[operator]
                column = column.cast(pl.Int64)
        elif isinstance(kind, pl.Datetime):
            # Naive local time is what every table here holds; a zone is dropped as the trailing Z of a text is.
            column = column.dt.replace_time_zone(None).dt.cast_time_unit("us").dt.to_string("%Y-%m-%dT%H:%M:%S%.6f")
        out.append(column.cast(pl.String))
    text = pl.DataFrame(out) if out else frame
    return text.with_columns(blank_to_null(pl.col(c)).alias(c) for c in text.columns)


SLICE_ROWS = 2_000_000  # rows of a Parquet file that are text at a time while most are thrown away


def _parquet(
    path: Path, wanted: Sequence[str], needs: Sequence[str], only: pl.Expr | None
) -> tuple[pl.DataFrame, int]:
    """Return the rows of a Parquet file as numbered text, and how many it has."""
    lazy, places = scan_parquet(path, needs=needs)
    there = [c for c in wanted if c in places]
    chosen = lazy.select(pl.col(places[c]).alias(c) for c in there)
    parts = []
    try:
        n_rows = int(lazy.select(pl.len()).collect().item())
        size = n_rows if only is None else SLICE_ROWS
        for begin in range(0, max(n_rows, 1), max(size, 1)):
            text = text_of(chosen.slice(begin, size).collect())
            number = pl.Series("source_row", range(begin + 1, begin + 1 + len(text)), dtype=pl.Int64)
            text = text.select(number, *(pl.col(c) if c in places else ABSENT.alias(c) for c in wanted))
            parts.append(text if only is None else text.filter(only))
    except (pl.exceptions.PolarsError, OSError) as error:
        raise CohortError(f"{path.name} is damaged", expected="a Parquet file", cure="obtain it again") from error
    return pl.concat(parts), n_rows
