"""What the releases of MIMIC share: a patients table that does not know race, and stays that do."""

from __future__ import annotations

import polars as pl

from phewas.cohorts.assemble import take_patients, with_strangers
from phewas.cohorts.csvtext import TextTable

WORDS = {"subject_id": "patient_id", "gender": "sex"}


def take_subjects(people: TextTable, stays: pl.DataFrame) -> tuple[pl.DataFrame, list[pl.DataFrame]]:
    """Return the patients table, and what was lost or told.

    Parameters
    ----------
    people
        The table ``patients``: subject_id, gender and whatever else.
    stays
        Rows of `phewas.cohorts.assemble.take_encounters` with a column ``race``; the last stay that says one counts.
        Patients of stays who have no row in `people` are added with sex ``U``.
    """
    race = stays.sort("start", "source", "source_row").group_by("patient_id", maintain_order=True).agg(
        pl.col("race").drop_nulls().last()
    )  # fmt: skip
    persons = people.rows.rename(WORDS).with_columns(source=pl.lit("patients"))
    patients, lost = take_patients(persons.join(race, on="patient_id", how="left", maintain_order="left"))
    patients, strangers = with_strangers(patients, stays, table="patients")
    return patients, [people.rejects, *lost, strangers]
