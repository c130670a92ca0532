"""Cox models of incident phenotypes, one per phenotype, through statsmodels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import linalg

from phewas.errors import StatisticsError
from phewas.stats.regression import NO_MAXIMUM, REDUNDANT, Regression, standard, store

Floats = NDArray[np.float64]

COX = "Cox Wald z (Efron ties)"


def cox(
    predictor: NDArray[Any],
    time: NDArray[Any],
    event: NDArray[Any],
    *,
    covariates: NDArray[Any] | None = None,
    names: Sequence[str] = (),
    min_cases: int = 20,
    level: float = 0.95,
) -> Regression:
    """Fit ``hazard = baseline(time) exp(covariates + beta * predictor)`` for every phenotype.

    Parameters
    ----------
    predictor
        float [N]; one row per patient. NaN: the row is not used.
    time
        float [N, P], days from the start of follow-up to the event or the end, above 0. NaN: not used, as for those who
        had the phenotype before.
    event
        bool [N, P], whether the time ends with the event.
    covariates, names
        As for `phewas.stats.association.logistic`.
    min_cases
        With fewer events, or fewer patients without, there is no model.
    level
        Confidence level in (0, 1).

    Returns
    -------
    Regression
        Log hazard ratios per unit of the predictor; `n_cases` counts events.

    Raises
    ------
    StatisticsError
        statsmodels is missing, shapes differ, or a time is not above 0.

    References
    ----------
    Cox 1972, J R Stat Soc B 34:187. Efron 1977, J Am Stat Assoc 72:557.
    """
    try:
        from statsmodels.duration.hazard_regression import PHReg
        from statsmodels.tools.sm_exceptions import ModelWarning
    except ImportError:
        raise StatisticsError("Cox models need statsmodels, which is not installed",
                              cure="pip install 'phewas[cox]'") from None
    import warnings

    times, events = np.asarray(time, dtype=np.float64), np.asarray(event, dtype=bool)
    x = np.asarray(predictor, dtype=np.float64)
    extra = np.empty((len(x), 0)) if covariates is None else np.asarray(covariates, dtype=np.float64)
    if times.shape != events.shape or times.ndim != 2 or len(x) != len(times) or len(extra) != len(times):
        raise StatisticsError(f"times {times.shape}, events {events.shape}, predictor {x.shape} and covariates "
                              f"{extra.shape} do not fit together", expected="one row per patient in each")
    if (times <= 0).any():
        raise StatisticsError("a follow-up time is not above 0", expected="days from the start of follow-up")
    usable = np.isfinite(x) & np.isfinite(extra).all(axis=1)
    out = Regression.empty(times.shape[1])
    for j in range(times.shape[1]):
        rows = usable & np.isfinite(times[:, j])
        status = events[rows, j]
        out.n_rows[j] = out.n_clusters[j] = len(status)
        out.n_cases[j] = out.n_case_clusters[j] = np.count_nonzero(status)
        out.n_controls[j] = out.n_control_clusters[j] = len(status) - out.n_cases[j]
        fewest = min(int(out.n_cases[j]), int(out.n_controls[j]))
        if fewest < max(min_cases, 1):
            out.note[j] = f"no model: {fewest} patients with or without the event, fewer than {max(min_cases, 1)}"
            continue
        everyone = np.ones(len(status), dtype=bool)
        columns = [standard(extra[rows, k], everyone)[0] for k in range(extra.shape[1])]
        last, scale = standard(x[rows], everyone)
        kept, gone = _independent([*columns, last])
        notes = [names[k] if k < len(names) else f"covariate {k + 1}" for k in gone if k < len(columns)]
        notes = [f"dropped as constant or redundant here: {', '.join(notes)}"] if notes else []
        if len(columns) in gone:
            out.note[j] = "; ".join([REDUNDANT, *notes])
            continue
        with warnings.catch_warnings():
            # What the warning would say is in the estimates, which are checked below.
            warnings.simplefilter("ignore", ModelWarning)
            warnings.simplefilter("ignore", RuntimeWarning)
            try:
                fitted = PHReg(times[rows, j], kept, status=status.astype(int), ties="efron").fit(disp=0)
                beta, se = float(fitted.params[-1]), float(fitted.bse[-1])
            except (np.linalg.LinAlgError, ValueError):
                beta, se = np.nan, np.nan
        if not (np.isfinite(beta) and 0 < se < 1e3 and abs(beta) < 30):
            out.note[j] = "; ".join([NO_MAXIMUM, *notes])
            continue
        store(out, j, beta, se, scale, statistic=abs(beta) / se, method=COX, level=level)
        out.note[j] = "; ".join(notes)
    return out


def _independent(columns: list[Floats]) -> tuple[Floats, set[int]]:
    """Return the columns that the ones before them, with a constant, do not determine; and the numbers of the rest."""
    kept: list[Floats] = []
    gone = set()
    basis = np.ones((len(columns[0]), 1)) / np.sqrt(len(columns[0]))
    for k, column in enumerate(columns):
        rest = column - basis @ (basis.T @ column)
        if float(rest @ rest) <= 1e-9 * len(column):
            gone.add(k)
            continue
        kept.append(column)
        basis = np.column_stack([basis, rest / linalg.norm(rest)])
    return np.column_stack(kept) if kept else np.empty((len(columns[0]), 0)), gone
