"""Seconds of max-T with 1,000 draws at the size of the reference study.

Run: python tests/benchmarks/bench_maxt.py
"""

from __future__ import annotations

import time

import numpy as np

from phewas.stats.maxt import max_t


def main() -> None:
    shares = np.random.default_rng(0).standard_normal((1468, 15_759), dtype=np.float32)
    statistic = np.linspace(0, 6, 1468)
    wall, used = time.perf_counter(), time.process_time()
    found = max_t(shares, statistic, n_draws=1000)
    print(f"max-T, 1,000 draws: wall {time.perf_counter() - wall:.2f} s, processor {time.process_time() - used:.2f} s")
    print(f"joint quantile: {found.quantile:.2f}")


if __name__ == "__main__":
    main()
