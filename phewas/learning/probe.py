"""Frozen use of an encoder: embeddings once, then a ridge-penalised logistic head per phenotype, all at once."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from phewas.errors import LearningError, PhewasWarning
from phewas.learning.logistic import MAX_ITERATIONS, Axes, solve
from phewas.learning.stratify import iterative_stratification, patient_labels
from phewas.progress import progress

Floats = NDArray[np.float64]

# Ridge strengths per training encounter; where they cannot be chosen (cross-fitting), `FIXED` is used.
STRENGTHS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0)
FIXED = 0.1
CHOICE_FOLDS = 5
CPU = torch.device("cpu")


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


@dataclass(frozen=True)
class Prepared:
    """Training embeddings made ready for any number of fits.

    `fill`, `flagged` from `gaps`; `mean`, `scale` float64 [features]; `axes` the standardised features.
    """

    fill: Floats
    flagged: NDArray[np.int64]
    mean: Floats
    scale: Floats
    axes: Axes

    @classmethod
    def of(cls, embeddings: NDArray[np.float32], device: torch.device = CPU) -> Prepared:
        """Fill gaps, standardise by mean and deviation, and rotate: float32 [encounters, width]."""
        fill, flagged = gaps(embeddings)
        whole = without_gaps(embeddings, fill, flagged)
        mean, scale = whole.mean(0), whole.std(0)
        scale[scale < 1e-12] = 1.0
        whole -= mean
        whole /= scale
        return cls(fill, flagged, mean, scale, Axes.of(whole, device))

    def fit(self, labels: NDArray[np.int8], *, l2: float | Floats, start: Heads | None = None) -> Heads:
        """Fit heads; see `fit_heads`."""
        if ((labels == 1).sum(0) == 0).any() or ((labels == 0).sum(0) == 0).any():
            raise LearningError("a head was asked for a phenotype without cases or without controls in training")
        strength = np.broadcast_to(np.asarray(l2, dtype=np.float64), labels.shape[1:])
        begin = None if start is None else (start.weight, start.bias)
        weight, bias, converged = solve(self.axes, labels, l2=strength.copy(), start=begin)
        if not converged.all():
            warnings.warn(
                f"the heads of {int((~converged).sum())} phenotypes had not settled after {MAX_ITERATIONS} passes; a "
                "stronger [learn] l2 helps", PhewasWarning, stacklevel=2,
            )  # fmt: skip
        return Heads(self.fill, self.flagged, self.mean, self.scale, weight, bias)


def fit_heads(
    embeddings: NDArray[np.float32], labels: NDArray[np.int8], *, l2: float | Floats, device: torch.device = CPU
) -> Heads:
    """Fit all phenotypes' logistic heads on the same embeddings.

    Parameters
    ----------
    embeddings
        float32 [encounters, width]; NaN is filled (`gaps`), then all are standardised by their own mean and deviation.
    labels
        int8 [encounters, phenotypes]: 1 case, 0 control, -1 excluded (adds nothing).
    l2
        Ridge strength, one for all or float64 [phenotypes]: ``sum(cross-entropy) + l2 / 2 * |weight|^2`` is minimised,
        the bias is free. scikit-learn's ``C`` is ``1 / l2``.
    device
        Where the arithmetic is done, (`phewas.learning.logistic`).

    Raises
    ------
    LearningError
        A phenotype has no case or no control.
    """
    return Prepared.of(embeddings, device).fit(labels, l2=l2)


def choose_strengths(
    embeddings: NDArray[np.float32],
    labels: NDArray[np.int8],
    patients: NDArray[np.int64],
    *,
    seed: int,
    device: torch.device = CPU,
) -> Floats:
    """Return each phenotype's ridge strength, by cross-validation within the training patients.

    Parameters
    ----------
    embeddings, labels
        float32 [encounters, width] and int8 [encounters, phenotypes] of the training side.
    patients
        int64 [encounters]: all encounters of a patient are left out together.
    seed
        Decides the folds, which are stratified by the phenotypes' cases (`iterative_stratification`).

    Returns
    -------
    ndarray
        float64 [phenotypes]: the one of `STRENGTHS`, times the number of encounters, with the least cross-entropy on
        the encounters left out. Equal scores go to the stronger penalty.

    Notes
    -----
    Cross-entropy rather than AUC decides: with ten cases, AUCs of neighbouring strengths differ by chance alone.
    """
    cases, place = patient_labels(labels, patients)
    folds = iterative_stratification(cases, np.full(CHOICE_FOLDS, 1 / CHOICE_FOLDS), seed=seed)[place]
    total = np.zeros((len(STRENGTHS), labels.shape[1]))
    work = CHOICE_FOLDS * len(STRENGTHS)
    with progress("strengths", total=work, unit="fits") as advance:
        for fold in range(CHOICE_FOLDS):
            inside, outside = folds == fold, folds != fold
            usable = (labels[outside] == 1).any(0) & (labels[outside] == 0).any(0)
            if not usable.any() or not inside.any():
                advance(len(STRENGTHS), "")
                continue
            prepared, heads = Prepared.of(embeddings[outside], device), None
            y = labels[inside][:, usable]
            for number, share in reversed(list(enumerate(STRENGTHS))):
                heads = prepared.fit(labels[outside][:, usable], l2=share * int(outside.sum()), start=heads)
                total[number, usable] += cross_entropy(heads(embeddings[inside]), y)
                advance(1, "")
    best = len(STRENGTHS) - 1 - np.argmin(total[::-1], axis=0)
    chosen: Floats = np.asarray(STRENGTHS, dtype=np.float64)[best] * len(labels)
    return chosen


def cross_entropy(logits: NDArray[np.float32], labels: NDArray[np.int8]) -> Floats:
    """Return each phenotype's summed cross-entropy over cases and controls, float64 [phenotypes]."""
    signed = np.where(labels == 1, -logits, logits).astype(np.float64)
    total: Floats = np.where(labels >= 0, np.logaddexp(0, signed), 0).sum(0)
    return total


def crossfit(
    embeddings: NDArray[np.float32],
    labels: NDArray[np.int8],
    folds: NDArray[np.int8],
    *,
    l2_share: float = FIXED,
    device: torch.device = CPU,
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
        l2 = l2_share * int(outside.sum())
        heads = fit_heads(embeddings[outside], labels[outside][:, usable], l2=l2, device=device)
        part = np.zeros((int(inside.sum()), labels.shape[1]), dtype=np.float32)
        part[:, usable] = heads(embeddings[inside])
        logits[inside] = part
        fitted.append(heads)
    return logits, fitted
