"""What a table contract is: columns with their dtype and meaning, checked at every boundary."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import polars as pl

from phewas.errors import SchemaError

DATETIME = pl.Datetime("us")


@dataclass(frozen=True)
class Column:
    """One column: its dtype, its meaning, whether null is allowed and which values are."""

    dtype: Any
    doc: str
    nullable: bool = False
    values: tuple[str, ...] | None = None


class Table:
    """A table contract. Subclasses list their columns as class attributes; `prefix` allows further columns so named."""

    file: ClassVar[str] = ""
    key: ClassVar[tuple[str, ...]] = ()
    prefix: ClassVar[str | tuple[str, ...] | None] = None

    @classmethod
    def columns(cls) -> dict[str, Column]:
        """Return the declared columns in order."""
        return {name: value for name, value in vars(cls).items() if isinstance(value, Column)}

    @classmethod
    def dtypes(cls) -> dict[str, Any]:
        """Return column names with their polars dtypes."""
        return {name: column.dtype for name, column in cls.columns().items()}

    @classmethod
    def empty(cls) -> pl.DataFrame:
        """Return a frame with no rows and every declared column."""
        return pl.DataFrame(schema=cls.dtypes())

    @classmethod
    def build(cls, rows: Iterable[dict[str, Any]]) -> pl.DataFrame:
        """Return a frame of the declared columns from dictionaries; a missing key is null."""
        return pl.DataFrame(list(rows), schema=cls.dtypes(), orient="row")

    @classmethod
    def check(cls, frame: pl.DataFrame) -> pl.DataFrame:
        """Return `frame` with the declared columns first and in order.

        Raises
        ------
        SchemaError
            A column is missing, unknown, of another dtype, null where it must not be, outside its values, or the
            key is not unique.
        """
        declared, name = cls.columns(), cls.__name__.lower()
        missing = [c for c in declared if c not in frame.columns]
        if missing:
            raise SchemaError(f"table {name} lacks the columns {missing}", expected=", ".join(declared))
        extra = [c for c in frame.columns if c not in declared]
        stray = [c for c in extra if cls.prefix is None or not c.startswith(cls.prefix)]
        if stray:
            raise SchemaError(f"table {name} has columns it does not know: {stray}", expected=", ".join(declared))
        for column, rule in declared.items():
            series = frame.get_column(column)
            if series.dtype != rule.dtype:
                raise SchemaError(f"{name}.{column} is {series.dtype}", expected=str(rule.dtype))
            if not rule.nullable and series.null_count():
                raise SchemaError(f"{name}.{column} is null in {series.null_count()} rows", expected=rule.doc)
            if rule.values is not None:
                odd = series.drop_nulls().unique().filter(~series.drop_nulls().unique().is_in(list(rule.values)))
                if len(odd):
                    raise SchemaError(f"{name}.{column} holds {odd.to_list()[:5]}", expected=" / ".join(rule.values))
        if cls.key and frame.select(cls.key).is_duplicated().any():
            raise SchemaError(f"{name} has several rows for one {' + '.join(cls.key)}", expected="one row each")
        return frame.select([*declared, *extra])

    @classmethod
    def write(cls, frame: pl.DataFrame, run: Path) -> Path:
        """Check `frame` and write it to its place below the run directory, under a temporary name first."""
        from phewas.rundir import write_parquet

        return write_parquet(cls.check(frame), run / cls.file)

    @classmethod
    def read(cls, run: Path) -> pl.DataFrame:
        """Read the table from the run directory and check it."""
        source = run / cls.file
        if not source.is_file():
            raise SchemaError(
                f"{source} is missing",
                expected=f"the table {cls.__name__.lower()}",
                cure="run the step that writes it: phewas run",
            )
        return cls.check(pl.read_parquet(source, hive_partitioning=False))


class Chain(Table):
    """A table that several steps write a part of, each to a file of its own."""

    later: ClassVar[tuple[str, ...]] = ()

    @classmethod
    def read_all(cls, run: Path) -> pl.DataFrame:
        """Read the cohort's part and, where they are there, the later steps' parts, in order."""
        parts = [run / cls.file, *(run / name for name in cls.later if (run / name).is_file())]
        return pl.concat([cls.read(run), *(cls.check(pl.read_parquet(part)) for part in parts[1:])])
