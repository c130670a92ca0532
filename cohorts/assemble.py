"""From text rows of any source to the cohort's tables, with every row accounted for.

A source says which of its columns mean what and hands the rows over here; what is wrong with a row is judged in one
place, so that a blank identifier or a visit that ends before it begins has the same fate whatever the source.
Each row carries ``source`` (table name, String) and ``source_row`` (Int64, from 1).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import polars as pl

from phewas.cohorts.base import CohortTables, flow_row, lose
from phewas.cohorts.codes import explode
from phewas.cohorts.csvtext import parse_number, parse_time
from phewas.errors import CohortError
from phewas.schema import DATETIME, Diagnoses, Encounters, Flow, Patients, Rejects

ReadTime = Callable[[pl.Expr], pl.Expr]
SEXES = {"f": "F", "female": "F", "woman": "F", "m": "M", "male": "M", "man": "M"}
MAX_AGE = 130.0


def told(rows: pl.DataFrame, *, table: str, reason: str, detail: pl.Expr | str | None = None) -> pl.DataFrame:
    """Return one rejects row for each row, under the row's own ``source``."""
    named = lose(rows, table=table, source="", reason=reason, detail=detail)
    return named.with_columns(rows["source"].cast(pl.String).alias("source")) if len(rows) else Rejects.empty()


def sex_of(text: pl.Expr) -> pl.Expr:
    """Return ``F`` or ``M`` of words such as ``female`` or ``m``; null of anything else."""
    return text.str.strip_chars().str.to_lowercase().replace_strict(SEXES, default=None, return_dtype=pl.String)


def years_since(born: str, at: str = "start") -> pl.Expr:
    """Return the age in years from the column of birth to the column of the encounter's time, both dates or times.

    Null where either is missing, and where the age would be below 0 or above `MAX_AGE`.
    """
    years = (pl.col(at) - pl.col(born)).dt.total_days() / 365.25
    return pl.when(years.is_between(0, MAX_AGE)).then(years)


def take_encounters(
    rows: pl.DataFrame, *, read_time: ReadTime = parse_time, day_end: bool = False
) -> tuple[pl.DataFrame, list[pl.DataFrame]]:
    """Judge the rows of visit tables.

    Parameters
    ----------
    rows
        source, source_row, encounter_id, patient_id, start, end and, where the source has it, age: all text, null where
        blank. Further columns are handed through.
    read_time
        Reads a text column of times into ``datetime[us]``.
    day_end
        Ends may be given as days: one that reads midnight before the start, on the start's day, is the start.

    Returns
    -------
    rows, rejects
        The rows that are one encounter each, with `start` and `end` as times and `age` in years (0 to 130, null where
        unknown), and what was lost or mended.
    """

    def lost(some: pl.DataFrame, reason: str, detail: str | None = None) -> pl.DataFrame:
        return told(some, table="encounters", reason=reason, detail=detail)

    blank = pl.col("patient_id").is_null() | pl.col("encounter_id").is_null()
    rejects = [lost(rows.filter(blank), "blank_id")]
    rows = rows.filter(~blank)
    # Nobody can tell whose encounter it was, so no row of it is believed.
    shared = pl.col("patient_id").n_unique().over("encounter_id") > 1
    rejects.append(lost(rows.filter(shared), "encounter_of_two_patients"))
    rows = rows.filter(~shared)
    again = ~pl.col("encounter_id").is_first_distinct()
    rejects.append(lost(rows.filter(again), "duplicate_encounter"))
    rows = rows.filter(~again)
    if "age" not in rows.columns:
        rows = rows.with_columns(pl.lit(None, dtype=pl.String).alias("age"))
    text = rows
    rows = rows.with_columns(read_time(pl.col("start")).cast(DATETIME).alias("start"),
                             read_time(pl.col("end")).cast(DATETIME).alias("end"),
                             parse_number(pl.col("age")).alias("age"))  # fmt: skip
    for column, reason in (("start", "bad_time"), ("end", "bad_time"), ("age", "bad_number")):
        unread = text[column].is_not_null() & rows[column].is_null()
        rejects.append(lost(rows.filter(unread), reason, column))
    impossible = ((pl.col("age") < 0) | (pl.col("age") > MAX_AGE)).fill_null(value=False)
    rejects.append(lost(rows.filter(impossible), "bad_number", "age outside 0 to 130"))
    rows = rows.with_columns(pl.when(~impossible).then(pl.col("age")).alias("age"))
    if day_end:
        whole_day = (pl.col("end") < pl.col("start")) & (pl.col("end") == pl.col("start").dt.truncate("1d"))
        rows = rows.with_columns(pl.when(whole_day).then(pl.col("start")).otherwise(pl.col("end")).alias("end"))
    negative = (pl.col("end") < pl.col("start")).fill_null(value=False)
    rejects.append(lost(rows.filter(negative), "negative_interval"))
    return rows.with_columns(pl.when(~negative).then(pl.col("end")).alias("end")), rejects


def take_patients(rows: pl.DataFrame, *, once: bool = True) -> tuple[pl.DataFrame, list[pl.DataFrame]]:
    """Judge the rows of a patient table, or the personal columns of a visit table.

    Parameters
    ----------
    rows
        source, source_row, patient_id, sex (text), and where the source has them birth_year (Int32), race, ethnicity.
    once
        The table has one row per patient; a second one is told. Otherwise the last row that says anything counts.

    Returns
    -------
    patients, rejects
        The patients table, sorted, and what was lost. A patient whose rows name both sexes has sex ``U``.
    """
    rejects = [told(rows.filter(pl.col("patient_id").is_null()), table="patients", reason="blank_id")]
    rows = rows.filter(pl.col("patient_id").is_not_null())
    for column, kind in (("birth_year", pl.Int32), ("race", pl.String), ("ethnicity", pl.String)):
        if column not in rows.columns:
            rows = rows.with_columns(pl.lit(None, dtype=kind).alias(column))
    if once:
        again = ~pl.col("patient_id").is_first_distinct()
        rejects.append(told(rows.filter(again), table="patients", reason="duplicate_row"))
    rows = rows.with_columns(sex_of(pl.col("sex")).alias("sex"))
    both = (pl.col("sex").drop_nulls().n_unique() > 1).over("patient_id")
    rejects.append(told(rows.filter(both & pl.col("sex").is_not_null()), table="patients", reason="sex_conflict"))
    named = pl.col("sex").drop_nulls()
    pick = pl.Expr.first if once else pl.Expr.last
    patients = rows.group_by("patient_id", maintain_order=True).agg(
        pl.when(named.n_unique() == 1).then(named.first()).otherwise(pl.lit("U")).alias("sex"),
        *(pick(pl.col(c).drop_nulls()).alias(c) for c in ("birth_year", "race", "ethnicity")),
    )
    return Patients.check(patients.sort("patient_id")), rejects


def with_strangers(
    patients: pl.DataFrame, encounters: pl.DataFrame, *, table: str
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Add the patients who have encounters but no row in the patient table, with sex ``U``, and tell each.

    Parameters
    ----------
    encounters
        Rows of `take_encounters`.
    table
        Name of the patient table, for the message.
    """
    stranger = encounters.filter(~pl.col("patient_id").is_in(patients["patient_id"].implode()))
    rejects = told(stranger, table="encounters", reason="unknown_patient",
                   detail=f"no row in {table}: sex and age are not known; the encounter is kept")  # fmt: skip
    new = Patients.build({"patient_id": p, "sex": "U"} for p in stranger["patient_id"].unique().sort())
    return Patients.check(pl.concat([patients, new]).sort("patient_id")), rejects


def to_encounters(rows: pl.DataFrame, *, keep: Sequence[str] = ()) -> pl.DataFrame:
    """Return the encounters table of judged rows; columns in `keep` stay, prefixed ``src_``. No index time yet."""
    return Encounters.check(
        rows.select(
            "encounter_id", "patient_id", "start", "end", pl.lit(None, dtype=DATETIME).alias("index_time"), "age",
            *(pl.col(c).alias(f"src_{c}") for c in keep),
        )
    )  # fmt: skip


def set_index_times(encounters: pl.DataFrame, recordings: pl.DataFrame, channel: str) -> pl.DataFrame:
    """Set index_time: start of the earliest recording of the index channel, else start of the encounter."""
    of_channel = recordings.filter(pl.col("channel") == channel)
    first = of_channel.group_by("encounter_id").agg(pl.col("start").min().alias("first"))
    joined = encounters.join(first, on="encounter_id", how="left", maintain_order="left")
    return joined.with_columns(pl.coalesce("first", "start").alias("index_time")).drop("first")


def take_diagnoses(
    rows: pl.DataFrame, *, encounters: pl.DataFrame, patients: pl.DataFrame, own_date: bool
) -> tuple[pl.DataFrame, list[pl.DataFrame]]:
    """Judge rows of diagnosis tables.

    Parameters
    ----------
    rows
        source, source_row, patient_id (null allowed where the encounter is named), encounter_id (null allowed), cell
        (text of one or several codes), vocabulary, recorded (Date, null allowed).
    encounters, patients
        The cohort's tables.
    own_date
        The source dates its diagnoses; otherwise a diagnosis of an encounter is dated by the encounter's end, else by
        its start.

    Returns
    -------
    diagnoses, rejects
        A row of an unknown patient, without any identifier, of an encounter of somebody else, or the exact repetition
        of another row is lost; a row of an unknown encounter of a known patient is kept without the encounter.
    """

    def lost(some: pl.DataFrame, reason: str, detail: pl.Expr | str | None = None) -> pl.DataFrame:
        return told(some, table="diagnoses", reason=reason, detail=detail)

    of = encounters.select(
        "encounter_id", pl.col("patient_id").alias("owner"), pl.coalesce("end", "start").dt.date().alias("closed")
    )
    rows = rows.join(of, on="encounter_id", how="left", maintain_order="left")
    nobody = pl.col("patient_id").is_null() & pl.col("encounter_id").is_null()
    rejects = [lost(rows.filter(nobody), "blank_id")]
    rows = rows.filter(~nobody).with_columns(pl.coalesce("patient_id", "owner").alias("patient_id"))
    known = pl.col("patient_id").is_in(patients["patient_id"].implode()).fill_null(value=False)
    rejects += [
        lost(rows.filter(pl.col("patient_id").is_null()), "unknown_encounter"),
        lost(rows.filter(~known & pl.col("patient_id").is_not_null()), "unknown_patient"),
    ]
    rows = rows.filter(known)
    swapped = (pl.col("owner") != pl.col("patient_id")).fill_null(value=False)
    rejects.append(lost(rows.filter(swapped), "encounter_of_two_patients"))
    rows = rows.filter(~swapped)
    stray = pl.col("encounter_id").is_not_null() & pl.col("owner").is_null()
    rejects.append(lost(rows.filter(stray), "unknown_encounter", "the diagnosis is kept without its encounter"))
    rows = rows.with_columns(pl.when(~stray).then(pl.col("encounter_id")).alias("encounter_id"))
    if not own_date:
        rows = rows.with_columns(pl.coalesce("recorded", "closed").alias("recorded"))
    again = ~pl.struct("source", "patient_id", "encounter_id", "cell", "vocabulary", "recorded").is_first_distinct()
    rejects.append(lost(rows.filter(again), "duplicate_row"))
    rows = rows.filter(~again)
    unknown = pl.col("vocabulary") == "unknown"
    rejects.append(lost(rows.filter(unknown), "unknown_code_system",
                        pl.col("system") if "system" in rows.columns else None))  # fmt: skip
    parts = [Diagnoses.empty()]
    for source in rows["source"].unique().sort():
        cells = rows.filter(pl.col("source") == source)
        diagnoses, without = explode(cells.select("patient_id", "encounter_id", "cell", "vocabulary", "recorded",
                                                  "source_row"), source=str(source))  # fmt: skip
        parts.append(diagnoses)
        rejects.append(without)
    return pl.concat(parts), rejects


def read_dates(
    rows: pl.DataFrame, column: str, *, called: str | None = None, read_time: ReadTime = parse_time
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Read a text column of dates or times into the Date column ``recorded``, and tell each that is none."""
    read = rows.with_columns(read_time(pl.col(column)).dt.date().alias("recorded"))
    unread = rows[column].is_not_null() & read["recorded"].is_null()
    return read, told(read.filter(unread), table="diagnoses", reason="bad_time", detail=called or column)


def finish(
    run: Path,
    *,
    patients: pl.DataFrame,
    encounters: pl.DataFrame,
    recordings: pl.DataFrame,
    diagnoses: pl.DataFrame,
    rejects: Iterable[pl.DataFrame],
    channel: str,
    n_read: dict[str, int],
    notes: Iterable[tuple[int, int, str]] = (),
) -> None:
    """Set the index times, count the losses and write the six tables below `run`.

    Parameters
    ----------
    channel
        The index channel.
    n_read
        Rows or files that came in: ``encounters``, ``diagnoses``, ``recordings``.
    notes
        Further counts of diagnosis rows that are no loss: (of how many, how many, what they are).

    Raises
    ------
    CohortError
        No encounter is left.
    """
    if not len(encounters):
        raise CohortError(
            "no encounter could be taken from the tables",
            expected="rows with a patient and an encounter identifier",
            cure="check that the files belong together and are whole",
        )
    encounters = set_index_times(encounters, recordings, channel)
    usable = recordings.filter(pl.col("channel") == channel)
    indexed = encounters.filter(pl.col("encounter_id").is_in(usable["encounter_id"].unique().implode()))
    kept_rows = diagnoses.select("source", "source_row").n_unique() if len(diagnoses) else 0
    dated = diagnoses.filter(pl.col("recorded").is_not_null()).select("source", "source_row")
    n_dated = dated.n_unique() if len(dated) else 0
    without = f"without a readable {channel} recording"
    rows = [
        flow_row("encounters", n_read["encounters"], len(encounters), "rows that name no new encounter"),
        flow_row("encounters", len(encounters), len(indexed), without),
        flow_row("patients", len(patients), encounters["patient_id"].n_unique(), "without an encounter"),
        flow_row("patients", encounters["patient_id"].n_unique(), indexed["patient_id"].n_unique(), without),
        flow_row("recordings", n_read["recordings"], min(n_read["recordings"], recordings["path"].n_unique()),
                 "records without a readable signal, or of no known encounter"),
        flow_row("recordings", len(recordings), len(usable), f"of the channel {channel}", note=True),
        flow_row("rows", n_read["diagnoses"], kept_rows, "diagnosis rows without a code, or of nobody in the cohort"),
        flow_row("rows", kept_rows, n_dated, "diagnosis rows with a date", note=True),
        *(flow_row("rows", n_in, n_out, words, note=True) for n_in, n_out, words in notes),
    ]  # fmt: skip
    CohortTables(
        patients=patients,
        encounters=encounters,
        recordings=recordings,
        diagnoses=diagnoses,
        rejects=pl.concat([Rejects.empty(), *rejects]),
        flow=Flow.build(rows),
    ).write(run)
