"""Placements of cases and controls: the one computation from which AUC, variance, comparison and AP all follow.

With m cases scored x_i and n controls scored y_j, and psi(x, y) = 1 if x > y, 1/2 if x = y, 0 otherwise::

    V10_i = mean over controls of psi(x_i, y_j)        V01_j = mean over cases of psi(x_i, y_j)
    AUC   = mean V10 = mean V01 = U / (m n)

Only the cases are sorted. Each control falls below, onto or between their distinct values, and the numbers of controls
per place are integers, so ties are exact and the AUC is a quotient of two integers.

References: DeLong, DeLong and Clarke-Pearson 1988 (Biometrics 44:837); Obuchowski 1997 (Biometrics 53:567).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from phewas.errors import StatisticsError

Floats = NDArray[np.float64]
Ints = NDArray[np.intp]

BLOCK_COLUMNS = 64
"""Columns copied to contiguous memory at a time; 64 columns of 500,000 float32 rows are 128 MB."""


@dataclass(frozen=True)
class Placement:
    """One score against one label.

    Attributes
    ----------
    cases, controls
        Row numbers, intp [m] and [n], ascending. Excluded rows are in neither.
    v10, v01
        Placements in [0, 1], float64 [m] and [n], in the order of `cases` and `controls`; empty if m or n is 0.
    auc
        Area under the curve in [0, 1]; NaN if m or n is 0.
    average_precision
        Sum of precision times step in recall over distinct scores, in (0, 1]; NaN if m or n is 0.
    """

    cases: Ints
    controls: Ints
    v10: Floats
    v01: Floats
    auc: float
    average_precision: float


def place(score: NDArray[Any], label: NDArray[Any]) -> Placement:
    """Place cases among controls and controls among cases.

    Parameters
    ----------
    score
        float32 or float64 [N]; larger means more likely a case. Infinite is allowed, NaN only where excluded.
    label
        int [N]: 1 case, 0 control, anything else excluded.

    Returns
    -------
    Placement
        Computed on the scores as they are: float32 scores are compared as float32.
    """
    cases, controls = np.flatnonzero(label == 1), np.flatnonzero(label == 0)
    m, n = len(cases), len(controls)
    if not m or not n:
        nothing = np.empty(0)
        return Placement(cases, controls, nothing, nothing, float("nan"), float("nan"))
    positive, negative = score[cases], score[controls]
    ordered = np.sort(positive)
    first = np.flatnonzero(np.concatenate(([True], ordered[1:] != ordered[:-1])))
    values, counts = ordered[first], np.diff(np.append(first, m))
    d = len(values)

    # Bin 2k: controls strictly between values k-1 and k. Bin 2k+1: controls equal to value k.
    gap = np.searchsorted(values, negative, side="left")
    tied = values[np.minimum(gap, d - 1)] == negative
    bins = np.bincount(2 * gap + tied, minlength=2 * d + 1)
    below = np.cumsum(bins)[0 : 2 * d : 2]
    on = bins[1::2]

    doubled = 2 * below + on
    total = int(doubled @ counts)
    v10 = (doubled / (2 * n))[np.searchsorted(values, positive, side="left")]
    # Cases above a control: those at values k >= gap, less half of those at its own value.
    at_least = np.append(np.cumsum(counts[::-1])[::-1], 0)
    v01 = (2 * at_least[gap] - np.append(counts, 0)[gap] * tied) / (2 * m)

    true = at_least[:d]
    precision = true / (true + (n - below))
    return Placement(cases, controls, v10, v01, total / (2 * m * n), _dot(precision, counts) / m)


def placements(score: NDArray[Any], label: NDArray[Any]) -> tuple[Floats, Floats]:
    """Return DeLong's placements ``(V10, V01)`` of cases and of controls.

    Parameters
    ----------
    score
        float [N], without NaN where the label is 0 or 1.
    label
        int8 [N]: 1 case, 0 control, -1 excluded.

    Returns
    -------
    tuple of float64 arrays [m] and [n]
        In row order, each in [0, 1].

    Examples
    --------
    >>> v10, v01 = placements(np.array([3.0, 1.0, 2.0, 1.0]), np.array([1, 1, 0, 0]))
    >>> v10.tolist(), v01.tolist()
    ([1.0, 0.25], [0.5, 0.75])
    """
    placed = place(as_scores(score), np.asarray(label))
    return placed.v10, placed.v01


def influence(score: NDArray[Any], label: NDArray[Any]) -> Floats:
    """Return each row's share in the AUC's deviation, float64 [N].

    A case has (V10 - AUC) / m, a control (V01 - AUC) / n, an excluded row 0; the sum is 0. Summed per patient they are
    what a multiplier bootstrap weights.
    """
    placed, result = place(as_scores(score), np.asarray(label)), np.zeros(len(label))
    if len(placed.v10):
        result[placed.cases] = (placed.v10 - placed.auc) / len(placed.v10)
        result[placed.controls] = (placed.v01 - placed.auc) / len(placed.v01)
    return result


@dataclass(frozen=True)
class Clusters:
    """Which patient each row belongs to, as codes 0 .. size-1; `codes` is None where every row is its own cluster."""

    codes: Ints | None
    size: int

    @classmethod
    def of(cls, clusters: NDArray[Any] | None, n_rows: int) -> Clusters:
        """Make dense codes from any integer or text array [N]; None means independent rows.

        Raises
        ------
        StatisticsError
            The array has another length than the scores.
        """
        if clusters is None:
            return cls(None, n_rows)
        if np.shape(clusters) != (n_rows,):
            raise StatisticsError(f"clusters have shape {np.shape(clusters)}", expected=f"({n_rows},), one code a row")
        names, codes = np.unique(clusters, return_inverse=True)
        return cls(codes.astype(np.intp, copy=False), len(names))


def _dot(a: NDArray[Any], b: NDArray[Any]) -> float:
    """Return the inner product without BLAS, whose threads would change the last bit and wait for one another."""
    return float(np.sum(a * b))


SUMS = ("square10", "square01", "cross", "line10", "line01", "line_cross", "bend10", "bend01", "bend_cross")
"""Names of what `sums` returns."""


def sums(dev10: Floats, dev01: Floats, placed: Placement, clusters: Clusters) -> tuple[list[float], list[int]]:
    """Return the sums over clusters from which `phewas.stats.spread.spread` makes variances, and counts of clusters.

    With X and Y the sums of a cluster's case and control deviations, k and l its cases and controls, and I10 and I01
    the numbers of clusters with cases and with controls, a = k - m / I10 where k > 0, b = l - n / I01 where l > 0, else
    0: sums of X^2, Y^2, XY; aX, bY, aY + bX; a^2, b^2, ab.

    Parameters
    ----------
    dev10, dev01
        Deviations of placements from their mean, float64 [m] and [n]; for a paired comparison the differences of two
        scores' deviations, which gives var1 + var2 - 2 cov without cancellation.
    placed
        Rows of the cases and controls.
    clusters
        The patients.

    Returns
    -------
    list of float
        By `SUMS`; NaN without cases or without controls.
    list of int
        Clusters with cases, with controls, with either.
    """
    m, n = len(dev10), len(dev01)
    if clusters.codes is None:
        counts = [len(placed.cases), len(placed.controls), len(placed.cases) + len(placed.controls)]
        own = [_dot(dev10, dev10), _dot(dev01, dev01)] if m and n else [float("nan")] * 2
        return [*own, *[0.0] * 7], counts
    of_cases, of_controls = clusters.codes[placed.cases], clusters.codes[placed.controls]
    k, size01 = (np.bincount(of, minlength=clusters.size) for of in (of_cases, of_controls))
    has10, has01 = k > 0, size01 > 0
    i10, i01, i_all = (int(np.count_nonzero(has)) for has in (has10, has01, has10 | has01))
    if not m or not n:
        return [float("nan")] * 9, [i10, i01, i_all]
    x = np.bincount(of_cases, weights=dev10, minlength=clusters.size)
    y = np.bincount(of_controls, weights=dev01, minlength=clusters.size)
    a, b = np.where(has10, k - m / i10, 0.0), np.where(has01, size01 - n / i01, 0.0)
    return [_dot(x, x), _dot(y, y), _dot(x, y), _dot(a, x), _dot(b, y), _dot(a, y) + _dot(b, x), _dot(a, a),
            _dot(b, b), _dot(a, b)], [i10, i01, i_all]


def as_scores(scores: Any) -> NDArray[Any]:
    """Return scores as float32 or float64: half precision and integers become the next exact float type."""
    array = np.asarray(scores)
    if array.dtype in (np.float32, np.float64):
        return array
    if array.dtype == np.float16:
        return array.astype(np.float32)
    if array.dtype.kind in "iub":
        return array.astype(np.float64)
    raise StatisticsError(f"scores are {array.dtype}", expected="float16, float32, float64 or integers")


def check_shapes(scores: NDArray[Any], labels: NDArray[Any]) -> None:
    """Refuse scores and labels that are not two matrices of one shape."""
    if np.ndim(scores) != 2 or np.shape(scores) != np.shape(labels):
        raise StatisticsError(f"scores have shape {np.shape(scores)}, labels {np.shape(labels)}",
                              expected="both [rows, phenotypes]")


def columns(
    scores: NDArray[Any], labels: NDArray[Any], *, number: int = 0
) -> Iterator[tuple[int, NDArray[Any], NDArray[Any]]]:
    """Yield (column number, score [N], label [N]) contiguously, having checked shapes, labels and NaN.

    `number` is that of the first column.

    Raises
    ------
    StatisticsError
        Shapes differ, a label is none of 1, 0 and -1, or a score of a case or control is NaN; the column is named by
        its number.
    """
    check_shapes(scores, labels)
    for start in range(0, scores.shape[1], BLOCK_COLUMNS):
        stop = start + BLOCK_COLUMNS
        block: NDArray[Any] = as_scores(np.ascontiguousarray(scores[:, start:stop].T))
        marks: NDArray[Any] = np.ascontiguousarray(labels[:, start:stop].T)
        for j in range(len(block)):
            score, label = block[j], marks[j]
            if len(label) and (label.min() < -1 or label.max() > 1):
                raise StatisticsError(f"column {number + start + j} has labels other than 1, 0 and -1",
                                      expected="1 case, 0 control, -1 excluded")
            missing = np.isnan(score)
            if missing.any() and (label[missing] >= 0).any():
                count = int((label[missing] >= 0).sum())
                raise StatisticsError(f"column {number + start + j} has no score (NaN) for {count} cases or controls",
                                      expected="a number for every row that is not excluded",
                                      cure="label such rows -1, or predict them")
            yield number + start + j, score, label
