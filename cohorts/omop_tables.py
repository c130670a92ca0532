"""The tables of an OMOP database, from files or from a DuckDB file, as numbered text rows."""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from phewas.cohorts.anyfile import ABSENT, by_lower_case, find_tables, has_tabs, read_any, scan_parquet, text_of
from phewas.cohorts.base import CohortCard
from phewas.cohorts.csvtext import CHUNK_ROWS, TextTable
from phewas.errors import CohortError, nearest
from phewas.schema import Rejects

TABLES = ("person", "visit_occurrence", "condition_occurrence")
OPTIONAL = ("concept", "observation")
VOCABULARIES = ("ICD9CM", "ICD10CM", "ICD10")
OBSERVATION = ("person_id", "observation_date", "observation_source_concept_id")
OBSERVATION_TOO = ("visit_occurrence_id", "observation_source_value")
CONCEPT = ("concept_id", "vocabulary_id", "concept_code")


@dataclass(frozen=True)
class Store:
    """Tables by name. `database` is an open DuckDB connection, or None where the tables are files of their own."""

    files: tuple[Path, ...]
    tables: dict[str, Path]
    database: Any = None

    def has(self, name: str) -> bool:
        """Tell whether a table is there."""
        return name in self.tables

    def read(self, name: str, *, needs: Sequence[str], table: str, optional: Sequence[str] = ()) -> TextTable:
        """Return columns of a table as numbered text; see `phewas.cohorts.anyfile.read_any`."""
        if self.database is None:
            return read_any(self.tables[name], needs=needs, optional=optional, table=table, source=name)
        wanted = list(dict.fromkeys([*needs, *optional]))
        there = self._columns(name, needs)
        # Rows of a database have no order of their own; sorted text gives the same numbers on every run.
        listed = ", ".join(f'CAST("{there[c]}" AS VARCHAR) AS "{c}"' for c in wanted if c in there)
        frame = self._ask(f'SELECT {listed} FROM "{self.tables[name].name}" ORDER BY ALL', name)
        text = text_of(frame)
        number = pl.Series("source_row", range(1, len(frame) + 1), dtype=pl.Int64)
        rows = text.select(number, *(pl.col(c) if c in there else ABSENT.alias(c) for c in wanted))
        return TextTable(rows, Rejects.empty(), len(frame))

    def icd_concepts(self, used: pl.Series) -> pl.DataFrame:
        """Return concept_id, vocabulary_id and concept_code of the ICD concepts among those `used`; all text.

        Without a concept table there are none, and every code is read from its source value.
        """
        empty = pl.DataFrame(schema=dict.fromkeys(CONCEPT, pl.String))
        ids = used.drop_nulls().unique().sort()
        if not self.has("concept") or not len(ids):
            return empty
        wanted = pl.col("concept_id").is_in(ids.implode()) & pl.col("vocabulary_id").is_in(VOCABULARIES)
        return self._concepts(wanted).drop_nulls().unique("concept_id", keep="first", maintain_order=True)

    def _concepts(self, wanted: pl.Expr) -> pl.DataFrame:
        if self.database is not None:
            return self.read("concept", needs=CONCEPT, table="diagnoses").rows.filter(wanted).select(CONCEPT)
        path = self.tables["concept"]
        if path.name.lower().endswith(".parquet"):
            lazy, places = scan_parquet(path, needs=CONCEPT)
            texts = lazy.select(pl.col(places[c]).cast(pl.String).alias(c) for c in CONCEPT)
            try:
                return texts.filter(wanted).collect()
            except (pl.exceptions.PolarsError, OSError) as error:
                raise CohortError(f"{path.name} is damaged", cure="obtain it again") from error
        # A vocabulary has millions of concepts and a hospital uses thousands: only those are kept while it streams by.
        tabs = has_tabs(path)
        try:
            lazy = pl.scan_csv(
                path, separator="\t" if tabs else ",", quote_char=None if tabs else '"', infer_schema=False,
                truncate_ragged_lines=True, encoding="utf8-lossy",
            )  # fmt: skip
            places = by_lower_case(lazy.collect_schema().names(), path.name, CONCEPT)
            blanks = (pl.col(places[c]).str.strip_chars().alias(c) for c in CONCEPT)
            return lazy.select(blanks).filter(wanted).collect()
        except (pl.exceptions.PolarsError, OSError) as error:
            raise CohortError(f"{path.name} is damaged: {type(error).__name__}", cure="obtain it again") from error

    def observations(self) -> TextTable:
        """Return the rows of ``observation`` whose source concept is an ICD code; no other row is a diagnosis."""
        columns = (*OBSERVATION, *OBSERVATION_TOO)
        none = pl.DataFrame(schema={"source_row": pl.Int64} | dict.fromkeys(columns, pl.String))
        if not self.has("observation") or not self.has("concept"):
            return TextTable(none, Rejects.empty(), 0)
        got = self.read("observation", needs=OBSERVATION, optional=OBSERVATION_TOO, table="diagnoses")
        known = self.icd_concepts(got.rows["observation_source_concept_id"])["concept_id"]
        rows = got.rows.filter(pl.col("observation_source_concept_id").is_in(known.implode()).fill_null(value=False))
        return TextTable(rows.select("source_row", *columns), got.rejects, got.n_rows)

    def _columns(self, name: str, needs: Sequence[str]) -> dict[str, str]:
        frame = self._ask(f'SELECT * FROM "{self.tables[name].name}" LIMIT 0', name)
        lower = {c.lower(): c for c in frame.columns}
        for need in needs:
            if need not in lower:
                raise CohortError(f"the table {name} has no column {need!r}.{nearest(need, lower)}",
                                  expected=", ".join(needs))  # fmt: skip
        return lower

    def _ask(self, query: str, name: str) -> pl.DataFrame:
        try:
            found = self.database.execute(query)
            # Every column is asked for as text, so that plain rows do: no version of Arrow has to agree with another.
            schema = {str(column[0]): pl.String for column in found.description}
            parts = [pl.DataFrame(schema=schema)]
            while rows := found.fetchmany(CHUNK_ROWS):
                parts.append(pl.DataFrame(rows, schema=schema, orient="row"))
        except _duckdb().Error as error:
            raise CohortError(f"the table {name} of the database cannot be read: {type(error).__name__}",
                              expected="the tables of OMOP CDM 5.4") from error  # fmt: skip
        return pl.concat(parts)


def _duckdb() -> Any:
    """Return the optional package; asked for by name, because it may not be there."""
    return importlib.import_module("duckdb")


@contextlib.contextmanager
def open_store(root: Path, card: CohortCard) -> Iterator[Store]:
    """Open the tables in a folder, or the one DuckDB file in it.

    Raises
    ------
    CohortError
        A needed table is missing, there are several databases, or DuckDB is not installed.
    """
    databases = sorted(p for p in root.iterdir() if p.suffix.lower() in (".duckdb", ".ddb") and p.is_file())
    if not databases:
        tables = find_tables([root, *sorted(p for p in root.iterdir() if p.is_dir())], TABLES, optional=OPTIONAL,
                             card=card)  # fmt: skip
        yield Store(tuple(tables.values()), tables)
        return
    if len(databases) > 1:
        raise CohortError(f"{root} holds {len(databases)} databases: {', '.join(p.name for p in databases)}",
                          expected="one", cure="move the others out of the folder")  # fmt: skip
    try:
        duckdb = _duckdb()
    except ImportError as error:
        raise CohortError(
            f"{databases[0].name} is a DuckDB file, and duckdb is not installed",
            expected="the Python package duckdb, or the tables as CSV or Parquet files",
            cure="pip install duckdb",
        ) from error
    try:
        connection = duckdb.connect(str(databases[0]), read_only=True)
    except duckdb.Error as error:
        raise CohortError(f"{databases[0].name} cannot be opened: {type(error).__name__}",
                          expected="a DuckDB file that no other program is writing to") from error  # fmt: skip
    try:
        listed = connection.execute(
            "SELECT table_name FROM information_schema.tables ORDER BY table_schema, table_name"
        )
        names = [row[0] for row in listed.fetchall()]
        tables = {n.lower(): root / n for n in names if n.lower() in (*TABLES, *OPTIONAL)}
        missing = [n for n in TABLES if n not in tables]
        if missing:
            raise CohortError(f"{databases[0].name} lacks the tables {', '.join(missing)}",
                              expected=", ".join(TABLES), cure=card.obtain)  # fmt: skip
        yield Store((databases[0],), tables, connection)
    finally:
        connection.close()
