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


@dataclass(frozen=True)
class Components:
    """A variance and the two parts that give its degrees of freedom.

    Attributes
    ----------
    variance
        Of the AUC, or of a difference of AUCs; NaN with fewer than two clusters on a side.
    part10, part01
        The terms of cases and of controls alone.
    n_case_clusters, n_control_clusters
        Clusters with at least one case, with at least one control.
    n_clusters
        Clusters with either.
    """

    variance: float
    part10: float
    part01: float
    n_case_clusters: int
    n_control_clusters: int
    n_clusters: int

    @property
    def df(self) -> float:
        """Satterthwaite degrees of freedom from the two parts; NaN where the variance is 0 or undefined.

        For independent rows this is the Brunner-Munzel df. The covariance of a patient's own cases and controls is
        left out: it has no degrees of freedom of its own.
        """
        if not self.part10 + self.part01 > 0:
            return float("nan")
        below = self.part10**2 / (self.n_case_clusters - 1) + self.part01**2 / (self.n_control_clusters - 1)
        return (self.part10 + self.part01) ** 2 / below


def _dot(a: NDArray[Any], b: NDArray[Any]) -> float:
    """Return the inner product without BLAS, whose threads would change the last bit and wait for one another."""
    return float(np.sum(a * b))


def components(dev10: Floats, dev01: Floats, placed: Placement, clusters: Clusters) -> Components:
    """Return Obuchowski's clustered variance, which for independent rows is DeLong's.

    With X and Y the sums of a cluster's case and control deviations and I10, I01, I the numbers of clusters::

        var = I10/(I10-1) sum X^2/m^2 + I01/(I01-1) sum Y^2/n^2 + 2 I/(I-1) sum XY/(mn)

    Parameters
    ----------
    dev10, dev01
        Deviations of placements from their mean, float64 [m] and [n]; for a paired comparison the differences of two
        scores' deviations, which gives var1 + var2 - 2 cov without cancellation.
    placed
        Rows of the cases and controls.
    clusters
        The patients.
    """
    m, n = len(dev10), len(dev01)
    sum10: NDArray[Any] = dev10
    sum01: NDArray[Any] = dev01
    if clusters.codes is None:
        i10, i01 = len(placed.cases), len(placed.controls)
        i_all, cross = i10 + i01, 0.0
    else:
        of_cases, of_controls = clusters.codes[placed.cases], clusters.codes[placed.controls]
        has10 = np.bincount(of_cases, minlength=clusters.size) > 0
        has01 = np.bincount(of_controls, minlength=clusters.size) > 0
        i10, i01, i_all = (int(np.count_nonzero(has)) for has in (has10, has01, has10 | has01))
        cross = 0.0
        if m and n:
            sum10 = np.bincount(of_cases, weights=dev10, minlength=clusters.size)
            sum01 = np.bincount(of_controls, weights=dev01, minlength=clusters.size)
            cross = 2.0 * i_all / max(i_all - 1, 1) * _dot(sum10, sum01) / (m * n)
    if i10 < 2 or i01 < 2 or not m or not n:
        nan = float("nan")
        return Components(nan, nan, nan, i10, i01, i_all)
    part10 = i10 / (i10 - 1) * _dot(sum10, sum10) / m**2
    part01 = i01 / (i01 - 1) * _dot(sum01, sum01) / n**2
    # Never negative in exact arithmetic: I/(I-1) is the smallest of the three factors.
    variance = max(part10 + part01 + cross, 0.0)
    return Components(variance if variance > ZERO_VARIANCE else 0.0, part10, part01, i10, i01, i_all)


def null_deviations(
    dev10: Floats, dev01: Floats, placed: Placement, clusters: Clusters, *, gap: float
) -> tuple[Floats, Floats]:
    """Return deviations whose `components` are the variance under the null hypothesis.

    Parameters
    ----------
    dev10, dev01, placed, clusters
        As for `components`.
    gap
        AUC less 0.5, or the difference of two AUCs: how far the estimate is from the null hypothesis.

    Returns
    -------
    tuple of float64 arrays [m] and [n]
        Their sums over a cluster with k of the m cases are ``X + gap (k - m / I10)``, likewise for controls: what the
        cluster's placements sum to less its value under the null hypothesis, centred at the mean cluster.

    Notes
    -----
    The AUC is a ratio, the sum of all placements over the number of rows. Deviations from the AUC itself shrink with
    the very error that is tested wherever large clusters have made that error. Under the null hypothesis the clusters'
    sums of placements less that hypothesis's value are a sample with mean 0, whatever the clusters' sizes, and the test
    becomes the t-test of that sample. Where clusters have equal numbers of rows nothing changes.
    """
    if clusters.codes is None or not len(dev10) or not len(dev01):
        return dev10, dev01
    shifted = []
    for dev, rows in ((dev10, placed.cases), (dev01, placed.controls)):
        codes = clusters.codes[rows]
        sizes = np.bincount(codes, minlength=clusters.size)
        shifted.append(dev + gap * (1.0 - len(rows) / np.count_nonzero(sizes) / sizes[codes]))
    return shifted[0], shifted[1]


def of_test(variance: Floats, df: Floats, null_variance: Floats, null_df: Floats) -> tuple[Floats, Floats]:
    """Return variance and df of a test: those under the null hypothesis.

    All patients can have the same sum by chance when they are few: then that variance is 0, and the other is taken.
    """
    with np.errstate(invalid="ignore"):
        none = (null_variance == 0) & (variance > 0)
    return np.where(none, variance, null_variance), np.where(none, df, null_df)


ZERO_VARIANCE = 1e-26
"""Rounding noise; one tie among 100,000 cases and a million controls still gives 2e-23."""


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
