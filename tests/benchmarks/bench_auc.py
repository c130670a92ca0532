"""Seconds of `auc_matrix` at the size of the reference study, beside scikit-learn in the same run.

Run: python tests/benchmarks/bench_auc.py [rows] [phenotypes]
"""

from __future__ import annotations

import sys
import time

import numpy as np
from sklearn.metrics import average_precision_score, roc_auc_score

from phewas.stats.auc import auc_matrix
from phewas.stats.compare import compare_matrix


def main(rows: int, phenotypes: int) -> None:
    rng = np.random.default_rng(1)
    scores = rng.standard_normal((rows, phenotypes), dtype=np.float32)
    prevalence = np.exp(rng.uniform(np.log(0.007), np.log(0.3), phenotypes))
    labels = np.empty((rows, phenotypes), dtype=np.int8)
    for start in range(0, phenotypes, 100):
        block = slice(start, start + 100)
        shape = labels[:, block].shape
        labels[:, block] = rng.random(shape) < prevalence[block]
        labels[:, block][rng.random(shape) < 0.1] = -1
    patients = rng.integers(0, int(rows * 0.9), rows)

    def clock(call) -> float:
        start = time.perf_counter()
        call()
        return time.perf_counter() - start

    independent = clock(lambda: auc_matrix(scores, labels))
    clustered = clock(lambda: auc_matrix(scores, labels, clusters=patients))
    paired = clock(lambda: compare_matrix(scores, scores[:, ::-1], labels, clusters=patients))
    subset = np.linspace(0, phenotypes - 1, min(60, phenotypes)).astype(int)
    found = auc_matrix(scores[:, subset], labels[:, subset])
    worst = 0.0

    def area() -> None:
        nonlocal worst
        for k, j in enumerate(subset):
            keep = labels[:, j] >= 0
            worst = max(worst, abs(roc_auc_score(labels[keep, j], scores[keep, j]) - found.auc[k]))

    def precision() -> None:
        for j in subset:
            keep = labels[:, j] >= 0
            average_precision_score(labels[keep, j], scores[keep, j])

    scale = phenotypes / len(subset)
    areas = clock(area) * scale
    both = areas + clock(precision) * scale
    print(f"matrix: {rows} x {phenotypes}")
    print(f"auc_matrix, independent rows: {independent:.2f} s")
    print(f"auc_matrix, patient-clustered: {clustered:.2f} s")
    print(f"compare_matrix, patient-clustered: {paired:.2f} s")
    print(f"scikit-learn roc_auc_score, scaled from {len(subset)} columns: {areas:.2f} s")
    print(f"scikit-learn roc_auc_score + average_precision_score, scaled: {both:.2f} s")
    print(f"largest difference in AUC: {worst:.1e}")


if __name__ == "__main__":
    sizes = [int(value) for value in sys.argv[1:]] or [15_759, 1_468]
    main(*sizes)
