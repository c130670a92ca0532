"""Tables of the phenotypes and their labels."""

from __future__ import annotations

import polars as pl

from phewas.schema.tables import Column, Table


class Phenotypes(Table):
    """One row per phenotype of the vocabulary."""

    file = "phenotypes/phenotypes.parquet"
    key = ("phenotype",)
    phenotype = Column(pl.String, "identifier; phecodes stay text (008, 250.2)")
    description = Column(pl.String, "in words")
    chapter = Column(pl.String, "chapter name")
    chapter_order = Column(pl.Int16, "the vocabulary's own chapter number")
    sex = Column(pl.String, "who can have it", values=("both", "F", "M"))
    vocabulary = Column(pl.String, "name and version")
    same_as = Column(pl.String, "the first phenotype with identical labels", nullable=True)


class LabelRows(Table):
    """Rows of ``phenotypes/labels.npy`` (int8 [encounters, phenotypes]: 1 case, 0 control, -1 excluded)."""

    file = "phenotypes/label_rows.parquet"
    key = ("encounter_id",)
    encounter_id = Column(pl.String, "row")
    patient_id = Column(pl.String, "whose encounter")


class LabelColumns(Table):
    """Columns of ``phenotypes/labels.npy``."""

    file = "phenotypes/label_columns.parquet"
    key = ("phenotype",)
    phenotype = Column(pl.String, "column")


LABELS_PATH = "phenotypes/labels.npy"


class Unmapped(Table):
    """Codes that reached no phenotype."""

    file = "phenotypes/unmapped.parquet"
    code = Column(pl.String, "normalised code")
    vocabulary = Column(pl.String, "code system")
    n_rows = Column(pl.Int64, "rows of diagnoses")
    n_patients = Column(pl.Int64, "patients")
    reason = Column(pl.String, "why it reached none")


class Definitions(Table):
    """Every code that the run's map gives to a phenotype, whether a patient has it or not; ancestors not repeated."""

    file = "phenotypes/definitions.parquet"
    key = ("phenotype", "code_system", "code")
    phenotype = Column(pl.String, "identifier; it also counts the codes of the phenotypes that roll up to it")
    code_system = Column(pl.String, "ICD9CM, ICD10CM or ICD10")
    code = Column(pl.String, "the code, dotted")
