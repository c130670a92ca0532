"""Labels: who is a case, who a control, and who is neither.

The rules are those of phenome-wide association studies (Denny et al., Nat Biotechnol 2013;31:1102): a case needs codes
on so many distinct days of the phenotype or of phenotypes below it; a person with some of these codes but too few days,
or with a code of a related phenotype, is no control either. What is added here is time: a label belongs to an encounter
and rests on the diagnoses inside its label window only.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from phewas.config import PhenotypeConfig
from phewas.errors import ConfigError, SchemaError
from phewas.mappings import onsets as timing
from phewas.mappings.coverage import Linked, definitions, link
from phewas.mappings.labelling import Labeller, blocks, prepare
from phewas.mappings.replacements import Given, replace
from phewas.mappings.rules import EXCLUDED_BY, LabelRules, costs, notes_on
from phewas.mappings.vocabulary import Vocabulary
from phewas.rundir import atomic
from phewas.schema import (
    LABELS_PATH,
    Definitions,
    Diagnoses,
    Encounters,
    LabelColumns,
    LabelRows,
    Patients,
    Phenotypes,
    Unmapped,
)

#: Column of encounters that says until when its patient's diagnoses are known, where the source says so.
FOLLOW_UP = "src_follow_up_end"


def label(
    *,
    diagnoses: pl.DataFrame,
    encounters: pl.DataFrame,
    patients: pl.DataFrame,
    vocabulary: Vocabulary,
    config: PhenotypeConfig,
    min_code_days: int,
    run: Path,
    tables: Mapping[str, Given] | None = None,
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
    ``future``
        Diagnoses noted after e, up to and including the day e + h (h = `horizon_days`), of patients who had none of
        the phenotype before: with one noted on or before e, or given for this very encounter (whatever its date), the
        cell is -1. So it is with an uncertain one, even if it was confirmed later: the disease was suspected at the
        visit. A control needs follow-up until the day e + h at least, else the cell is -1; a case needs none. Follow-up
        ends with the earlier of `follow_up_until` and the encounter's own ``src_follow_up_end`` (a date or a datetime,
        null where unknown); diagnoses noted after it are not used, nor are those noted after e + h. An encounter
        without e is -1 throughout.

    All diagnoses of the patient count, also those of other encounters. A diagnosis of this encounter without a date
    counts as noted on e. An undated diagnosis is never a distinct day beside dated ones. A diagnosis that names an
    unknown encounter, or one of another patient, counts as if it named none.

    A cell is 1 with at least `min_code_days` distinct days inside the window; otherwise -1 with a code on at least one,
    with an uncertain diagnosis of the phenotype or of one below it, or (`control_exclusions`) with a code of a related
    phenotype or of one that rolls up to it; otherwise 0. As in R PheWAS, codes are rolled up before related phenotypes
    are looked at, one code is enough, and no exclusion undoes a case. In the window ``future`` a related code bars a
    control if it was noted at any time up to e + h: before, during and after the visit. In a phenotype of one sex
    everybody else is -1. Uncertain diagnoses bar no related phenotypes.

    Parameters
    ----------
    diagnoses, encounters, patients
        `phewas.schema.Diagnoses`, `Encounters`, `Patients`, in any row order. Repeated rows change nothing.
    vocabulary
        From `phewas.mappings.vocabulary.load`.
    config
        Every option but vocabulary and min_code_days is read.
    min_code_days
        Distinct days that a case needs, at least 1.
    run
        Run directory.
    tables
        Frames or files in place of the vocabulary's map, rollup, exclusions and sex
        (`phewas.mappings.replacements.replace`); they go before the files that `config` names.

    Returns
    -------
    dict
        JSON-ready counts: ``coverage`` (rows, codes, patients), ``cells`` (case, control, excluded), ``excluded_by``
        (the keys of `EXCLUDED_BY`; each excluded cell once), ``cases_lost_to_sex``, ``rules`` (each rule in words, its
        option and what it costs), ``diagnoses`` and ``encounters`` (what could be used only in part), and ``notes``
        (sentences for the report). A cell is one encounter and one phenotype. ``phenotypes/rules.parquet``
        (`phewas.mappings.rules.LabelRules`) has the same by phenotype.

    Raises
    ------
    ConfigError
        `min_code_days` is below 1; or the window is ``future`` and no follow-up time is known, or none is long enough.
    SchemaError
        An input table does not keep its contract.
    VocabularyError
        A table in `tables` or a file in `config` is malformed; the message names the row.
    """
    if min_code_days < 1:
        raise ConfigError(f"min_code_days is {min_code_days}", expected="at least 1", cure="set it to 1 or 2")
    vocabulary = replace(vocabulary, {**config.replacements, **(tables or {})})
    diagnoses, encounters = Diagnoses.check(diagnoses), Encounters.check(encounters)
    visits = _visits(encounters, Patients.check(patients), config)
    spelling = {"walk_up": config.walk_up, "restore_zeros": config.restore_zeros}
    linked = link(diagnoses=diagnoses, vocabulary=vocabulary, **spelling)
    events, counts = _events(diagnoses, visits, linked)
    match config.uncertain:
        case "ignore":
            events = events.filter(~pl.col("uncertain"))
        case "confirm":
            events = events.with_columns(pl.lit(value=False).alias("uncertain")).unique()
    labeller = prepare(
        events=events, visits=visits, linked=linked, vocabulary=vocabulary, config=config, min_code_days=min_code_days
    )
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
    Definitions.write(definitions(vocabulary, linked), run)
    LabelRules.write(tally.rules(names, visits.height), run)
    excluded = {reason: int(number.sum()) for reason, number in tally.excluded.items()}
    n_cases, n_excluded = int(tally.cases.sum()), sum(excluded.values())
    lost = int(tally.cases_lost_to_sex.sum())
    # Without roll-up, what lies below a phenotype is related to it in any vocabulary.
    exclusions = config.control_exclusions and (vocabulary.exclusions.height > 0 or not config.roll_up)
    chosen = {
        "vocabulary": vocabulary.label,
        "label_window": config.label_window,
        "min_code_days": min_code_days,
        "roll_up": config.roll_up,
        "control_exclusions": exclusions,
        "sex_rule": config.sex_rule,
        "uncertain": config.uncertain,
        **spelling,
    }
    if config.label_window == "future":
        until = config.follow_up_until
        chosen |= {"horizon_days": config.horizon_days, "follow_up_until": until.isoformat() if until else None}
    return chosen | {
        "n_encounters": visits.height,
        "n_patients": visits["patient_id"].n_unique(),
        "n_phenotypes": len(names),
        "n_phenotypes_with_cases": int((tally.cases > 0).sum()),
        "n_same_as": sum(name is not None for name in same_as),
        "coverage": linked.coverage,
        "cells": {
            "case": n_cases,
            "control": visits.height * len(names) - n_excluded - n_cases,
            "excluded": n_excluded,
        },
        "excluded_by": excluded,
        "cases_lost_to_sex": lost,
        "rules": costs(chosen, excluded, cases_lost_to_sex=lost),
        "diagnoses": counts,
        "encounters": {
            "without_date": visits["end_day"].null_count(),
            "without_index_day": visits["index_day"].null_count(),
            "sex_unknown": visits.filter(pl.col("sex") == "U").height,
        },
        "notes": notes_on(config, visits, counts, diagnoses),
    }


def _visits(encounters: pl.DataFrame, patients: pl.DataFrame, config: PhenotypeConfig) -> pl.DataFrame:
    """Return one row per encounter in the order of the labels, with days since 1970 and a dense patient number."""
    encounters = encounters.with_columns(_follow_up(encounters, config).alias("follow_up_day"))
    day = pl.coalesce("index_time", "start").dt.date().cast(pl.Int32)
    frame = encounters.sort("encounter_id").join(
        patients.select("patient_id", "sex"), on="patient_id", how="left", maintain_order="left"
    )
    frame = frame.with_columns(day.alias("index_day")).with_columns(
        pl.coalesce(pl.col("end").dt.date().cast(pl.Int32), "index_day").alias("end_day")
    )
    people = frame.select("patient_id").unique().sort("patient_id").with_row_index("patient")
    if config.label_window == "future":
        _check_follow_up(frame, config)
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
            "follow_up_day",
        )
    )


def _follow_up(encounters: pl.DataFrame, config: PhenotypeConfig) -> pl.Expr:
    """Return the day until which diagnoses are known, the earlier where two are given; null where not known.

    Raises
    ------
    ConfigError
        The window is ``future`` and neither the source nor the user says how long patients were followed up.
    SchemaError
        The source's column is no date.
    """
    nothing = pl.lit(None, pl.Int32)
    if config.label_window != "future":
        return nothing
    known = FOLLOW_UP in encounters.columns and encounters[FOLLOW_UP].count() > 0
    if not known and config.follow_up_until is None:
        raise ConfigError(
            "labels of the future need to know how long patients were followed up, and this source does not say it "
            f"(no column {FOLLOW_UP}, or an empty one; MC-MED publishes none)",
            expected="a control is free of the disease for the whole horizon, which cannot be told without",
            cure="give the last day on which a diagnosis would have been recorded with --follow-up-until YYYY-MM-DD; "
            "where each patient's dates are shifted by another amount no such day exists: take --label-window "
            "through_visit",
        )
    own = nothing
    if known:
        if not encounters.schema[FOLLOW_UP].is_temporal():
            raise SchemaError(f"encounters.{FOLLOW_UP} is {encounters.schema[FOLLOW_UP]}", expected="Date or Datetime")
        own = pl.col(FOLLOW_UP).cast(pl.Date).cast(pl.Int32)
    return pl.min_horizontal(own, pl.lit(config.follow_up_until, pl.Date).cast(pl.Int32))


def _check_follow_up(visits: pl.DataFrame, config: PhenotypeConfig) -> None:
    """Refuse a follow-up that leaves no encounter from which a control could come."""
    long_enough = pl.col("follow_up_day") >= pl.col("end_day") + config.horizon_days
    if visits["end_day"].count() and not visits.select(long_enough.any()).item():
        raise ConfigError(
            f"no encounter is followed up for {config.horizon_days} days, so no phenotype would have a control",
            expected="follow-up that ends that long after the visit",
            cure="state a later --follow-up-until if that is true of the source, or a shorter --horizon-days",
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


@dataclass(frozen=True, eq=False)
class _Tally:
    """Counts by phenotype, and a digest of each phenotype's labels."""

    cases: timing.Ints
    excluded: dict[str, timing.Ints]
    cases_lost_to_sex: timing.Ints
    digests: list[bytes]

    def rules(self, names: list[str], n_encounters: int) -> pl.DataFrame:
        """Return the table `LabelRules`."""
        excluded = np.sum(list(self.excluded.values()), axis=0, dtype=np.int64)
        counts = {"n_case": self.cases, "n_control": n_encounters - self.cases - excluded, "n_excluded": excluded}
        counts |= {f"n_excluded_{reason}": number for reason, number in self.excluded.items()}
        counts["n_case_lost_to_sex"] = self.cases_lost_to_sex
        return pl.DataFrame({"phenotype": names, **counts}, schema=LabelRules.dtypes())


def _write_labels(made: Labeller, visits: pl.DataFrame, run: Path) -> _Tally:
    """Write ``labels.npy`` block by block, so that the whole matrix never stands in memory."""
    n = made.n_phenotypes
    hashes = [hashlib.blake2b(digest_size=16) for _ in range(n)]
    cases, lost = np.zeros(n, np.int64), np.zeros(n, np.int64)
    excluded: dict[str, timing.Ints] = {reason: np.zeros(n, np.int64) for reason in EXCLUDED_BY}
    header = {"descr": "|i1", "fortran_order": False, "shape": (visits.height, n)}
    with atomic(run / LABELS_PATH) as handle:
        np.lib.format.write_array_header_1_0(handle, header)
        for block in blocks(made):
            handle.write(block.labels.tobytes())
            cases += block.cases
            lost += block.cases_lost_to_sex
            for reason, number in block.excluded.items():
                excluded[reason] += number
            for digest, column in zip(hashes, np.ascontiguousarray(block.labels.T), strict=True):
                digest.update(column.data)
    return _Tally(cases, excluded, lost, [digest.digest() for digest in hashes])


def _same_as(names: list[str], digests: list[bytes], cases: timing.Ints) -> list[str | None]:
    """Return for each phenotype the first one before it with the same labels; phenotypes without a case have none."""
    first: dict[bytes, str] = {}
    result: list[str | None] = []
    for name, digest, n_cases in zip(names, digests, cases, strict=True):
        result.append(first.get(digest) if n_cases else None)
        if n_cases:
            first.setdefault(digest, name)
    return result
