"""From a file of codes to a folder of phenotypes: what `phewas map` does."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import polars as pl

from phewas.errors import ConfigError
from phewas.mappings import columns as naming
from phewas.mappings import mapsummary
from phewas.mappings.columns import Columns
from phewas.mappings.counting import SMALL_BYTES, Options, Work, empty_counts, empty_labels, start
from phewas.mappings.encoding import several_codes
from phewas.mappings.vocabulary import Vocabulary
from phewas.rundir import atomic, write_json, write_text

Form = Literal["parquet", "csv"]


def map_file(
    source: Path,
    *,
    out: Path,
    vocabulary: Vocabulary,
    columns: Columns | None = None,
    options: Options | None = None,
    labels: bool = True,
    form: Form = "parquet",
) -> dict[str, Any]:
    """Map a file of codes to phenotypes and write the results into a folder.

    Written are ``counts`` (patient_id, phenotype, distinct_days, first_date), ``labels`` (patients by phenotypes: 1
    case, 0 control, -1 neither), ``phenotypes``, ``unmapped`` and ``mapped_otherwise`` as tables, `Mapped` says what is
    in them; and ``summary.txt`` and ``summary.json``. A file larger than `SMALL_BYTES` is read as a stream and counted
    block by block, so that memory does not grow with it; the results are the same.

    Parameters
    ----------
    source
        CSV, TSV (also packed, ``.gz`` or ``.zst``) or Parquet.
    out
        Folder for the results; files of these names are replaced, others are left alone.
    vocabulary, columns, options, labels
        As in `phewas.mappings.counting.map_codes`.
    form
        ``parquet`` or ``csv``, of the tables.

    Returns
    -------
    dict
        The summary, as in ``summary.json``.

    Raises
    ------
    SchemaError
        The file or one of its columns cannot be read.
    ConfigError
        Nothing says the code system, an option does not fit the table, or `out` is a file.
    """
    if out.exists() and not out.is_dir():
        raise ConfigError(f"{out} is a file", expected="a folder", cure="give another --out")
    options = options or Options()
    frame = naming.scan(source)
    named = naming.find([n for n in frame.collect_schema().names() if n != naming.SURPLUS], columns or Columns())
    rows = naming.as_text(frame, named)
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".map-", dir=out) as scratch:
        work = _start(rows, source, vocabulary, options, named, Path(scratch))
        with contextlib.ExitStack() as stack:
            counts = stack.enter_context(_Table(out / f"counts.{form}", empty_counts()))
            wide = stack.enter_context(_Table(out / f"labels.{form}", empty_labels(vocabulary))) if labels else None
            for some_counts, some_labels in work.blocks(labels=labels):
                counts.write(some_counts)
                if wide is not None and some_labels is not None:
                    wide.write(some_labels)
    for name, table in _small_tables(work):
        with _Table(out / f"{name}.{form}", table.clear()) as target:
            target.write(table)
    summary = work.summary()
    write_json(summary, out / "summary.json")
    write_text(mapsummary.text(summary), out / "summary.txt")
    return summary


def _start(
    rows: pl.LazyFrame, source: Path, vocabulary: Vocabulary, options: Options, named: Columns, scratch: Path
) -> Work:
    kind = "parquet" if source.suffix.lower() in (".parquet", ".pq") else "text"
    packed = 6 if source.suffix.lower() in (".gz", ".zst") else 1
    if source.stat().st_size * packed > SMALL_BYTES[kind]:
        return start(rows, vocabulary, options, columns=named, scratch=scratch)
    plain = naming.plain(source, named, whole_dates=options.date_format is not None)
    if plain is not None and not several_codes(plain.texts["code"]):
        return start(rows, vocabulary, options, columns=named, scratch=None, plain=plain)
    return start(naming.in_memory(rows, source), vocabulary, options, columns=named, scratch=None)


def _small_tables(work: Work) -> Iterator[tuple[str, pl.DataFrame]]:
    yield "phenotypes", work.phenotypes()
    yield "unmapped", work.unmapped()
    if work.options.walk_up or work.options.restore_zeros:
        yield "mapped_otherwise", work.by_note()


class _Table:
    """A file that takes a table piece by piece, and takes its place only when it is whole."""

    def __init__(self, path: Path, empty: pl.DataFrame) -> None:
        self._path, self._begun = path, False
        self._waiting: pl.DataFrame | pl.LazyFrame = empty
        self._stack = contextlib.ExitStack()
        self._writer: Any = None

    def __enter__(self) -> _Table:
        self._handle = self._stack.enter_context(atomic(self._path))
        return self

    def write(self, piece: pl.DataFrame | pl.LazyFrame) -> None:
        """Add rows. A table of one piece is written in one go, and only a second one needs the slower writer."""
        if self._begun:
            self._append(self._waiting)
        self._waiting, self._begun = piece, True

    def _append(self, rows: pl.DataFrame | pl.LazyFrame) -> None:
        piece = rows.lazy().collect(engine="streaming")
        if self._path.suffix == ".csv":
            piece.write_csv(self._handle, include_header=self._writer is None)
            self._writer = True
            return
        table = piece.to_arrow(compat_level=pl.CompatLevel.oldest())
        if self._writer is None:
            from pyarrow import parquet

            self._writer = parquet.ParquetWriter(self._handle, table.schema, compression="zstd")
            self._stack.callback(self._writer.close)
        self._writer.write_table(table)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            if self._writer is None and self._path.suffix != ".csv":
                self._waiting.lazy().sink_parquet(self._handle, compression="zstd", statistics=True)
            else:
                self._append(self._waiting)
        self._stack.__exit__(kind, error, trace)
