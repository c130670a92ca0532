"""One pass over a matrix of scores and labels, compiled where numba is there, by NumPy where it is not."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import numpy as np
from numpy.typing import NDArray

from phewas.stats.placement import Clusters, as_scores, check_shapes, columns, place, sums
from phewas.stats.spread import Spread, spread

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]

COMPILED = find_spec("numba") is not None
"""Whether there is a compiler."""

CHUNK = 64
"""Columns a thread takes at a time."""


WORTHWHILE = 1_000_000
"""Scores from which on compiled code is loaded (once a process; compiled once an installation, for some seconds)."""


@dataclass(frozen=True)
class Sweep:
    """What one pass yields for P columns; fields are arrays [P], undefined values NaN.

    Attributes
    ----------
    auc, average_precision
        Of the first score.
    other_auc
        Of the second score; NaN without one.
    spread
        Variances of the AUC, or of the difference where there is a second score; the null hypothesis is an AUC of 0.5,
        or no difference.
    n_cases, n_controls
        int64, rows.
    n_case_clusters, n_control_clusters, n_clusters
        int64, clusters with cases, with controls, with either.
    shares
        float32 [P, clusters], each cluster's share in the AUC's deviation from its mean, or None unless asked for.
    """

    auc: Floats
    average_precision: Floats
    other_auc: Floats
    spread: Spread
    n_cases: Counts
    n_controls: Counts
    n_case_clusters: Counts
    n_control_clusters: Counts
    n_clusters: Counts
    shares: NDArray[np.float32] | None = None


def sweep(
    scores: NDArray[Any],
    labels: NDArray[Any],
    *,
    other: NDArray[Any] | None = None,
    clusters: NDArray[Any] | None = None,
    shares: bool = False,
    compiled: bool | None = None,
    threads: int | None = None,
) -> Sweep:
    """Compute AUC, average precision and variance of every column.

    Parameters
    ----------
    scores, other
        float [N, P], in any memory order or a memory map; NaN only where excluded. With `other` the variance is that
        of the paired difference.
    labels
        int8 [N, P]: 1 case, 0 control, -1 excluded.
    clusters
        Patient of each row [N]; None for independent rows.
    shares
        Also return the clusters' shares (rows' where independent): float32 [P, clusters], 4 bytes each.
    compiled
        False takes the NumPy path, which gives the same numbers to about 1e-15; None takes it for small matrices,
        which are done before compiled code is loaded, and where numba is missing.
    threads
        Default: the processors this process may use, or OMP_NUM_THREADS if fewer.

    Raises
    ------
    StatisticsError
        Shapes differ, labels are others than 1, 0, -1, or a score is NaN where the row is not excluded; the column is
        named.
    """
    pairs = [scores] if other is None else [scores, other]
    for one in pairs:
        check_shapes(one, labels)
    groups = Clusters.of(clusters, len(scores))
    if shares and groups.codes is None:
        groups = Clusters(np.arange(len(scores)), len(scores))
    size = np.shape(scores)[1]
    numbers = np.full((12, size), np.nan)
    found = np.zeros((5, size), dtype=np.int64)
    pieces = np.zeros((size, groups.size) if shares else (0, 0), dtype=np.float32)
    if compiled is None:
        compiled = COMPILED and len(scores) * size >= WORTHWHILE
    (_compiled if compiled and size and len(scores) else _plain)(
        pairs, labels, groups, numbers, found, pieces, threads=threads)
    gap = numbers[0] - (0.5 if other is None else numbers[2])
    return Sweep(
        auc=numbers[0], average_precision=numbers[1], other_auc=numbers[2],
        spread=spread(numbers[3:], found, gap=gap, clustered=groups.codes is not None), n_cases=found[0],
        n_controls=found[1], n_case_clusters=found[2], n_control_clusters=found[3], n_clusters=found[4],
        shares=pieces if shares else None)


def n_threads() -> int:
    """Return how many threads a pass takes: the usable processors, or OMP_NUM_THREADS where that is fewer."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    asked = os.environ.get("OMP_NUM_THREADS", "")
    return min(usable, int(asked)) if asked.isdigit() and int(asked) else usable


def over_columns(size: int, work: Callable[[int, int], None], *, step: int, threads: int | None) -> None:
    """Call ``work(start, stop)`` for slices of `step` columns on some threads; the first failure is raised."""
    parts = [(start, min(start + step, size)) for start in range(0, size, step)]
    workers = min(threads or n_threads(), len(parts))
    if workers < 2:
        for start, stop in parts:
            work(start, stop)
        return
    with ThreadPoolExecutor(workers) as pool:
        for done in [pool.submit(work, start, stop) for start, stop in parts]:
            done.result()


def _compiled(
    pairs: list[NDArray[Any]], labels: NDArray[Any], groups: Clusters, numbers: Floats, found: Counts,
    pieces: NDArray[np.float32], *, threads: int | None,
) -> None:
    """Fill numbers and counts by the compiled kernel."""
    from phewas.stats.compiling import pass_of
    from phewas.stats.kernel import run_columns

    codes = np.empty(0, dtype=np.int32) if groups.codes is None else groups.codes.astype(np.int32)
    n_clusters = 0 if groups.codes is None else groups.size
    dtype = np.result_type(*[as_scores(np.asarray(one[:1, :1])) for one in pairs])
    run = pass_of(run_columns, dtype.name)
    # Columns that share a cache line of 64 bytes are taken together.
    width = 64 // dtype.itemsize

    def work(start: int, stop: int) -> None:
        # Both of one type, the wider, which holds every float of the other exactly.
        chosen = [as_scores(np.asarray(one[:, start:stop])).astype(dtype, copy=False) for one in pairs]
        marks = np.asarray(labels[:, start:stop])
        if marks.dtype != np.int8:
            with np.errstate(invalid="ignore"):
                strange = (marks != 1) & (marks != 0) & (marks != -1)
                marks = np.where(strange, 2, marks).astype(np.int8)
        second = chosen[1] if len(chosen) > 1 else np.empty((0, stop - start), dtype=chosen[0].dtype)
        bad = run(
            chosen[0], marks, second, codes, n_clusters, width,
            numbers[:, start:stop], found[:, start:stop], pieces[start:stop])
        if bad >= 0:
            # The plain reader finds the same fault and has the words for it.
            for one in pairs:
                for _ in columns(one[:, start + bad : start + bad + 1], labels[:, start + bad : start + bad + 1],
                                 number=start + bad):
                    pass

    over_columns(labels.shape[1], work, step=CHUNK, threads=threads)


def _plain(
    pairs: list[NDArray[Any]], labels: NDArray[Any], groups: Clusters, numbers: Floats, found: Counts,
    pieces: NDArray[np.float32], *, threads: int | None,
) -> None:
    """Compute the same by NumPy, column by column, on one thread."""
    for parts in zip(*[columns(one, labels) for one in pairs], strict=True):
        j, score, label = parts[0]
        a = place(score, label)
        dev10, dev01 = a.v10 - a.auc, a.v01 - a.auc
        if len(parts) > 1:
            b = place(parts[1][1], label)
            dev10, dev01 = (a.v10 - b.v10) - (a.auc - b.auc), (a.v01 - b.v01) - (a.auc - b.auc)
            numbers[2, j] = b.auc
        numbers[0, j], numbers[1, j] = a.auc, a.average_precision
        numbers[3:, j], found[2:, j] = sums(dev10, dev01, a, groups)
        found[:2, j] = len(a.cases), len(a.controls)
        if len(pieces) and groups.codes is not None and len(dev10) and len(dev01):
            row = np.bincount(groups.codes[a.cases], weights=dev10, minlength=groups.size) / len(dev10)
            row += np.bincount(groups.codes[a.controls], weights=dev01, minlength=groups.size) / len(dev01)
            pieces[j] = row
