"""Whether a score sees its own phenotype, or only what a handful of other phenotypes' scores see too.

"Sees amyloidosis" and "sees old and sick" look alike in an AUC. Here each phenotype is predicted from a few other
phenotypes' scores, the anchors, chosen without any label: the scores that together explain most of the variance of all
scores (greedy column subset selection).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from phewas.schema import CrossAuc, Specificity
from phewas.seeds import generator
from phewas.stats.auc import auc_matrix
from phewas.stats.baseline import fit_logistic
from phewas.stats.compare import compare_matrix
from phewas.stats.sweep import COMPILED, WORTHWHILE, sweep
from phewas.stats.tails import Floats

FOLDS = 5
RIDGE = 1.0
MOST_IN_MATRIX = 40
SPARE = 12
"""Anchors ranked beyond those asked for, which stand in where one is the phenotype's own relative."""


def root(name: str) -> str:
    """Return the identifier before the dot: phenotypes of one root are relatives and no anchors for each other."""
    return name.split(".")[0]


def rank_anchors(scores: NDArray[Any], *, count: int) -> list[int]:
    """Return columns in the order in which each explains most of what the earlier ones leave of all scores' variance.

    Parameters
    ----------
    scores
        float [U, P], no NaN; standardised here.
    count
        How many, at most P.
    """
    left = np.asarray(scores, dtype=np.float64)
    left = left - left.mean(axis=0)
    spread = left.std(axis=0)
    left = left[:, spread > 0] / spread[spread > 0]
    place = np.flatnonzero(spread > 0)
    covariance = left.T @ left / max(len(left), 1)
    chosen: list[int] = []
    for _ in range(min(count, len(place))):
        own = np.diag(covariance).copy()
        with np.errstate(divide="ignore", invalid="ignore"):
            gain = np.where(own > 1e-6, (covariance**2).sum(axis=0) / own, -1.0)
        best = int(np.argmax(gain))
        if gain[best] <= 0:
            break
        chosen.append(int(place[best]))
        covariance = covariance - np.outer(covariance[:, best], covariance[best]) / covariance[best, best]
    return chosen


def specificity(
    scores: NDArray[Any], labels: NDArray[Any], clusters: NDArray[np.intp], names: list[str], *,
    ranked: dict[str, NDArray[Any]], anchors: int, seed: int, level: float = 0.95,
) -> pl.DataFrame:
    """Return `phewas.schema.Specificity`, without q.

    Parameters
    ----------
    scores
        float [U, P], finite.
    labels
        int8 [U, P].
    clusters
        intp [U], patients as 0 .. C-1.
    names
        The P phenotypes.
    ranked
        Anchors' scores float [U], finite, the best first; see `rank_anchors`.
    anchors
        Anchors per phenotype: the first that are no relatives of it.
    seed
        Fold of each patient.

    Notes
    -----
    The model on the anchors is a ridge logistic regression fitted on the patients of four folds and applied to the
    fifth without its intercept, so that folds share a scale. Its interval takes the fitted scores as given, which with
    few anchors and many patients is nearly so; it is approximate.
    """
    size = len(names)
    if not size:
        return Specificity.empty()
    sets: dict[tuple[str, ...], list[int]] = {}
    for j in range(size):
        sets.setdefault(tuple([k for k in ranked if root(k) != root(names[j])][:anchors]), []).append(j)
    folds = generator("specificity-folds", seed).integers(0, FOLDS, int(clusters.max(initial=-1)) + 1)[clusters]
    fitted, residual = np.full((len(scores), size), np.nan), np.full((len(scores), size), np.nan)
    told = [""] * size
    for chosen, members in sets.items():
        for j in members:
            told[j] = "; ".join(chosen)
        if chosen:
            fitted[:, members], residual[:, members] = _from_anchors(
                np.stack([ranked[k] for k in chosen], axis=1), scores[:, members], labels[:, members], folds)
    known = ~np.isnan(fitted).any(axis=0) & ~np.isnan(residual).any(axis=0)
    safe, rest = np.where(known, fitted, 0.0), np.where(known, residual, 0.0)
    anchor = auc_matrix(safe, labels, clusters=clusters, level=level)
    own = compare_matrix(np.asarray(scores, dtype=np.float64), safe, labels, clusters=clusters, level=level)
    left = auc_matrix(rest, labels, clusters=clusters, level=level)
    with np.errstate(divide="ignore", invalid="ignore"):
        explained = np.clip((anchor.auc - 0.5) / (own.auc_a - 0.5), 0.0, 1.0)
    explained = np.where(own.auc_a > 0.55, explained, np.nan)
    columns = {
        "anchor_auc": anchor.auc, "anchor_low": anchor.low, "anchor_high": anchor.high, "explained": explained,
        "gain": own.difference, "gain_low": own.low, "gain_high": own.high, "gain_p": own.p,
        "gain_q": np.full(size, np.nan),
        "residual_auc": left.auc, "residual_low": left.low, "residual_high": left.high,
    }
    frame = pl.DataFrame({"phenotype": names, "anchors": told, "auc": own.auc_a}).with_columns(
        pl.Series(name, np.where(known, value, np.nan)) for name, value in columns.items())
    return frame.with_columns(pl.col(pl.Float64).fill_nan(None))


def _from_anchors(
    anchors: NDArray[Any], own: NDArray[Any], labels: NDArray[Any], folds: NDArray[Any]
) -> tuple[Floats, Floats]:
    """Return cross-fitted scores from the anchors, and what least squares leaves of the own scores; float64 [U, P]."""
    x = np.asarray(anchors, dtype=np.float64)
    x = (x - x.mean(axis=0)) / np.maximum(x.std(axis=0), 1e-12)
    design = np.column_stack([np.ones(len(x)), x])
    fitted = np.empty(own.shape)
    for fold in range(FOLDS):
        inside, mine = np.flatnonzero(folds != fold), folds == fold
        cases, rows = (labels[inside] == 1).astype(np.float64), (labels[inside] >= 0).astype(np.float64)
        beta = fit_logistic(design[inside], cases, rows, ridge=RIDGE)
        fitted[mine] = x[mine] @ beta[:, 1:].T
    values = np.asarray(own, dtype=np.float64)
    return fitted, values - design @ np.linalg.lstsq(design, values, rcond=None)[0]


def cross_auc(
    scores: NDArray[Any], labels: NDArray[Any], names: list[str], *, chosen: NDArray[np.intp]
) -> pl.DataFrame:
    """Return `phewas.schema.CrossAuc` of some phenotypes: each one's score against each one's labels."""
    parts = [CrossAuc.empty()]
    picked = [names[k] for k in chosen]
    marks = labels[:, chosen]
    compiled = COMPILED and len(scores) * len(chosen) ** 2 >= WORTHWHILE
    for k, name in zip(chosen, picked, strict=True):
        score = np.repeat(np.asarray(scores[:, k])[:, None], len(chosen), axis=1)
        area = sweep(score, marks, compiled=compiled).auc
        parts.append(pl.DataFrame({"score_of": [name] * len(picked), "phenotype": picked, "auc": area},
                                  schema=CrossAuc.dtypes()))
    return pl.concat(parts).with_columns(pl.col("auc").fill_nan(None))
