"""Encoder, baseline and their difference for every tested phenotype, block by block."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import polars as pl
from numpy.typing import NDArray

from phewas.config import EvaluateConfig
from phewas.errors import StatisticsError
from phewas.schema import PermutationNull
from phewas.stats.auc import Auc, auc_shares, inflate
from phewas.stats.baseline import fit_predict
from phewas.stats.compare import Difference, compare_shares, inflate_difference
from phewas.stats.counts import has_training, training_rows
from phewas.stats.crossfit import INFLATED, MIN_PERMUTATIONS, apply_null, fold_ranks, without_inference
from phewas.stats.maxt import draw, spread_of
from phewas.stats.units import Units

BLOCK = 128
"""Phenotypes evaluated at a time: 118,000 encounters take 0.4 GB."""

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Drawn:
    """Deviations under random patient weights, the same for all P phenotypes.

    `auc` and `delta` are float32 [draws, P]; `auc_spread` and `delta_spread` float64 [P] their standard deviations
    given the data. Columns without variance are 0.
    """

    auc: NDArray[np.float32]
    auc_spread: Floats
    delta: NDArray[np.float32]
    delta_spread: Floats


@dataclass(frozen=True)
class Estimates:
    """Encoder, baseline and their difference for the tested phenotypes."""

    encoder: Auc
    baseline: Auc
    difference: Difference


T = TypeVar("T")


def joined(parts: list[T]) -> T:
    """Concatenate results of several blocks, field by field."""
    kind: Any = type(parts[0])
    values = {}
    for field in fields(kind):
        pieces = [getattr(part, field.name) for part in parts]
        values[field.name] = np.concatenate(pieces) if isinstance(pieces[0], np.ndarray) else pieces[0]
    joined: T = kind(**values)
    return joined


def scored_block(units: Units, names: list[str]) -> tuple[NDArray[Any], NDArray[np.int8]]:
    """Return scores (ranks within the fold where cross-fitted) and labels of the units for some phenotypes."""
    labels = units.unit_labels(names)
    scores: NDArray[Any] = units.unit_logits(names)
    absent = np.flatnonzero((np.isnan(scores) & (labels >= 0)).any(axis=0))
    if len(absent):
        raise StatisticsError(f"{len(absent)} phenotypes have no score (NaN) for some case or control, such as "
                              f"{names[absent[0]]}", expected="a number for every case and control",
                              cure="predict anew, or leave the encounters out of the predictions")
    if units.folds is not None:
        scores = fold_ranks(scores, labels, units.folds[units.label_rows])
    return scores, labels


def estimate(units: Units, chosen: pl.DataFrame, *, config: EvaluateConfig, seed: int) -> tuple[Estimates, Drawn]:
    """Compute all AUCs and differences, and how they vary together.

    Parameters
    ----------
    units
        The rows of the analysis.
    chosen
        The tested rows of `phewas.schema.Phenotypes`.
    config
        Level and number of draws.
    seed
        Of the draws.

    Raises
    ------
    StatisticsError
        A case or control has no score.
    """
    encoder, baseline, difference = [], [], []
    drawn: list[list[NDArray[Any]]] = [[], [], [], []]
    clusters = units.patients[units.label_rows]
    folds = None if units.folds is None else units.folds[units.label_rows]
    for start in range(0, max(len(chosen), 1), BLOCK):
        block = chosen[start : start + BLOCK]
        names = block["phenotype"].to_list()
        scores, labels = scored_block(units, names)
        base = _baseline(units, names, block["sex"].to_numpy().astype(str))
        missing: NDArray[np.bool_] = np.asarray(np.isnan(base).any(axis=0))
        base[:, missing] = 0.0
        if folds is not None:
            base = fold_ranks(base, labels, folds)
        area, shares = auc_shares(scores, labels, clusters=clusters, level=config.level)
        gap, gap_shares = compare_shares(scores, base, labels, clusters=clusters, level=config.level)
        alone, _ = auc_shares(base, labels, clusters=clusters, level=config.level)
        gap_shares[missing] = 0.0
        encoder.append(area)
        baseline.append(_blank(alone, missing))
        difference.append(_blank(gap, missing))
        drawn[0].append(draw(shares, n_draws=config.draws, seed=seed))
        drawn[1].append(spread_of(shares))
        drawn[2].append(draw(gap_shares, n_draws=config.draws, seed=seed))
        drawn[3].append(spread_of(gap_shares))
    return (Estimates(joined(encoder), joined(baseline), joined(difference)),
            Drawn(*(np.concatenate(part, axis=-1) for part in drawn)))


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


def read_null(run: Path, units: Units) -> pl.DataFrame | None:
    """Return the permutations of a cross-fitted run, or None where there are none for these very units."""
    if units.folds is None or units.n_dropped or not (run / PermutationNull.file).is_file():
        return None
    return PermutationNull.read(run)


def infer(
    found: Estimates, null: pl.DataFrame | None, *, cross: bool, names: list[str]
) -> tuple[Estimates, list[list[str]], Floats | None]:
    """Replace the inference of cross-fitted runs.

    Returns
    -------
    estimates, flags, factor
        What must be said of each phenotype, and what its standard errors were multiplied by: float64 [P], NaN without
        permutations; None where nothing is cross-fitted.
    """
    flags: list[list[str]] = [[] for _ in names]
    for j, zero in enumerate(found.encoder.zero_variance):
        if zero:
            flags[j].append("zero_variance")
    if not cross:
        return found, flags, None
    if null is None:
        unknown = np.full(len(names), np.nan)
        for flag in flags:
            flag += ["no_permutation_null"]
        return Estimates(without_inference(found.encoder), without_inference(found.baseline),
                         inflate_difference(found.difference, unknown)), flags, unknown
    crossed = apply_null(found.encoder, null, phenotypes=names)
    for j, flag in enumerate(flags):
        flag.append("approximate_interval" if crossed.n_permutations[j] >= MIN_PERMUTATIONS else "no_permutation_null")
    # The baseline has no permutations of its own; the encoder's factor is the larger one, its model being the freer.
    return Estimates(crossed.auc, inflate(found.baseline, crossed.factor, method=INFLATED),
                     inflate_difference(found.difference, crossed.factor)), flags, crossed.factor
