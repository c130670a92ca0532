"""What the encoder adds to age and sex: a combination weighed on tuning patients, and a test among the scored ones.

Training scores are in-sample and would overrate the encoder; the tuning patients have met neither the baseline's fit
nor the encoder's gradient. Differences of AUCs of nested models are conservative (Demler, Pencina and D'Agostino 2012,
Stat Med 31:2577), so the test is that of the encoder's coefficient, beside it the difference with its interval.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from phewas.schema import AddedValue
from phewas.stats.auc import auc_matrix
from phewas.stats.baseline import fit_predict
from phewas.stats.calibration import MIN_TUNING_CASES, robust_logistic
from phewas.stats.compare import compare_matrix
from phewas.stats.tails import Floats, t_two_sided
from phewas.stats.units import Units


def added_value(units: Units, names: list[str], sex: NDArray[Any], *, level: float = 0.95) -> pl.DataFrame:
    """Return `phewas.schema.AddedValue` of some phenotypes, without q; empty for cross-fitted runs.

    Parameters
    ----------
    units
        The rows of the analysis, with the tuning patients' predictions.
    names
        The P phenotypes.
    sex
        text [P]: both, F or M; sex is no covariate of the latter two.
    level
        Confidence level in (0, 1).

    Notes
    -----
    The Wald statistic is referred to t with the number of case or control patients, whichever is smaller, less one.
    """
    if units.folds is not None or not names:
        return AddedValue.empty()
    tuning, scored = units.tuning_label_rows, units.label_rows
    rows: list[dict[str, Any]] = [{"phenotype": name, "status": "no_baseline"} for name in names]
    if not len(units.fitted_rows) or not len(tuning):
        if len(units.fitted_rows):
            rows = [{"phenotype": name, "status": "too_few_tuning_cases"} for name in names]
        return AddedValue.build(rows)
    base = fit_predict(
        units.age, units.sex, units.labels_of(units.fitted_rows, names), train_rows=units.fitted_rows,
        phenotype_sex=sex, score_rows=np.concatenate([tuning, scored]), patients=units.patients)
    columns = np.array([units.head_of[name] for name in names], dtype=np.intp)
    tuned = np.asarray(units.logits[np.ix_(units.tuning_prediction_rows, columns)], dtype=np.float64)
    own = units.unit_logits(names).astype(np.float64)
    tuning_labels, labels = units.labels_of(tuning, names), units.unit_labels(names)
    patients = units.patients[scored]
    combined = np.zeros(own.shape)
    for j, row in enumerate(rows):
        age_sex, mine = base[: len(tuning), j], base[len(tuning) :, j]
        if np.isnan(base[:, j]).any():
            continue
        weights = _weights(tuned[:, j], age_sex, tuning_labels[:, j], units.patients[tuning])
        if weights is None:
            row["status"] = "too_few_tuning_cases"
            continue
        test = _test(own[:, j], mine, labels[:, j], patients)
        if np.isnan(weights).any() or test is None:
            row["status"] = "not_converged"
            continue
        combined[:, j] = np.nan_to_num(own[:, j]) * weights[2] + mine * weights[1]
        row |= {"status": "fitted", "beta": test[0], "beta_se": test[1], "p_value": test[2]}
    good = [j for j, row in enumerate(rows) if row["status"] == "fitted"]
    if good:
        marks = labels[:, good]
        area = auc_matrix(combined[:, good], marks, clusters=patients, level=level)
        gap = compare_matrix(combined[:, good], base[len(tuning) :, good], marks, clusters=patients, level=level)
        for k, j in enumerate(good):
            values = {"baseline_auc": gap.auc_b, "combined_auc": area.auc, "combined_low": area.low,
                      "combined_high": area.high, "gain": gap.difference, "gain_low": gap.low, "gain_high": gap.high}
            rows[j] |= {name: float(value[k]) for name, value in values.items()}
    return AddedValue.build(rows).with_columns(pl.col(pl.Float64).fill_nan(None))


def _used(score: Floats, base: Floats, label: NDArray[Any], patients: NDArray[np.intp]) -> tuple[Any, ...]:
    used = label >= 0
    x = np.column_stack([np.ones(np.count_nonzero(used)), base[used], score[used]])
    return x, (label[used] == 1).astype(np.float64), np.unique(patients[used], return_inverse=True)[1]


def _weights(score: Floats, base: Floats, label: NDArray[Any], patients: NDArray[np.intp]) -> Floats | None:
    """Return intercept and weights of baseline and encoder, NaN without convergence; None with too few cases."""
    x, y, codes = _used(score, base, label, patients)
    if min(len(np.unique(codes[y == 1])), len(np.unique(codes[y == 0]))) < MIN_TUNING_CASES:
        return None
    return robust_logistic(x, y, codes).beta


def _test(
    score: Floats, base: Floats, label: NDArray[Any], patients: NDArray[np.intp]
) -> tuple[float, float, float] | None:
    """Return the encoder's coefficient beside the baseline, its patient-robust error and Wald p."""
    x, y, codes = _used(score, base, label, patients)
    found = robust_logistic(x, y, codes)
    variance = found.covariance[2, 2]
    if not variance > 0:
        return None
    df = min(len(np.unique(codes[y == 1])), len(np.unique(codes[y == 0]))) - 1
    beta, se = float(found.beta[2]), float(np.sqrt(variance))
    return beta, se, float(t_two_sided(beta / se, df)[0])
