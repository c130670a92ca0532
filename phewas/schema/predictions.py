"""Tables of windows and of predictions."""

from __future__ import annotations

import polars as pl

from phewas.schema.cohort import SPLITS
from phewas.schema.tables import Column, Table


class Windows(Table):
    """The encoder-independent choice of windows, in store row order.

    Where several channels are matched, the columns of the first have plain names, and those of the others end in the
    channel's name (``recording_id_ECG_II``, ``q_flat_ECG_II``).
    """

    prefix = ("q_", "recording_id_", "start_sample_")
    key = ("segment_id",)
    segment_id = Column(pl.String, "recording_id:start_sample")
    encounter_id = Column(pl.String, "whose window")
    patient_id = Column(pl.String, "whose window")
    recording_id = Column(pl.String, "where it lies")
    start_sample = Column(pl.Int64, "first sample in the recording")
    draw = Column(pl.Int32, "0-based place in the encounter's hashed order")


class PredictionRows(Table):
    """Rows of ``predictions/logits.npy`` (float32 [encounters, phenotypes], mean over segments)."""

    file = "predictions/rows.parquet"
    key = ("encounter_id",)
    encounter_id = Column(pl.String, "row")
    patient_id = Column(pl.String, "whose encounter")
    split = Column(pl.String, "the patient's side", values=SPLITS)
    fold = Column(pl.Int8, "fold whose model scored the row", nullable=True)
    model_id = Column(pl.String, "which model scored the row")
    n_segments = Column(pl.Int32, "segments averaged")


class PredictionColumns(Table):
    """Columns of ``predictions/logits.npy``."""

    file = "predictions/columns.parquet"
    key = ("phenotype",)
    phenotype = Column(pl.String, "column")


LOGITS_PATH = "predictions/logits.npy"


class PermutationNull(Table):
    """Cross-fitted runs only: what AUCs look like when patients' label rows are shuffled."""

    file = "predictions/permutation_null.parquet"
    phenotype = Column(pl.String, "which phenotype")
    permutation = Column(pl.Int32, "0-based")
    auc = Column(
        pl.Float64, "AUC of the cross-fitted encoder scores against shuffled labels; null if undefined", nullable=True
    )
    se = Column(pl.Float64, "its patient-clustered DeLong standard error", nullable=True)
