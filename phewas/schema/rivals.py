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


class Controls(Table):
    """Control phenotypes: one row per phenotype of the vocabulary that the list names, tested or not."""

    file = "results/controls.parquet"
    key = ("phenotype",)
    phenotype = Column(pl.String, "which phenotype")
    kind = Column(pl.String, "negative: nothing leads from it to the signal; positive: the signal must show it",
                  values=("negative", "positive"))
    reason = Column(pl.String, "why it is on the list")
    status = Column(pl.String, "tested, or why not")
    auc = Column(pl.Float64, "AUC of the encoder", nullable=True)
    auc_low = Column(pl.Float64, "its lower 95 % bound", nullable=True)
    auc_high = Column(pl.Float64, "its upper 95 % bound", nullable=True)
    q_fdr = Column(pl.Float64, "its Benjamini-Hochberg q over the family of all tests", nullable=True)
    delta_auc = Column(pl.Float64, "auc - that of age + sex", nullable=True)
    delta_low = Column(pl.Float64, "lower 95 % bound", nullable=True)
    delta_high = Column(pl.Float64, "upper 95 % bound", nullable=True)


class ControlSummary(Table):
    """Control phenotypes together: one row per kind, those with identical labels counted once."""

    file = "results/control_summary.parquet"
    key = ("kind",)
    kind = Column(pl.String, "negative or positive", values=("negative", "positive"))
    n_listed = Column(pl.Int64, "on the list and in the vocabulary")
    n_tested = Column(pl.Int64, "tested among them")
    n_above = Column(pl.Int64, "whose lower 95 % bound is above 0.5")
    share_above = Column(pl.Float64, "n_above / those with an interval; 0.025 by chance", nullable=True)
    n_significant = Column(pl.Int64, "q_fdr < 0.05 and auc > 0.5")
    n_beyond_age_sex = Column(pl.Int64, "whose difference from age + sex has a lower bound above 0")
    median_auc = Column(pl.Float64, "median AUC", nullable=True)
    median_low = Column(pl.Float64, "its lower 95 % bound, patients resampled", nullable=True)
    median_high = Column(pl.Float64, "its upper 95 % bound", nullable=True)
    p_excess = Column(pl.Float64, "probability of so many lower bounds above 0.5 if none were seen (binomial)",
                      nullable=True)
    looks_seen = Column(pl.Boolean, "median_low > 0.5, or p_excess < 0.05; null without intervals", nullable=True)


class NetBenefit(Table):
    """What acting on the encoder would gain: one row per tested phenotype and threshold; empty unless asked for."""

    file = "results/net_benefit.parquet"
    key = ("phenotype", "threshold")
    phenotype = Column(pl.String, "which phenotype")
    threshold = Column(pl.Float64, "probability from which one acts")
    status = Column(
        pl.String, "raw or recalibrated probability; or why there is none, as in the table calibration",
        values=("raw", "recalibrated", "no_tuning_cases", "unknown_training"),
    )  # fmt: skip
    n_flagged = Column(pl.Int64, "units with at least that probability", nullable=True)
    net_benefit = Column(pl.Float64, "true alarms per unit less false alarms weighted by the threshold's odds "
                         "(Vickers and Elkin 2006); above 0: better than acting on nobody", nullable=True)
    low = Column(pl.Float64, "its lower 95 % bound, patient bootstrap", nullable=True)
    high = Column(pl.Float64, "its upper 95 % bound", nullable=True)
    treat_all = Column(pl.Float64, "net benefit of acting on everybody", nullable=True)
    over_treat_all = Column(pl.Float64, "net_benefit - treat_all", nullable=True)
    over_low = Column(pl.Float64, "its lower 95 % bound, same draws", nullable=True)
    over_high = Column(pl.Float64, "its upper 95 % bound", nullable=True)
