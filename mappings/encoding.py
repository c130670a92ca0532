"""Rows of text become rows of integers: patient, term, day.

Each distinct text is judged once (a hospital uses some ten thousand codes, dates and labels in millions of rows), and
the rows only keep its number. A plain file that fits into memory comes in numbers already
(`phewas.mappings.plaintext`); any other table that fits stays there; a larger one is read as a stream twice, once for
its distinct texts and once for its numbers, which go to a temporary file of a few bytes a row.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from phewas.errors import ConfigError, SchemaError, nearest
from phewas.mappings import icd
from phewas.mappings.plaintext import Numbered
from phewas.mappings.tally import UNDATED, Ints

#: Rows read, and rows counted, at a time where the numbers lie in a file.
ROWS_AT_A_TIME = 4_000_000
SEPARATORS = r"[,;|\r\n]"
BY_DATE = "by_date"
#: Leading characters of a text that are its day, where no format is given.
DATE_CHARACTERS = 10

_ISO = r"^[0-9]{4}-[0-9]{2}-[0-9]{2}(?:[ T].*)?$"
_SLASHES = r"^[0-9]{4}/[0-9]{2}/[0-9]{2}(?:[ T].*)?$"
_COMPACT = r"^[0-9]{8}$"
_SEXES = {"F": "F", "FEMALE": "F", "W": "F", "WOMAN": "F", "M": "M", "MALE": "M", "MAN": "M"}


@dataclass(frozen=True, eq=False)
class Encoded:
    """A table of codes in numbers.

    Attributes
    ----------
    patients
        Identifiers, trimmed, in the order of the alphabet; a patient's place is its number.
    sex
        Text array [patients], ``F``, ``M`` or ``U``; None where the table has no sex.
    terms
        term (number), code (text as found), vocabulary (code system), n_rows (rows of patients that are named).
    counts
        What was met in the rows, in numbers.
    systems
        label (as found), vocabulary (what it was read as), n_rows.
    has_dates
        Whether there is a date column.
    """

    patients: pl.Series
    sex: Any
    terms: pl.DataFrame
    counts: dict[str, int]
    systems: list[dict[str, Any]]
    has_dates: bool
    _maps: _Maps
    _rows: tuple[Ints, Ints, Ints] | Path
    _per_patient: Ints

    def blocks(self) -> Iterator[tuple[int, int, Ints, Ints, Ints]]:
        """Yield blocks of patients: first, end, and each row's patient (counted from first), term and day (int32)."""
        if not isinstance(self._rows, Path):
            yield (0, len(self.patients), *self._rows)
            return
        total = np.cumsum(self._per_patient)
        low = 0
        while low < len(self.patients):
            before = int(total[low - 1]) if low else 0
            high = max(low + 1, int(np.searchsorted(total, before + ROWS_AT_A_TIME, side="right")))
            first, end = np.searchsorted(self._maps.patient[:-1], [low, high])
            part = pl.scan_parquet(self._rows).filter(pl.col("patient").is_between(int(first), int(end) - 1))
            patient, term, day = self._maps.numbers(_arrays(part.collect(engine="streaming")))
            yield low, high, patient - np.int32(low), term, day
            low = high


@dataclass(frozen=True, eq=False)
class _Maps:
    """From the numbers of distinct texts to what they mean; the last entry of each stands for a missing text."""

    patient: Ints
    system: Ints | None
    constant: int
    day: Ints | None
    by_date: bool

    def numbers(self, columns: dict[str, Ints]) -> tuple[Ints, Ints, Ints]:
        """Return patient, term and day of the rows whose patient is named."""
        patient: Ints = self.patient[columns["patient"]]
        day: Ints
        if "date" not in columns:
            day = np.full(len(patient), UNDATED, np.int32)
        elif self.day is None:
            day = columns["date"]
        else:
            day = self.day[columns["date"]]
        term = columns["code"].astype(np.int32) * np.int32(len(icd.CODE_SYSTEMS))
        if self.by_date:
            term += np.where(day == UNDATED, 3, np.where(day < icd.ICD10CM_START.toordinal() - _EPOCH, 0, 1))
        elif self.system is not None:
            term += self.system[columns["system"]]
        else:
            term += np.int32(self.constant)
        named = patient >= 0
        return (patient, term, day) if named.all() else (patient[named], term[named], day[named])


_EPOCH = date(1970, 1, 1).toordinal()


def encode(
    rows: pl.LazyFrame,
    *,
    code_system: str | None,
    date_format: str | None = None,
    scratch: Path | None = None,
    plain: Numbered | None = None,
) -> Encoded:
    """Return a table of codes in numbers.

    Parameters
    ----------
    rows
        From `phewas.mappings.columns.as_text`: patient, code, and perhaps system, date, sex, surplus.
    code_system
        One of `phewas.mappings.icd.CODE_SYSTEMS` for every row, ``by_date`` (`phewas.mappings.icd.system_by_date`), or
        None: the column ``system``.
    date_format
        Format of dates in text (``%m/%d/%Y``). None: year-month-day, with or without a time of day.
    scratch
        Folder for the temporary file of a table that must not be read into memory; None: `rows` is in memory.
    plain
        The same table in numbers (`phewas.mappings.plaintext.read`): `rows` is then looked at for its columns only.
        No cell of it holds several codes (`several_codes`).

    Raises
    ------
    ConfigError
        Nothing says the code system, or ``by_date`` is asked of a table without dates.
    SchemaError
        No date can be read.
    """
    names = rows.collect_schema().names()
    constant = _constant(code_system, names)
    by_date = code_system == BY_DATE
    text_dates = "date" in names and rows.collect_schema()["date"] == pl.String
    if text_dates and not date_format:
        rows = rows.with_columns(pl.col("date").str.head(DATE_CHARACTERS).alias("date"))
    texts = ["patient", "code"]
    texts += ["system"] if constant is None and not by_date else []
    texts += ["date"] if text_dates else []
    n_several = 0
    sexes: pl.DataFrame | None
    stored: tuple[Ints, Ints, Ints] | Path
    columns: dict[str, Ints]
    if plain is not None:
        distinct = {name: plain.texts[name] for name in texts}
        columns = {name: plain.numbers[name] for name in texts}
        sexes = _plain_sexes(plain) if "sex" in names else None
    else:
        rows, distinct, sexes, n_several = _look_through(rows, texts, scratch)
    ids = distinct["patient"].str.strip_chars()
    patients = ids.filter(ids != "").unique().sort().rename("patient_id")
    ranks = ids.cast(pl.Enum(patients), strict=False).to_physical().cast(pl.Int32).fill_null(-1).to_numpy()
    systems = distinct.get("system")
    read = [icd.read_system(label) for label in systems] if systems is not None else []
    maps = _Maps(
        patient=np.append(ranks, np.int32(-1)).astype(np.int32),
        system=np.array([*(icd.CODE_SYSTEMS.index(one) for one in read), 3], np.int32) if systems is not None else None,
        constant=icd.CODE_SYSTEMS.index(constant) if constant else 3,
        day=_days(distinct["date"], date_format) if text_dates else None,
        by_date=by_date,
    )
    if plain is None:
        numbered = _numbered(rows, distinct, has_days="date" in names and not text_dates)
        columns = _arrays(numbered.collect()) if scratch is None else {}
    if scratch is None or plain is not None:
        stored = maps.numbers(columns)
        pieces: Iterator[tuple[dict[str, Ints], tuple[Ints, Ints, Ints]]] = iter([(columns, stored)])
    else:
        stored = scratch / "rows.parquet"
        numbered.sink_parquet(stored, compression="lz4", maintain_order=False)
        pieces = ((part, maps.numbers(part)) for part in map(_arrays, _parts(stored)))
    tallies = _tally(pieces, maps, distinct, n_patients=len(patients))
    counts = _counts(tallies, maps, distinct, n_several=n_several, dated="date" in names)
    if counts["rows_with_bad_date"] and counts["rows_with_bad_date"] + counts["rows_without_date"] == counts["rows"]:
        raise SchemaError(
            f"none of the dates can be read; one is {distinct['date'].max()!r}",
            expected=date_format or "year-month-day, as in 2015-10-01",
            cure="give the format of the dates: --date-format '%m/%d/%Y'",
        )
    terms = np.flatnonzero(tallies["term"])
    codes = distinct["code"].extend_constant("", 1).gather(terms // 4)
    table = pl.DataFrame(
        {
            "term": pl.Series(terms, dtype=pl.Int32),
            "code": codes,
            "vocabulary": pl.Series(icd.CODE_SYSTEMS, dtype=pl.String).gather(terms % 4),
            "n_rows": pl.Series(tallies["term"][terms], dtype=pl.Int64),
        }
    )
    labels = _listed(systems, read, tallies["system"]) if systems is not None else []
    sex = None if sexes is None else _sexes(sexes, patients)
    return Encoded(patients, sex, table, counts, labels, "date" in names, maps, stored, tallies["patient"])


def _listed(systems: pl.Series, read: Sequence[str], rows: Ints) -> list[dict[str, Any]]:
    """Return the labels of code systems with what each was read as and its rows; those without any last."""
    named = [*sorted(zip(systems, read, rows, strict=False)), ("(blank)", "unknown", rows[-1])]
    return [{"label": label, "vocabulary": system, "n_rows": int(n)} for label, system, n in named if n]


def several_codes(texts: pl.Series) -> bool:
    """Return whether a cell of these distinct texts holds several codes."""
    return bool(texts.str.contains(SEPARATORS).any())


def _arrays(frame: pl.DataFrame) -> dict[str, Ints]:
    return {name: frame[name].to_numpy() for name in frame.columns}


def _look_through(
    rows: pl.LazyFrame, texts: list[str], scratch: Path | None
) -> tuple[pl.LazyFrame, dict[str, pl.Series], pl.DataFrame | None, int]:
    """Return the rows with one code each, the sorted distinct texts, patients with sexes, cells of several codes."""
    engine: Any = "in-memory" if scratch is None else "streaming"
    several = pl.col("code").str.contains(SEPARATORS)
    # Cells of several codes show in the first rows or, rarely, only among the distinct codes.
    split, n_several = bool(rows.select("code").head(10_000).select(several.any()).collect().item()), 0
    if not split:
        found = _distinct(rows, texts, engine)
        split = several_codes(found[1].to_series())
    if split:
        parts = rows.with_columns(icd.split_cell(pl.col("code")).alias("code"))
        n_several = int(parts.select((pl.col("code").list.len() > 1).sum()).collect(engine=engine).item())
        rows = parts.explode("code")
        found = _distinct(rows, texts, engine)
    distinct = {name: frame.to_series().sort() for name, frame in zip(texts, found, strict=False)}
    # In the order of the trimmed identifiers, so that the rows of a block of patients lie between two numbers.
    raw = pl.DataFrame({"raw": distinct["patient"], "id": distinct["patient"].str.strip_chars()})
    distinct["patient"] = raw.sort("id", "raw")["raw"]
    return rows, distinct, found[-1] if len(found) > len(texts) else None, n_several


def _numbered(rows: pl.LazyFrame, distinct: dict[str, pl.Series], *, has_days: bool) -> pl.LazyFrame:
    """Return the rows with the place of each text among the distinct ones; one more for a missing text."""
    numbered = [
        pl.col(name).cast(pl.Enum(values)).to_physical().cast(pl.UInt32).fill_null(len(values)).alias(name)
        for name, values in distinct.items()
    ]
    numbered += [pl.col("date").cast(pl.Int32).fill_null(UNDATED)] if has_days else []
    numbered += [pl.col("surplus")] if "surplus" in rows.collect_schema().names() else []
    return rows.select(numbered)


def _constant(code_system: str | None, names: list[str]) -> str | None:
    if code_system == BY_DATE and "date" not in names:
        raise ConfigError("the code system by date needs a date column", cure="name it: --date COLUMN")
    if code_system is not None and code_system not in (*icd.CODE_SYSTEMS, BY_DATE):
        raise ConfigError(
            f"{code_system!r} is neither a column nor a code system.{nearest(code_system, icd.CODE_SYSTEMS)}",
            expected=" / ".join([*icd.CODE_SYSTEMS[:-1], BY_DATE]),
        )
    if code_system is None and "system" not in names:
        raise ConfigError(
            "nothing says which revision of ICD the codes belong to, and E and V codes belong to both",
            expected="a column with the code system, or one system for all",
            cure="--system COLUMN, --system ICD10CM, or --system by_date (ICD-9-CM before 2015-10-01)",
        )
    return None if code_system in (None, BY_DATE) else code_system


def _distinct(rows: pl.LazyFrame, texts: list[str], engine: Any) -> list[pl.DataFrame]:
    """Return the distinct texts of each column, and last, where there is one, those of patient and sex."""
    jobs = [rows.select(pl.col(name).drop_nulls().unique()) for name in texts]
    if "sex" in rows.collect_schema().names():
        jobs += [rows.select("patient", "sex").drop_nulls().unique()]
    return pl.collect_all(jobs, engine=engine)


def _days(texts: pl.Series, date_format: str | None) -> Ints:
    """Return the day of each text, `UNDATED` where it is none, and one more `UNDATED` for a missing text."""
    text = pl.col("text").str.strip_chars()
    if date_format:
        day = text.str.to_date(date_format, strict=False)
    else:
        head = text.str.head(DATE_CHARACTERS)
        day = (
            pl.when(text.str.contains(_ISO)).then(head.str.to_date("%Y-%m-%d", strict=False))
            .when(text.str.contains(_SLASHES)).then(head.str.to_date("%Y/%m/%d", strict=False))
            .when(text.str.contains(_COMPACT)).then(text.str.to_date("%Y%m%d", strict=False))
        )  # fmt: skip
    frame = pl.DataFrame({"text": texts}).select(day.cast(pl.Int32).fill_null(UNDATED))
    return np.append(frame.to_series().to_numpy(), np.int32(UNDATED))


def _parts(stored: Path) -> Iterator[pl.DataFrame]:
    frame = pl.scan_parquet(stored)
    n_rows = int(frame.select(pl.len()).collect().item())
    for start in range(0, n_rows, ROWS_AT_A_TIME):
        yield frame.slice(start, ROWS_AT_A_TIME).collect()


def _tally(
    pieces: Iterator[tuple[dict[str, Ints], tuple[Ints, Ints, Ints]]],
    maps: _Maps,
    distinct: dict[str, pl.Series],
    *,
    n_patients: int,
) -> dict[str, Ints]:
    """Count the rows of each term, patient, date and label."""
    sizes = {"term": len(icd.CODE_SYSTEMS) * (len(distinct["code"]) + 1), "patient": n_patients}
    sizes |= {name: len(distinct[name]) + 1 for name in ("date", "system") if name in distinct}
    counts: dict[str, Ints] = {name: np.zeros(size, np.int64) for name, size in sizes.items()}
    counts["totals"], seen = np.zeros(4, np.int64), 0
    for part, (patient, term, _) in pieces:
        counts["term"] += np.bincount(term, minlength=sizes["term"])
        counts["patient"] += np.bincount(patient, minlength=sizes["patient"])
        for name in ("date", "system"):
            if name in distinct:
                counts[name] += np.bincount(part[name], minlength=sizes[name])
        surplus = int(part["surplus"].sum()) if "surplus" in part else 0
        if "date" not in part:
            undated = 0
        elif maps.day is None:
            undated = int((part["date"] == UNDATED).sum())
        else:
            undated = int(counts["date"][maps.day == UNDATED].sum()) - seen
            seen += undated
        n_rows = len(part["code"])
        counts["totals"] += [n_rows, n_rows - len(patient), surplus, undated]
    return counts


def _counts(
    tallies: dict[str, Ints], maps: _Maps, distinct: dict[str, pl.Series], *, n_several: int, dated: bool
) -> dict[str, int]:
    total, unnamed, surplus, undated = (int(n) for n in tallies["totals"])
    bad = 0
    if maps.day is not None:
        blank = np.append((distinct["date"].str.strip_chars() == "").to_numpy(), True)
        bad = int(tallies["date"][(maps.day == UNDATED) & ~blank].sum())
    return {
        "rows": total,
        "rows_with_surplus_fields": surplus,
        "rows_without_patient": unnamed - surplus,
        "rows_with_bad_date": bad,
        "rows_without_date": undated - bad if dated else total,
        "cells_with_several_codes": n_several,
    }


def _plain_sexes(plain: Numbered) -> pl.DataFrame:
    """Return each patient with each of its sexes, as texts."""
    who, sex, n = plain.numbers["patient"], plain.numbers["sex"], len(plain.texts["sex"])
    pairs = np.unique((who.astype(np.int64) * n + sex)[(who < len(plain.texts["patient"])) & (sex < n)])
    patient, sex = pairs // max(n, 1), pairs % max(n, 1)
    return pl.DataFrame({"patient": plain.texts["patient"].gather(patient), "sex": plain.texts["sex"].gather(sex)})


def _sexes(pairs: pl.DataFrame, patients: pl.Series) -> Any:
    """Return F, M or U for each patient; U too where the rows of one patient name both."""
    word = pl.col("sex").str.strip_chars().str.to_uppercase().replace_strict(_SEXES, default=None)
    known = (
        pairs.select(pl.col("patient").str.strip_chars().alias("patient_id"), word.alias("sex"))
        .drop_nulls()
        .group_by("patient_id")
        .agg(pl.when(pl.col("sex").n_unique() == 1).then(pl.col("sex").first()).otherwise(pl.lit("U")).alias("sex"))
    )
    joined = patients.to_frame().join(known, on="patient_id", how="left", maintain_order="left")
    return joined["sex"].fill_null("U").to_numpy()
