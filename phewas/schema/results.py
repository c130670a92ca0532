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
    prevalence_low = Column(
        pl.Float64, "its lower 95 % bound: Wilson with the sample size that the patients are worth", nullable=True
    )
    prevalence_high = Column(pl.Float64, "its upper 95 % bound", nullable=True)
    auc = Column(pl.Float64, "area under the ROC curve", nullable=True)
    auc_se = Column(pl.Float64, "its standard error, patient-clustered", nullable=True)
    auc_low = Column(pl.Float64, "lower 95 % bound", nullable=True)
    auc_high = Column(pl.Float64, "upper 95 % bound", nullable=True)
    ci_method = Column(pl.String, "how the interval was made", nullable=True)
    p_value = Column(pl.Float64, "two-sided p against AUC 0.5; may underflow to 0", nullable=True)
    neg_log10_p = Column(pl.Float64, "-log10 p without underflow", nullable=True)
    p_test = Column(pl.String, "the test behind p", nullable=True)
    df = Column(pl.Float64, "Satterthwaite degrees of freedom of the interval", nullable=True)
    q_fdr = Column(pl.Float64, "Benjamini-Hochberg q over the fixed family", nullable=True)
    p_bonferroni = Column(pl.Float64, "Bonferroni-adjusted p", nullable=True)
    p_holm = Column(pl.Float64, "Holm-adjusted p", nullable=True)
    q_by = Column(pl.Float64, "Benjamini-Yekutieli q, valid under any dependence", nullable=True)
    q_maxt = Column(
        pl.Float64, "family-wise adjusted p by max-T over patients (multiplier bootstrap; cross-fitted: permutations)",
        nullable=True,
    )  # fmt: skip
    auc_low_joint = Column(pl.Float64, "lower bound; those of the whole family hold together at 95 %", nullable=True)
    auc_high_joint = Column(pl.Float64, "upper bound of the same", nullable=True)
    average_precision = Column(pl.Float64, "area under the precision-recall steps", nullable=True)
    ap_low = Column(pl.Float64, "its lower 95 % bound, patient bootstrap on the logit scale", nullable=True)
    ap_high = Column(pl.Float64, "its upper 95 % bound", nullable=True)
    ap_lift = Column(pl.Float64, "average_precision / prevalence", nullable=True)
    ap_lift_low = Column(pl.Float64, "its lower 95 % bound, patient bootstrap on the log scale", nullable=True)
    ap_lift_high = Column(pl.Float64, "its upper 95 % bound", nullable=True)
    brier = Column(pl.Float64, "mean squared error of the probability; null where there is none", nullable=True)
    brier_skill = Column(pl.Float64, "1 - brier / that of the prevalence for everybody", nullable=True)
    baseline_auc = Column(pl.Float64, "AUC of age + sex on the same units", nullable=True)
    baseline_low = Column(pl.Float64, "lower 95 % bound", nullable=True)
    baseline_high = Column(pl.Float64, "upper 95 % bound", nullable=True)
    delta_auc = Column(pl.Float64, "auc - baseline_auc", nullable=True)
    delta_se = Column(pl.Float64, "its paired standard error, patient-clustered", nullable=True)
    delta_low = Column(pl.Float64, "lower 95 % bound", nullable=True)
    delta_high = Column(pl.Float64, "upper 95 % bound", nullable=True)
    delta_p = Column(pl.Float64, "two-sided p of no difference", nullable=True)
    delta_q = Column(pl.Float64, "Benjamini-Hochberg q of delta_p", nullable=True)
    delta_q_maxt = Column(pl.Float64, "family-wise adjusted delta_p by max-T over patients", nullable=True)
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
    n_auc_50 = Column(pl.Int64, "auc > 0.50")
    n_auc_50_low = Column(pl.Float64, "lower 95 % bound of that count; see overview", nullable=True)
    n_auc_50_high = Column(pl.Float64, "upper bound", nullable=True)
    n_auc_60 = Column(pl.Int64, "auc >= 0.60")
    n_auc_60_low = Column(pl.Float64, "lower 95 % bound of that count", nullable=True)
    n_auc_60_high = Column(pl.Float64, "upper bound", nullable=True)
    n_auc_70 = Column(pl.Int64, "auc >= 0.70")
    n_auc_70_low = Column(pl.Float64, "lower 95 % bound of that count", nullable=True)
    n_auc_70_high = Column(pl.Float64, "upper bound", nullable=True)
    mean_auc = Column(pl.Float64, "mean AUC of the tested", nullable=True)
    mean_auc_low = Column(pl.Float64, "lower 95 % bound of that mean, patients resampled", nullable=True)
    mean_auc_high = Column(pl.Float64, "upper bound", nullable=True)
    median_auc = Column(pl.Float64, "median AUC of the tested", nullable=True)
    mean_delta_auc = Column(pl.Float64, "mean difference from age + sex", nullable=True)
    mean_delta_low = Column(pl.Float64, "lower 95 % bound of that mean", nullable=True)
    mean_delta_high = Column(pl.Float64, "upper bound", nullable=True)
    n_beats_baseline = Column(pl.Int64, "delta_q < 0.05 and delta_auc > 0")


class Overview(Table):
    """Headline figures: one row each."""

    file = "results/overview.parquet"
    key = ("measure",)
    measure = Column(pl.String, "name of the figure")
    value = Column(pl.Float64, "the figure", nullable=True)
    low = Column(pl.Float64, "lower 95 % bound where the figure is an estimate", nullable=True)
    high = Column(pl.Float64, "upper 95 % bound", nullable=True)
    meaning = Column(pl.String, "in words")


class Multiplicity(Table):
    """How many of the family survive each way of judging many tests together: one row per question and method."""

    file = "results/multiplicity.parquet"
    key = ("question", "method")
    question = Column(pl.String, "auc: against 0.5; delta: against age + sex", values=("auc", "delta"))
    method = Column(
        pl.String, "none, bonferroni, holm, benjamini_hochberg, benjamini_yekutieli or max_t",
        values=("none", "bonferroni", "holm", "benjamini_hochberg", "benjamini_yekutieli", "max_t"),
    )  # fmt: skip
    controls = Column(pl.String, "what is kept below alpha, and under which assumption")
    alpha = Column(pl.Float64, "the level")
    n_family = Column(pl.Int64, "tests in the family")
    n_above = Column(pl.Int64, "rejected with AUC above 0.5, or above the baseline")
    n_below = Column(pl.Int64, "rejected the other way")
    quantile = Column(pl.Float64, "max_t: what replaces 1.96 in intervals that hold together", nullable=True)


class Subgroups(Table):
    """AUCs within groups of patients: per phenotype and variable a row for the whole and one per level."""

    file = "results/subgroups.parquet"
    key = ("phenotype", "variable", "level")
    phenotype = Column(pl.String, "which phenotype; only tested ones")
    variable = Column(pl.String, "sex, age, race, ethnicity, visit_type, or a column of the encounters")
    level = Column(pl.String, "the group; empty for the row with the test of heterogeneity")
    level_order = Column(pl.Int16, "place of the level, from 1; 0 for the whole")
    status = Column(
        pl.String, "tested; too_few_cases or too_few_controls: no estimate; whole row: tested or too_few_groups",
        values=("tested", "too_few_cases", "too_few_controls", "too_few_groups"),
    )  # fmt: skip
    n_patients = Column(pl.Int64, "patients scored and not excluded")
    n_cases = Column(pl.Int64, "units labelled case")
    n_controls = Column(pl.Int64, "units labelled control")
    n_case_patients = Column(pl.Int64, "patients with at least one case unit")
    n_control_patients = Column(pl.Int64, "patients with at least one control unit")
    auc = Column(pl.Float64, "AUC within the group; of the whole: over those with a level", nullable=True)
    auc_se = Column(pl.Float64, "its standard error, patient-clustered", nullable=True)
    auc_low = Column(pl.Float64, "lower 95 % bound", nullable=True)
    auc_high = Column(pl.Float64, "upper 95 % bound", nullable=True)
    n_levels = Column(pl.Int64, "whole row: groups compared", nullable=True)
    statistic = Column(
        pl.Float64, "whole row: Wald F of equal logit AUCs, patients shared between groups allowed for", nullable=True
    )
    df1 = Column(pl.Float64, "whole row: groups - 1", nullable=True)
    df2 = Column(pl.Float64, "whole row: smallest Satterthwaite df of the groups", nullable=True)
    p_value = Column(pl.Float64, "whole row: p of that F", nullable=True)
    q_fdr = Column(pl.Float64, "whole row: Benjamini-Hochberg q over the family, per variable", nullable=True)


class Curves(Table):
    """ROC and precision-recall curves of the tested phenotypes, at most 200 points each."""

    file = "results/curves.parquet"
    key = ("phenotype", "curve", "point")
    phenotype = Column(pl.String, "which phenotype")
    curve = Column(pl.String, "roc: x = 1 - specificity, y = sensitivity; pr: x = recall, y = precision",
                   values=("roc", "pr"))
    point = Column(pl.Int16, "place along the curve, from 0")
    x = Column(pl.Float64, "1 - specificity, or recall")
    y = Column(pl.Float64, "sensitivity, or precision")


class OperatingPoints(Table):
    """Sensitivity at fixed specificity: one row per tested phenotype and specificity."""

    file = "results/operating_points.parquet"
    key = ("phenotype", "specificity")
    phenotype = Column(pl.String, "which phenotype")
    specificity = Column(pl.Float64, "asked for; the threshold is the lowest score that reaches it")
    reached = Column(pl.Float64, "specificity reached, at least that")
    sensitivity = Column(pl.Float64, "share of case units above the threshold")
    low = Column(pl.Float64, "lower 95 % bound: Wilson with case patients as the sample size; threshold taken as given")
    high = Column(pl.Float64, "upper 95 % bound")


class Calibration(Table):
    """Whether probabilities mean what they say: one row per tested phenotype, with a reason where there are none."""

    file = "results/calibration.parquet"
    key = ("phenotype",)
    phenotype = Column(pl.String, "which phenotype")
    status = Column(
        pl.String, "raw: sigmoid of the mean logit; recalibrated: on tuning patients; or why there is no probability",
        values=("raw", "recalibrated", "no_tuning_cases", "unknown_training", "not_converged"),
    )  # fmt: skip
    n_cases = Column(pl.Int64, "units labelled case")
    n_controls = Column(pl.Int64, "units labelled control; excluded units count as neither, so that prevalence and "
                       "calibration are those of the population without them")
    mean_predicted = Column(pl.Float64, "mean probability", nullable=True)
    observed = Column(pl.Float64, "prevalence", nullable=True)
    oe_ratio = Column(pl.Float64, "observed / mean_predicted", nullable=True)
    intercept = Column(pl.Float64, "calibration in the large: logit shift with the slope held at 1", nullable=True)
    intercept_low = Column(pl.Float64, "lower 95 % bound, patient-robust", nullable=True)
    intercept_high = Column(pl.Float64, "upper 95 % bound", nullable=True)
    slope = Column(pl.Float64, "slope of the labels on the logit; 1 is ideal, below 1 too extreme", nullable=True)
    slope_low = Column(pl.Float64, "lower 95 % bound, patient-robust", nullable=True)
    slope_high = Column(pl.Float64, "upper 95 % bound", nullable=True)
    ece = Column(pl.Float64, "mean absolute gap between observed and predicted over ten bins of equal size",
                 nullable=True)
    brier = Column(pl.Float64, "mean squared error of the probability", nullable=True)
    brier_skill = Column(pl.Float64, "1 - brier / (prevalence (1 - prevalence))", nullable=True)


class CalibrationBins(Table):
    """Observed against predicted in ten bins of equal size, ties kept together."""

    file = "results/calibration_bins.parquet"
    key = ("phenotype", "bin")
    phenotype = Column(pl.String, "which phenotype")
    bin = Column(pl.Int16, "from 0, by rising probability")
    n = Column(pl.Int64, "units")
    n_cases = Column(pl.Int64, "cases among them")
    predicted = Column(pl.Float64, "mean probability")
    observed = Column(pl.Float64, "share of cases")
    low = Column(pl.Float64, "lower 95 % bound: Wilson with the bin's patients as the sample size")
    high = Column(pl.Float64, "upper 95 % bound")


class AddedValue(Table):
    """What the encoder adds to age + sex: one row per tested phenotype of a held-out run."""

    file = "results/added_value.parquet"
    key = ("phenotype",)
    phenotype = Column(pl.String, "which phenotype")
    status = Column(
        pl.String, "fitted; or why not", values=("fitted", "too_few_tuning_cases", "no_baseline", "not_converged")
    )
    baseline_auc = Column(pl.Float64, "AUC of age + sex fitted on train patients alone", nullable=True)
    combined_auc = Column(pl.Float64, "AUC of age + sex and encoder, weighed on the tuning patients", nullable=True)
    combined_low = Column(pl.Float64, "its lower 95 % bound", nullable=True)
    combined_high = Column(pl.Float64, "its upper 95 % bound", nullable=True)
    gain = Column(pl.Float64, "combined_auc - baseline_auc", nullable=True)
    gain_low = Column(pl.Float64, "its lower 95 % bound, paired, patient-clustered", nullable=True)
    gain_high = Column(pl.Float64, "its upper 95 % bound", nullable=True)
    beta = Column(pl.Float64, "log odds per unit of the encoder's logit beside the baseline's, in the scored patients",
                  nullable=True)
    beta_se = Column(pl.Float64, "its patient-robust standard error", nullable=True)
    p_value = Column(pl.Float64, "two-sided patient-robust Wald p of beta", nullable=True)
    q_fdr = Column(pl.Float64, "its Benjamini-Hochberg q over the family", nullable=True)


class AdjustedAuc(Table):
    """AUC among people of one sex and age decade: what is seen beyond age and sex, without a model."""

    file = "results/adjusted_auc.parquet"
    key = ("phenotype",)
    phenotype = Column(pl.String, "which phenotype; only tested ones")
    auc = Column(pl.Float64, "AUC over everybody", nullable=True)
    adjusted_auc = Column(
        pl.Float64, "mean over case units of the share of controls of their sex and age decade that score lower; ties "
        "half", nullable=True,
    )  # fmt: skip
    adjusted_se = Column(pl.Float64, "its standard error, patient-clustered", nullable=True)
    adjusted_low = Column(pl.Float64, "lower 95 % bound, logit scale", nullable=True)
    adjusted_high = Column(pl.Float64, "upper 95 % bound", nullable=True)
    p_value = Column(pl.Float64, "two-sided p against 0.5", nullable=True)
    q_fdr = Column(pl.Float64, "its Benjamini-Hochberg q over the family", nullable=True)
    n_strata = Column(pl.Int64, "strata that hold cases and controls")
    n_case_patients = Column(pl.Int64, "case patients in them")
    n_control_patients = Column(pl.Int64, "control patients in them")


class Specificity(Table):
    """How much of an AUC a handful of other phenotypes' scores explain: one row per tested phenotype."""

    file = "results/specificity.parquet"
    key = ("phenotype",)
    phenotype = Column(pl.String, "which phenotype")
    anchors = Column(pl.String, "the other phenotypes, separated by '; '; none of the same identifier before the dot")
    auc = Column(pl.Float64, "AUC of its own score", nullable=True)
    anchor_auc = Column(
        pl.Float64, "AUC of a logistic model on the anchors' scores alone, cross-fitted by patient", nullable=True
    )
    anchor_low = Column(pl.Float64, "lower 95 % bound (approximate)", nullable=True)
    anchor_high = Column(pl.Float64, "upper 95 % bound", nullable=True)
    explained = Column(pl.Float64, "(anchor_auc - 0.5) / (auc - 0.5), cut to 0 to 1; null to auc 0.55", nullable=True)
    gain = Column(pl.Float64, "auc - anchor_auc", nullable=True)
    gain_low = Column(pl.Float64, "lower 95 % bound, paired", nullable=True)
    gain_high = Column(pl.Float64, "upper 95 % bound", nullable=True)
    gain_p = Column(pl.Float64, "two-sided p of no gain", nullable=True)
    gain_q = Column(pl.Float64, "its Benjamini-Hochberg q over the family", nullable=True)
    residual_auc = Column(pl.Float64, "AUC of what is left of the own score once the anchors' are subtracted by "
                          "least squares", nullable=True)
    residual_low = Column(pl.Float64, "lower 95 % bound", nullable=True)
    residual_high = Column(pl.Float64, "upper 95 % bound", nullable=True)


class CrossAuc(Table):
    """AUC of one phenotype's score for another phenotype's labels: the matrix behind the heat map."""

    file = "results/cross_auc.parquet"
    key = ("score_of", "phenotype")
    score_of = Column(pl.String, "whose score")
    phenotype = Column(pl.String, "whose labels")
    auc = Column(pl.Float64, "the AUC", nullable=True)


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
