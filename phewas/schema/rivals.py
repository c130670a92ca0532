"""Tables of what the encoder is held against besides age and sex: rivals, control phenotypes, decisions."""

from __future__ import annotations

import polars as pl

from phewas.schema.tables import Column, Table


class Rivals(Table):
    """The encoder against each rival on the same units: one row per tested phenotype and rival."""

    file = "results/rivals.parquet"
    key = ("phenotype", "rival")
    phenotype = Column(pl.String, "which phenotype")
    rival = Column(pl.String, "vitals, utilisation, acquisition or pulse-features")
    status = Column(
        pl.String, "fitted; or no_training_cases: nobody to learn from", values=("fitted", "no_training_cases")
    )
    auc = Column(pl.Float64, "AUC of the rival, fitted on training patients alone", nullable=True)
    low = Column(pl.Float64, "its lower 95 % bound, patient-clustered", nullable=True)
    high = Column(pl.Float64, "its upper 95 % bound", nullable=True)
    p_value = Column(pl.Float64, "two-sided p of it against AUC 0.5", nullable=True)
    q_fdr = Column(pl.Float64, "its Benjamini-Hochberg q over the family", nullable=True)
    difference = Column(pl.Float64, "AUC of the encoder - AUC of the rival", nullable=True)
    difference_se = Column(pl.Float64, "its paired standard error, patient-clustered", nullable=True)
    difference_low = Column(pl.Float64, "lower 95 % bound", nullable=True)
    difference_high = Column(pl.Float64, "upper 95 % bound", nullable=True)
    difference_p = Column(pl.Float64, "two-sided p of no difference", nullable=True)
    difference_q = Column(pl.Float64, "its Benjamini-Hochberg q over the family", nullable=True)
    explains = Column(
        pl.Boolean, "the rival sees it (lower bound above 0.5 and q_fdr < 0.05) and the encoder is not shown to see "
        "more (difference_q >= 0.05, or difference at most 0); null without inference", nullable=True,
    )  # fmt: skip


class RivalInputs(Table):
    """What each rival was told: one row per input, or one row without input that says why there is no such rival."""

    file = "results/rival_inputs.parquet"
    key = ("rival", "input")
    rival = Column(pl.String, "which rival")
    input = Column(pl.String, "name of the input; empty: the rival could not be had")
    kind = Column(pl.String, "how it enters", values=("number", "category", "hour", "none"))
    missing_training = Column(pl.Float64, "share of training units without a value", nullable=True)
    missing_scored = Column(pl.Float64, "share of scored units without a value", nullable=True)
    reason = Column(pl.String, "why the rival could not be had; null otherwise", nullable=True)
