"""Frozen use of an encoder: embeddings once, then a ridge-penalised logistic head per phenotype, all at once."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve

from phewas.errors import LearningError
from phewas.learning.labels import macro_auc

Floats = NDArray[np.float64]

# Ridge strengths tried per training encounter when tuning patients choose; without them, `FIXED` is used.
STRENGTHS = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0)
FIXED = 0.1
MAX_ITERATIONS = 500
TOLERANCE = 1e-6


@dataclass(frozen=True)
class Heads:
    """Fitted heads: ``logit = (x - mean) / scale @ weight + bias``, where x is the embedding without its gaps.

    `fill` float64 [width], what stands in for NaN; `flagged` int64 [flags], the columns whose absence is told by a
    further column, 1 where the value is missing; `mean`, `scale` float64 [width + flags]; `weight` float64
    [width + flags, phenotypes]; `bias` float64 [phenotypes].
    """

    fill: Floats
    flagged: NDArray[np.int64]
    mean: Floats
    scale: Floats
    weight: Floats
    bias: Floats

    def __call__(self, embeddings: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return logits float32 [encounters, phenotypes]."""
        whole = without_gaps(embeddings, self.fill, self.flagged)
        logits = (whole - self.mean) / self.scale @ self.weight + self.bias
        return logits.astype(np.float32)


def gaps(embeddings: NDArray[np.float32]) -> tuple[Floats, NDArray[np.int64]]:
    """Learn from training rows what stands in for a missing value, and which columns' absence is worth a column.

    Parameters
    ----------
    embeddings
        float32 [encounters, width]; NaN is missing.

    Returns
    -------
    fill, flagged
        float64 [width], the median of each column's values (0 for a column without any); int64 columns that are
        missing in some training row and not in all.
    """
    missing = np.isnan(embeddings)
    fill = np.zeros(embeddings.shape[1])
    if not missing.any():
        # A gap met later only: the mean, which is there at no cost, tells the heads nothing.
        return embeddings.mean(0, dtype=np.float64), np.empty(0, dtype=np.int64)
    some = ~missing.all(0)
    fill[some] = np.nanmedian(embeddings[:, some], axis=0)
    return fill, np.flatnonzero(missing.any(0) & some)


def without_gaps(embeddings: NDArray[np.float32], fill: Floats, flagged: NDArray[np.int64]) -> Floats:
    """Return float64 [encounters, width + flags]: gaps filled, then one 0/1 column per flagged column."""
    x = embeddings.astype(np.float64)
    missing = np.isnan(x)
    if not missing.any() and not len(flagged):
        return x
    return np.concatenate([np.where(missing, fill, x), missing[:, flagged]], axis=1)


def fit_heads(embeddings: NDArray[np.float32], labels: NDArray[np.int8], *, l2: float) -> Heads:
    """Fit all phenotypes' logistic heads on the same embeddings.

    Parameters
    ----------
    embeddings
        float32 [encounters, width]; NaN is filled (`gaps`), then all are standardised by their own mean and deviation.
    labels
        int8 [encounters, phenotypes]: 1 case, 0 control, -1 excluded (adds nothing).
    l2
        Ridge strength: ``sum(cross-entropy) + l2 / 2 * |weight|^2`` is minimised, the bias is free. scikit-learn's
        ``C`` is ``1 / l2``.

    Raises
    ------
    LearningError
        A phenotype has no case or no control.

    Notes
    -----
    The curvature of the logistic loss is at most a quarter, whatever the labels (Böhning and Lindsay 1988), so one
    inverse serves all phenotypes and iterations; Nesterov's acceleration with a restart per phenotype does
    the rest. More features than encounters are first rotated into the encounters' span, which changes no ridge fit.
    """
    known = labels >= 0
    n_cases, n_known = (labels == 1).sum(0), known.sum(0)
    if (n_cases == 0).any() or (n_cases == n_known).any():
        raise LearningError("a head was asked for a phenotype without cases or without controls in training")
    fill, flagged = gaps(embeddings)
    whole = without_gaps(embeddings, fill, flagged)
    mean, scale = whole.mean(0), whole.std(0)
    scale[scale < 1e-12] = 1.0
    x = (whole - mean) / scale
    rotation = None
    if x.shape[1] > x.shape[0]:
        _, singular, rotation = np.linalg.svd(x, full_matrices=False)
        rotation = rotation[singular > 1e-10 * singular[0]]
        x = x @ rotation.T
    design = np.column_stack([np.ones(len(x)), x])
    penalty = np.full(design.shape[1], l2)
    penalty[0] = 0.0
    bound = design.T @ design / 4 + np.diag(penalty)
    # One matrix product a step with the inverse is several times faster than triangular solves for many columns.
    inverse = cho_solve(cho_factor(bound), np.eye(len(bound)))
    beta = np.zeros((design.shape[1], labels.shape[1]))
    beta[0] = np.log(n_cases / (n_known - n_cases))
    target, mask = (labels == 1).astype(np.float64), known.astype(np.float64)
    beta = _accelerated(design, target, mask, penalty, inverse, beta)
    weight = beta[1:] if rotation is None else rotation.T @ beta[1:]
    return Heads(fill, flagged, mean, scale, weight, beta[0])


def _accelerated(
    design: Floats, target: Floats, mask: Floats, penalty: Floats, inverse: Floats, beta: Floats
) -> Floats:
    """Minimise all columns together; a column that no longer moves is left alone."""
    result = beta.copy()
    active = np.arange(beta.shape[1])
    point, previous, momentum = beta.copy(), beta.copy(), np.ones(beta.shape[1])
    for _ in range(MAX_ITERATIONS):
        fitted = 1 / (1 + np.exp(-(design @ point)))
        gradient = design.T @ ((fitted - target[:, active]) * mask[:, active]) + penalty[:, None] * point
        current = point - inverse @ gradient
        step = current - previous
        # Going uphill means that the momentum has overshot: start it again for that phenotype.
        momentum = np.where((gradient * step).sum(0) > 0, 1.0, momentum)
        grown = (1 + np.sqrt(1 + 4 * momentum**2)) / 2
        point = current + (momentum - 1) / grown * step
        previous, momentum = current, grown
        moved = np.abs(step).max(0) > TOLERANCE * (1 + np.abs(current).max(0))
        if not moved.all():
            result[:, active[~moved]] = current[:, ~moved]
            active, point, previous, momentum = active[moved], point[:, moved], previous[:, moved], momentum[moved]
        if not len(active):
            return result
    result[:, active] = previous
    return result


def choose_strength(
    embeddings: NDArray[np.float32],
    labels: NDArray[np.int8],
    train: NDArray[np.int64],
    tuning: NDArray[np.int64],
    tuning_patients: NDArray[np.int64],
) -> float:
    """Return the ridge strength with the best macro-AUC on the tuning patients, or the fixed one if none can be told.

    Notes
    -----
    One strength serves all phenotypes. It is expressed per training encounter, so that it means the same for small
    and large cohorts. Equal scores go to the stronger penalty.
    """
    best, best_score = FIXED * len(train), -np.inf
    for share in STRENGTHS:
        heads = fit_heads(embeddings[train], labels[train], l2=share * len(train))
        now = macro_auc(heads(embeddings[tuning]), labels[tuning], tuning_patients) if len(tuning) else np.nan
        if np.isfinite(now) and now >= best_score:
            best, best_score = share * len(train), now
    return best


def crossfit(
    embeddings: NDArray[np.float32], labels: NDArray[np.int8], folds: NDArray[np.int8], *, l2_share: float = FIXED
) -> tuple[NDArray[np.float32], list[Heads]]:
    """Score every encounter by heads fitted on the other folds.

    Parameters
    ----------
    embeddings
        float32 [encounters, width].
    labels
        int8 [encounters, columns]; permuted labels may be stacked as further columns.
    folds
        int8 [encounters]; all encounters of a patient lie in one fold.
    l2_share
        Ridge strength per training encounter. It is fixed beforehand: choosing it by the labels would have to be
        repeated for each permutation.

    Returns
    -------
    logits, heads
        float32 [encounters, columns], and the fitted heads of each fold.
    """
    logits = np.empty(labels.shape, dtype=np.float32)
    fitted = []
    for fold in np.unique(folds):
        inside, outside = folds == fold, folds != fold
        # A shuffled label column may leave a fold's training part without cases: it then scores everyone alike.
        usable = (labels[outside] == 1).any(0) & (labels[outside] == 0).any(0)
        heads = fit_heads(embeddings[outside], labels[outside][:, usable], l2=l2_share * int(outside.sum()))
        part = np.zeros((int(inside.sum()), labels.shape[1]), dtype=np.float32)
        part[:, usable] = heads(embeddings[inside])
        logits[inside] = part
        fitted.append(heads)
    return logits, fitted
