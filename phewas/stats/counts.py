"""Counts of units and patients, and from them which phenotypes are tested: decided before any AUC is seen."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from phewas.config import EvaluateConfig
from phewas.stats.units import Rows, Units

BLOCK = 128
"""Phenotypes counted at a time."""


def patients_with(marks: NDArray[Any], patients: NDArray[Any]) -> NDArray[np.int64]:
    """Return how many patients have at least one true row, int64 [P], from bool [N, P] and patient codes [N]."""
    if not len(marks):
        return np.zeros(marks.shape[1], dtype=np.int64)
    order = np.argsort(patients, kind="stable")
    sorted_codes = patients[order]
    starts = np.flatnonzero(np.concatenate(([True], sorted_codes[1:] != sorted_codes[:-1])))
    return np.asarray(np.logical_or.reduceat(marks[order], starts, axis=0).sum(axis=0), dtype=np.int64)


def count(units: Units, phenotypes: pl.DataFrame, *, config: EvaluateConfig) -> pl.DataFrame:
    """Count cases and controls of every phenotype and say which are tested.

    Parameters
    ----------
    units
        The rows of the analysis.
    phenotypes
        `phewas.schema.Phenotypes`.
    config
        Case policy.

    Returns
    -------
    polars.DataFrame
        One row per phenotype in vocabulary order: phenotype, n_patients, n_cases, n_controls, n_excluded,
        n_case_patients, n_control_patients, n_train_case_patients (the fewest over folds where cross-fitted; null
        without training rows), status. A phenotype without a label column has zero counts.
    """
    names = phenotypes["phenotype"].to_list()
    known = [name for name in names if name in units.label_of]
    of_units = units.patients[units.label_rows]
    blocks = []
    for start in range(0, len(known), BLOCK):
        chosen = known[start : start + BLOCK]
        labels = units.unit_labels(chosen)
        blocks.append(pl.DataFrame({
            "phenotype": chosen,
            "n_patients": patients_with(labels >= 0, of_units),
            "n_cases": (labels == 1).sum(axis=0, dtype=np.int64),
            "n_controls": (labels == 0).sum(axis=0, dtype=np.int64),
            "n_excluded": (labels == -1).sum(axis=0, dtype=np.int64),
            "n_case_patients": patients_with(labels == 1, of_units),
            "n_control_patients": patients_with(labels == 0, of_units),
            "n_train_case_patients": _training(units, chosen),
        }))
    frame = phenotypes.select("phenotype")
    if blocks:
        frame = frame.join(pl.concat(blocks), on="phenotype", how="left", maintain_order="left")
    else:
        frame = frame.with_columns(pl.lit(0, pl.Int64).alias(name) for name in COUNTS)
    return case_policy(frame.with_columns(pl.col(COUNTS[:-1]).fill_null(0)), list(units.head_of), config=config)


def case_policy(counted: pl.DataFrame, predicted: list[str], *, config: EvaluateConfig) -> pl.DataFrame:
    """Add `status` to counts per phenotype: tested, or why not; `predicted` are the phenotypes with a score."""
    least, train = config.min_case_patients, pl.col("n_train_case_patients")
    return counted.with_columns(
        pl.when(pl.col("n_case_patients") == 0).then(pl.lit("no_cases"))
        .when(pl.col("n_case_patients") < least).then(pl.lit("too_few_cases"))
        .when(pl.col("n_control_patients") < least).then(pl.lit("too_few_controls"))
        .when(~pl.col("phenotype").is_in(predicted)).then(pl.lit("too_few_training_cases"))
        .when(train.is_not_null() & (train < config.min_train_case_patients)).then(pl.lit("too_few_training_cases"))
        .otherwise(pl.lit("tested")).alias("status")
    )


COUNTS = ("n_patients", "n_cases", "n_controls", "n_excluded", "n_case_patients", "n_control_patients",
          "n_train_case_patients")


def has_training(units: Units) -> bool:
    """Tell whether the run knows anybody the model could have learned from."""
    return bool(len(units.train_rows)) or units.folds is not None


def training_rows(units: Units, *, fold: int | None, tuning: bool) -> Rows:
    """Return the label rows that the model of `fold` (None: the one model) learned from.

    With `tuning` those of tuning patients are among them: they are no scored patients, and the baseline may use them.
    """
    fixed = units.train_rows if tuning else units.fitted_rows
    if units.folds is None or fold is None:
        return fixed
    return np.sort(np.concatenate([fixed, np.flatnonzero((units.folds >= 0) & (units.folds != fold))]))


def _training(units: Units, names: list[str]) -> NDArray[np.int64] | list[None]:
    """Return the number of case patients in training, the fewest over folds."""
    if not has_training(units):
        return [None] * len(names)
    folds = [None] if units.folds is None else np.unique(units.folds[units.label_rows]).tolist()
    found = []
    for fold in folds:
        rows = training_rows(units, fold=fold, tuning=False)
        found.append(patients_with(units.labels_of(rows, names) == 1, units.patients[rows]))
    return np.asarray(np.min(found, axis=0), dtype=np.int64)


def alike(names: Sequence[str], prints: Iterable[bytes]) -> list[str | None]:
    """Return for each phenotype the name of the first with an equal print, None for the first itself."""
    first: dict[bytes, str] = {}
    found = []
    for name, mark in zip(names, prints, strict=True):
        other = first.setdefault(mark, name)
        found.append(None if other == name else other)
    return found


def representatives(phenotypes: pl.DataFrame, tested: NDArray[np.bool_]) -> Rows:
    """Return for each phenotype the row that stands for it in the family of tests, intp [P].

    Phenotypes with identical labels ask one question and enter the family once: the first of them that is tested, in
    vocabulary order. Untested ones stand for themselves.
    """
    names = phenotypes["phenotype"].to_list()
    group = [same or name for name, same in zip(names, phenotypes["same_as"].to_list(), strict=True)]
    first: dict[str, int] = {}
    for j, name in enumerate(group):
        if tested[j]:
            first.setdefault(name, j)
    return np.array([first[name] if tested[j] else j for j, name in enumerate(group)], dtype=np.intp)
