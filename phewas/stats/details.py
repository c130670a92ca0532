"""What stands beside the AUCs: subgroups, curves, operating points, calibration, specificity, precision."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from phewas.config import EvaluateConfig
from phewas.schema import (
    AddedValue,
    AdjustedAuc,
    Calibration,
    CalibrationBins,
    CrossAuc,
    Curves,
    NetBenefit,
    OperatingPoints,
    Specificity,
    Subgroups,
    Table,
)
from phewas.stats.added import added_value
from phewas.stats.adjusted import adjusted_auc, strata
from phewas.stats.calibration import Tuning, calibration, loss_was_plain
from phewas.stats.counts import patients_with
from phewas.stats.crossfit import fold_ranks
from phewas.stats.curves import curves, operating_points
from phewas.stats.decisions import net_benefit
from phewas.stats.estimates import BLOCK, Estimates, joined, scored_block
from phewas.stats.multiplicity import benjamini_hochberg
from phewas.stats.precision import AP_DRAWS, Precision, patient_draws, precision_bounds, prevalence_bounds
from phewas.stats.specificity import MOST_IN_MATRIX, SPARE, cross_auc, rank_anchors, specificity
from phewas.stats.subgroups import groupings, subgroups, with_q
from phewas.stats.tails import Floats
from phewas.stats.units import Units

ANCHOR_ROWS = 20_000
"""Units from which anchors are chosen, evenly spaced: their correlations need no more."""


@dataclass(frozen=True)
class Details:
    """Tables beside the main one, and the parts of it that need the patients once more."""

    tables: dict[type[Table], pl.DataFrame]
    precision: Precision
    prevalence: tuple[Floats, Floats]

    @property
    def calibration(self) -> pl.DataFrame:
        """`phewas.schema.Calibration`."""
        return self.tables[Calibration]

    def write(self, run: Path) -> None:
        """Write the tables to their places below the run directory."""
        for table, frame in self.tables.items():
            table.write(frame, run)


def details(
    run: Path, units: Units, names: list[str], sex: NDArray[Any], found: Estimates, *, family: NDArray[np.bool_],
    few: NDArray[np.bool_], factor: Floats | None, config: EvaluateConfig, seed: int,
) -> Details:
    """Compute everything beside the AUCs, block by block.

    Parameters
    ----------
    run
        The run directory: encounters, patients and ``model/model.json`` are read.
    units
        The rows of the analysis.
    names
        The P tested phenotypes.
    sex
        text [P], who can have them: both, F or M.
    found
        Their estimates.
    family, few
        bool [P]: members of the family; with fewer case patients than an anchor should have.
    factor
        As `phewas.stats.estimates.infer` returns it.
    config
        Case policy, level, subgroups and anchors.
    seed
        Of the patient bootstrap and the folds of the anchors' models.
    """
    patients = np.unique(units.patients[units.label_rows], return_inverse=True)[1].astype(np.intp)
    drawn = patient_draws(int(patients.max(initial=-1)) + 1, n_draws=AP_DRAWS, seed=seed)
    acted = None if not config.net_benefit else patient_draws(len(drawn), n_draws=config.draws, seed=seed)
    groups = groupings(run, units.encounters, config=config)
    plain = loss_was_plain(run)
    cells = strata(units.age[units.label_rows], units.sex[units.label_rows])
    ranked = anchors(units, [n for n, good in zip(names, family & ~few, strict=True) if good] or names,
                     count=config.anchors + SPARE)
    parts: dict[type[Table], list[pl.DataFrame]] = {
        table: [table.empty()] for table in (Subgroups, Curves, OperatingPoints, Calibration, CalibrationBins,
                                             Specificity, AddedValue, AdjustedAuc, NetBenefit)}
    precisions: list[Precision] = []
    prevalences: list[tuple[Floats, Floats]] = []
    for start in range(0, max(len(names), 1), BLOCK):
        here = slice(start, start + BLOCK)
        mine = names[here]
        scores, labels = scored_block(units, mine)
        wide = None if factor is None else factor[here]
        raw = units.unit_logits(mine)
        precisions.append(precision_bounds(
            scores, labels, patients, average_precision=found.encoder.average_precision[here], drawn=drawn,
            level=config.level, factor=wide))
        prevalences.append(prevalence_bounds(labels, patients, level=config.level))
        for grouping in groups:
            parts[Subgroups].append(subgroups(scores, labels, patients, mine, grouping, config=config, factor=wide))
        parts[Curves].append(curves(scores, labels, mine))
        parts[OperatingPoints].append(operating_points(scores, labels, mine, patients_with(labels == 1, patients),
                                                       level=config.level))
        table, bins = calibration(raw, labels, patients, mine, plain=plain, tuning=_tuning(units, mine),
                                  level=config.level)
        parts[Calibration].append(table)
        parts[CalibrationBins].append(bins)
        if acted is not None:
            parts[NetBenefit].append(net_benefit(
                raw, labels, patients, mine, thresholds=config.net_benefit, plain=plain, tuning=_tuning(units, mine),
                drawn=acted, level=config.level))
        parts[Specificity].append(specificity(
            everywhere(units, raw), labels, patients, mine, ranked=ranked, anchors=config.anchors, seed=seed,
            level=config.level))
        parts[AdjustedAuc].append(adjusted_auc(
            scores, labels, patients, mine, cells, level=config.level, least=config.min_case_patients, factor=wide))
        parts[AddedValue].append(added_value(units, mine, sex[here], level=config.level))
    tables = {table: pl.concat(frames) for table, frames in parts.items()}
    inside = dict(zip(names, family.tolist(), strict=True))
    tables[Subgroups] = with_q(tables[Subgroups], family=inside)
    judged: tuple[type[Table], ...] = (AddedValue, AdjustedAuc)
    for kind in judged:
        frame = tables[kind]
        if frame.height:
            p = frame["p_value"].fill_null(float("nan")).to_numpy()
            tables[kind] = frame.with_columns(q_fdr=pl.Series(benjamini_hochberg(p, family=family)).fill_nan(None))
    gain_p = tables[Specificity]["gain_p"].fill_null(float("nan")).to_numpy()
    tables[Specificity] = tables[Specificity].with_columns(
        gain_q=pl.Series(benjamini_hochberg(gain_p, family=family)).fill_nan(None))
    best = [names[j] for j in np.argsort(-np.where(family, found.encoder.auc, -1.0), kind="stable")[:MOST_IN_MATRIX]
            if family[j]]
    tables[CrossAuc] = cross_auc(everywhere(units, units.unit_logits(best)), units.unit_labels(best), best,
                                 chosen=np.arange(len(best)))
    return Details(tables, joined(precisions), (np.concatenate([low for low, _ in prevalences]),
                                                np.concatenate([high for _, high in prevalences])))


def everywhere(units: Units, logits: NDArray[Any]) -> NDArray[Any]:
    """Return scores that stand for every unit, also those excluded from a phenotype: missing ones take the mean.

    Cross-fitted scores become ranks within their fold, all rows counting.
    """
    gaps = np.isnan(logits)
    if gaps.any():
        mean = np.where(gaps, 0.0, logits).sum(axis=0) / np.maximum((~gaps).sum(axis=0), 1)
        logits = np.where(gaps, mean, logits)
    if units.folds is None:
        return logits
    return fold_ranks(logits, np.zeros(logits.shape, dtype=np.int8), units.folds[units.label_rows])


def anchors(units: Units, names: list[str], *, count: int) -> dict[str, NDArray[Any]]:
    """Return the scores of the phenotypes that explain most of all scores' variance, the best first."""
    if not names or not len(units.label_rows):
        return {}
    chosen = np.arange(0, len(units.label_rows), max(1, -(-len(units.label_rows) // ANCHOR_ROWS)))
    whole = np.empty((len(chosen), len(names)))
    for start in range(0, len(names), BLOCK):
        mine = names[start : start + BLOCK]
        whole[:, start : start + BLOCK] = everywhere(units, units.unit_logits(mine))[chosen]
    ranked = [names[k] for k in rank_anchors(whole, count=count)]
    values = everywhere(units, units.unit_logits(ranked))
    return {name: np.asarray(values[:, k], dtype=np.float64) for k, name in enumerate(ranked)}


def _tuning(units: Units, names: list[str]) -> Tuning | None:
    """Return what the tuning patients were predicted, where they were."""
    if not len(units.tuning_label_rows):
        return None
    columns = np.array([units.head_of[name] for name in names], dtype=np.intp)
    return Tuning(np.asarray(units.logits[np.ix_(units.tuning_prediction_rows, columns)]),
                  units.labels_of(units.tuning_label_rows, names), units.patients[units.tuning_label_rows])
