"""AUC, clustered variance and average precision of matrices larger than memory, in two passes over blocks of rows.

The first pass keeps the scores of the cases, the second counts between which of them each control falls. Of a control
nothing else needs to be kept but, for patients with rows in several blocks, a sum per patient and phenotype. All sums
are whole numbers, so that the result is the same whatever the blocks are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from phewas.errors import StatisticsError
from phewas.stats.auc import Auc, Moments, infer_moments
from phewas.stats.placement import Clusters, as_scores, columns
from phewas.stats.spread import spread
from phewas.stats.streaming_finish import Column, Shape, finish
from phewas.stats.streaming_patients import Patients
from phewas.stats.sweep import COMPILED, over_columns

Block = tuple[NDArray[Any], NDArray[Any]]
Blocks = Callable[[], Iterable[Block]]

STRIP = 16
"""Columns of a block that are copied to contiguous memory together."""

BYTES_PER_CASE, BYTES_PER_PATIENT = 32, 12
"""What a case of a phenotype takes, and a patient of a phenotype whose rows lie in several blocks."""


def row_blocks(scores: NDArray[Any], labels: NDArray[Any], *, rows: int = 65_536) -> Blocks:
    """Return the blocks of two matrices, which may be memory maps.

    Parameters
    ----------
    scores, labels
        As for `phewas.stats.auc.auc_matrix`, [N, P] both.
    rows
        Rows of a block, at least 1.

    Examples
    --------
    >>> blocks = row_blocks(np.zeros((5, 1)), np.zeros((5, 1), dtype=np.int8), rows=2)
    >>> [len(score) for score, label in blocks()]
    [2, 2, 1]
    """
    if np.ndim(scores) != 2 or np.shape(scores) != np.shape(labels):
        raise StatisticsError(f"scores have shape {np.shape(scores)}, labels {np.shape(labels)}",
                              expected="both [rows, phenotypes]")

    def blocks() -> Iterator[Block]:
        for start in range(0, len(scores), rows):
            yield scores[start : start + rows], labels[start : start + rows]

    return blocks


def stream_auc(
    blocks: Blocks, *, clusters: NDArray[Any] | None = None, level: float = 0.95, memory_mb: int = 2_000,
    compiled: bool | None = None, threads: int | None = None,
) -> Auc:
    """Compute `phewas.stats.auc.auc_matrix` from blocks of rows, never holding the matrix.

    Parameters
    ----------
    blocks
        Called once per pass; returns an iterable of (scores float [n, P], labels int8 [n, P]), the same every time and
        of any n: `row_blocks` of memory maps, row groups of Parquet files, any generator.
    clusters
        Patient of each row [N], integers or text; a patient's rows may lie in several blocks. None only where rows are
        independent.
    level
        Confidence level in (0, 1).
    memory_mb
        What cases and patients may take, in megabytes of 10^6 bytes. If it does not suffice for all phenotypes, they
        are done in groups, each with two further passes. Blocks come on top.
    compiled
        None: where numba is there; False: the NumPy path, with equal results.
    threads
        Default: the processors this process may use, or OMP_NUM_THREADS if fewer.

    Returns
    -------
    Auc
        AUC and counts have the bits of `auc_matrix`; the rest agrees to about 12 digits, being computed from whole
        numbers here and from rounded ones there. The size and the order of blocks change no bit.

    Raises
    ------
    StatisticsError
        As for `auc_matrix`; also if passes differ in rows or columns, or `clusters` has another length than all blocks.

    Notes
    -----
    Memory is 32 bytes per case and phenotype, 12 per phenotype and patient whose rows span blocks, 9 per row and 30
    per patient. Rows sorted by patient leave hardly any such patient and need two passes; any other order is as exact.

    Examples
    --------
    >>> scores, labels = np.array([[3.0], [1.0], [2.0], [0.0]]), np.array([[1], [1], [0], [0]], dtype=np.int8)
    >>> float(stream_auc(row_blocks(scores, labels, rows=3)).auc[0])
    0.75
    """
    found = stream_moments(blocks, clusters=clusters, memory_mb=memory_mb, compiled=compiled, threads=threads)
    return infer_moments(found, clustered=clusters is not None, level=level)


def stream_moments(
    blocks: Blocks, *, clusters: NDArray[Any] | None = None, memory_mb: int = 2_000, compiled: bool | None = None,
    threads: int | None = None,
) -> Moments:
    """Return AUC, variance and counts for each column; arguments as for `stream_auc`."""
    use = COMPILED if compiled is None else compiled and COMPILED
    work = _Work(blocks, clusters, memory_mb * 10**6, use, threads)
    done: list[Shape] = []
    start = 0
    while work.sizes is None or start < work.size:
        group, stop = work.group(start)
        work.fold(group, start, stop)
        done += [finish(column, work.patients) for column in group]
        start = stop
    return _moments(done, clustered=clusters is not None)


def _moments(done: list[Shape], *, clustered: bool) -> Moments:
    """Put columns together."""
    def counts(name: str) -> NDArray[np.int64]:
        return np.array([getattr(one, name) for one in done], dtype=np.int64)

    def floats(name: str) -> NDArray[np.float64]:
        return np.array([getattr(one, name) for one in done], dtype=np.float64)

    found = np.stack([counts(name) for name in (
        "n_cases", "n_controls", "n_case_clusters", "n_control_clusters", "n_clusters")])
    numbers = np.array([one.sums for one in done], dtype=np.float64).reshape(len(done), 9).T
    area = floats("auc")
    return Moments.of(area, floats("average_precision"), spread(numbers, found, gap=area - 0.5, clustered=clustered),
                      found)


@dataclass
class _Work:
    """The passes over the blocks."""

    blocks: Blocks
    clusters: NDArray[Any] | None
    budget: int
    compiled: bool
    threads: int | None
    size: int = -1
    sizes: list[int] | None = None
    """Rows of each block, known after the first pass."""
    patients: Patients = field(init=False)
    cases: NDArray[np.int64] = field(init=False)
    controls: NDArray[np.int64] = field(init=False)
    dtype: Any = np.float32

    def __post_init__(self) -> None:
        n_rows = 0 if self.clusters is None else len(self.clusters)
        codes = Clusters.of(self.clusters, n_rows).codes if self.clusters is not None else None
        self.codes = np.empty(0, dtype=np.int32) if codes is None else codes.astype(np.int32)
        self.cases = self.controls = np.zeros(0, dtype=np.int64)

    def _each(self) -> Iterator[tuple[int, int, NDArray[Any], NDArray[Any]]]:
        """Yield number, first row, scores and labels of each block, checked against the first pass."""
        at, number = 0, -1
        for number, (scores, labels) in enumerate(self.blocks()):
            if np.ndim(scores) != 2 or np.shape(scores) != np.shape(labels):
                raise StatisticsError(f"block {number} has scores of shape {np.shape(scores)}, labels of "
                                      f"{np.shape(labels)}", expected="both [rows, phenotypes]")
            if self.size < 0:
                self.size = scores.shape[1]
                self.cases, self.controls = np.zeros((2, self.size), dtype=np.int64)
            if scores.shape[1] != self.size or (
                    self.sizes is not None and (number >= len(self.sizes) or len(scores) != self.sizes[number])):
                raise StatisticsError(f"block {number} has shape {np.shape(scores)}",
                                      expected="the same columns in every block and the same rows in every pass")
            if self.clusters is not None and at + len(scores) > len(self.codes):
                break
            yield number, at, scores, labels
            at += len(scores)
        if self.clusters is not None and at != len(self.codes):
            raise StatisticsError(f"clusters have length {len(self.codes)}", expected="one code for every row of the "
                                  "blocks")
        if self.sizes is not None and number + 1 != len(self.sizes):
            raise StatisticsError(f"a pass has {number + 1} blocks", expected=f"{len(self.sizes)}, as in the first")

    def _strip(self, scores: NDArray[Any], labels: NDArray[Any], a: int, b: int) -> Block:
        """Copy columns of a block to contiguous memory [b - a, n]; labels that are none become 2."""
        marks = np.asarray(labels[:, a:b])
        if marks.dtype != np.int8:
            with np.errstate(invalid="ignore"):
                strange = (marks != 1) & (marks != 0) & (marks != -1)
                marks = np.where(strange, 2, marks).astype(np.int8)
        values = as_scores(np.asarray(scores[:, a:b]))
        return np.ascontiguousarray(values.T), np.ascontiguousarray(marks.T)

    def group(self, start: int) -> tuple[list[Column], int]:
        """Gather the cases of as many columns from `start` on as memory allows; return them and where they end."""
        first = self.sizes is None
        kept: dict[int, list[list[Any]]] = {}
        stop = self.size if first else self._end(start)
        sizes, held = [], 0
        for _, at, scores, labels in self._each():
            sizes.append(len(scores))
            stop = self.size if stop < 0 else stop
            codes = self.codes[at : at + len(scores)]
            self.dtype = np.result_type(self.dtype, as_scores(np.asarray(scores[:1, :1])).dtype)

            def gather(a: int, b: int, *, scores: NDArray[Any] = scores, labels: NDArray[Any] = labels,
                       codes: NDArray[Any] = codes, stop: int = stop) -> None:
                a, b = a + start, b + start
                x, y = self._strip(scores, labels, a, b)
                if self.compiled:
                    from phewas.stats.kernel_streaming import gather as compiled_gather

                    values, owners, counts, bad = compiled_gather(x, y, codes)
                else:
                    values, owners, counts, bad = _gather(x, y, codes)
                if bad >= 0:
                    # The plain reader finds the same fault and has the words for it.
                    for _ in columns(scores[:, a + bad : a + bad + 1], labels[:, a + bad : a + bad + 1],
                                     number=a + bad):
                        pass
                if first:
                    self.cases[a:b] += counts[0]
                    self.controls[a:b] += counts[1]
                if a < stop:
                    kept.setdefault(a, []).append([values, owners, counts[0]])

            over_columns((self.size if first else stop) - start, gather, step=STRIP, threads=self.threads)
            while first:
                held = int(self.cases[:stop].sum()) * BYTES_PER_CASE
                if held <= self.budget or stop <= STRIP:
                    break
                # Too many cases already: the last columns are left to a later group.
                stop = (stop - 1) // STRIP * STRIP
                kept.pop(stop, None)
        if first:
            self.sizes = sizes
            self.size = max(self.size, 0)
            self.patients = Patients.of(self.codes, sizes)
            stop = min(max(stop, 0), self._end(start))
        made = []
        for a in sorted(kept):
            parts = kept.pop(a)
            cuts = [np.concatenate([[0], np.cumsum(part[2])]) for part in parts]
            for c in range(min(len(cuts[0]) - 1, stop - a)):
                values, owners = (
                    np.concatenate([part[k][cut[c] : cut[c + 1]] if len(part[k]) else part[k]
                                    for part, cut in zip(parts, cuts, strict=True)]) for k in (0, 1))
                made.append(Column.of(values.astype(self.dtype, copy=False), owners, int(self.controls[a + c]),
                                      self.patients.n_spanning))
        return made, stop

    def _end(self, start: int) -> int:
        """Return where a group that begins at `start` has to end."""
        need = np.cumsum(self.cases[start:] * BYTES_PER_CASE + self.patients.n_spanning * BYTES_PER_PATIENT)
        return start + max(int(np.searchsorted(need, self.budget, side="right")), min(1, self.size - start))

    def fold(self, chosen: list[Column], start: int, stop: int) -> None:
        """Place the controls of some columns."""
        for number, at, scores, labels in self._each():
            slots, n_local, closing, who = self.patients.at_block(number, at, len(scores))

            def fold(a: int, b: int, *, scores: NDArray[Any] = scores, labels: NDArray[Any] = labels,
                     slots: NDArray[Any] = slots, n_local: int = n_local, closing: NDArray[Any] = closing,
                     who: NDArray[Any] = who) -> None:
                x, y = self._strip(scores, labels, start + a, start + b)
                x = x.astype(self.dtype, copy=False)
                for c in range(b - a):
                    chosen[a + c].fold(x[c], y[c], slots, n_local, closing, who, compiled=self.compiled)

            over_columns(stop - start, fold, step=STRIP, threads=self.threads)


def _gather(
    scores: NDArray[Any], labels: NDArray[Any], codes: NDArray[Any]
) -> tuple[NDArray[Any], NDArray[Any], NDArray[np.int64], int]:
    """Return what `phewas.stats.kernel_streaming.gather` does."""
    cases = labels == 1
    counts = np.stack([cases.sum(axis=1), (labels == 0).sum(axis=1)]).astype(np.int64)
    wrong = ((np.isnan(scores) & (labels >= 0)) | (labels > 1) | (labels < -1)).any(axis=1)
    rows = np.nonzero(cases)[1]
    bad = int(np.flatnonzero(wrong)[0]) if wrong.any() else -1
    return scores[cases], codes[rows] if len(codes) else np.empty(0, dtype=np.int32), counts, bad
