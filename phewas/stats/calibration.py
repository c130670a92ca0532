"""Whether the probabilities mean what they say, where a probability exists at all.

A mean logit is a log odds only if the loss was unweighted. Otherwise it is recalibrated on the tuning patients, who are
not scored, or there is no probability and nothing is reported but the reason.

References
----------
Van Calster et al. 2019, BMC Med 17:230 (calibration in the large, slope). Kattan and Gerds 2018, Diagn Progn Res 2:7
(Brier skill).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy import special, stats

from phewas.schema import Calibration, CalibrationBins
from phewas.stats.counts import patients_with
from phewas.stats.precision import wilson
from phewas.stats.tails import Floats

BINS = 10
MIN_TUNING_CASES = 10
"""Tuning patients with and without the phenotype that recalibration needs, each."""


@dataclass(frozen=True)
class Fitted:
    """A logistic regression: coefficients [k], patient-robust covariance [k, k]; NaN where it did not converge."""

    beta: Floats
    covariance: Floats


def robust_logistic(x: Floats, y: Floats, codes: NDArray[np.intp], *, offset: Floats | None = None) -> Fitted:
    """Fit a small logistic model by Newton's method, with the sandwich covariance over patients.

    Parameters
    ----------
    x
        float64 [n, k], no intercept is added.
    y
        0 or 1, float64 [n].
    codes
        intp [n], patients as codes from 0.
    offset
        float64 [n], added to the linear predictor.

    Returns
    -------
    Fitted
        Covariance ``H^-1 (sum of s s' over patients) H^-1 * C / (C - 1)`` (Liang and Zeger 1986).
    """
    n, k = x.shape
    beta, nothing = np.zeros(k), Fitted(np.full(k, np.nan), np.full((k, k), np.nan))
    base = np.zeros(n) if offset is None else offset

    def loss(at: Floats) -> float:
        eta = base + x @ at
        return float(np.sum(np.logaddexp(0.0, eta) - y * eta))

    now = loss(beta)
    for _ in range(50):
        mean = special.expit(base + x @ beta)
        score = x.T @ (y - mean)
        weight = mean * (1 - mean)
        information = (x * weight[:, None]).T @ x
        try:
            move = np.linalg.solve(information, score)
        except np.linalg.LinAlgError:
            return nothing
        size = 1.0
        while size > 1e-6 and not loss(beta + size * move) <= now + 1e-10 * abs(now):
            size /= 2
        beta = beta + size * move
        now = loss(beta)
        if not np.isfinite(now) or np.abs(beta).max() > 1e3:
            return nothing
        if np.abs(move).max() < 1e-10 * (1 + np.abs(beta).max()):
            break
    else:
        return nothing
    residual = (y - special.expit(base + x @ beta))[:, None] * x
    totals = np.stack([np.bincount(codes, weights=residual[:, i]) for i in range(k)], axis=1)
    patients = int(np.count_nonzero(np.bincount(codes)))
    if patients < 2:
        return nothing
    bread = np.linalg.inv(information)
    return Fitted(beta, bread @ (totals.T @ totals) @ bread * patients / (patients - 1))


def loss_was_plain(run: Path) -> bool | None:
    """Tell from ``model/model.json`` whether the loss was unweighted; None where the run did not train the model."""
    paths = [run / "model" / "model.json", *sorted((run / "model").glob("fold-*/model.json"))]
    told = [json.loads(path.read_text(encoding="utf-8")) for path in paths if path.is_file()]
    if not told:
        return None
    return all(one.get("settings", {}).get("loss", "plain") == "plain" for one in told)


def recalibrate(logit: Floats, label: NDArray[Any], codes: NDArray[np.intp]) -> Floats | None:
    """Return intercept and slope fitted on tuning patients, or None with too few of them or no convergence."""
    used = label >= 0
    y, own = (label[used] == 1), codes[used]
    if min(len(np.unique(own[y])), len(np.unique(own[~y]))) < MIN_TUNING_CASES:
        return None
    x = np.stack([np.ones(len(own)), np.asarray(logit[used], dtype=np.float64)], axis=1)
    beta = robust_logistic(x, y.astype(np.float64), np.unique(own, return_inverse=True)[1]).beta
    return None if np.isnan(beta).any() else beta


@dataclass(frozen=True)
class Tuning:
    """Tuning encounters' logits float [T, P], labels int8 [T, P] and patients intp [T]."""

    logits: NDArray[Any]
    labels: NDArray[Any]
    patients: NDArray[np.intp]


def log_odds(
    logit: NDArray[Any], column: int, *, plain: bool | None, tuning: Tuning | None
) -> tuple[str, Floats | None]:
    """Return log odds of one phenotype and how they came about, or None with the reason.

    Parameters
    ----------
    logit
        float [n], mean logits.
    column
        Place of the phenotype in `tuning`.
    plain, tuning
        As for `calibration`.
    """
    eta = np.asarray(logit, dtype=np.float64)
    if plain:
        return "raw", eta
    beta = None if tuning is None else recalibrate(tuning.logits[:, column], tuning.labels[:, column], tuning.patients)
    if beta is None:
        return ("unknown_training" if plain is None and tuning is None else "no_tuning_cases"), None
    return "recalibrated", beta[0] + beta[1] * eta


def calibration(
    logits: NDArray[Any], labels: NDArray[Any], clusters: NDArray[np.intp], names: list[str], *,
    plain: bool | None, tuning: Tuning | None, level: float = 0.95,
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Return `phewas.schema.Calibration` and `phewas.schema.CalibrationBins`.

    Parameters
    ----------
    logits
        float [U, P], mean logits of the scored units.
    labels
        int8 [U, P].
    clusters
        intp [U], patients as 0 .. C-1.
    names
        The P phenotypes.
    plain
        Whether the loss was unweighted: then the logits are taken as they are. None: not known.
    tuning
        Who recalibrates otherwise; None where there are no tuning predictions.

    Notes
    -----
    Excluded controls are in none of it: the prevalence that a probability is held against is that of cases and
    controls, higher than in everybody.
    """
    z = float(stats.norm.ppf(0.5 + level / 2))
    rows: list[dict[str, Any]] = []
    bins = [CalibrationBins.empty()]
    for j, name in enumerate(names):
        used = labels[:, j] >= 0
        y, codes = (labels[used, j] == 1).astype(np.float64), clusters[used]
        row: dict[str, Any] = {"phenotype": name, "n_cases": int(y.sum()), "n_controls": int(len(y) - y.sum())}
        rows.append(row)
        row["status"], eta = log_odds(logits[used, j], j, plain=plain, tuning=tuning)
        if eta is None:
            continue
        p, share = special.expit(eta), float(y.mean())
        brier = float(np.mean((p - y) ** 2))
        row |= {"mean_predicted": float(p.mean()), "observed": share, "brier": brier,
                "oe_ratio": share / float(p.mean()) if p.mean() > 0 else None,
                "brier_skill": 1 - brier / (share * (1 - share)) if 0 < share < 1 else None}
        if 0 < share < 1:
            own = np.unique(codes, return_inverse=True)[1]
            ones = np.ones((len(y), 1))
            shift = robust_logistic(ones, y, own, offset=eta)
            line = robust_logistic(np.column_stack([ones, eta]), y, own) if np.ptp(eta) > 0 else None
            for what, value, variance in (
                ("intercept", shift.beta[0], shift.covariance[0, 0]),
                *([("slope", line.beta[1], line.covariance[1, 1])] if line is not None else []),
            ):
                if np.isfinite(value) and np.isfinite(variance):
                    half = z * float(np.sqrt(max(variance, 0.0)))
                    row |= {what: float(value), f"{what}_low": float(value) - half, f"{what}_high": float(value) + half}
        made = calibration_bins(p, y, codes, z=z)
        row["ece"] = float((made["n"] * (made["predicted"] - made["observed"]).abs()).sum() / len(y))
        bins.append(made.select(pl.lit(name).alias("phenotype"), pl.all()).select(
            pl.col(c).cast(t) for c, t in CalibrationBins.dtypes().items()))
    return Calibration.build(rows), pl.concat(bins)


def calibration_bins(p: Floats, y: Floats, codes: NDArray[np.intp], *, z: float) -> pl.DataFrame:
    """Return bins of equal size by rising probability; equal probabilities share a bin, so there can be fewer."""
    order = np.argsort(p, kind="stable")
    ordered = p[order]
    edge = np.unique(np.searchsorted(ordered, ordered[(np.arange(BINS) * len(p)) // BINS], side="left"))
    number = np.searchsorted(edge, np.arange(len(p)), side="right") - 1
    n = np.bincount(number)
    cases = np.bincount(number, weights=y[order])
    marks = np.zeros((len(p), len(n)), dtype=bool)
    marks[np.arange(len(p)), number] = True
    patients = patients_with(marks, codes[order])
    low, high = wilson(cases / n, patients, z=z)
    return pl.DataFrame({
        "bin": np.arange(len(n)), "n": n, "n_cases": cases.astype(np.int64),
        "predicted": np.bincount(number, weights=ordered) / n, "observed": cases / n, "low": low, "high": high})
