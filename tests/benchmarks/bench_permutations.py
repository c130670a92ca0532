"""Label permutations of a cross-fitted probe: seconds for 999 permutations, extrapolated from a few.

python tests/benchmarks/bench_permutations.py                                  # 220 rows, 49 features, 300 phenotypes
python tests/benchmarks/bench_permutations.py --rows 2000 --width 512 --phenotypes 1468 --device cuda
"""

from __future__ import annotations

import argparse
import os
import time

import numpy as np
import torch

from phewas.learning.step import Frozen, shuffled
from phewas.stats.crossfit import null_from, permute_labels


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=220)
    parser.add_argument("--width", type=int, default=49)
    parser.add_argument("--phenotypes", type=int, default=300)
    parser.add_argument("--permutations", type=int, default=20)
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    asked = parser.parse_args()
    rng = np.random.default_rng(0)
    x = rng.standard_normal((asked.rows, asked.width)).astype(np.float32)
    labels = (rng.random((asked.rows, asked.phenotypes)) < rng.uniform(0.05, 0.3, asked.phenotypes)).astype(np.int8)
    patients = np.arange(asked.rows)
    names = tuple(map(str, range(asked.phenotypes)))
    folds, device = (patients % asked.folds).astype(np.int8), torch.device(asked.device)
    frozen = Frozen(x, labels, folds, patients, names, 0.1, device)
    print(f"device: {asked.device}, {torch.get_num_threads()} threads, load {os.getloadavg()[0]:.1f}")
    once = iter([(0, frozen.scores(labels), labels)])
    null_from(once, phenotypes=names, folds=folds, clusters=patients)  # compiles
    spent = {"fits": 0.0}

    def timed() -> object:
        began = time.process_time()
        for item in shuffled(frozen, lambda k: permute_labels(labels, patients, seed=0, permutation=k),
                             permutations=asked.permutations):  # fmt: skip
            spent["fits"] += time.process_time() - began
            yield item
            began = time.process_time()

    wall, cpu = time.perf_counter(), time.process_time()
    null_from(timed(), phenotypes=names, folds=folds, clusters=patients)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    scale = 999 / asked.permutations
    print(f"{asked.phenotypes} phenotypes x {asked.rows} rows x {asked.width}, {asked.folds} folds, 999 permutations: "
          f"{wall * scale:.0f} s wall, {cpu * scale:.0f} s CPU, fits {spent['fits'] * scale:.0f} s")  # fmt: skip


if __name__ == "__main__":
    main()
