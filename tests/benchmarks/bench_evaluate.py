"""Seconds and memory of the evaluate step with every table beside the AUCs, on made-up predictions.

Run: python tests/benchmarks/bench_evaluate.py [phenotypes=300] [patients=15759]

Every eighth patient has two encounters; 5,000 further patients are the training side of the baseline.
"""

from __future__ import annotations

import resource
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import polars as pl

from phewas.config import EvaluateConfig
from phewas.stats.evaluate import evaluate
from phewas.stats.imported import import_predictions


def main(size: int, patients: int) -> None:
    rng = np.random.default_rng(0)
    everyone = patients + 5_000
    owner = np.concatenate([np.arange(everyone), np.arange(0, patients, 8)])
    age = rng.uniform(18, 95, everyone)
    names = [f"{100 + k // 4}.{k % 4}" for k in range(size)]
    base = rng.uniform(0.007, 0.2, size)
    ids = np.array([f"e{k:07d}" for k in range(len(owner))])
    labels, scores = {"encounter_id": ids}, {"encounter_id": ids}
    sick = rng.normal(size=everyone)
    for name, share in zip(names, base, strict=True):
        risk = rng.random(everyone) < share * np.exp((age - 60) / 40)
        labels[name] = np.where(rng.random(len(owner)) < 0.1, -1, risk[owner]).astype(np.int8)
        scores[name] = (sick[owner] + rng.normal(size=len(owner)) + 0.5 * risk[owner]).astype(np.float32)
    people = pl.DataFrame({"encounter_id": ids, "patient_id": [f"p{o:06d}" for o in owner], "age": age[owner],
                           "sex": np.where(owner % 2 == 0, "F", "M"), "race": np.array(["a", "b", "c"])[owner % 3]})
    predicted = pl.DataFrame(scores).filter(pl.Series(owner < patients))
    with tempfile.TemporaryDirectory() as folder:
        import_predictions(predicted, pl.DataFrame(labels), people, run=Path(folder))
        wall, used = time.perf_counter(), time.process_time()
        evaluate(Path(folder), config=EvaluateConfig(), seed=0, label_window="any")
        print(f"evaluate, {size} phenotypes x {predicted.height} encounters: wall {time.perf_counter() - wall:.1f} s, "
              f"processor {time.process_time() - used:.1f} s")
    print(f"highest memory of the process: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MiB")


if __name__ == "__main__":
    main(*(int(a) for a in [*sys.argv[1:], *["300", "15759"][len(sys.argv) - 1 :]]))
