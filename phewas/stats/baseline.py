"""What age and sex alone can see: one logistic model per phenotype, all phenotypes fitted together.

Age enters as a restricted cubic spline with Harrell's knots, sex as indicators. Rows of the same age and sex are one
binomial observation, so that the fit costs as much as there are distinct ages, and the counts are exact whatever the
order of the rows. Large cohorts with ages to the day have theirs rounded to a twentieth of a year for the fit.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse, special

from phewas.errors import SplitError, StatisticsError

Floats = NDArray[np.float64]

KNOT_QUANTILES = {
    5: (0.05, 0.275, 0.5, 0.725, 0.95),
    4: (0.05, 0.35, 0.65, 0.95),
    3: (0.10, 0.50, 0.90),
}
"""Harrell, Regression Modeling Strategies, 2nd ed., table 2.3."""

RIDGE = 0.01
"""Penalty on the squared coefficients of unit-variance columns: a hundredth of an observation's weight each."""

BLOCK = 64
"""Phenotypes fitted at a time."""

MAX_GROUPS = 4096
"""With more distinct combinations of age and sex than this, training ages are rounded for the fit."""

AGE_STEPS = 20
"""Steps a year of such rounding: 18 days. Scored ages are never rounded."""


def spline_knots(age: Floats) -> Floats:
    """Return the knots for a set of training ages.

    Parameters
    ----------
    age
        Years, float64 [N], NaN where unknown.

    Returns
    -------
    float64 [k]
        Five knots from 100 known ages on, four from 30, else three; fewer where quantiles coincide or fewer ages
        differ; empty where not even three knots stand apart (age is then linear).
    """
    known = age[~np.isnan(age)]
    distinct = len(np.unique(known))
    for count, least in ((5, 100), (4, 30), (3, 3)):
        if len(known) < least or distinct < count:
            continue
        knots = np.unique(np.quantile(known, KNOT_QUANTILES[count]))
        if len(knots) == count:
            return knots
    return np.empty(0)


def spline_columns(age: Floats, knots: Floats) -> Floats:
    """Return the restricted cubic spline basis, float64 [N, max(k - 1, 1)]: age itself, then k - 2 cubic columns.

    Linear beyond the outer knots. Column j is ``(x-t_j)+^3 - (x-t_{k-1})+^3 (t_k-t_j)/(t_k-t_{k-1})
    + (x-t_k)+^3 (t_{k-1}-t_j)/(t_k-t_{k-1})`` over ``(t_k-t_1)^2`` (Harrell, section 2.4.5; Devlin and Weeks 1986).
    """
    basis = [age]
    if len(knots):
        last, before = knots[-1], knots[-2]
        cube = [np.maximum(age - t, 0.0) ** 3 for t in knots]
        for j in range(len(knots) - 2):
            column = (cube[j] - cube[-2] * (last - knots[j]) / (last - before)
                      + cube[-1] * (before - knots[j]) / (last - before))
            basis.append(column / (last - knots[0]) ** 2)
    return np.stack(basis, axis=1)


@dataclass(frozen=True)
class Design:
    """How age and sex become columns; learned from the training rows alone.

    Attributes
    ----------
    knots
        Spline knots in years.
    mean_age
        Stands in for an unknown age, beside an indicator; 0 where no training age is known.
    with_sex
        Whether sex has columns (not for phenotypes of one sex).
    centre, turn
        Training means [d] and the map [d, r] to uncorrelated columns of unit variance; directions without variance in
        the training rows are gone.
    """

    knots: Floats
    mean_age: float
    with_sex: bool
    centre: Floats
    turn: Floats

    @classmethod
    def learn(cls, age: Floats, sex: NDArray[Any], *, with_sex: bool) -> Design:
        """Learn knots, mean and scaling from training ages (years, NaN unknown) and sexes (F, M, U), both [N]."""
        knots = spline_knots(age)
        known = age[~np.isnan(age)]
        mean_age = float(known.mean()) if len(known) else 0.0
        width = max(len(knots) - 1, 1) + 1 + (2 if with_sex else 0)
        raw = cls(knots, mean_age, with_sex, np.zeros(width), np.eye(width))
        values = raw.columns(age, sex)[:, 1:]
        centre = values.mean(axis=0)
        spread = values.std(axis=0)
        scale = np.where(spread > 1e-9, spread, np.inf)
        # Uncorrelated columns: the ridge then shrinks the fitted curve evenly, not the steep spline terms most.
        _, singular, right = np.linalg.svd((values - centre) / scale, full_matrices=False)
        keep = singular > 1e-6 * max(float(singular.max(initial=0.0)), 1e-300)
        turn = (right[keep].T / scale[:, None]) / (singular[keep] / np.sqrt(len(values)))
        return cls(knots, mean_age, with_sex, centre, turn)

    def columns(self, age: Floats, sex: NDArray[Any]) -> Floats:
        """Return the design matrix, float64 [N, 1 + r], intercept first."""
        unknown = np.isnan(age)
        filled = np.where(unknown, self.mean_age, age)
        parts = [spline_columns(filled, self.knots), unknown[:, None].astype(np.float64)]
        if self.with_sex:
            parts.append(np.stack([sex == "M", sex == "U"], axis=1).astype(np.float64))
        turned = (np.concatenate(parts, axis=1) - self.centre) @ self.turn
        return np.concatenate([np.ones((len(age), 1)), turned], axis=1)


def fit_logistic(
    design: Floats, n_cases: Floats, n_rows: Floats, *, ridge: float = RIDGE, max_steps: int = 100
) -> Floats:
    """Fit P logistic models on one design by Newton's method with step halving.

    Parameters
    ----------
    design
        float64 [G, d], intercept first; a row per group of identical covariates.
    n_cases, n_rows
        float64 [G, P], cases and cases + controls of each group.
    ridge
        Penalty ``ridge / 2 * sum(beta^2)`` on the log-likelihood, intercept exempt.

    Returns
    -------
    float64 [P, d]
        Coefficients; NaN for phenotypes without cases or without controls.

    Raises
    ------
    StatisticsError
        A model did not converge, which only separation with ``ridge=0`` can bring about.
    """
    groups, d = design.shape
    total, rows = n_cases.sum(axis=0), n_rows.sum(axis=0)
    result = np.full((n_cases.shape[1], d), np.nan)
    active = np.flatnonzero((total > 0) & (total < rows))
    penalty = np.full(d, ridge)
    penalty[0] = 0.0
    pairs = (design[:, :, None] * design[:, None, :]).reshape(groups, d * d)
    beta = np.zeros((len(active), d))
    beta[:, 0] = special.logit(total[active] / rows[active])
    y, n = n_cases[:, active], n_rows[:, active]

    def objective(value: Floats, which: NDArray[np.intp]) -> Floats:
        eta = design @ value.T
        loss = n[:, which] * np.logaddexp(0.0, eta) - y[:, which] * eta
        return np.asarray(loss.sum(axis=0) + 0.5 * (value**2 @ penalty), dtype=np.float64)

    todo = np.arange(len(active))
    current = objective(beta, todo)
    for _ in range(max_steps):
        if not len(todo):
            break
        mean = special.expit(design @ beta[todo].T)
        gradient = (y[:, todo] - n[:, todo] * mean).T @ design - beta[todo] * penalty
        weight = n[:, todo] * mean * (1 - mean)
        hessian = (weight.T @ pairs).reshape(-1, d, d) + np.diag(penalty)
        # A whisper of diagonal keeps a flat direction solvable; it moves the path, not the solution.
        hessian += np.eye(d) * (1e-12 * np.trace(hessian, axis1=1, axis2=2) / d + 1e-300)[:, None, None]
        step = np.linalg.solve(hessian, gradient[:, :, None])[:, :, 0]
        decrement = np.sum(gradient * step, axis=1)
        share = np.ones(len(todo))
        before = current[todo]
        slack = 1e-12 * np.maximum(np.abs(before), 1.0)
        for _ in range(40):
            trial = beta[todo] + share[:, None] * step
            after = objective(trial, todo)
            worse = ~(after <= before + slack)
            if not worse.any():
                break
            share[worse] /= 2
        beta[todo], current[todo] = trial, after
        todo = todo[~(decrement < 1e-16 * np.maximum(np.abs(before), 1.0)) | (share < 1)]
    if len(todo):
        raise StatisticsError(f"{len(todo)} logistic models of age and sex did not converge",
                              expected="a finite maximum", cure="use a ridge above 0")
    result[active] = beta
    return result


def fit_predict(
    age: Floats,
    sex: NDArray[Any],
    labels: NDArray[Any],
    *,
    train_rows: NDArray[Any],
    score_rows: NDArray[Any],
    patients: NDArray[Any],
    phenotype_sex: NDArray[Any] | None = None,
    ridge: float = RIDGE,
) -> Floats:
    """Fit age + sex on the training rows and score the others.

    Parameters
    ----------
    age
        Years, float64 [N]; NaN where unknown (training mean and an indicator).
    sex
        Text [N]: F, M or U.
    labels
        int8 [len(train_rows), P], labels of the training rows in their order: 1 case, 0 control, -1 excluded.
    train_rows, score_rows
        Row numbers into `age`, `sex` and `patients`.
    patients
        Patient of each row [N], integers or text.
    phenotype_sex
        Text [P]: both, F or M; sex has no columns for the latter two. None means both.
    ridge
        See `fit_logistic`.

    Returns
    -------
    float64 [len(score_rows), P]
        Logits; rows of one age and sex have exactly equal logits. A whole column is NaN where the training rows hold
        no case or no control.

    Raises
    ------
    SplitError
        A patient is on both sides.
    StatisticsError
        There are no training rows, or an age is infinite.
    """
    age = np.asarray(age, dtype=np.float64)
    sex, patients = np.asarray(sex), np.asarray(patients)
    train_rows, score_rows = np.asarray(train_rows, dtype=np.intp), np.asarray(score_rows, dtype=np.intp)
    shared = np.intersect1d(patients[train_rows], patients[score_rows])
    if len(shared):
        raise SplitError(f"{len(shared)} patients are in the training and in the scored rows of the baseline",
                         expected="sides that share no patient", cure="make the split anew: phewas run")
    if not len(train_rows):
        raise StatisticsError("the age + sex baseline has no training rows", expected="labelled training encounters")
    if np.isinf(age).any():
        raise StatisticsError("an age is infinite", expected="years, or nothing where unknown")
    size = labels.shape[1]
    one_sex = np.zeros(size, dtype=bool) if phenotype_sex is None else np.asarray(phenotype_sex) != "both"
    result = np.empty((len(score_rows), size))
    train_of, train_age, train_sex = _groups(age[train_rows], sex[train_rows])
    if len(train_age) > MAX_GROUPS:
        rounded = np.round(age[train_rows] * AGE_STEPS) / AGE_STEPS
        train_of, train_age, train_sex = _groups(rounded, sex[train_rows])
    score_of, score_age, score_sex = _groups(age[score_rows], sex[score_rows])
    gather = sparse.csr_matrix((np.ones(len(train_of)), (train_of, np.arange(len(train_of)))))
    for with_sex, members in ((True, np.flatnonzero(~one_sex)), (False, np.flatnonzero(one_sex))):
        if not len(members):
            continue
        design = Design.learn(age[train_rows], sex[train_rows], with_sex=with_sex)
        fit_on, apply_to = design.columns(train_age, train_sex), design.columns(score_age, score_sex)
        for start in range(0, len(members), BLOCK):
            chosen = members[start : start + BLOCK]
            block = labels[:, chosen]
            cases, rows = gather @ (block == 1).astype(np.float64), gather @ (block >= 0).astype(np.float64)
            beta = fit_logistic(fit_on, cases, rows, ridge=ridge)
            result[:, chosen] = (apply_to @ beta.T)[score_of]
    return result


def _groups(age: Floats, sex: NDArray[Any]) -> tuple[NDArray[np.intp], Floats, NDArray[Any]]:
    """Return the group of each row and the age and sex of each group, sorted, so that row order cannot matter."""
    names, code = np.unique(sex, return_inverse=True)
    years, place = np.unique(age, return_inverse=True)
    keys, group = np.unique(code * len(years) + place, return_inverse=True)
    return group.astype(np.intp, copy=False), years[keys % len(years)], names[keys // len(years)]
