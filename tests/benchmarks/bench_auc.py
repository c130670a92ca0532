"""Seconds of the AUC pass at the size of the reference study, beside scikit-learn and a plain sort in the same run.

Run: python tests/benchmarks/bench_auc.py [rows] [phenotypes]

Wall and processor seconds, the best of three. Code is compiled and loaded before the clock starts.
"""

from __future__ import annotations

import resource
import sys
import time

import numpy as np
from sklearn.metrics import average_precision_score, roc_auc_score

from phewas.stats.sweep import COMPILED, n_threads, sweep


def make(rows: int, phenotypes: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(1)
    scores = rng.standard_normal((rows, phenotypes), dtype=np.float32)
    prevalence = np.exp(rng.uniform(np.log(0.007), np.log(0.3), phenotypes))
    labels = np.empty((rows, phenotypes), dtype=np.int8)
    for start in range(0, rows, 10_000):
        block = slice(start, start + 10_000)
        shape = labels[block].shape
        labels[block] = rng.random(shape, dtype=np.float32) < prevalence
        labels[block][rng.random(shape, dtype=np.float32) < 0.1] = -1
    return scores, labels, rng.integers(0, max(int(rows * 0.9), 1), rows)


def main(rows: int, phenotypes: int) -> None:
    scores, labels, patients = make(rows, phenotypes)

    def clock(name: str, call, *, scale: float = 1.0, repeats: int = 3) -> float:
        best, processor = float("inf"), float("inf")
        for _ in range(repeats):
            wall, used = time.perf_counter(), time.process_time()
            call()
            best = min(best, time.perf_counter() - wall)
            processor = min(processor, time.process_time() - used)
        print(f"{name}: wall {best * scale:.2f} s, processor {processor * scale:.2f} s")
        return processor * scale

    def peak() -> float:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

    print(f"matrix: {rows} x {phenotypes}, numba {'used' if COMPILED else 'missing'}, {n_threads()} threads")
    if COMPILED:
        sweep(scores[:100], labels[:100], compiled=True)
    before = peak()
    ours = clock("AUC + DeLong + AP, independent rows", lambda: sweep(scores, labels))
    grouped = clock("AUC + DeLong + AP, patient-clustered", lambda: sweep(scores, labels, clusters=patients))
    print(f"memory beyond the input: {peak() - before:.0f} MB")
    clock("paired difference, patient-clustered",
          lambda: sweep(scores, labels, other=scores[:, ::-1], clusters=patients), repeats=1)
    large = rows * phenotypes > 100_000_000
    if not large:
        columns = np.asfortranarray(scores)
        clock("AUC + DeLong + AP, column-major", lambda: sweep(columns, labels))
        clock("NumPy path", lambda: sweep(scores, labels, compiled=False), repeats=1)
    subset = np.linspace(0, phenotypes - 1, min(10 if large else 60, phenotypes)).astype(int)
    scale = phenotypes / len(subset)

    def sort() -> None:
        for j in range(phenotypes) if not large else subset:
            np.sort(scores[:, j])

    sorting = clock("np.sort of every column", sort, scale=scale if large else 1.0, repeats=1)
    found = sweep(scores[:, subset], labels[:, subset], compiled=COMPILED)
    worst = 0.0

    def area() -> None:
        nonlocal worst
        for k, j in enumerate(subset):
            keep = labels[:, j] >= 0
            worst = max(worst, abs(roc_auc_score(labels[keep, j], scores[keep, j]) - found.auc[k]))

    def precision() -> None:
        nonlocal worst
        for k, j in enumerate(subset):
            keep = labels[:, j] >= 0
            value = average_precision_score(labels[keep, j], scores[keep, j])
            worst = max(worst, abs(value - found.average_precision[k]))

    areas = clock(f"scikit-learn roc_auc_score, scaled from {len(subset)} columns", area, scale=scale, repeats=1)
    both = areas + clock("scikit-learn average_precision_score, scaled", precision, scale=scale, repeats=1)
    print(f"processor time, ratio to roc_auc_score: {areas / ours:.1f}")
    print(f"processor time, ratio to roc_auc_score and average_precision_score: {both / ours:.1f}")
    print(f"processor time, ratio to np.sort: {sorting / ours:.1f}")
    print(f"processor time, clustered over independent: {grouped / ours:.1f}")
    print(f"largest difference from scikit-learn in AUC or AP: {worst:.1e}")


if __name__ == "__main__":
    sizes = [int(value) for value in sys.argv[1:]] or [15_759, 1_468]
    main(*sizes)
