"""What `phewas associate` reads: persons with a predictor and covariates, and phenotypes in three forms."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from phewas.errors import SchemaError, nearest

Floats = NDArray[np.float64]

PATIENT = ("patientid", "personid", "subjectid", "patient", "person", "subject", "id", "mrn", "eid", "pid")
"""Spellings of the patient's column, lower case without blanks and underscores; the first that is there wins."""

LONG = {
    "phenotype": ("phenotype", "phecode"),
    "days": ("distinct_days", "count"),
    "first": ("first_date", "first_event_date"),
}
"""Columns of a long table: of `phewas map` first, then of PheTK."""


def read_table(file: Path) -> pl.DataFrame:
    """Read CSV, TSV or Parquet; text columns named like an identifier or a phenotype stay text.

    Raises
    ------
    SchemaError
        There is no such file, or it cannot be read.
    """
    if not file.is_file():
        raise SchemaError(f"there is no file {file}", expected="a CSV, TSV or Parquet file")
    try:
        if file.suffix.lower() in {".parquet", ".pq"}:
            return pl.read_parquet(file, hive_partitioning=False)
        if file.suffix.lower() not in {".csv", ".tsv", ".txt"}:
            raise SchemaError(f"{file} is neither CSV, TSV nor Parquet", expected="a name that says which")
        separator = "," if file.suffix.lower() == ".csv" else "\t"
        table = pl.read_csv(file, separator=separator, infer_schema=False, null_values=["", "NA", "NaN", "nan"])
    except pl.exceptions.PolarsError as error:
        raise SchemaError(f"{file} cannot be read: {error}", expected="a table with a header") from None
    return table.with_columns(_typed(column) for column in table.iter_columns())


def _typed(column: pl.Series) -> pl.Series:
    """Return a column of text as whole numbers, numbers or dates where all of it can be read so."""
    # 008 is not 8, neither as a phenotype nor as an identifier.
    if _plain(column.name) in PATIENT or column.name in (*LONG["phenotype"], "encounter_id"):
        return column
    first = column.drop_nulls().head(100)
    for kind in (pl.Int64, pl.Float64, pl.Date):
        for some in (first, column):
            try:
                read = some.str.to_date("%Y-%m-%d") if kind is pl.Date else some.cast(kind)
            except pl.exceptions.PolarsError:
                break
        else:
            return read
    return column


def _plain(name: str) -> str:
    return name.lower().replace("_", "").replace(" ", "")


def patient_column(frame: pl.DataFrame, named: str | None, *, what: str) -> str:
    """Return the column of the patient: the one named, or the first with a usual spelling."""
    if named is not None:
        if named not in frame.columns:
            raise SchemaError(f"{what} has no column {named}.{nearest(named, frame.columns)}",
                              expected=", ".join(frame.columns[:20]))
        return named
    for spelling in PATIENT:
        for name in frame.columns:
            if _plain(name) == spelling:
                return name
    raise SchemaError(f"{what} has no column that names the patient", expected="patient_id, person_id, ...",
                      cure="name it with --patient")


@dataclass(frozen=True)
class Design:
    """Covariates as numbers: `values` float64 [N, q] with NaN where unknown, and the names of the columns [q]."""

    values: Floats
    names: tuple[str, ...]


def design(frame: pl.DataFrame, columns: Sequence[str], *, categorical: Sequence[str] = ()) -> Design:
    """Turn columns into covariates: numbers as they are, text and those named categorical into indicators.

    The reference of a categorical covariate is its most frequent value (of equals, the first in order). The choice
    changes no result for the predictor.

    Raises
    ------
    SchemaError
        A column is missing, empty, or neither number, text nor truth value. One with a single value is dropped later,
        with a note, phenotype by phenotype.
    """
    values: list[Floats] = []
    names: list[str] = []
    for name in dict.fromkeys([*columns, *categorical]):
        column = _column(frame, name)
        if name in categorical or column.dtype in (pl.String, pl.Categorical, pl.Enum):
            text = column.cast(pl.String)
            counts = text.drop_nulls().value_counts(name="count").sort(["count", name], descending=[True, False])
            levels = counts[name].to_list()
            if len(levels) > 100:
                raise SchemaError(f"covariate {name} has {len(levels)} different values", expected="at most 100",
                                  cure="give it as numbers")
            for level in levels[1:]:
                values.append((text == level).cast(pl.Float64).fill_null(np.nan).to_numpy())
                names.append(f"{name}={level}")
        else:
            values.append(numbers(column))
            names.append(name)
        if column.null_count() == len(column) or (len(values) and np.isnan(values[-1]).all()):
            raise SchemaError(f"covariate {name} is empty", expected="values", cure="leave it out")
    matrix = np.column_stack(values) if values else np.empty((len(frame), 0))
    return Design(matrix, tuple(names))


def _column(frame: pl.DataFrame, name: str) -> pl.Series:
    if name not in frame.columns:
        raise SchemaError(f"there is no column {name}.{nearest(name, frame.columns)}",
                          expected=", ".join(frame.columns[:20]))
    return frame[name]


def numbers(column: pl.Series) -> Floats:
    """Return a column of numbers or truth values as float64, NaN where null or infinite."""
    if not (column.dtype.is_numeric() or column.dtype == pl.Boolean):
        raise SchemaError(f"column {column.name} is {column.dtype}", expected="numbers")
    values = column.cast(pl.Float64).fill_null(np.nan).to_numpy().copy()
    values[~np.isfinite(values)] = np.nan
    return np.asarray(values, dtype=np.float64)


def predictors(frame: pl.DataFrame, asked: Sequence[str]) -> list[tuple[str, Floats]]:
    """Return name and values [N] of each predictor.

    A number is taken as it is; a text column of two values is 0 and 1 in their order and named after the second;
    ``NAME:3`` is the fourth number of a list column such as ``embedding``, and ``NAME`` all of them.
    """
    found: list[tuple[str, Floats]] = []
    for name in asked:
        base, _, place = name.rpartition(":")
        if name not in frame.columns and base in frame.columns and place.isdigit():
            found.append((name, _lists(frame[base])[:, _within(int(place), frame[base])]))
            continue
        column = _column(frame, name)
        if isinstance(column.dtype, pl.List | pl.Array):
            found += [(f"{name}:{k}", values) for k, values in enumerate(_lists(column).T)]
        elif column.dtype in (pl.String, pl.Categorical, pl.Enum):
            text = column.cast(pl.String)
            levels = sorted(text.drop_nulls().unique().to_list())
            if len(levels) != 2:
                raise SchemaError(f"predictor {name} is text with {len(levels)} different values", expected="two, or "
                                  "numbers")
            found.append((f"{name}={levels[1]}", (text == levels[1]).cast(pl.Float64).fill_null(np.nan).to_numpy()))
        else:
            found.append((name, numbers(column)))
        if not isinstance(column.dtype, pl.List | pl.Array):
            known = found[-1][1][~np.isnan(found[-1][1])]
            if not len(known) or known.min() == known.max():
                told = f"is {known[0]:g} in every row" if len(known) else "is empty"
                raise SchemaError(f"predictor {name} {told}", expected="two values or more")
    return found


def _width(column: pl.Series) -> int:
    lengths = column.cast(pl.List(pl.Float64)).list.len().drop_nulls().unique().to_list()
    if len(lengths) != 1:
        raise SchemaError(f"the lists of {column.name} have lengths {lengths[:5]}", expected="one length")
    return int(lengths[0])


def _within(place: int, column: pl.Series) -> int:
    if place >= _width(column):
        raise SchemaError(f"{column.name}:{place} is asked for", expected=f"0 to {_width(column) - 1}")
    return place


def _lists(column: pl.Series) -> Floats:
    width = _width(column)
    empty = pl.Series([[float("nan")] * width], dtype=pl.List(pl.Float64))
    filled = column.cast(pl.List(pl.Float64)).to_frame().select(pl.all().fill_null(empty.first())).to_series()
    return np.asarray(filled.list.to_array(width).to_numpy(), dtype=np.float64)


@dataclass(frozen=True)
class Outcomes:
    """Phenotypes of the persons of a table.

    Attributes
    ----------
    values
        int8 [N, P] labels (1 case, 0 control, -1 neither), or float64 [N, P] quantities with NaN.
    about
        A row per phenotype: phenotype, description?, chapter?.
    absent
        Persons without any row in the source.
    first
        float64 [N, P], day of the first code since 1970, NaN where there is none; None if the source has no dates.
    """

    values: NDArray[Any]
    about: pl.DataFrame
    absent: int
    first: Floats | None = None


def read_outcomes(
    source: Path, persons: pl.Series, *, patient: str | None = None, min_days: int = 2, quantities: bool = False,
    sex: pl.Series | None = None, dated: bool = False,
) -> Outcomes:
    """Read phenotypes for the persons of a table, in their order.

    Parameters
    ----------
    source
        A folder of `phewas map` (its wide labels; its counts where there are none, or with `dated`), a long table
        (patient, phenotype or phecode, distinct_days or count) or a wide one (patient, a column per phenotype).
    persons
        Identifiers, text [N], each once.
    patient
        Column of the patient in the source; None: by its usual spellings.
    min_days
        Of a long table: days that a case needs; fewer, but some, are neither case nor control, none is a control.
    quantities
        The columns of a wide table are numbers, not labels.
    sex
        F, M or else [N]: of a long table with a table of phenotypes beside it, who of the other or of unknown sex is
        kept from the controls of phenotypes of one sex.
    dated
        First dates are needed.

    Raises
    ------
    SchemaError
        The source cannot be read, is of none of these forms, or no person of the table is in it.
    """
    if not source.exists():
        raise SchemaError(f"there is no {source}", expected="a folder of phewas map, a table or a run directory")
    about = None
    if source.is_dir():
        known = _beside(source, "phenotypes")
        about = None if known is None else read_table(known)
        file = None if dated else _beside(source, "labels")
        file = file or _beside(source, "counts")
        if file is None:
            raise SchemaError(f"{source} holds neither labels nor counts", expected="a folder written by phewas map")
        source = file
    table = read_table(source)
    who = patient_column(table, patient, what=source.name)
    table = table.with_columns(pl.col(who).cast(pl.String))
    names = {key: next((n for n in spellings if n in table.columns), None) for key, spellings in LONG.items()}
    long = names["phenotype"] is not None and names["days"] is not None
    if dated and not (long and names["first"]):
        raise SchemaError(f"{source.name} has no first dates", expected="the counts of phewas map",
                          cure="give the folder of phewas map, made from codes with dates")
    place = pl.DataFrame({"person": persons.cast(pl.String)}).with_row_index("row")
    if place["person"].is_duplicated().any():
        raise SchemaError("the table of persons names a person twice", expected="one row per person")
    joined = table.join(place, left_on=who, right_on="person", how="inner")
    if joined.is_empty():
        raise SchemaError(f"none of the {len(place)} persons is in {source.name}", expected="the same identifiers",
                          cure="name the columns with --patient")
    absent = len(place) - joined["row"].n_unique()
    if long and not quantities:
        found = _from_long(joined, names, len(place), min_days, dated=dated)
        values, phenotypes, first = found
        described = _described(phenotypes, about)
        if sex is not None and "sex" in described.columns:
            for j, of in enumerate(described["sex"].to_list()):
                if of in ("F", "M"):
                    values[(sex != of).fill_null(value=True).to_numpy(), j] = -1
        return Outcomes(values, described, absent, first)
    if joined["row"].is_duplicated().any():
        raise SchemaError(f"{source.name} names a person twice", expected="one row per person, or a long table with "
                          f"{', '.join(LONG['phenotype'])} and {', '.join(LONG['days'])}",
                          cure="a table of codes goes through phewas map first")
    phenotypes = [n for n in table.columns if n != who]
    return Outcomes(_from_wide(joined, phenotypes, len(place), source.name, quantities=quantities),
                    _described(phenotypes, about), absent)


def _beside(folder: Path, stem: str) -> Path | None:
    return next((f for f in (folder / f"{stem}.parquet", folder / f"{stem}.csv") if f.is_file()), None)


def _described(phenotypes: list[str], about: pl.DataFrame | None) -> pl.DataFrame:
    """Return the phenotypes in order with what is known about them."""
    base = pl.DataFrame({"phenotype": phenotypes}, schema={"phenotype": pl.String})
    if about is None or "phenotype" not in about.columns:
        return base
    keep = [n for n in ("phenotype", "description", "chapter", "sex") if n in about.columns]
    return base.join(about.select(keep).unique("phenotype"), on="phenotype", how="left", maintain_order="left")


def _from_long(
    joined: pl.DataFrame, names: dict[str, str | None], n_rows: int, min_days: int, *, dated: bool
) -> tuple[NDArray[np.int8], list[str], Floats | None]:
    column = pl.col(str(names["phenotype"])).cast(pl.String)
    phenotypes = joined.select(column.unique().sort()).to_series().drop_nulls().to_list()
    code = joined.select(column.replace_strict(phenotypes, list(range(len(phenotypes))), default=None,
                                               return_dtype=pl.Int64)).to_series()
    row, known = joined["row"].to_numpy(), code.is_not_null().to_numpy()
    days = numbers(joined[str(names["days"])])
    place = (row[known], code.drop_nulls().to_numpy())
    total = np.zeros((n_rows, len(phenotypes)), dtype=np.float32)
    np.add.at(total, place, np.nan_to_num(days[known]))
    labels = np.where(total >= min_days, 1, np.where(total > 0, -1, 0)).astype(np.int8)
    if not dated or names["first"] is None or not joined[names["first"]].dtype.is_temporal():
        return labels, phenotypes, None
    date = joined[names["first"]].cast(pl.Date).cast(pl.Int32).cast(pl.Float64).fill_null(np.nan).to_numpy()
    first = np.full(total.shape, np.inf)
    np.fmin.at(first, place, date[known])
    return labels, phenotypes, np.where(np.isinf(first), np.nan, first)


def _from_wide(
    joined: pl.DataFrame, phenotypes: list[str], n_rows: int, source: str, *, quantities: bool
) -> NDArray[Any]:
    rows = joined["row"].to_numpy()
    if quantities:
        values = np.full((n_rows, len(phenotypes)), np.nan)
        for j, name in enumerate(phenotypes):
            values[rows, j] = numbers(joined[name])
        return values
    labels = np.full((n_rows, len(phenotypes)), -1, dtype=np.int8)
    for j, name in enumerate(phenotypes):
        column = np.nan_to_num(numbers(joined[name]), nan=-1.0)
        if not np.isin(column, (-1.0, 0.0, 1.0)).all():
            raise SchemaError(f"column {name} of {source} holds others than 1, 0 and -1",
                              expected="labels, or quantities with --model linear")
        labels[rows, j] = column.astype(np.int8)
    return labels
