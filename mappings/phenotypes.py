"""Labels: who is a case, who a control, and who is neither.

The rules are those of phenome-wide association studies (Denny et al., Nat Biotechnol 2013;31:1102): a case needs codes
on so many distinct days of the phenotype or of phenotypes below it; a person with some of these codes but too few days,
or with a code of a related phenotype, is no control either. What is added here is time: a label belongs to an encounter
and rests on the diagnoses inside its label window only.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from phewas.config import PhenotypeConfig
from phewas.errors import ConfigError
from phewas.mappings import onsets as timing
from phewas.mappings.coverage import Linked, link
from phewas.mappings.labelling import EXCLUDED_BY, Labeller, blocks, prepare
from phewas.mappings.vocabulary import Vocabulary
from phewas.rundir import atomic
from phewas.schema import (
    LABELS_PATH,
    Diagnoses,
    Encounters,
    LabelColumns,
    LabelRows,
    Patients,
    Phenotypes,
    Unmapped,
)


def label(
    *,
    diagnoses: pl.DataFrame,
    encounters: pl.DataFrame,
    patients: pl.DataFrame,
    vocabulary: Vocabulary,
    config: PhenotypeConfig,
    min_code_days: int,
    run: Path,
) -> dict[str, Any]:
    """Label every encounter for every phenotype of the vocabulary and write ``phenotypes/`` below `run`.

    With index day d (of index_time, else of start) and last day e (of end, else d), by day:

    ``history``
        Diagnoses noted before d. An encounter without d is -1 throughout: nothing is known about what came before.
    ``through_visit``
        Diagnoses noted on or before e, and those given for this very encounter, dated or not. An encounter without
        any date is labelled by its own diagnoses alone.
    ``any``
        Every diagnosis, dated or not.

    All diagnoses of the patient count, also those of other encounters. A diagnosis of this encounter without a date
    counts as noted on e. An undated diagnosis is never a distinct day beside dated ones. A diagnosis that names an
    unknown encounter, or one of another patient, counts as if it named none.

    A cell is 1 with at least `min_code_days` distinct days; otherwise -1 with a code on at least one, with an uncertain
    diagnosis of the phenotype or of one below it, or (`control_exclusions`) with a code that means a related phenotype;
    otherwise 0. In a phenotype of one sex everybody else is -1. Uncertain diagnoses bar no related phenotypes.

    Parameters
    ----------
    diagnoses, encounters, patients
        `phewas.schema.Diagnoses`, `Encounters`, `Patients`, in any row order. Repeated rows change nothing.
    vocabulary
        From `phewas.mappings.vocabulary.load`.
    config
        label_window and control_exclusions are read.
    min_code_days
        Distinct days that a case needs, at least 1.
    run
        Run directory.

    Returns
    -------
    dict
        JSON-ready counts: ``coverage`` (rows, codes, patients), ``cells`` (case, control, excluded), ``excluded_by``
        (the keys of `EXCLUDED_BY`; each excluded cell once), ``cases_lost_to_sex``, ``diagnoses`` and ``encounters``
        (what could be used only in part), and ``notes`` (sentences for the report). A cell is one encounter and one
        phenotype.

    Raises
    ------
    ConfigError
        `min_code_days` is below 1.
    SchemaError
        An input table does not keep its contract.
    """
    if min_code_days < 1:
        raise ConfigError(f"min_code_days is {min_code_days}", expected="at least 1", cure="set it to 1 or 2")
    diagnoses, encounters = Diagnoses.check(diagnoses), Encounters.check(encounters)
    order = vocabulary.phenotypes.select("phenotype").with_row_index("place")
    linked = link(diagnoses=diagnoses, vocabulary=vocabulary)
    visits = _visits(encounters, Patients.check(patients))
    events, counts = _events(diagnoses, visits, linked)
    labeller = prepare(
        events=events, visits=visits, linked=linked, vocabulary=vocabulary, order=order,
        window=config.label_window, min_code_days=min_code_days, exclusions=config.control_exclusions,
    )  # fmt: skip
    tally = _write_labels(labeller, visits, run)
    names = vocabulary.phenotypes["phenotype"].to_list()
    same_as = _same_as(names, tally.digests, tally.cases)
    table = vocabulary.phenotypes.with_columns(
        pl.lit(vocabulary.label).alias("vocabulary"), pl.Series("same_as", same_as, dtype=pl.String)
    )
    Phenotypes.write(table, run)
    LabelRows.write(visits.select("encounter_id", "patient_id"), run)
    LabelColumns.write(vocabulary.phenotypes.select("phenotype"), run)
    Unmapped.write(linked.unmapped, run)
    cells = visits.height * len(names)
    undated = visits["end_day"].null_count()
    excluded = sum(tally.excluded.values())
    return {
        "vocabulary": vocabulary.label,
        "label_window": config.label_window,
        "min_code_days": min_code_days,
        "control_exclusions": config.control_exclusions,
        "n_encounters": visits.height,
        "n_patients": visits["patient_id"].n_unique(),
        "n_phenotypes": len(names),
        "n_phenotypes_with_cases": int((tally.cases > 0).sum()),
        "n_same_as": sum(name is not None for name in same_as),
        "coverage": linked.coverage,
        "cells": {"case": int(tally.cases.sum()), "control": cells - excluded - int(tally.cases.sum())}
        | {"excluded": excluded},
        "excluded_by": tally.excluded,
        "cases_lost_to_sex": tally.cases_lost_to_sex,
        "diagnoses": counts,
        "encounters": {
            "without_date": undated,
            "without_index_day": visits["index_day"].null_count(),
            "sex_unknown": visits.filter(pl.col("sex") == "U").height,
        },
        "notes": _notes(config.label_window, visits, counts),
    }


def _visits(encounters: pl.DataFrame, patients: pl.DataFrame) -> pl.DataFrame:
    """Return one row per encounter in the order of the labels, with days since 1970 and a dense patient number."""
    day = pl.coalesce("index_time", "start").dt.date().cast(pl.Int32)
    frame = encounters.sort("encounter_id").join(
        patients.select("patient_id", "sex"), on="patient_id", how="left", maintain_order="left"
    )
    frame = frame.with_columns(day.alias("index_day")).with_columns(
        pl.coalesce(pl.col("end").dt.date().cast(pl.Int32), "index_day").alias("end_day")
    )
    people = frame.select("patient_id").unique().sort("patient_id").with_row_index("patient")
    return (
        frame.join(people, on="patient_id", how="left", maintain_order="left")
        .with_row_index("visit")
        .select(
            pl.col("visit").cast(pl.Int32),
            "encounter_id",
            "patient_id",
            pl.col("patient").cast(pl.Int32),
            pl.col("sex").fill_null("U"),
            "index_day",
            "end_day",
        )
    )


def _events(diagnoses: pl.DataFrame, visits: pl.DataFrame, linked: Linked) -> tuple[pl.DataFrame, dict[str, int]]:
    """Return the mapped diagnoses of the cohort's patients in numbers, each once, and what can be used in part only.

    Columns: patient, visit (null unless the row names an encounter of the patient), day (null where undated), code_id,
    uncertain.
    """
    people = visits.select("patient_id", "patient").unique()
    rows = (
        diagnoses.lazy()
        .select(
            "patient_id",
            "encounter_id",
            "code",
            "vocabulary",
            pl.col("recorded").cast(pl.Int32).alias("day"),
            (pl.col("certainty") == "uncertain").fill_null(value=False).alias("uncertain"),
        )
        .join(people.lazy(), on="patient_id", how="left")
        .join(
            visits.lazy().select("encounter_id", "visit", pl.col("patient").alias("owner")),
            on="encounter_id",
            how="left",
        )
    )
    named, found = pl.col("encounter_id").is_not_null(), pl.col("visit").is_not_null()
    own = (pl.col("patient") == pl.col("owner")).fill_null(value=False)
    counts = {
        "n_rows": pl.len(),
        "undated": pl.col("day").is_null().sum(),
        "undated_without_encounter": (pl.col("day").is_null() & ~own).sum(),
        "uncertain": pl.col("uncertain").sum(),
        "patient_without_encounter": pl.col("patient").is_null().sum(),
        "names_unknown_encounter": (named & ~found).sum(),
        "names_encounter_of_another_patient": (found & ~own).sum(),
    }
    tally = rows.select([value.alias(name) for name, value in counts.items()]).collect().row(0, named=True)
    events = (
        rows.filter(pl.col("patient").is_not_null())
        .join(linked.codes.lazy(), on=["code", "vocabulary"])
        .select("patient", pl.when(own).then("visit").alias("visit"), "day", "code_id", "uncertain")
        .unique()
        .collect()
    )
    return events, {name: int(value) for name, value in tally.items()}


@dataclass(eq=False)
class _Tally:
    excluded: dict[str, int]
    cases: timing.Ints
    cases_lost_to_sex: int
    digests: list[bytes]


def _write_labels(made: Labeller, visits: pl.DataFrame, run: Path) -> _Tally:
    """Write ``labels.npy`` block by block, so that the whole matrix never stands in memory."""
    hashes = [hashlib.blake2b(digest_size=16) for _ in range(made.n_phenotypes)]
    tally = _Tally(dict.fromkeys(EXCLUDED_BY, 0), np.zeros(made.n_phenotypes, np.int64), 0, [])
    header = {"descr": "|i1", "fortran_order": False, "shape": (visits.height, made.n_phenotypes)}
    with atomic(run / LABELS_PATH) as handle:
        np.lib.format.write_array_header_1_0(handle, header)
        for _, labels, counts, lost in blocks(made):
            handle.write(labels.tobytes())
            tally.cases += (labels == 1).sum(axis=0)
            tally.cases_lost_to_sex += lost
            for reason, number in counts.items():
                tally.excluded[reason] += number
            for digest, column in zip(hashes, np.ascontiguousarray(labels.T), strict=True):
                digest.update(column.tobytes())
    tally.digests = [digest.digest() for digest in hashes]
    return tally


def _same_as(names: list[str], digests: list[bytes], cases: timing.Ints) -> list[str | None]:
    """Return for each phenotype the first one before it with the same labels; phenotypes without a case have none."""
    first: dict[bytes, str] = {}
    result: list[str | None] = []
    for name, digest, n_cases in zip(names, digests, cases, strict=True):
        result.append(first.get(digest) if n_cases else None)
        if n_cases:
            first.setdefault(digest, name)
    return result


def _notes(window: str, visits: pl.DataFrame, counts: dict[str, int]) -> list[str]:
    notes = []
    undated, no_index = visits["end_day"].null_count(), visits["index_day"].null_count()
    if window == "through_visit" and undated:
        notes.append(f"{undated} encounters have no date: only diagnoses given for them count in their labels.")
    if window == "history" and no_index:
        notes.append(f"{no_index} encounters have no index date: all their labels are -1 (excluded).")
    lost = counts["undated_without_encounter"] if window == "through_visit" else counts["undated"]
    if window != "any" and lost:
        notes.append(f"{lost} diagnoses without a date lie in no label window and were not used.")
    if counts["names_encounter_of_another_patient"]:
        number = counts["names_encounter_of_another_patient"]
        notes.append(f"{number} diagnoses name an encounter of another patient; they count by their date only.")
    if counts["names_unknown_encounter"]:
        notes.append(f"{counts['names_unknown_encounter']} diagnoses name an unknown encounter; they count by date.")
    if counts["patient_without_encounter"]:
        notes.append(f"{counts['patient_without_encounter']} diagnoses belong to patients without an encounter.")
    return notes
