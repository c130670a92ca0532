"""A table of codes as it comes: which column is which, and what cannot be read.

A column is found by the name that the caller gives or, where none is given, by the spellings that hospitals, MIMIC,
OMOP, PheTK and the R package PheWAS use. Everything is read as text: a code that was once a number has lost the
difference between 250, 250.0 and 250.00, which are three codes of ICD-9-CM, so a numeric code column is refused.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from inspect import signature
from pathlib import Path
from typing import Any

import polars as pl

from phewas.errors import SchemaError, nearest
from phewas.mappings import plaintext
from phewas.mappings.encoding import DATE_CHARACTERS
from phewas.mappings.plaintext import Numbered

#: Spellings under which each column is looked for, lower case, without blanks and underscores; the first one wins.
SPELLINGS: dict[str, tuple[str, ...]] = {
    "patient": ("patientid", "personid", "subjectid", "patient", "person", "subject", "id", "mrn", "eid", "pid"),
    "code": (
        "code", "icd", "icdcode", "icd10code", "icd9code", "diagnosiscode", "diagcode", "dxcode", "codevalue",
        "conditionsourcevalue", "icd10", "icd9", "diagnosis", "dx",
    ),
    "system": (
        "vocabulary", "vocabularyid", "system", "codesystem", "codetype", "icdversion", "codingsystem", "icdtype",
        "sourcevocabularyid", "dxtype", "version",
    ),
    "date": (
        "date", "recorded", "dxdate", "codedate", "diagnosisdate", "eventdate", "servicedate", "conditionstartdate",
        "noteddate", "admittime", "startdate", "index",
    ),
    "sex": ("sex", "gender", "sexatbirth"),
}  # fmt: skip
NEEDED = ("patient", "code")
#: Name of the column that takes what a row has beyond its header.
SURPLUS = "phewas_surplus"

_SUFFIXES = {".csv": ",", ".tsv": "\t", ".txt": "\t", ".tab": "\t"}
_PACKED = (".gz", ".zst")
_NUMBERS = "250, 250.0 and 250.00 are three codes of ICD-9-CM, and 008 is not 8"


@dataclass(frozen=True)
class Columns:
    """Names of the columns of a table of codes; None: look for the usual spellings, which may find nothing.

    Attributes
    ----------
    patient, code
        Whose code, and the code. Needed.
    system
        Code system of the row, in words (`phewas.mappings.icd.SYSTEM_WORDS`).
    date
        Day on which the code was noted.
    sex
        Sex of the patient, repeated on every row.
    """

    patient: str | None = None
    code: str | None = None
    system: str | None = None
    date: str | None = None
    sex: str | None = None


def find(names: list[str], given: Columns) -> Columns:
    """Return the columns of a table, those given and those found by their spelling.

    Parameters
    ----------
    names
        Column names of the table.
    given
        What the caller named.

    Raises
    ------
    SchemaError
        A named column is missing, or no column looks like a patient or a code; the message lists the columns and the
        nearest name.
    """
    plain = {name.strip().lower().replace("_", "").replace(" ", "").replace("-", ""): name for name in reversed(names)}
    found: dict[str, str | None] = {}
    for field in fields(Columns):
        role, wanted = field.name, getattr(given, field.name)
        if wanted is not None and wanted not in names:
            raise SchemaError(
                f"there is no column {wanted!r}.{nearest(wanted, names)}", expected=f"one of {', '.join(names)}"
            )
        guess = next((plain[spelling] for spelling in SPELLINGS[role] if spelling in plain), None)
        found[role] = wanted or guess
        if role in NEEDED and found[role] is None:
            raise SchemaError(
                f"no column looks like the {role}. The columns are {', '.join(names)}."
                + nearest(role, [name.lower() for name in names]),
                expected=f"a column such as {SPELLINGS[role][0]}",
                cure=f"name it: --{role} COLUMN",
            )
    taken: dict[str, str] = {}
    for role, name in found.items():
        if name is not None and name in taken:
            raise SchemaError(
                f"column {name!r} cannot be both {taken[name]} and {role}", cure=f"name another one: --{role} COLUMN"
            )
        if name is not None:
            taken[name] = role
    return Columns(**found)


def scan(file: Path) -> pl.LazyFrame:
    """Open a CSV, TSV or Parquet file without reading its rows.

    Text files come as text throughout, whatever they hold, with one more column, `SURPLUS`, that is not null where a
    row has more fields than the header. Text that is not UTF-8 does not stop the reading. Packed files (``.csv.gz``,
    ``.tsv.zst``) are read as they are.

    Raises
    ------
    SchemaError
        The file is missing, empty, of another kind or damaged.
    """
    if not file.is_file():
        raise SchemaError(f"there is no file {file}", cure="check the path")
    suffixes = [suffix.lower() for suffix in file.suffixes]
    kind = suffixes[-1] if suffixes else ""
    if kind in (".parquet", ".pq"):
        return _opened(file, pl.scan_parquet(file, hive_partitioning=False, glob=False))
    if kind in _PACKED and len(suffixes) > 1:
        kind = suffixes[-2]
    if kind not in _SUFFIXES:
        raise SchemaError(
            f"{file.name} is of no kind that is read here", expected="a .csv, .tsv, .txt (tabs) or .parquet file"
        )
    options: dict[str, Any] = {"separator": _SUFFIXES[kind], "infer_schema": False, "encoding": "utf8-lossy"}
    options |= {"truncate_ragged_lines": True, "glob": False}
    names = _opened(file, pl.scan_csv(file, **options)).collect_schema().names()
    if SURPLUS in names:
        raise SchemaError(f"a column may not be called {SURPLUS}", cure="rename it")
    # The header is skipped as a line and its names are given, so that a surplus field has a column to fall into.
    schema = dict.fromkeys([*names, SURPLUS], pl.String)
    if "missing_columns" in signature(pl.scan_csv).parameters:  # elsewhere it does what this asks for by itself
        options["missing_columns"] = "insert"
    return pl.scan_csv(file, **options, has_header=False, skip_rows=1, schema=schema)


def _opened(file: Path, frame: pl.LazyFrame) -> pl.LazyFrame:
    try:
        names = frame.collect_schema().names()
    except (pl.exceptions.PolarsError, OSError) as error:
        words = str(error).splitlines()[0]
        raise SchemaError(f"{file.name} cannot be read: {words}", expected="a table with a header") from None
    if not names:
        raise SchemaError(f"{file.name} is empty", expected="a table with a header")
    return frame


def as_text(frame: pl.LazyFrame, columns: Columns) -> pl.LazyFrame:
    """Return the named columns under their roles: patient, code, system, sex as text, date as text or date.

    A column that is not there is left out. Rows with surplus fields keep nothing but a column ``surplus`` that is true.

    Raises
    ------
    SchemaError
        The code or the patient column holds numbers with a fraction, the code column holds numbers at all, or the date
        column is neither text nor a date.
    """
    schema = frame.collect_schema()
    chosen = {field.name: getattr(columns, field.name) for field in fields(Columns)}
    parts = []
    for role, name in chosen.items():
        if name is None:
            continue
        dtype, column = schema[name], pl.col(name)
        if role == "code" and dtype.is_numeric():
            raise SchemaError(
                f"column {name!r} holds the codes as numbers ({dtype}): {_NUMBERS}",
                expected="codes as text",
                cure="export or read the column as text; what a number has lost cannot be put back",
            )
        if role == "patient" and dtype.is_float():
            raise SchemaError(f"column {name!r} holds the patients as fractions ({dtype})", expected="text or integers")
        if role == "date":
            if dtype.is_numeric() or dtype == pl.Boolean:
                raise SchemaError(f"column {name!r} is {dtype}, no date", expected="a date, or text like 2015-10-01")
            parts.append((column.dt.date() if dtype.is_temporal() else column.cast(pl.String)).alias(role))
        else:
            parts.append(column.cast(pl.String).alias(role))
    if SURPLUS not in schema:
        return frame.select(parts)
    too_long = pl.col(SURPLUS).is_not_null()
    return frame.select([pl.when(~too_long).then(part).alias(part.meta.output_name()) for part in parts] + [
        too_long.alias("surplus")
    ])  # fmt: skip


def plain(source: Path, columns: Columns, *, whole_dates: bool) -> Numbered | None:
    """Return the columns of a plain text file in numbers; None where it is not plain (`phewas.mappings.plaintext`).

    Parameters
    ----------
    source
        A file that `scan` opens.
    columns
        From `find`.
    whole_dates
        Whether all of a date counts, not only its first ten characters.
    """
    separator = _SUFFIXES.get(source.suffix.lower())
    if separator is None:
        return None
    names = [name for name in scan(source).collect_schema().names() if name != SURPLUS]
    roles = {field.name: getattr(columns, field.name) for field in fields(Columns)}
    places = {role: names.index(name) for role, name in roles.items() if name is not None}
    heads = {} if whole_dates or "date" not in places else {"date": DATE_CHARACTERS}
    return plaintext.read(source, separator=separator, width=len(names), roles=places, heads=heads)


def in_memory(rows: pl.LazyFrame, source: Path) -> pl.LazyFrame:
    """Return the rows of `as_text` read into memory.

    Raises
    ------
    SchemaError
        The file is damaged.
    """
    try:
        return rows.collect(engine="streaming").lazy()
    except (pl.exceptions.PolarsError, OSError) as error:
        words = str(error).splitlines()[0]
        raise SchemaError(f"{source.name} cannot be read: {words}", expected="a whole file") from None
