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
# Tables to which a vocabulary moves ICD codes that are no conditions (Z codes, for one), and how their columns begin.
MOVED = {"observation": "observation", "measurement": "measurement", "procedure_occurrence": "procedure"}
OPTIONAL = ("concept", *MOVED)
VOCABULARIES = ("ICD9CM", "ICD10CM", "ICD10")
# A source value that names a diagnosis code system itself; procedure systems have further letters behind the 9 or 10.
NAMED_ICD = r"(?i)(?:^\s*ICD-?(?:9|10)(?:-?CM)?\s*[:|/^])|(?:[|^]\s*ICD-?(?:9|10)(?:-?CM)?\s*$)"
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

    def read(
        self, name: str, *, needs: Sequence[str], table: str, optional: Sequence[str] = (), only: pl.Expr | None = None
    ) -> TextTable:
        """Return columns of a table as numbered text; see `phewas.cohorts.anyfile.read_any`."""
        if self.database is None:
            return read_any(self.tables[name], needs=needs, optional=optional, table=table, source=name, only=only)
        wanted = list(dict.fromkeys([*needs, *optional]))
        there = self._columns(name, needs)
        # Rows of a database have no order of their own; sorted text gives the same numbers on every run.
        listed = ", ".join(f'CAST("{there[c]}" AS VARCHAR) AS "{c}"' for c in wanted if c in there)
        parts, n_rows = [], 0
        for frame in self._ask(f'SELECT {listed} FROM "{self.tables[name].name}" ORDER BY ALL', name):
            number = pl.Series("source_row", range(n_rows + 1, n_rows + 1 + len(frame)), dtype=pl.Int64)
            n_rows += len(frame)
            text = text_of(frame)
            rows = text.select(number, *(pl.col(c) if c in there else ABSENT.alias(c) for c in wanted))
            parts.append(rows if only is None else rows.filter(only))
        return TextTable(pl.concat(parts), Rejects.empty(), n_rows)

    def icd_concepts(self) -> pl.DataFrame:
        """Return concept_id, vocabulary_id and concept_code of the ICD concepts; all text.

        Without a concept table there are none, and every code is read from its source value.
        """
        if not self.has("concept"):
            return pl.DataFrame(schema=dict.fromkeys(CONCEPT, pl.String))
        found = self._concepts(pl.col("vocabulary_id").is_in(VOCABULARIES))
        return found.drop_nulls().unique("concept_id", keep="first", maintain_order=True)

    def _concepts(self, wanted: pl.Expr) -> pl.DataFrame:
        if self.database is not None:
            return self.read("concept", needs=CONCEPT, table="diagnoses", only=wanted).rows.select(CONCEPT)
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

    def moved(self, name: str, concepts: pl.DataFrame) -> TextTable:
        """Return the rows of one of the tables in `MOVED` that hold an ICD code; no other row of it is a diagnosis.

        Such a row has one of the ICD `concepts` as its source concept, or names the code system in its source value.
        In ``procedure_occurrence`` only the concept counts: ICD-9-CM is also the name of a list of procedures.
        """
        kind = MOVED[name]
        needs = ("person_id", f"{kind}_date", f"{kind}_source_concept_id", f"{kind}_source_value")
        concept, value = pl.col(needs[2]), pl.col(needs[3])
        only = concept.is_in(concepts["concept_id"].implode()).fill_null(value=False)
        if name != "procedure_occurrence":
            only |= value.str.contains(NAMED_ICD).fill_null(value=False)
        more = ("visit_occurrence_id", needs[3])
        return self.read(name, needs=needs[:3], optional=more, table="diagnoses", only=only)

    def _columns(self, name: str, needs: Sequence[str]) -> dict[str, str]:
        frame = next(self._ask(f'SELECT * FROM "{self.tables[name].name}" LIMIT 0', name))
        lower = {c.lower(): c for c in frame.columns}
        for need in needs:
            if need not in lower:
                raise CohortError(f"the table {name} has no column {need!r}.{nearest(need, lower)}",
                                  expected=", ".join(needs))  # fmt: skip
        return lower

    def _ask(self, query: str, name: str) -> Iterator[pl.DataFrame]:
        """Yield the rows of an answer in parts; an empty part first, so that there is always one."""
        try:
            found = self.database.execute(query)
            # Every column is asked for as text, so that plain rows do: no version of Arrow has to agree with another.
            schema = {str(column[0]): pl.String for column in found.description}
            yield pl.DataFrame(schema=schema)
            while rows := found.fetchmany(CHUNK_ROWS):
                yield pl.DataFrame(rows, schema=schema, orient="row")
        except _duckdb().Error as error:
            raise CohortError(f"the table {name} of the database cannot be read: {type(error).__name__}",
                              expected="the tables of OMOP CDM 5.4") from error  # fmt: skip


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
