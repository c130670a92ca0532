"""Time and memory of the rivals at the size of the reference study. Run by hand; one figure a line.

    python tests/benchmarks/bench_rivals.py --train 60000 --scored 18000 --phenotypes 1468
"""

from __future__ import annotations

import argparse
import resource
import time
from typing import Any

import numpy as np

from phewas.learning.probe import Prepared
from phewas.stats.rival_inputs import Inputs
from phewas.stats.rivals import rivals
from phewas.stats.units import Units


def study(n_train: int, n_scored: int, n_phenotypes: int) -> tuple[Units, list[str], Inputs]:
    """One encounter a patient, prevalences from 0.3 to 30 %, a tenth excluded, inputs as acquisition has them."""
    rng = np.random.default_rng(0)
    n, names = n_train + n_scored, [f"p{j}" for j in range(n_phenotypes)]
    share = np.exp(rng.uniform(np.log(0.003), np.log(0.3), n_phenotypes))
    labels = (rng.random((n, n_phenotypes), dtype=np.float32) < share).astype(np.int8)
    labels[rng.random((n, n_phenotypes), dtype=np.float32) < 0.1] = -1
    numbers = {f"x{k}": rng.normal(size=n) for k in range(10)}
    for values in numbers.values():
        values[rng.random(n) < 0.05] = np.nan
    inputs = Inputs("acquisition", numbers, {"mode": rng.choice(np.array(["a", "b", "c", "d"]), n)},
                    {"hour": rng.uniform(0, 24, n)})
    place = {name: j for j, name in enumerate(names)}
    train, scored = np.arange(n_train), np.arange(n_train, n)
    empty: Any = np.empty(0, dtype=np.intp)
    units = Units(
        logits=rng.normal(size=(n_scored, n_phenotypes)).astype(np.float32), labels=labels, head_of=place,
        label_of=place, prediction_rows=scored - n_train, label_rows=scored, encounters=None,  # type: ignore[arg-type]
        tuning_prediction_rows=empty, tuning_label_rows=empty, patients=np.arange(n), age=np.zeros(n),
        sex=np.array(["F"] * n), folds=None, train_rows=train, fitted_rows=train, n_dropped=0, n_unscored=0)
    return units, names, inputs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--train", type=int, default=60_000)
    parser.add_argument("--scored", type=int, default=18_000)
    parser.add_argument("--phenotypes", type=int, default=1_468)
    args = parser.parse_args()
    units, names, inputs = study(args.train, args.scored, args.phenotypes)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    wall, cpu = time.perf_counter(), time.process_time()
    table, _ = rivals(units, names, [inputs], prepare=Prepared.of, family=np.ones(len(names), dtype=bool),
                      stand_in=np.arange(len(names)), factor=None, level=0.95)
    print(f"one rival, {args.train:,} x {args.phenotypes:,}: wall {time.perf_counter() - wall:.1f} s")
    print(f"CPU {time.process_time() - cpu:.1f} s")
    print(f"memory beyond the data {(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024:.0f} MiB")
    print(f"flagged of {table.height:,} without any effect: {table['explains'].sum()}")


if __name__ == "__main__":
    main()
