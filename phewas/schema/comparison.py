"""Tables of comparisons: two runs on the same encounters, and a run beside a published table."""

from __future__ import annotations

import polars as pl

from phewas.schema.tables import Column, Table


class Comparison(Table):
    """Paired differences: one row per other run and phenotype tested in both, b minus the first run a."""

    file = "comparison.parquet"
    key = ("run_b", "phenotype")
    run_a = Column(pl.String, "name of the first run")
    run_b = Column(pl.String, "name of the other run")
    phenotype = Column(pl.String, "identifier")
    description = Column(pl.String, "in words")
    chapter = Column(pl.String, "chapter name")
    chapter_order = Column(pl.Int16, "the vocabulary's chapter number")
    n_case_patients = Column(pl.Int64, "patients with at least one case unit")
    n_control_patients = Column(pl.Int64, "patients with at least one control unit")
    auc_a = Column(pl.Float64, "AUC of the first run")
    low_a = Column(pl.Float64, "its lower 95 % bound", nullable=True)
    high_a = Column(pl.Float64, "its upper 95 % bound", nullable=True)
    auc_b = Column(pl.Float64, "AUC of the other run")
    low_b = Column(pl.Float64, "its lower 95 % bound", nullable=True)
    high_b = Column(pl.Float64, "its upper 95 % bound", nullable=True)
    difference = Column(pl.Float64, "auc_b - auc_a")
    se = Column(pl.Float64, "its paired standard error, patient-clustered", nullable=True)
    low = Column(pl.Float64, "lower 95 % bound", nullable=True)
    high = Column(pl.Float64, "upper 95 % bound", nullable=True)
    p_value = Column(pl.Float64, "two-sided p of no difference", nullable=True)
    neg_log10_p = Column(pl.Float64, "-log10 p without underflow", nullable=True)
    q_fdr = Column(pl.Float64, "Benjamini-Hochberg q over the phenotypes that both test, same labels once",
                   nullable=True)
    q_maxt = Column(pl.Float64, "family-wise adjusted p by max-T over patients", nullable=True)
    outcome = Column(
        pl.String, "a or b: better at q < 0.05; tie: neither; empty: no test, or judged as `same_as`",
        values=("a", "b", "tie", ""),
    )  # fmt: skip
    same_as = Column(pl.String, "phenotype with identical labels that stands in the family instead", nullable=True)


class ComparisonChapters(Table):
    """Sums of the comparison by chapter, and over all phenotypes (chapter empty)."""

    file = "comparison_chapters.parquet"
    key = ("run_b", "chapter")
    run_a = Column(pl.String, "name of the first run")
    run_b = Column(pl.String, "name of the other run")
    chapter = Column(pl.String, "chapter name; empty: all")
    chapter_order = Column(pl.Int16, "the vocabulary's chapter number; 0: all")
    n_phenotypes = Column(pl.Int64, "tested in both, same labels once")
    n_a_better = Column(pl.Int64, "outcome a")
    n_b_better = Column(pl.Int64, "outcome b")
    mean_auc_a = Column(pl.Float64, "mean AUC of the first run", nullable=True)
    mean_auc_b = Column(pl.Float64, "mean AUC of the other run", nullable=True)
    mean_difference = Column(pl.Float64, "mean of b - a", nullable=True)
    low = Column(pl.Float64, "lower 95 % bound of that mean, patients resampled for all phenotypes together",
                 nullable=True)
    high = Column(pl.Float64, "upper 95 % bound", nullable=True)


class PublishedComparison(Table):
    """A published table beside a run: one row per published phenotype."""

    file = "results/published.parquet"
    key = ("published",)
    published = Column(pl.String, "identifier as published")
    published_auc = Column(pl.Float64, "published AUC")
    published_low = Column(pl.Float64, "its lower bound", nullable=True)
    published_high = Column(pl.Float64, "its upper bound", nullable=True)
    published_n_pos = Column(pl.Float64, "published number of positives, in the published unit", nullable=True)
    published_n_neg = Column(pl.Float64, "published number of negatives", nullable=True)
    phenotype = Column(pl.String, "our identifier; null where the vocabulary has none", nullable=True)
    description = Column(pl.String, "ours, in words", nullable=True)
    chapter = Column(pl.String, "our chapter", nullable=True)
    chapter_order = Column(pl.Int16, "its number", nullable=True)
    status = Column(pl.String, "tested, or why not; `not in the vocabulary`")
    auc = Column(pl.Float64, "our AUC", nullable=True)
    auc_low = Column(pl.Float64, "its lower 95 % bound", nullable=True)
    auc_high = Column(pl.Float64, "its upper 95 % bound", nullable=True)
    q_fdr = Column(pl.Float64, "our Benjamini-Hochberg q against 0.5", nullable=True)
    n_cases = Column(pl.Int64, "our case units; null also where hidden", nullable=True)
    n_case_patients = Column(pl.Int64, "our case patients; null also where hidden", nullable=True)
    unit = Column(pl.String, "our unit of analysis", nullable=True)
    difference = Column(pl.Float64, "auc - published_auc", nullable=True)
    inside = Column(pl.Boolean, "whether the published AUC lies within our interval", nullable=True)
