"""Any hospital in the OMOP Common Data Model 5.4: persons, visits and conditions with their source concepts.

Layout: a folder with the tables ``person``, ``visit_occurrence``, ``condition_occurrence`` and ``concept`` (CSV, tab
separated, gzip or Parquet, either case), or a folder with one DuckDB file that holds them. Where they are there,
``observation``, ``measurement`` and ``procedure_occurrence`` are read for the ICD codes that the vocabulary moved
there. ``recordings.csv`` or ``.parquet`` beside them lists the waveforms: person_id or visit_occurrence_id, path, and
where they apply channel, signal, start, fs_hz.

Source: OHDSI Common Data Model 5.4, https://ohdsi.github.io/CommonDataModel/cdm54.html.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from phewas.cohorts.anyfile import find_table, read_any
from phewas.cohorts.assemble import (
    finish,
    read_dates,
    sex_of,
    take_diagnoses,
    take_encounters,
    take_patients,
    to_encounters,
    told,
    with_strangers,
    years_since,
)
from phewas.cohorts.base import FolderSource, fingerprint_of, load_card, require_root
from phewas.cohorts.csvtext import TextTable, parse_number
from phewas.cohorts.listed import COLUMNS, take_recordings
from phewas.cohorts.omop_tables import MOVED, open_store
from phewas.schema import Recordings

PERSON = ("person_id", "gender_concept_id", "year_of_birth")
PERSON_TOO = ("month_of_birth", "day_of_birth", "gender_source_value", "race_concept_id", "race_source_value",
              "ethnicity_concept_id", "ethnicity_source_value")  # fmt: skip
VISIT = ("visit_occurrence_id", "person_id", "visit_start_date", "visit_end_date")
VISIT_TOO = ("visit_start_datetime", "visit_end_datetime", "visit_concept_id")
CONDITION = ("person_id", "condition_start_date")
CONDITION_TOO = ("visit_occurrence_id", "condition_source_concept_id", "condition_source_value")
RECORDINGS = "recordings"
# Standard concepts of the Gender, Race and Ethnicity vocabularies.
SEX = {"8532": "F", "8507": "M"}
RACE = {"8527": "White", "8516": "Black or African American", "8515": "Asian",
        "8657": "American Indian or Alaska Native", "8557": "Native Hawaiian or Other Pacific Islander"}  # fmt: skip
ETHNICITY = {"38003563": "Hispanic or Latino", "38003564": "Not Hispanic or Latino"}
# A code system named in a source value: ``ICD10CM:I10``, ``ICD-9-CM|401.9``, ``I10^ICD10``.
_SYSTEM = r"(?i)^\s*(ICD-?9(?:-?CM)?|ICD-?10(?:-?CM)?)\s*[:|/^]+\s*(\S.*)$"
_BEHIND = r"(?i)^\s*([A-Z0-9.]+)\s*[|^]+.*?(ICD-?9(?:-?CM)?|ICD-?10(?:-?CM)?)\s*$"
_WORDS = {"icd9": "ICD9CM", "icd9cm": "ICD9CM", "icd10": "ICD10", "icd10cm": "ICD10CM"}


@dataclass(frozen=True)
class Omop(FolderSource):
    """The source ``omop``."""

    def fingerprint(self, root: Path | None) -> str:
        """Hash every table that is read, or the database file, and the recordings table, byte by byte."""
        root = require_root(root, self.card)
        listed = find_table(root, RECORDINGS)
        with open_store(root, self.card) as store:
            read = [*store.files, *([listed] if listed else [])]
        return fingerprint_of(root, read=read, listed=[])

    def scan(self, root: Path | None) -> dict[str, Any]:
        """Count visits, conditions and recordings."""
        root = require_root(root, self.card)
        listed = find_table(root, RECORDINGS)
        with open_store(root, self.card) as store:
            return {
                "files": [p.relative_to(root).as_posix() for p in store.files],
                "missing": [n for n in ("concept", *MOVED) if not store.has(n)]
                + ([] if listed else [RECORDINGS]),
                "n_encounters": store.read("visit_occurrence", needs=["person_id"], table="encounters").n_rows,
                "n_recordings": read_any(listed, needs=["path"], table="recordings").n_rows if listed else 0,
                "n_waveform_folders": 0,
            }

    def build(self, root: Path | None, run: Path, *, workers: int | None = None) -> None:
        """Write the six tables of the cohort below `run`.

        Raises
        ------
        CohortError
            A table or column is missing, a file is damaged, DuckDB is needed and not installed, or no visit can be
            taken.
        """
        root = require_root(root, self.card)
        with open_store(root, self.card) as store:
            people = store.read("person", needs=PERSON, optional=PERSON_TOO, table="patients")
            visits = store.read("visit_occurrence", needs=VISIT, optional=VISIT_TOO, table="encounters")
            noted = store.read("condition_occurrence", needs=CONDITION, optional=CONDITION_TOO, table="diagnoses")
            concepts = store.icd_concepts()
            coded = {"condition_occurrence": noted}
            coded |= {name: store.moved(name, concepts) for name in MOVED if store.has(name)}
        rows = visits.rows.select(
            "source_row", pl.lit("visit_occurrence").alias("source"),
            pl.col("visit_occurrence_id").alias("encounter_id"), pl.col("person_id").alias("patient_id"),
            pl.coalesce("visit_start_datetime", "visit_start_date").alias("start"),
            pl.coalesce("visit_end_datetime", "visit_end_date").alias("end"),
            "visit_concept_id",
        )  # fmt: skip
        kept, rejects = take_encounters(rows, day_end=True)
        persons, births, unread = _persons(people)
        kept = _ages(kept, births)
        patients, lost = take_patients(persons)
        patients, strangers = with_strangers(patients, kept, table="person")
        encounters = to_encounters(kept, keep=("visit_concept_id",))
        diagnoses, lost_codes = _diagnoses(coded, concepts, encounters, patients)
        recordings, lost_files, n_files = _recordings(root, encounters, patients)
        finish(
            run,
            patients=patients,
            encounters=encounters,
            recordings=recordings,
            diagnoses=diagnoses,
            rejects=[people.rejects, visits.rejects, *(t.rejects for t in coded.values()), *rejects, *unread, *lost,
                     strangers, *lost_codes, *lost_files],
            channel=self.card.index_channel,
            n_read={"encounters": visits.n_rows, "recordings": n_files,
                    "diagnoses": noted.n_rows + sum(len(t.rows) for n, t in coded.items() if n in MOVED)},
            notes=[(t.n_rows, len(t.rows), f"rows of {n} with an ICD code") for n, t in coded.items() if n in MOVED],
        )  # fmt: skip


def _persons(people: TextTable) -> tuple[pl.DataFrame, pl.DataFrame, list[pl.DataFrame]]:
    """Return patients' rows, their days of birth, and what could not be read."""

    def word(concepts: dict[str, str], column: str, source: str) -> pl.Expr:
        known = pl.col(column).replace_strict(concepts, default=None, return_dtype=pl.String)
        return pl.coalesce(known, pl.col(source))

    rows = people.rows.with_columns(
        *(parse_number(pl.col(c)).alias(f"n_{c}") for c in ("year_of_birth", "month_of_birth", "day_of_birth")),
        source=pl.lit("person"),
    ).with_columns(pl.col("n_year_of_birth").is_between(1800, 2500).alias("sane"))  # fmt: skip
    odd = pl.col("year_of_birth").is_not_null() & ~pl.col("sane").fill_null(value=False)
    unread = [told(rows.filter(odd), table="patients", reason="bad_number", detail="year_of_birth")]
    year = pl.when(pl.col("sane")).then(pl.col("n_year_of_birth")).cast(pl.Int32)
    # Where the day is not known the middle of the year, or of the month, is the best guess of it.
    month = pl.col("n_month_of_birth").cast(pl.Int8, strict=False)
    day = pl.col("n_day_of_birth").cast(pl.Int8, strict=False)
    month_ok = month.is_between(1, 12)
    whole = (
        pl.when(month_ok & day.is_between(1, 31)).then(pl.format("{}-{}-{}", year, month, day))
        .when(month_ok).then(pl.format("{}-{}-15", year, month))
        .otherwise(pl.format("{}-7-1", year))
    )  # fmt: skip
    rows = rows.with_columns(
        year.alias("birth_year"),
        pl.coalesce(whole.str.to_date("%Y-%m-%d", strict=False),
                    pl.format("{}-7-1", year).str.to_date("%Y-%m-%d", strict=False)).alias("born"),
        pl.coalesce(pl.col("gender_concept_id").replace_strict(SEX, default=None, return_dtype=pl.String),
                    sex_of(pl.col("gender_source_value"))).alias("sex"),
        word(RACE, "race_concept_id", "race_source_value").alias("race"),
        word(ETHNICITY, "ethnicity_concept_id", "ethnicity_source_value").alias("ethnicity"),
    ).rename({"person_id": "patient_id"})  # fmt: skip
    births = rows.drop_nulls(["patient_id"]).unique("patient_id", keep="first", maintain_order=True)
    return rows, births.select("patient_id", "born"), unread


def _ages(rows: pl.DataFrame, births: pl.DataFrame) -> pl.DataFrame:
    """Set the age at the start of the visit in years."""
    joined = rows.join(births, on="patient_id", how="left", maintain_order="left")
    return joined.with_columns(pl.col("start").dt.date().alias("day")).with_columns(
        years_since("born", "day").alias("age")
    ).drop("born", "day")  # fmt: skip


def _coded(rows: pl.DataFrame, concepts: pl.DataFrame, kind: str) -> pl.DataFrame:
    """Give each row its code and code system: from the source concept where it is ICD, else from the source value."""
    concept, value = f"{kind}_source_concept_id", f"{kind}_source_value"
    rows = rows.join(concepts, left_on=concept, right_on="concept_id", how="left", maintain_order="left")
    before, behind = pl.col(value).str.extract_groups(_SYSTEM), pl.col(value).str.extract_groups(_BEHIND)
    said = pl.coalesce(before.struct.field("1"), behind.struct.field("2"))
    bare = pl.coalesce(before.struct.field("2"), behind.struct.field("1"))
    system = said.str.to_lowercase().str.replace_all("-", "", literal=True)
    read = system.replace_strict(_WORDS, default=None, return_dtype=pl.String)
    mapped = pl.col("concept_code").is_not_null()
    return rows.with_columns(
        pl.when(mapped).then(pl.col("concept_code")).otherwise(pl.coalesce(bare, pl.col(value))).alias("cell"),
        pl.when(mapped).then(pl.col("vocabulary_id")).otherwise(pl.coalesce(read, pl.lit("unknown")))
        .alias("vocabulary"),
        pl.when(pl.col(concept).fill_null("0") == "0").then(pl.lit("source concept 0"))
        .otherwise(pl.lit("source concept of another vocabulary")).alias("system"),
    )  # fmt: skip


def _diagnoses(
    coded: dict[str, TextTable], concepts: pl.DataFrame, encounters: pl.DataFrame, patients: pl.DataFrame
) -> tuple[pl.DataFrame, list[pl.DataFrame]]:
    """Return the diagnoses of all tables; each is dated by its own start and belongs to its visit."""
    parts, lost = [], []
    for name, table in coded.items():
        kind = MOVED.get(name, "condition")
        rows = _coded(table.rows, concepts, kind).with_columns(pl.lit(name).alias("source"))
        date = "condition_start_date" if kind == "condition" else f"{kind}_date"
        rows, unread = read_dates(rows, date)
        lost.append(unread)
        parts.append(
            rows.select(
                "source", "source_row", pl.col("person_id").alias("patient_id"),
                # 0 stands for no visit in some exports.
                pl.when(pl.col("visit_occurrence_id") != "0").then(pl.col("visit_occurrence_id"))
                .alias("encounter_id"),
                "cell", "vocabulary", "system", "recorded",
            )
        )  # fmt: skip
    diagnoses, rejects = take_diagnoses(pl.concat(parts), encounters=encounters, patients=patients, own_date=True)
    return diagnoses, [*lost, *rejects]


def _recordings(
    root: Path, encounters: pl.DataFrame, patients: pl.DataFrame
) -> tuple[pl.DataFrame, list[pl.DataFrame], int]:
    path = find_table(root, RECORDINGS)
    if path is None:
        return Recordings.empty(), [], 0
    got = read_any(path, needs=("path",), optional=("person_id", "visit_occurrence_id", *COLUMNS), table="recordings")
    rows = got.rows.with_columns(
        pl.coalesce("patient_id", "person_id").alias("patient_id"),
        pl.coalesce("encounter_id", "visit_occurrence_id").alias("encounter_id"),
    )
    recordings, lost = take_recordings(
        root, rows.select("source_row", *COLUMNS), encounters=encounters, patients=patients
    )
    return recordings, [got.rejects, *lost], got.n_rows


SOURCE = Omop(load_card(Path(__file__).with_name("omop.toml")))
