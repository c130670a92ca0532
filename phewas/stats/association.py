"""One regression per phenotype of a predictor with covariates: logistic (Wald, LRT, Firth) or linear.

Errors are clustered by patient wherever a patient has several rows. Phenotypes too rare for the usual approximations,
and those that a predictor separates, are fitted by Firth's penalised likelihood. `phewas.stats.regression_kernel` does
the arithmetic; `phewas.stats.survival` has the models of incident disease.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib.util import find_spec
from typing import Any

import numpy as np
from numpy.typing import NDArray

from phewas.errors import StatisticsError
from phewas.stats.placement import Clusters
from phewas.stats.regression import Regression, Room, Setting, Test, fit_linear, fit_logistic
from phewas.stats.sweep import over_columns

CHUNK = 8
"""Phenotypes a thread takes at a time."""


def logistic(
    predictor: NDArray[Any],
    labels: NDArray[Any],
    *,
    covariates: NDArray[Any] | None = None,
    names: Sequence[str] = (),
    clusters: NDArray[Any] | None = None,
    test: Test = "wald",
    firth_below: int = 100,
    min_cases: int = 20,
    level: float = 0.95,
    threads: int | None = None,
) -> Regression:
    """Fit ``logit P(case) = intercept + covariates + beta * predictor`` for every phenotype.

    Parameters
    ----------
    predictor
        float [N], or [N, P] with a column for each phenotype (such as its score). NaN: the row is not used.
    labels
        int8 [N, P]: 1 case, 0 control, -1 not used.
    covariates
        float [N, q] without intercept; NaN as for the predictor. A column that is constant or redundant among the rows
        of a phenotype is dropped there and named in `note`.
    names
        Of the covariates [q], for the notes.
    clusters
        Patient of each row [N], integers or text. Errors are clustered where a patient has several rows; None:
        independent rows.
    test
        ``wald`` or ``lrt`` (likelihood ratio; only for independent rows).
    firth_below
        With fewer cases or controls (patients) than this, Firth's likelihood takes the place of the usual one; also
        where the usual one has no maximum. 0: only there.
    min_cases
        With fewer case or control patients there is no model.
    level
        Confidence level in (0, 1).
    threads
        Default: the processors this process may use, or OMP_NUM_THREADS if fewer.

    Returns
    -------
    Regression
        Coefficients per unit of the predictor.

    Raises
    ------
    StatisticsError
        Shapes differ, labels are others than 1, 0, -1, or a likelihood ratio is asked of rows that are not independent.

    Notes
    -----
    Clustered variance as in statsmodels, with its factor ``G/(G-1) (N-1)/(N-k)``. Firth: standard error from the
    information at the estimate, p from the penalised likelihood ratio, bounds from its profile; with clusters a
    sandwich of the modified scores and Wald.

    References
    ----------
    Firth 1993, Biometrika 80:27. Heinze and Schemper 2002, Stat Med 21:2409. Liang and Zeger 1986, Biometrika 73:13.
    """
    marks = np.asarray(labels)
    if marks.ndim != 2 or not np.isin(np.unique(marks), (-1, 0, 1)).all():
        raise StatisticsError("labels are not a matrix of 1, 0 and -1", expected="1 case, 0 control, -1 not used")
    groups = Clusters.of(clusters, len(marks))
    clustered = groups.codes is not None and groups.size < len(marks)
    if clustered and test == "lrt":
        raise StatisticsError("a likelihood ratio test needs independent rows, and some patients have several",
                              expected="one row per patient", cure="use the Wald test, or keep one row per patient")
    setting = Setting(test, firth_below, min_cases, level, names, groups, clustered)
    return _over(predictor, covariates, marks, setting, fit_logistic, threads=threads)


def linear(
    predictor: NDArray[Any],
    outcomes: NDArray[Any],
    *,
    covariates: NDArray[Any] | None = None,
    names: Sequence[str] = (),
    clusters: NDArray[Any] | None = None,
    min_rows: int = 20,
    level: float = 0.95,
    threads: int | None = None,
) -> Regression:
    """Fit ``outcome = intercept + covariates + beta * predictor`` by least squares for every outcome.

    Parameters as for `logistic`, but `outcomes` is float [N, P], NaN where not measured, and `min_rows` patients are
    needed. p by Student's t; by the normal distribution where errors are clustered, as in statsmodels.
    """
    values = np.asarray(outcomes, dtype=np.float64)
    if values.ndim != 2:
        raise StatisticsError(f"outcomes have shape {values.shape}", expected="rows by outcomes")
    groups = Clusters.of(clusters, len(values))
    clustered = groups.codes is not None and groups.size < len(values)
    setting = Setting("wald", 0, min_rows, level, names, groups, clustered)
    return _over(predictor, covariates, values, setting, fit_linear, threads=threads)


Fit = Callable[[Room, NDArray[Any], Setting, Regression, int], None]


def _over(
    predictor: NDArray[Any], covariates: NDArray[Any] | None, outcomes: NDArray[Any], setting: Setting, fit: Fit,
    *, threads: int | None,
) -> Regression:
    """Fit every column on some threads."""
    if find_spec("numba") is None:
        raise StatisticsError("numba is missing", expected="an installed numba", cure="pip install numba")
    n_rows, size = outcomes.shape
    values = np.asarray(predictor)
    extra = np.empty((n_rows, 0)) if covariates is None else np.asarray(covariates, dtype=np.float64)
    if len(values) != n_rows or len(extra) != n_rows or (values.ndim == 2 and values.shape[1] != size):
        raise StatisticsError(
            f"predictor {values.shape}, covariates {extra.shape} and outcomes {outcomes.shape} do not fit together",
            expected="the same rows, and a predictor of one column or of one per outcome")
    result = Regression.empty(size)

    def work(start: int, stop: int) -> None:
        room = Room(extra, n_rows, setting.groups.size if setting.clustered else 0)
        if values.ndim == 1:
            room.take(values.astype(np.float64))
        for j in range(start, stop):
            if values.ndim == 2:
                room.take(values[:, j].astype(np.float64))
            fit(room, outcomes[:, j], setting, result, j)

    over_columns(size, work, step=max(CHUNK, -(-size // 64)), threads=threads)
    return result


