"""The fits behind `phewas.stats.association`, one outcome at a time: space, state and what becomes of each fit."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy import special

from phewas.stats.placement import Clusters

Floats = NDArray[np.float64]
Test = Literal["wald", "lrt"]

LOG10 = math.log(10.0)

WALD, LRT, CLUSTERED = "Wald z", "likelihood ratio", "patient-clustered Wald z"
FIRTH, FIRTH_CLUSTERED = "Firth penalised likelihood ratio", "Firth, patient-clustered Wald z"
LINEAR, LINEAR_CLUSTERED = "t", "patient-clustered Wald z"
REDUNDANT = "no estimate: the predictor is constant or determined by the covariates here"
NO_MAXIMUM = "no estimate: the fit did not converge"
RUNS_AWAY = "a covariate separates cases from controls; its coefficient has no finite value"


@dataclass(frozen=True)
class Regression:
    """The predictor's coefficient in P models; every array is [P], NaN where there is no estimate.

    Attributes
    ----------
    beta, se
        float64, per unit of the predictor: log odds ratio, or the outcome's units.
    low, high
        Bounds of beta at the level asked for: Wald, and profile penalised likelihood for Firth.
    p, neg_log10_p
        Two-sided; `neg_log10_p` does not underflow.
    method
        Test behind p; empty where there is none.
    n_rows, n_cases, n_controls
        int64, rows used; for linear models `n_cases` and `n_controls` are 0.
    n_clusters, n_case_clusters, n_control_clusters
        int64, the same in patients.
    note
        What a reader must know; empty if nothing.
    """

    beta: Floats
    se: Floats
    low: Floats
    high: Floats
    p: Floats
    neg_log10_p: Floats
    method: NDArray[np.str_]
    n_rows: NDArray[np.int64]
    n_cases: NDArray[np.int64]
    n_controls: NDArray[np.int64]
    n_clusters: NDArray[np.int64]
    n_case_clusters: NDArray[np.int64]
    n_control_clusters: NDArray[np.int64]
    note: NDArray[np.str_]

    def __len__(self) -> int:
        return len(self.beta)

    @classmethod
    def empty(cls, size: int) -> Regression:
        """Return P models without estimates."""
        def numbers() -> Floats:
            return np.full(size, np.nan)

        def counts() -> NDArray[np.int64]:
            return np.zeros(size, dtype=np.int64)

        return cls(numbers(), numbers(), numbers(), numbers(), numbers(), numbers(), np.full(size, "", dtype="U40"),
                   counts(), counts(), counts(), counts(), counts(), counts(), np.full(size, "", dtype="U300"))


@dataclass(frozen=True)
class Setting:
    """What all fits share."""

    test: Test
    firth_below: int
    min_cases: int
    level: float
    names: Sequence[str]
    groups: Clusters
    clustered: bool


class Room:
    """Design and work space of one thread. Columns have mean 0 and variance 1, the predictor comes last."""

    def __init__(self, covariates: Floats, n_rows: int, n_clusters: int) -> None:
        from phewas.stats import regression_kernel as kernel

        self.kernel = kernel
        d = covariates.shape[1] + 2
        self.design = np.ones((d, n_rows))
        usable: NDArray[np.bool_] = np.asarray(np.isfinite(covariates).all(axis=1))
        for k in range(d - 2):
            self.design[k + 1] = standard(covariates[:, k], usable)[0]
        self.usable = usable
        self.alive = np.ones(d, dtype=np.bool_)
        self.beta, self.gradient, self.step, self.direction = np.zeros(d), np.zeros(d), np.zeros(d), np.zeros(d)
        self.hessian, self.root = np.zeros((d, d)), np.zeros((d, d))
        self.work = np.zeros((5, kernel.BLOCK))
        self.rows = np.zeros((1, n_rows))
        self.sums, self.seen = np.zeros(n_clusters), np.zeros(n_clusters, dtype=np.uint8)
        self.scale = 1.0

    def take(self, predictor: Floats) -> None:
        """Put a predictor into the last column."""
        self.present: NDArray[np.bool_] = np.asarray(self.usable & np.isfinite(predictor))
        self.design[-1], self.scale = standard(predictor, self.present)

    def newton(self, outcome: Floats, use: Floats, *, linear: bool, settle: bool) -> int:
        """Fit by Newton's method from `beta`; return the state."""
        return int(self.kernel.newton(self.design, outcome, use, linear, self.alive, self.beta, self.gradient,
                                      self.hessian, self.root, self.step, self.work, settle))

    def firth(self, outcome: Floats, use: Floats, beta: Floats, *, held: bool) -> tuple[int, float]:
        """Fit by Firth's penalised likelihood from `beta`; return the state and the penalised log-likelihood."""
        state, value = self.kernel.firth(self.design, outcome, use, self.alive, beta, held, self.gradient,
                                         self.hessian, self.root, self.step, self.rows, self.work)
        return int(state), float(value)

    def variance(self) -> float:
        """Return the predictor's variance from the information of the last fit."""
        return float(self.kernel.predictor_variance(self.root, self.alive, self.direction))

    def sandwich(self, outcome: Floats, use: Floats, codes: NDArray[Any], *, linear: bool, modified: bool) -> float:
        """Return the predictor's clustered variance; `variance` must have been called before."""
        total, clusters = self.kernel.clustered_variance(
            self.design, outcome, use, self.beta, linear, self.direction, codes, self.sums, self.seen, self.rows,
            modified)
        n, k = float(use.sum()), float(self.alive.sum())
        return float(total * clusters / (clusters - 1) * (n - 1) / (n - k))


def standard(values: Floats, usable: NDArray[np.bool_]) -> tuple[Floats, float]:
    """Return a column of mean 0 and variance 1 over the usable rows, 0 elsewhere, and what it was divided by."""
    inside = values[usable]
    if not len(inside):
        return np.zeros(len(values)), 1.0
    centre, spread = float(inside.mean()), float(inside.std())
    scale = spread if spread > 1e-12 * max(abs(centre), 1e-300) else 1.0
    centred = (values - centre) / scale
    # A constant becomes exactly 0, so that no rounding passes for information.
    return np.where(usable, centred if spread > 1e-12 * max(abs(centre), 1e-300) else 0.0, 0.0), scale


def _distinct(setting: Setting, rows: NDArray[np.bool_]) -> int:
    """Count the patients of some rows."""
    if setting.groups.codes is None:
        return int(np.count_nonzero(rows))
    seen = np.zeros(setting.groups.size, dtype=bool)
    seen[setting.groups.codes[rows]] = True
    return int(np.count_nonzero(seen))


def _dropped(room: Room, setting: Setting) -> list[str]:
    """Name the covariates that a fit could not use."""
    gone = [setting.names[k] if k < len(setting.names) else f"covariate {k + 1}"
            for k in range(len(room.alive) - 2) if not room.alive[k + 1]]
    return [f"dropped as constant or redundant here: {', '.join(gone)}"] if gone else []


def fit_logistic(room: Room, label: NDArray[Any], setting: Setting, out: Regression, j: int) -> None:
    """Fit one phenotype."""
    case, control = room.present & (label == 1), room.present & (label == 0)
    out.n_cases[j], out.n_controls[j] = np.count_nonzero(case), np.count_nonzero(control)
    out.n_rows[j] = out.n_cases[j] + out.n_controls[j]
    cases, controls = _distinct(setting, case), _distinct(setting, control)
    out.n_case_clusters[j], out.n_control_clusters[j] = cases, controls
    out.n_clusters[j] = _distinct(setting, case | control)
    fewest = min(cases, controls)
    if fewest < max(setting.min_cases, 1):
        which = "case" if cases <= controls else "control"
        out.note[j] = f"no model: {fewest} {which} patients, fewer than {max(setting.min_cases, 1)}"
        return
    outcome, use = case.astype(np.float64), (case | control).astype(np.float64)
    room.beta[:] = 0.0
    room.beta[0] = math.log(out.n_cases[j] / out.n_controls[j])
    rare = fewest < setting.firth_below
    state = room.newton(outcome, use, linear=False, settle=True)
    notes = _dropped(room, setting)
    if not room.alive[-1]:
        out.note[j] = "; ".join([REDUNDANT, *notes])
        return
    if rare or state == room.kernel.FAILED:
        notes.append(f"Firth: {fewest} case or control patients, fewer than {setting.firth_below}" if rare
                     else "Firth: the predictor or a covariate separates cases from controls")
        _fit_firth(room, outcome, use, setting, out, j, notes)
        return
    if state == room.kernel.SEPARATED:
        notes.append(RUNS_AWAY)
    variance, method = room.variance(), WALD
    beta = float(room.beta[-1])
    if setting.clustered:
        assert setting.groups.codes is not None
        variance, method = room.sandwich(outcome, use, setting.groups.codes, linear=False, modified=False), CLUSTERED
    statistic = abs(beta) / math.sqrt(variance)
    if setting.test == "lrt":
        full = room.kernel.log_likelihood(room.design, outcome, use, room.beta)
        room.beta[-1] = 0.0
        room.alive[-1] = False
        again = room.newton(outcome, use, linear=False, settle=False)
        reduced = room.kernel.log_likelihood(room.design, outcome, use, room.beta)
        room.alive[-1] = True
        statistic, method = math.sqrt(max(2.0 * (full - reduced), 0.0)), LRT
        if again == room.kernel.FAILED:
            notes.append("the model without the predictor did not converge")
            statistic = math.nan
    store(out, j, beta, math.sqrt(variance), room.scale, statistic=statistic, method=method, level=setting.level)
    out.note[j] = "; ".join(notes)


def store(
    out: Regression, j: int, beta: float, se: float, scale: float, *, statistic: float, method: str, level: float
) -> None:
    """Enter an estimate with Wald bounds and the two-sided normal p of a statistic."""
    z = float(special.ndtri(0.5 + level / 2))
    out.beta[j], out.se[j] = beta / scale, se / scale
    out.low[j], out.high[j] = (beta - z * se) / scale, (beta + z * se) / scale
    if not math.isnan(statistic):
        out.p[j] = 2.0 * special.ndtr(-statistic)
        out.neg_log10_p[j] = max(-(math.log(2.0) + float(special.log_ndtr(-statistic))) / LOG10, 0.0)
        out.method[j] = method


def _fit_firth(
    room: Room, outcome: Floats, use: Floats, setting: Setting, out: Regression, j: int, notes: list[str]
) -> None:
    """Fit one phenotype by Firth's penalised likelihood."""
    room.beta[:] = 0.0
    room.beta[0] = math.log(out.n_cases[j] / out.n_controls[j])
    state, best = room.firth(outcome, use, room.beta, held=False)
    if state != room.kernel.CONVERGED:
        out.note[j] = "; ".join([NO_MAXIMUM, *notes])
        return
    variance, beta = room.variance(), float(room.beta[-1])
    if setting.clustered:
        assert setting.groups.codes is not None
        variance = room.sandwich(outcome, use, setting.groups.codes, linear=False, modified=True)
        store(out, j, beta, math.sqrt(variance), room.scale, statistic=abs(beta) / math.sqrt(variance),
               method=FIRTH_CLUSTERED, level=setting.level)
        out.note[j] = "; ".join(notes)
        return
    se = math.sqrt(variance)
    start = room.beta.copy()

    def root_at(value: float) -> float:
        """Return the signed square root of the penalised deviance with the coefficient held; nearly linear."""
        start[-1] = value
        found, height = room.firth(outcome, use, start, held=True)
        if found != room.kernel.CONVERGED:
            return math.nan
        return math.copysign(math.sqrt(max(2.0 * (best - height), 0.0)), value - beta)

    store(out, j, beta, se, room.scale, statistic=abs(root_at(0.0)), method=FIRTH, level=setting.level)
    z = float(special.ndtri(0.5 + setting.level / 2))
    out.low[j] = _crossing(root_at, beta, se, -z) / room.scale
    out.high[j] = _crossing(root_at, beta, se, z) / room.scale
    if math.isnan(out.p[j]) or math.isnan(out.low[j]) or math.isnan(out.high[j]):
        notes.append("the profile of the penalised likelihood did not converge everywhere")
    out.note[j] = "; ".join(notes)


def _crossing(root_at: Callable[[float], float], beta: float, se: float, target: float) -> float:
    """Return where the signed root reaches `target`, by regula falsi within a bracket; NaN where it is not found."""
    inside, outside = (beta, 0.0), beta + target * se
    height = root_at(outside)
    for _ in range(30):
        if math.isnan(height) or abs(height) >= abs(target):
            break
        inside, outside = (outside, height), outside + target * se * 0.5
        height = root_at(outside)
    if math.isnan(height) or abs(height) < abs(target):
        return math.nan
    far = (outside, height)
    for _ in range(60):
        value = inside[0] + (target - inside[1]) * (far[0] - inside[0]) / (far[1] - inside[1])
        height = root_at(value)
        if math.isnan(height) or abs(height - target) < 1e-8:
            return value if not math.isnan(height) else math.nan
        if abs(height) < abs(target):
            inside = (value, height)
        else:
            far = (value, height)
    return value


def fit_linear(room: Room, values: NDArray[Any], setting: Setting, out: Regression, j: int) -> None:
    """Fit one outcome by least squares."""
    # Loads scipy.stats, which takes longer than hundreds of logistic models.
    from phewas.stats.tails import t_quantile, t_two_sided

    present = room.present & np.isfinite(values)
    out.n_rows[j], out.n_clusters[j] = np.count_nonzero(present), _distinct(setting, present)
    if out.n_clusters[j] < max(setting.min_cases, 1):
        out.note[j] = f"no model: {out.n_clusters[j]} patients, fewer than {max(setting.min_cases, 1)}"
        return
    outcome, spread = standard(values.astype(np.float64), present)
    use = present.astype(np.float64)
    room.beta[:] = 0.0
    state = room.newton(outcome, use, linear=True, settle=True)
    notes = _dropped(room, setting)
    df = out.n_rows[j] - np.count_nonzero(room.alive)
    if not room.alive[-1] or state != room.kernel.CONVERGED or df < 1:
        out.note[j] = "; ".join([REDUNDANT if not room.alive[-1] else NO_MAXIMUM, *notes])
        return
    variance, beta = room.variance(), float(room.beta[-1])
    residual = (outcome - room.beta @ room.design) * use
    if setting.clustered:
        assert setting.groups.codes is not None
        variance = room.sandwich(outcome, use, setting.groups.codes, linear=True, modified=False)
    else:
        variance *= float(residual @ residual) / df
    se, scale = math.sqrt(variance), room.scale / spread
    statistic = abs(beta) / se if se > 0 else math.nan
    if setting.clustered:
        store(out, j, beta, se, scale, statistic=statistic, method=LINEAR_CLUSTERED, level=setting.level)
    else:
        store(out, j, beta, se, scale, statistic=math.nan, method=LINEAR, level=setting.level)
        quantile = float(t_quantile(setting.level, float(df)))
        out.low[j], out.high[j] = (beta - quantile * se) / scale, (beta + quantile * se) / scale
        p, logs = t_two_sided(np.array([statistic]), np.array([float(df)]))
        out.p[j], out.neg_log10_p[j], out.method[j] = p[0], logs[0], LINEAR
    out.note[j] = "; ".join(notes)
