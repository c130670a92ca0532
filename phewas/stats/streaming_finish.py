"""One phenotype of `phewas.stats.streaming`: its cases, the controls counted between them, its variance at the end."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from phewas.stats.streaming_patients import Patients

SPLIT = 16
MAX_STEPS = 65_536
"""Steps of the table of values, at most four for a value; 256 kB a phenotype."""


@dataclass(frozen=True)
class Shape:
    """What is known of a phenotype in the end; `sums` by `phewas.stats.placement.SUMS`, undefined values NaN."""

    auc: float
    average_precision: float
    sums: list[float]
    n_cases: int
    n_controls: int
    n_case_clusters: int
    n_control_clusters: int
    n_clusters: int


class Column:
    """Cases of a phenotype, sorted, with what has been counted of its controls.

    Attributes
    ----------
    distinct, ended, left
        Values of the cases, ascending [d]; the same with NaN at the end; cases at or above each, with 0 at the end,
        int32 [d + 1].
    owners
        int32 [m], patient of each case by rising score; empty where rows are independent.
    counts
        int32 [2 d + 1], controls below the first value, onto it, between it and the next, ...
    tally
        int64 [6], see `phewas.stats.kernel_streaming`.
    both
        Patients with cases and controls: codes, sums of doubled placements of the controls, numbers of controls.
    """

    def __init__(self, distinct: NDArray[Any], left: NDArray[np.int32], owners: NDArray[np.int32], n_controls: int,
                 n_spanning: int) -> None:
        self.ended = np.append(distinct, np.asarray(np.nan, dtype=distinct.dtype))
        self.distinct, self.left, self.owners, self.n_controls = self.ended[:-1], left, owners, n_controls
        self.counts = np.zeros(2 * len(distinct) + 1, dtype=np.int32)
        self.tally = np.zeros(6, dtype=np.int64)
        self.sums = np.zeros(n_spanning, dtype=np.int64)
        self.kinds = np.zeros(n_spanning, dtype=np.int32)
        self.both: list[tuple[NDArray[Any], NDArray[Any], NDArray[Any]]] = []
        self.heads: NDArray[np.int32] | None = None
        self.edge = np.zeros(4, dtype=distinct.dtype)
        self.steps = self.crowd = 0

    @classmethod
    def of(cls, values: NDArray[Any], owners: NDArray[np.int32], n_controls: int, n_spanning: int) -> Column:
        """Sort the cases."""
        if len(owners):
            order = np.argsort(values)
            values, owners = values[order], owners[order]
        else:
            values = np.sort(values)
        starts = np.flatnonzero(np.concatenate([np.ones(min(len(values), 1), bool), values[1:] != values[:-1]]))
        left = np.append(len(values) - starts, 0).astype(np.int32)
        return cls(values[starts], left, owners, n_controls, n_spanning)

    def fold(
        self, scores: NDArray[Any], labels: NDArray[Any], slots: NDArray[np.int32], n_local: int,
        closing: NDArray[np.int32], who: NDArray[np.int32], *, compiled: bool,
    ) -> None:
        """Count the controls of a block; arguments as for `phewas.stats.kernel_streaming.fold`."""
        if not len(self.distinct):
            # Nobody to be placed against, but patients with controls are counted.
            self.distinct_controls(labels, slots, n_local, closing)
            return
        if compiled:
            from phewas.stats import kernel, kernel_streaming

            if self.heads is None:
                steps = 16
                while steps < 2 * len(self.distinct) and steps < MAX_STEPS:
                    steps *= 2
                self.heads = np.empty(steps + 2, dtype=np.int32)
                self.steps = kernel_streaming.edges(self.distinct, len(self.distinct), steps, self.edge)
                self.crowd = kernel.heads_of(self.distinct, len(self.distinct), self.heads, self.steps, self.edge)
            values, own = kernel_streaming.controls(scores, labels, slots)
            places = np.empty(len(values), dtype=np.int32)
            kernel.place_among(values, places, self.ended, self.heads, self.edge, self.steps, self.crowd, self.counts)
            at, totals, numbers = kernel_streaming.fold(
                places, own, labels, slots, self.left, self.sums, self.kinds, n_local, closing, self.tally)
        else:
            at, totals, numbers = self._fold(scores, labels, slots, n_local, closing)
        if len(at):
            self.both.append((who[at], totals, numbers))

    def distinct_controls(
        self, labels: NDArray[Any], slots: NDArray[np.int32], n_local: int, closing: NDArray[np.int32]
    ) -> None:
        """Count patients with controls where there is no case."""
        own = slots[labels == 0]
        self.tally[5] += np.count_nonzero(own < 0) + len(np.unique(own[(own >= 0) & (own < n_local)]))
        self.kinds[own[own >= n_local] - n_local] = 1
        self.tally[5] += np.count_nonzero(self.kinds[closing])
        self.kinds[closing] = 0

    def _fold(
        self, scores: NDArray[Any], labels: NDArray[Any], slots: NDArray[np.int32], n_local: int,
        closing: NDArray[np.int32],
    ) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
        """Do the same by NumPy."""
        rows = labels == 0
        x, own, cases = scores[rows], slots[rows], slots[labels == 1]
        k = np.searchsorted(self.distinct, x)
        tie = np.append(self.distinct, np.nan)[k] == x
        self.counts += np.bincount(2 * k + tie, minlength=len(self.counts)).astype(np.int32)
        doubled = self.left[k].astype(np.int64) + np.where(tie, self.left[np.minimum(k + 1, len(self.left) - 1)],
                                                           self.left[k])
        self._close(doubled[own < 0], np.ones(np.count_nonzero(own < 0), dtype=np.int64))
        size = n_local + len(self.sums)
        # Sums below 2^53 are whole in float64 too.
        some = own >= 0
        sums = np.bincount(own[some], weights=doubled[some], minlength=size).astype(np.int64)
        numbers = np.bincount(own[some], minlength=size)
        case = np.bincount(cases[cases >= 0], minlength=size) > 0
        self.sums += sums[n_local:]
        mark = 1 << 30
        self.kinds += numbers[n_local:].astype(np.int32)
        self.kinds[case[n_local:]] |= mark
        sums[n_local:], numbers[n_local:] = self.sums, self.kinds & (mark - 1)
        case[n_local:] = self.kinds >= mark
        ending = np.concatenate([np.arange(n_local), n_local + closing])
        self._close(sums[ending], numbers[ending])
        self.sums[closing], self.kinds[closing] = 0, 0
        at = ending[case[ending] & (numbers[ending] > 0)]
        return at, sums[at], numbers[at]

    def _close(self, s: NDArray[np.int64], k: NDArray[Any]) -> None:
        high, low = s >> SPLIT, s & ((1 << SPLIT) - 1)
        self.tally += [(high * high).sum(), (high * low).sum(), (low * low).sum(), (s * k).sum(), (k * k).sum(),
                       np.count_nonzero(k)]


def finish(column: Column, patients: Patients) -> Shape:
    """Turn the counts of a phenotype into its AUC, average precision and sums over patients.

    The latter are exact whole numbers, rounded once in the end.
    """
    nan = float("nan")
    m, n = int(column.left[0]), column.n_controls
    owners = column.owners
    i01 = int(column.tally[5])
    k10 = np.bincount(owners, minlength=len(patients.single)) if len(patients.codes) else np.empty(0, dtype=np.int64)
    i10 = int(np.count_nonzero(k10)) if len(patients.codes) else m
    codes, s, k01 = (np.concatenate(part).astype(np.int64) for part in zip(*column.both, strict=True)) \
        if column.both else (np.empty(0, dtype=np.int64),) * 3
    i_all = i10 + i01 - len(codes)
    if not m or not n:
        return Shape(nan, nan, [nan] * 9, m, n, i10, i01, i_all)
    counts = column.counts.astype(np.int64)
    below = np.concatenate([[0], np.cumsum(counts[0:-1:2] + counts[1::2])])[:-1] + counts[0:-1:2]
    doubled = 2 * below + counts[1::2]
    left = column.left[:-1].astype(np.int64)
    weight = left - column.left[1:]
    area = int((doubled * weight).sum())
    # One after another, as the pass in memory adds them.
    precision = float(np.cumsum(weight * (left / (left + (n - below))))[-1]) / m
    auc = area / (2.0 * m * n)

    t = np.repeat(doubled, weight)
    if len(patients.codes):
        order = np.argsort(owners, kind="stable")
        starts = np.flatnonzero(np.concatenate([[True], owners[order][1:] != owners[order][:-1]]))
        who = owners[order][starts]
        t, ones = np.add.reduceat(t[order], starts), k10[who]
    else:
        who, ones = np.empty(0, dtype=np.int32), np.ones(m, dtype=np.int64)
    high, mixed, low, times, squared, _ = (int(v) for v in column.tally)
    square_s = (high << 2 * SPLIT) + (mixed << SPLIT + 1) + low
    square_t, times_t, squared_t = _dot(t, t), _dot(t, ones), _dot(ones, ones)
    place = np.searchsorted(who, codes)
    t, k = t[place], ones[place]
    ts, tl, ks, kl = _dot(t, s), _dot(t, k01), _dot(k, s), _dot(k, k01)

    # X = (m t - k A) / (2 m n) of a patient's k cases, Y = (n s - l A) / (2 m n) of its l controls, A = 2 m n AUC.
    unit = 2 * m * n
    squares = [m * m * square_t - 2 * m * area * times_t + area**2 * squared_t,
               n * n * square_s - 2 * n * area * times + area**2 * squared,
               m * n * ts - m * area * tl - n * area * ks + area**2 * kl]
    if not len(patients.codes):
        return Shape(auc, precision, [squares[0] / unit**2, squares[1] / unit**2, *[0.0] * 7], m, n, i10, i01, i_all)
    # Of the patients with both: sums of t, s, k, l; then those of a Y + b X and of a b.
    sum_t, sum_s, sum_k, sum_l = (int(v.sum()) for v in (t, s, k, k01))
    x, y = m * sum_t - area * sum_k, n * sum_s - area * sum_l
    lines = [(m * times_t - area * squared_t) / unit, (n * times - area * squared) / unit,
             ((n * ks - area * kl + m * tl - area * kl) * i10 * i01 - m * i01 * y - n * i10 * x) / (unit * i10 * i01)]
    bends = [(i10 * squared_t - m * m) / i10, (i01 * squared - n * n) / i01,
             (i10 * i01 * kl - n * i10 * sum_k - m * i01 * sum_l + m * n * len(codes)) / (i10 * i01)]
    return Shape(auc, precision, [*(value / unit**2 for value in squares), *lines, *bends], m, n, i10, i01, i_all)


def _dot(a: NDArray[np.int64], b: NDArray[np.int64]) -> int:
    """Return the exact sum of products of non-negative whole numbers, each up to 2^40 or so."""
    mask = (1 << SPLIT) - 1
    return ((int(((a >> SPLIT) * (b >> SPLIT)).sum()) << 2 * SPLIT)
            + ((int(((a >> SPLIT) * (b & mask)).sum()) + int(((a & mask) * (b >> SPLIT)).sum())) << SPLIT)
            + int(((a & mask) * (b & mask)).sum()))
