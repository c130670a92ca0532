"""Seconds and own memory of AUC, clustered variance and AP streamed from memory maps, beside the pass in memory.

Run: python tests/benchmarks/bench_streaming.py [--rows 1000000] [--phenotypes 200] [--order sorted|random] [--check]
     [--folder DIR] [--memory-mb 2000]

Makes two .npy files of made-up scores and labels (5 bytes a cell; prevalence 0.7 to 30 %, 10 % excluded, 1.3 encounters
a patient) and deletes them. Own memory is what the process allocated (RssAnon), without pages of the files, which the
system drops when it likes. `--check` also computes all in memory and prints the largest differences.
"""

from __future__ import annotations

import argparse
import tempfile
import threading
import time
from pathlib import Path

import numpy as np

from phewas.stats.auc import auc_matrix
from phewas.stats.streaming import row_blocks, stream_auc
from phewas.stats.sweep import n_threads


def own_mb() -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon"):
            return int(line.split()[1]) / 1000
    return float("nan")


def make(folder: Path, rows: int, phenotypes: int, order: str) -> np.ndarray:
    rng = np.random.default_rng(1)
    prevalence = np.exp(rng.uniform(np.log(0.007), np.log(0.3), phenotypes))
    patients = rng.integers(0, max(int(rows / 1.3), 1), rows)
    if order == "sorted":
        patients.sort()
    scores = np.lib.format.open_memmap(folder / "s.npy", mode="w+", dtype=np.float32, shape=(rows, phenotypes))
    labels = np.lib.format.open_memmap(folder / "l.npy", mode="w+", dtype=np.int8, shape=(rows, phenotypes))
    for start in range(0, rows, 20_000):
        block = slice(start, start + 20_000)
        shape = scores[block].shape
        label = (rng.random(shape, dtype=np.float32) < prevalence).astype(np.int8)
        scores[block] = rng.standard_normal(shape, dtype=np.float32) + 0.5 * label
        label[rng.random(shape, dtype=np.float32) < 0.1] = -1
        labels[block] = label
    return patients


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--phenotypes", type=int, default=200)
    parser.add_argument("--order", choices=["sorted", "random"], default="sorted")
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--memory-mb", type=int, default=2_000)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=asked.folder) as scratch:
        folder = Path(scratch)
        patients = make(folder, asked.rows, asked.phenotypes, asked.order)
        scores, labels = (np.load(folder / name, mmap_mode="r") for name in ("s.npy", "l.npy"))
        stream_auc(row_blocks(scores[:1000, :2], labels[:1000, :2]), clusters=patients[:1000])
        passes = 0

        def blocks():
            nonlocal passes
            passes += 1
            return row_blocks(scores, labels)()

        before, most, stop = own_mb(), 0.0, threading.Event()

        def watch() -> None:
            nonlocal most
            while not stop.wait(0.05):
                most = max(most, own_mb())

        watcher = threading.Thread(target=watch)
        watcher.start()
        wall, used = time.perf_counter(), time.process_time()
        found = stream_auc(blocks, clusters=patients, memory_mb=asked.memory_mb)
        wall, used = time.perf_counter() - wall, time.process_time() - used
        stop.set()
        watcher.join()
        print(f"matrix: {asked.rows} x {asked.phenotypes}, patients {asked.order}, {n_threads()} threads, "
              f"{passes} passes")
        print(f"streamed: wall {wall:.1f} s, processor {used:.1f} s, {1e9 * used / scores.size:.1f} ns a cell")
        print(f"own memory beyond the start: {most - before:.0f} MB")
        if asked.check:
            wall, used = time.perf_counter(), time.process_time()
            whole = auc_matrix(scores, labels, clusters=patients)
            print(f"in memory: wall {time.perf_counter() - wall:.1f} s, processor {time.process_time() - used:.1f} s")
            print(f"AUCs of equal bits: {bool(np.all(found.auc == whole.auc))}; largest difference of AP "
                  f"{np.max(np.abs(found.average_precision - whole.average_precision)):.1e}, of the standard error, "
                  f"relative, {np.max(np.abs(found.se / whole.se - 1)):.1e}")


if __name__ == "__main__":
    main()
