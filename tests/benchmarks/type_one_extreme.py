"""How often `auc_matrix` rejects AUC 0.5 where it is true, out to the level of a Bonferroni test over 1,468 phenotypes.

Run: python tests/benchmarks/type_one_extreme.py [--replicates 1000000] [--patients 2000] [--cases 100 200]
     [--encounters 1 2 4 uneven study] [--spread 1 2 0.5]

Each replicate is a column of its own that goes through `phewas.stats.auc.auc_matrix` with patient ids. Scores are
normal with an intraclass correlation of 0.7 within the patient; all encounters of a case patient are cases.
Encounters: 1, 2 or 4 each, or a geometric number (`uneven`: mean 2; `study`: mean 1.142, as in the reference study).
`--spread` is the standard deviation of the case patients' scores over that of the others, which leaves the AUC at
0.5; only spread 1 is run with several encounters. One thread does about 500,000 replicates of 2,000 rows a minute.

Seen with 1,000,000 replicates, 2,000 patients, seed 1, as multiples of the nominal level (Monte-Carlo errors 0.004,
0.03, 0.18). "Wald" has the variance of the interval and its df for the test, too (seed 0, another million):

=============================  =======================  =======================
encounters, cases, spread      .05 / .001 / .05 / 1468  Wald
=============================  =======================  =======================
1, 100 patients, 1             1.001 / 1.014 / 1.29     1.000 / 1.086 / 0.91
1, 100, 2                      1.006 / 1.027 / 1.20     0.999 / 1.119 / 1.26
1, 100, 0.5                    1.000 / 1.050 / 1.26     0.999 / 1.064 / 1.17
2, 100, 1                      1.004 / 0.987 / 0.82     0.996 / 1.041 / 1.03
4, 100, 1                      0.996 / 1.003 / 0.91     1.006 / 1.155 / 1.09
study, 100, 1                  0.996 / 0.902 / 0.94     1.038 / 1.286 / 1.76
uneven, 100, 1                 0.973 / 0.634 / 0.29     1.107 / 1.621 / 2.85
1, 200, 1                      0.997 / 0.966 / 1.09     1.005 / 1.052 / 1.03
1, 200, 2                      0.995 / 0.992 / 1.17     1.003 / 1.072 / 1.29
1, 200, 0.5                    1.000 / 1.017 / 1.03     1.001 / 1.024 / 1.12
=============================  =======================  =======================
"""

from __future__ import annotations

import argparse
import time

import numpy as np

from phewas.stats.auc import auc_matrix

ICC, COLUMNS = 0.7, 2_000
UNEVEN = {"uneven": 2.0, "study": 1.142}
"""Mean number of encounters where it is geometric; that of the reference study is 17,995 / 15,759."""

LEVELS = (0.05, 0.001, 0.05 / 1468)


def rates(kind: str, m: int, spread: float, *, replicates: int, patients: int, seed: int) -> str:
    rng = np.random.default_rng(seed)
    hits, done = np.zeros(len(LEVELS)), 0
    while done < replicates:
        counts = rng.geometric(1 / UNEVEN[kind], patients) if kind in UNEVEN else np.full(patients, int(kind))
        owner = np.repeat(np.arange(patients), counts)
        score = rng.standard_normal((patients, COLUMNS), dtype=np.float32)
        if counts.max() > 1:
            score = np.float32(np.sqrt(ICC)) * score[owner]
            score += np.float32(np.sqrt(1 - ICC)) * rng.standard_normal(score.shape, dtype=np.float32)
        score[owner < m] *= np.float32(spread)
        label = np.broadcast_to((owner < m).astype(np.int8)[:, None], score.shape)
        logs = auc_matrix(score, label, clusters=owner).neg_log10_p
        hits += [np.count_nonzero(logs > -np.log10(level)) for level in LEVELS]
        done += COLUMNS
    told = []
    for level, hit in zip(LEVELS, hits, strict=True):
        ratio, error = hit / done / level, np.sqrt(max(hit, 1)) / done / level
        told.append(f"{level:.2g}: {hit / done:.3g} = {ratio:.3f} ({error:.3f}) of nominal")
    return "; ".join(told)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--replicates", type=int, default=1_000_000)
    parser.add_argument("--patients", type=int, default=2_000)
    parser.add_argument("--cases", type=int, nargs="+", default=[100, 200])
    parser.add_argument("--encounters", nargs="+", default=["1", "2", "4", "uneven", "study"])
    parser.add_argument("--spread", type=float, nargs="+", default=[1.0, 2.0, 0.5])
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    for m in asked.cases:
        for kind in asked.encounters:
            for spread in asked.spread if kind == "1" else [1.0]:
                start = time.perf_counter()
                found = rates(kind, m, spread, replicates=asked.replicates, patients=asked.patients, seed=asked.seed)
                print(f"encounters {kind}, case patients {m}, spread {spread:g}: {found} "
                      f"[{time.perf_counter() - start:.0f} s]", flush=True)


if __name__ == "__main__":
    main()
