"""Predictions become results: the evaluate step of a run."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import polars as pl
from numpy.typing import NDArray

from phewas.config import EvaluateConfig
from phewas.errors import ConfigError, SchemaError, StatisticsError
from phewas.schema import PermutationNull, PhenotypeResults, Phenotypes
from phewas.stats.auc import Auc, auc_matrix, inflate
from phewas.stats.baseline import fit_predict
from phewas.stats.compare import Difference, compare_matrix, inflate_difference
from phewas.stats.counts import count, has_training, representatives, training_rows
from phewas.stats.crossfit import INFLATED, MIN_PERMUTATIONS, apply_null, fold_ranks, without_inference
from phewas.stats.multiplicity import benjamini_hochberg, bonferroni
from phewas.stats.shift import write_shift
from phewas.stats.summary import write_summary
from phewas.stats.tails import min_detectable_auc
from phewas.stats.units import Units, read_units

LABEL_WINDOWS = ("history", "through_visit", "any", "future")
BLOCK = 128
"""Phenotypes evaluated at a time: 118,000 encounters take 0.4 GB."""

Floats = NDArray[np.float64]


def evaluate(run: Path, *, config: EvaluateConfig, seed: int, label_window: str) -> None:
    """Write ``results/phenotypes.parquet``, chapters, overview, shift and table1 of a run.

    Parameters
    ----------
    run
        Run directory with cohort, splits, phenotypes and predictions.
    config
        Unit, case policy and level.
    seed
        The run's seed. Nothing here draws at random; permutations were drawn by the learning step.
    label_window
        Which diagnoses made the labels: history, through_visit, any or future.

    Raises
    ------
    ConfigError
        The label window is unknown.
    SchemaError
        A table or array is missing or does not fit the others.
    SplitError
        A scored patient is on the training side, or predictions contradict the splits.
    StatisticsError
        A case or control has no score.

    Notes
    -----
    Every phenotype of the vocabulary keeps a row; what is not tested has counts, a reason and no estimate. The family
    for multiplicity is fixed from counts alone: tested phenotypes, those with identical labels once. Rows that share
    their labels with another get the q and Bonferroni p of the one that stands for them and the flag ``same_labels``.
    Without any training patient in the splits (predictions from elsewhere) there is no baseline and no training count.
    """
    if label_window not in LABEL_WINDOWS:
        raise ConfigError(f"label window {label_window!r} is unknown", expected=" / ".join(LABEL_WINDOWS))
    units = read_units(run, unit=config.unit)
    phenotypes = Phenotypes.read(run)
    strange = [name for name in units.label_of if name not in set(phenotypes["phenotype"])]
    if strange:
        raise SchemaError(f"{len(strange)} labelled phenotypes are not in the vocabulary table, such as {strange[0]}",
                          expected="label columns from the same vocabulary")
    counts = count(units, phenotypes, config=config)
    tested = (counts["status"] == "tested").to_numpy()
    stand_in = representatives(phenotypes, tested)
    family = tested & (stand_in == np.arange(len(tested)))

    found = _estimate(units, phenotypes.filter(pl.Series(tested)), config=config)
    null = _null(run, units)
    found, flags = _infer(found, null, cross=units.folds is not None,
                          names=phenotypes["phenotype"].filter(pl.Series(tested)).to_list())
    results = _table(phenotypes, counts, found, flags, tested, stand_in, family, config=config, window=label_window)
    PhenotypeResults.write(results, run)
    write_summary(run, results, units, config=config)
    write_shift(run)


@dataclass(frozen=True)
class Estimates:
    """Encoder, baseline and their difference for the tested phenotypes."""

    encoder: Auc
    baseline: Auc
    difference: Difference


T = TypeVar("T")


def _joined(parts: list[T]) -> T:
    """Concatenate results of several blocks, field by field."""
    kind: Any = type(parts[0])
    values = {}
    for field in fields(kind):
        pieces = [getattr(part, field.name) for part in parts]
        values[field.name] = np.concatenate(pieces) if isinstance(pieces[0], np.ndarray) else pieces[0]
    joined: T = kind(**values)
    return joined


def _estimate(units: Units, chosen: pl.DataFrame, *, config: EvaluateConfig) -> Estimates:
    """Compute all AUCs and differences, block by block."""
    encoder, baseline, difference = [], [], []
    clusters = units.patients[units.label_rows]
    folds = None if units.folds is None else units.folds[units.label_rows]
    for start in range(0, max(len(chosen), 1), BLOCK):
        block = chosen[start : start + BLOCK]
        names = block["phenotype"].to_list()
        labels = units.unit_labels(names)
        scores: NDArray[Any] = units.unit_logits(names)
        absent = np.flatnonzero((np.isnan(scores) & (labels >= 0)).any(axis=0))
        if len(absent):
            raise StatisticsError(f"{len(absent)} phenotypes have no score (NaN) for some case or control, such as "
                                  f"{names[absent[0]]}", expected="a number for every case and control",
                                  cure="predict anew, or leave the encounters out of the predictions")
        base = _baseline(units, names, block["sex"].to_numpy().astype(str))
        missing: NDArray[np.bool_] = np.asarray(np.isnan(base).any(axis=0))
        base[:, missing] = 0.0
        if folds is not None:
            scores, base = fold_ranks(scores, labels, folds), fold_ranks(base, labels, folds)
        encoder.append(auc_matrix(scores, labels, clusters=clusters, level=config.level))
        baseline.append(_blank(auc_matrix(base, labels, clusters=clusters, level=config.level), missing))
        difference.append(_blank(compare_matrix(scores, base, labels, clusters=clusters, level=config.level), missing))
    return Estimates(_joined(encoder), _joined(baseline), _joined(difference))


def _blank(found: T, where: NDArray[np.bool_]) -> T:
    """Make the numbers of some phenotypes NaN: there was no baseline to compare with."""
    kind: Any = type(found)
    values = {field.name: getattr(found, field.name) for field in fields(kind)}
    for name, value in values.items():
        if isinstance(value, np.ndarray) and value.dtype == np.float64:
            values[name] = np.where(where, np.nan, value)
        elif isinstance(value, np.ndarray) and value.dtype == np.bool_:
            values[name] = value & ~where
    blanked: T = kind(**values)
    return blanked


def _baseline(units: Units, names: list[str], sex: NDArray[Any]) -> Floats:
    """Score the units by age and sex, fitted on training patients or across the folds; NaN where it cannot be."""
    result = np.full((len(units.label_rows), len(names)), np.nan)
    if not has_training(units) or not names:
        return result
    folds = np.full(len(units.age), -1) if units.folds is None else units.folds
    for fold in np.unique(folds[units.label_rows]).tolist():
        rows = training_rows(units, fold=None if units.folds is None else fold, tuning=True)
        mine = folds[units.label_rows] == fold
        if len(rows):
            result[mine] = fit_predict(
                units.age, units.sex, units.labels_of(rows, names), train_rows=rows, phenotype_sex=sex,
                score_rows=units.label_rows[mine], patients=units.patients)
    return result


def _null(run: Path, units: Units) -> pl.DataFrame | None:
    """Return the permutations of a cross-fitted run, or None where there are none for these very units."""
    if units.folds is None or units.n_dropped or not (run / PermutationNull.file).is_file():
        return None
    return PermutationNull.read(run)


def _infer(
    found: Estimates, null: pl.DataFrame | None, *, cross: bool, names: list[str]
) -> tuple[Estimates, list[list[str]]]:
    """Replace the inference of cross-fitted runs; return what must be said of each phenotype."""
    flags: list[list[str]] = [[] for _ in names]
    for j, zero in enumerate(found.encoder.zero_variance):
        if zero:
            flags[j].append("zero_variance")
    if not cross:
        return found, flags
    if null is None:
        unknown = np.full(len(names), np.nan)
        for flag in flags:
            flag += ["no_permutation_null"]
        return Estimates(without_inference(found.encoder), without_inference(found.baseline),
                         inflate_difference(found.difference, unknown)), flags
    crossed = apply_null(found.encoder, null, phenotypes=names)
    for j, flag in enumerate(flags):
        flag.append("approximate_interval" if crossed.n_permutations[j] >= MIN_PERMUTATIONS else "no_permutation_null")
    # The baseline has no permutations of its own; the encoder's factor is the larger one, its model being the freer.
    return Estimates(crossed.auc, inflate(found.baseline, crossed.factor, method=INFLATED),
                     inflate_difference(found.difference, crossed.factor)), flags


def _table(
    phenotypes: pl.DataFrame, counts: pl.DataFrame, found: Estimates, flags: list[list[str]],
    tested: NDArray[np.bool_], stand_in: NDArray[np.intp], family: NDArray[np.bool_], *,
    config: EvaluateConfig, window: str,
) -> pl.DataFrame:
    """Put counts and estimates of all phenotypes into the result table."""
    size, rows = len(phenotypes), np.flatnonzero(tested)
    names = phenotypes["phenotype"].to_list()

    def spread(values: NDArray[Any]) -> pl.Series:
        full = np.full(size, np.nan)
        full[rows] = values
        return pl.Series(full).fill_nan(None)

    def text(values: NDArray[Any]) -> pl.Series:
        full: list[str | None] = [None] * size
        for j, value in zip(rows, values.tolist(), strict=True):
            full[j] = value or None
        return pl.Series(full, dtype=pl.String)

    def adjusted(values: NDArray[Any], method: Any) -> pl.Series:
        full = np.full(size, np.nan)
        full[rows] = values
        return pl.Series(method(full, family=family)[stand_in]).fill_nan(None)

    marks = [""] * size
    cases, controls = counts["n_case_patients"].to_numpy(), counts["n_control_patients"].to_numpy()
    for j, own in zip(rows, flags, strict=True):
        listed = list(own)
        if cases[j] < config.few_cases:
            listed.append("few_cases")
        if controls[j] < config.few_cases:
            listed.append("few_controls")
        if stand_in[j] != j:
            listed.append("same_labels")
        marks[j] = "; ".join(listed)
    for j, value in zip(rows, found.baseline.auc, strict=True):
        if np.isnan(value):
            marks[j] = "; ".join(filter(None, [marks[j], "no_baseline"]))
    a, base, gap = found.encoder, found.baseline, found.difference
    same = [names[stand_in[j]] if stand_in[j] != j else None for j in range(size)]
    same_as = pl.Series(same, dtype=pl.String)
    untested = pl.Series(~tested)
    frame = phenotypes.drop("same_as").with_columns(
        counts.drop("phenotype", "n_train_case_patients").get_columns()
    ).with_columns(
        same_as=pl.when(untested).then(phenotypes["same_as"]).otherwise(same_as),
        label_window=pl.lit(window), unit=pl.lit(config.unit), flags=pl.Series(marks, dtype=pl.String),
        prevalence=(pl.col("n_cases") / (pl.col("n_cases") + pl.col("n_controls"))).fill_nan(None),
        auc=spread(a.auc), auc_se=spread(a.se), auc_low=spread(a.low), auc_high=spread(a.high),
        ci_method=text(a.ci_method), p_value=spread(a.p), neg_log10_p=spread(a.neg_log10_p), p_test=text(a.p_test),
        df=spread(a.df), q_fdr=adjusted(a.p, benjamini_hochberg), p_bonferroni=adjusted(a.p, bonferroni),
        average_precision=spread(a.average_precision),
        baseline_auc=spread(base.auc), baseline_low=spread(base.low), baseline_high=spread(base.high),
        delta_auc=spread(gap.difference), delta_se=spread(gap.se), delta_low=spread(gap.low),
        delta_high=spread(gap.high), delta_p=spread(gap.p), delta_q=adjusted(gap.p, benjamini_hochberg),
        min_detectable_auc=pl.Series(min_detectable_auc(cases, controls)).fill_nan(None),
    )
    return PhenotypeResults.check(frame.with_columns(ap_lift=pl.col("average_precision") / pl.col("prevalence")))
