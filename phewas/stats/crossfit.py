"""Inference for cross-fitted scores: ranks within folds, patient-level permutations, wider intervals.

Scores of different folds come from different models and do not share a scale, and a patient held out of one fold has
shaped the models of the others. DeLong's variance ignores both and covers too little. Hence: scores become ranks within
(fold, phenotype) before pooling; p comes from permuting the patients' labels and refitting; and the standard error is
multiplied by how much the permutation AUCs spread beyond what their own standard errors say.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from phewas.errors import StatisticsError
from phewas.schema import PermutationNull
from phewas.seeds import hashed
from phewas.stats.auc import Auc, inflate, moments
from phewas.stats.placement import as_scores
from phewas.stats.tails import Floats

MIN_PERMUTATIONS = 99
"""Defined permutations a phenotype needs; with fewer there is neither p nor interval."""

PERMUTATION_TEST = "patient label permutation"
INFLATED = "logit DeLong, t, SE inflated by label permutation (approximate)"


def fold_ranks(scores: NDArray[Any], labels: NDArray[Any], folds: NDArray[Any]) -> Floats:
    """Replace scores by their ranks within (fold, phenotype), scaled to (0, 1).

    Parameters
    ----------
    scores
        float [N, P].
    labels
        int8 [N, P]; rows labelled -1 are not ranked.
    folds
        int [N], the fold whose model scored the row.

    Returns
    -------
    float64 [N, P]
        ``(midrank - 0.5) / rows ranked in that fold``; NaN where excluded.

    Raises
    ------
    StatisticsError
        Shapes differ, or a score to be ranked is NaN.
    """
    if np.shape(scores) != np.shape(labels) or np.shape(folds) != (len(scores),):
        raise StatisticsError(
            f"scores have shape {np.shape(scores)}, labels {np.shape(labels)}, folds {np.shape(folds)}",
            expected="[rows, phenotypes] twice, and [rows]")
    result = np.full(np.shape(scores), np.nan)
    for fold in np.unique(folds):
        rows = np.flatnonzero(folds == fold)
        block = as_scores(scores[rows])
        used = labels[rows] >= 0
        if np.isnan(block[used]).any():
            raise StatisticsError(f"fold {fold} has no score (NaN) for a case or control", expected="a number")
        # Excluded rows become NaN, which sorts last and equals nothing.
        masked = np.where(used, block, np.asarray(np.nan, dtype=block.dtype))
        ranked = _midranks(np.ascontiguousarray(masked.T)).T
        with np.errstate(invalid="ignore", divide="ignore"):
            result[rows] = np.where(used, (ranked - 0.5) / used.sum(axis=0), np.nan)
    return result


def _midranks(values: NDArray[Any]) -> Floats:
    """Return 1-based midranks along the last axis of [P, N]; NaN come last, each with a rank of its own."""
    order = np.argsort(values, axis=1, kind="stable")
    ordered = np.take_along_axis(values, order, axis=1)
    position = np.arange(values.shape[1])
    new = np.ones(values.shape, dtype=bool)
    new[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    first = np.maximum.accumulate(np.where(new, position, 0), axis=1)
    ends = np.ones(values.shape, dtype=bool)
    ends[:, :-1] = new[:, 1:]
    last = np.minimum.accumulate(np.where(ends, position, values.shape[1])[:, ::-1], axis=1)[:, ::-1]
    result = np.empty(values.shape)
    np.put_along_axis(result, order, (first + last) / 2.0 + 1.0, axis=1)
    return result


def permute_labels(
    labels: NDArray[Any], patient_codes: NDArray[Any], *, seed: int, permutation: int
) -> NDArray[Any]:
    """Exchange whole patients' label rows.

    Parameters
    ----------
    labels
        int8 [N, P].
    patient_codes
        int [N], patient of each row. Give codes in the order of the sorted patient ids, and a patient's rows in a fixed
        order (such as by encounter id), and the result does not depend on the order of the table.
    seed, permutation
        The draw is a function of these two alone.

    Returns
    -------
    int8 [N, P]
        Each patient has another patient's rows, in their order, correlations between encounters and between phenotypes
        intact. Patients exchange only with patients who have as many rows; one who is alone with that number keeps
        their own, which makes the test a little conservative.
    """
    patients, inverse, counts = np.unique(patient_codes, return_inverse=True, return_counts=True)
    order = np.argsort(inverse, kind="stable")
    start = np.concatenate(([0], np.cumsum(counts)[:-1]))
    # Raw bits of a fixed generator: unlike shuffles, they are the same in every release of numpy.
    keys = np.random.PCG64(hashed("permutation", seed, permutation)).random_raw(len(patients))
    source = np.empty(len(labels), dtype=np.intp)
    for size in np.unique(counts):
        members = np.flatnonzero(counts == size)
        givers = members[np.argsort(keys[members], kind="stable")]
        offsets = np.arange(size)
        source[order[start[members][:, None] + offsets]] = order[start[givers][:, None] + offsets]
    return np.asarray(labels)[source]


def null_from(
    permutations: Iterable[tuple[int, NDArray[Any], NDArray[Any]]],
    *,
    phenotypes: Sequence[str],
    folds: NDArray[Any],
    clusters: NDArray[Any],
) -> pl.DataFrame:
    """Return the AUCs of cross-fitted scores under permuted labels.

    Parameters
    ----------
    permutations
        (number, scores float [N, P], permuted labels int8 [N, P]): the scores are cross-fitted to these very labels.
    phenotypes
        Names of the P columns.
    folds, clusters
        int [N], fold and patient of each row.

    Returns
    -------
    polars.DataFrame
        `phewas.schema.PermutationNull`: AUC of the fold ranks and its patient-clustered standard error; null where
        undefined. Sorted by phenotype as given, then permutation.
    """
    areas: list[Floats] = []
    errors: list[Floats] = []
    numbers: list[int] = []
    for number, scores, labels in permutations:
        found = moments(fold_ranks(scores, labels, folds), labels, clusters=clusters)
        numbers.append(number)
        areas.append(found.auc)
        errors.append(np.sqrt(found.variance))
    if not numbers:
        return PermutationNull.empty()
    order = np.argsort(numbers, kind="stable")
    area, error = np.stack(areas)[order], np.stack(errors)[order]
    frame = pl.DataFrame(
        {
            "phenotype": np.repeat(np.asarray(phenotypes, dtype=object), len(numbers)).tolist(),
            "permutation": np.tile(np.asarray(numbers, dtype=np.int32)[order], len(phenotypes)),
            "auc": area.T.ravel(),
            "se": error.T.ravel(),
        },
        schema=PermutationNull.dtypes(),
    )
    return PermutationNull.check(frame.with_columns(pl.col("auc", "se").fill_nan(None)))


@dataclass(frozen=True)
class CrossfitAuc:
    """Cross-fitted AUCs with permutation inference.

    Attributes
    ----------
    auc
        With p, standard error and bounds replaced.
    factor
        float64 [P], what the standard error was multiplied by, at least 1; NaN without enough permutations.
    n_permutations
        int64 [P], defined permutations.
    """

    auc: Auc
    factor: Floats
    n_permutations: NDArray[np.int64]


def apply_null(found: Auc, null: pl.DataFrame, *, phenotypes: Sequence[str]) -> CrossfitAuc:
    """Give cross-fitted AUCs their permutation p and an interval that is not too narrow.

    Parameters
    ----------
    found
        `auc_matrix` of `fold_ranks`, one column per phenotype.
    null
        `phewas.schema.PermutationNull`.
    phenotypes
        Names of the columns of `found`.

    Returns
    -------
    CrossfitAuc
        Two-sided ``p = (1 + #{|A* - 0.5| >= |A - 0.5|}) / (B + 1)`` over the B defined permutations. Standard error
        times ``max(1, SD of A* / mean of their standard errors)``, bounds on the logit scale from it; approximate,
        since the spread under no effect stands in for the spread under the effect. With fewer than
        `MIN_PERMUTATIONS` defined ones p, standard error and bounds are NaN.
    """
    size = len(found)
    factor, counts = np.full(size, np.nan), np.zeros(size, dtype=np.int64)
    p = np.full(size, np.nan)
    groups = {
        name[0]: (part["auc"].to_numpy(), part["se"].to_numpy())
        for name, part in null.sort("phenotype", "permutation").group_by("phenotype", maintain_order=True)
    }
    for j, name in enumerate(phenotypes):
        if name not in groups or np.isnan(found.auc[j]):
            continue
        area, error = (values[~np.isnan(groups[name][0])] for values in groups[name])
        counts[j] = len(area)
        if len(area) < MIN_PERMUTATIONS:
            continue
        # Rounding must not turn a tie into a loss.
        extreme = np.abs(area - 0.5) >= abs(found.auc[j] - 0.5) - 1e-12
        p[j] = (1 + np.count_nonzero(extreme)) / (len(area) + 1)
        error = error[~np.isnan(error)]
        typical = float(error.mean()) if len(error) else float("nan")
        factor[j] = max(1.0, float(area.std(ddof=1)) / typical) if typical > 0 else np.nan
    wide = inflate(found, factor, method=INFLATED)
    test = np.where(np.isnan(p), "", PERMUTATION_TEST).astype("U48")
    unknown = np.full(size, np.nan)
    without = np.isnan(factor)
    wide = replace(
        wide, statistic=unknown, p=p, neg_log10_p=np.abs(-np.log10(p)), p_test=test,
        df=np.where(without, np.nan, found.df), null_df=unknown, low=np.where(without, np.nan, wide.low),
        high=np.where(without, np.nan, wide.high), ci_method=np.where(without, "", wide.ci_method).astype("U80"),
    )
    return CrossfitAuc(wide, factor, counts)


def without_inference(found: Auc) -> Auc:
    """Keep the AUCs and drop standard errors, bounds and p: cross-fitted scores that have no permutations."""
    unknown, blank = np.full(len(found), np.nan), np.full(len(found), "", dtype="U1")
    return replace(found, se=unknown, low=unknown, high=unknown, ci_method=blank, statistic=unknown, p=unknown,
                   neg_log10_p=unknown, p_test=blank, df=unknown, null_df=unknown,
                   zero_variance=np.zeros(len(found), dtype=bool))
