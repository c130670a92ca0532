"""Tables of results: what was found for each phenotype, and what stands beside it."""

from __future__ import annotations

import polars as pl

from phewas.schema.cohort import SPLITS
from phewas.schema.tables import Column, Table


class PhenotypeResults(Table):
    """The result: one row per phenotype, untested ones with their reason."""

    file = "results/phenotypes.parquet"
    key = ("phenotype",)
    phenotype = Column(pl.String, "identifier")
    description = Column(pl.String, "in words")
    chapter = Column(pl.String, "chapter name")
    chapter_order = Column(pl.Int16, "the vocabulary's chapter number")
    sex = Column(pl.String, "who can have it", values=("both", "F", "M"))
    vocabulary = Column(pl.String, "name and version")
    label_window = Column(pl.String, "history, through_visit, any or future")
    status = Column(pl.String, "tested, or why not (too_few_cases, too_few_controls, too_few_training_cases, no_cases)")
    flags = Column(pl.String, "few_cases; approximate_interval; zero_variance; ... separated by '; ', empty if none")
    unit = Column(pl.String, "what a row of the analysis is", values=("encounter", "patient", "segment"))
    n_patients = Column(pl.Int64, "patients scored and not excluded")
    n_cases = Column(pl.Int64, "units labelled case")
    n_controls = Column(pl.Int64, "units labelled control")
    n_excluded = Column(pl.Int64, "units labelled neither")
    n_case_patients = Column(pl.Int64, "patients with at least one case unit")
    n_control_patients = Column(pl.Int64, "patients with at least one control unit")
    prevalence = Column(pl.Float64, "n_cases / (n_cases + n_controls); null if both are 0", nullable=True)
    auc = Column(pl.Float64, "area under the ROC curve", nullable=True)
    auc_se = Column(pl.Float64, "its standard error, patient-clustered", nullable=True)
    auc_low = Column(pl.Float64, "lower 95 % bound", nullable=True)
    auc_high = Column(pl.Float64, "upper 95 % bound", nullable=True)
    ci_method = Column(pl.String, "how the interval was made", nullable=True)
    p_value = Column(pl.Float64, "two-sided p against AUC 0.5; may underflow to 0", nullable=True)
    neg_log10_p = Column(pl.Float64, "-log10 p without underflow", nullable=True)
    p_test = Column(pl.String, "the test behind p", nullable=True)
    df = Column(pl.Float64, "degrees of freedom of that test", nullable=True)
    q_fdr = Column(pl.Float64, "Benjamini-Hochberg q over the fixed family", nullable=True)
    p_bonferroni = Column(pl.Float64, "Bonferroni-adjusted p", nullable=True)
    average_precision = Column(pl.Float64, "area under the precision-recall steps", nullable=True)
    ap_lift = Column(pl.Float64, "average_precision / prevalence", nullable=True)
    baseline_auc = Column(pl.Float64, "AUC of age + sex on the same units", nullable=True)
    baseline_low = Column(pl.Float64, "lower 95 % bound", nullable=True)
    baseline_high = Column(pl.Float64, "upper 95 % bound", nullable=True)
    delta_auc = Column(pl.Float64, "auc - baseline_auc", nullable=True)
    delta_se = Column(pl.Float64, "its paired standard error, patient-clustered", nullable=True)
    delta_low = Column(pl.Float64, "lower 95 % bound", nullable=True)
    delta_high = Column(pl.Float64, "upper 95 % bound", nullable=True)
    delta_p = Column(pl.Float64, "two-sided p of no difference", nullable=True)
    delta_q = Column(pl.Float64, "Benjamini-Hochberg q of delta_p", nullable=True)
    min_detectable_auc = Column(pl.Float64, "AUC that 80 % power needs at 0.05 two-sided", nullable=True)
    same_as = Column(pl.String, "phenotype with identical labels that stands in the family instead", nullable=True)


class ChapterResults(Table):
    """One row per chapter over tested phenotypes of the family."""

    file = "results/chapters.parquet"
    key = ("chapter",)
    chapter = Column(pl.String, "chapter name")
    chapter_order = Column(pl.Int16, "the vocabulary's chapter number")
    n_phenotypes = Column(pl.Int64, "phenotypes in the vocabulary")
    n_tested = Column(pl.Int64, "tested")
    n_significant = Column(pl.Int64, "q_fdr < 0.05 and auc > 0.5")
    n_auc_70 = Column(pl.Int64, "auc >= 0.70")
    mean_auc = Column(pl.Float64, "mean AUC of the tested", nullable=True)
    median_auc = Column(pl.Float64, "median AUC of the tested", nullable=True)
    n_beats_baseline = Column(pl.Int64, "delta_q < 0.05 and delta_auc > 0")


class Overview(Table):
    """Headline figures: one row each."""

    file = "results/overview.parquet"
    key = ("measure",)
    measure = Column(pl.String, "name of the figure")
    value = Column(pl.Float64, "the figure", nullable=True)
    meaning = Column(pl.String, "in words")


class Shift(Table):
    """How those who are tested differ from those who trained: one row per variable, and per level of a category."""

    file = "results/shift.parquet"
    key = ("comparison", "variable", "level")
    comparison = Column(pl.String, "held_out: against training (tuning included); fold K: against the other folds")
    variable = Column(pl.String, "age, sex, race, ethnicity, encounters_per_patient, prior_codes or chapter")
    level = Column(pl.String, "the category; empty for the variable as a whole")
    kind = Column(pl.String, "what the numbers are", values=("continuous", "category"))
    unit = Column(pl.String, "what is counted", values=("patients", "encounters"))
    n_tested = Column(pl.Int64, "tested units with a value")
    n_training = Column(pl.Int64, "training units with a value")
    missing_tested = Column(pl.Int64, "tested units without a value")
    missing_training = Column(pl.Int64, "training units without a value")
    count_tested = Column(pl.Int64, "tested units of this level; null for a variable as a whole", nullable=True)
    count_training = Column(pl.Int64, "training units of this level; null for a variable as a whole", nullable=True)
    mean_tested = Column(pl.Float64, "mean of a continuous variable", nullable=True)
    mean_training = Column(pl.Float64, "mean of a continuous variable", nullable=True)
    sd_tested = Column(pl.Float64, "its standard deviation", nullable=True)
    sd_training = Column(pl.Float64, "its standard deviation", nullable=True)
    smd = Column(
        pl.Float64, "standardised mean difference, tested minus training; unsigned for a category as a whole; null if "
        "undefined", nullable=True,
    )  # fmt: skip


class Table1(Table):
    """Who was studied, by side: one row per side and variable, and per level of a category."""

    file = "results/table1.parquet"
    key = ("side", "variable", "level")
    side = Column(pl.String, "train, tuning, held_out or crossfit", values=SPLITS)
    variable = Column(pl.String, "age, sex, race, ethnicity, encounters_per_patient, prior_codes or chapter")
    level = Column(pl.String, "the category; empty for a continuous variable")
    unit = Column(pl.String, "what is counted", values=("patients", "encounters"))
    n = Column(pl.Int64, "units with a value")
    missing = Column(pl.Int64, "units without a value")
    count = Column(pl.Int64, "units of this level; null for a continuous variable", nullable=True)
    mean = Column(pl.Float64, "mean of a continuous variable", nullable=True)
    sd = Column(pl.Float64, "its standard deviation; null below two units", nullable=True)
    median = Column(pl.Float64, "its median", nullable=True)
    q25 = Column(pl.Float64, "its lower quartile", nullable=True)
    q75 = Column(pl.Float64, "its upper quartile", nullable=True)
