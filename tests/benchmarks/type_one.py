"""How often `auc_matrix` rejects AUC 0.5 where it is true, by number of case patients and of encounters per patient.

Run: python tests/benchmarks/type_one.py [replicates] [encounters ...]

Scores are normal with an intraclass correlation of 0.7 within the patient; all encounters of a case patient are cases.
The encounters of a patient are 1, 2 or 4 each, or a geometric number (`uneven`, mean 2). Each replicate is a column of
its own. "by leverage" divides each patient's squared sum by 1 - (its rows / all rows of its kind) in place of the
common factor I / (I - 1), and takes the df from these terms; for equal clusters the two are the same. The last block
draws labels at random on scores that correlate by 0.8, as the unplanted phenotypes of one run have it, and gives the
standard deviation over runs of the share of 25 tests below 0.05, beside that of independent tests. Monte-Carlo errors
stand in brackets. Seen with 30,000 replicates, Monte-Carlo error 0.0013 and 0.0006:

=====================  ==============  =============  =======================
encounters, cases      p < .05         p < .01        by leverage .05 and .01
=====================  ==============  =============  =======================
uneven, 20 patients    0.0660          0.0192         0.0592, 0.0148
uneven, 50 patients    0.0565          0.0144         0.0526, 0.0125
uneven, 100 patients   0.0562          0.0129         0.0543, 0.0119
=====================  ==============  =============  =======================

With 1, 2 or 4 encounters each (10,000 replicates, errors 0.0022 and 0.0010) it was 0.0456 to 0.0531
and 0.0094 to 0.0119 throughout: the excess comes with few case patients whose numbers of encounters differ.
"""

from __future__ import annotations

import sys

import numpy as np

from phewas.stats.auc import auc_matrix
from phewas.stats.sweep import sweep
from phewas.stats.tails import t_two_sided

ICC, PATIENTS = 0.7, 600


def sizes(kind: str, rng: np.random.Generator) -> np.ndarray:
    return rng.geometric(0.5, PATIENTS) if kind == "uneven" else np.full(PATIENTS, int(kind))


def share(p: np.ndarray, level: float) -> str:
    rate = float(np.mean(p < level))
    return f"{rate:.4f} ({np.sqrt(level * (1 - level) / len(p)):.4f})"


def main(replicates: int, kinds: list[str]) -> None:
    rng = np.random.default_rng(20)
    for kind in kinds:
        for m in (20, 50, 100):
            plain, effective = [], []
            for _ in range(max(replicates // 2000, 1)):
                counts = sizes(kind, rng)
                patients = np.repeat(np.arange(PATIENTS), counts)
                own = rng.standard_normal((PATIENTS, 2000), dtype=np.float32)
                score = np.sqrt(ICC) * own[patients]
                score += np.sqrt(1 - ICC) * rng.standard_normal(score.shape, dtype=np.float32)
                # Which patients are cases is the same for all columns; the scores are independent between columns.
                label = np.broadcast_to((patients < m).astype(np.int8)[:, None], score.shape)
                found = auc_matrix(score, label, clusters=patients)
                plain.append(found.p)
                swept = sweep(score, label, clusters=patients, shares=True)
                size = counts.astype(float)
                size[:m] /= size[:m].sum()
                size[m:] /= size[m:].sum()
                squares = swept.shares.astype(np.float64) ** 2 / (1 - size)
                part10, part01 = squares[:, :m].sum(axis=1), squares[:, m:].sum(axis=1)
                e10, e01 = 1 / (size[:m] ** 2).sum(), 1 / (size[m:] ** 2).sum()
                df = (part10 + part01) ** 2 / (part10**2 / (e10 - 1) + part01**2 / (e01 - 1))
                effective.append(t_two_sided((found.auc - 0.5) / np.sqrt(part10 + part01), df)[0])
            p, q = np.concatenate(plain), np.concatenate(effective)
            print(f"encounters {kind}, case patients {m}: p < .05 {share(p, .05)}, < .01 {share(p, .01)}, "
                  f"< .001 {share(p, .001)}; by leverage {share(q, .05)}, {share(q, .01)}, {share(q, .001)}",
                  flush=True)
    for m in (50,):
        shares, values = [], []
        for _ in range(max(replicates // 400, 40)):
            counts = sizes("uneven", rng)
            patients = np.repeat(np.arange(PATIENTS), counts)
            own = rng.standard_normal(PATIENTS)
            base = np.sqrt(ICC) * own[patients] + np.sqrt(1 - ICC) * rng.standard_normal(len(patients))
            # Columns of one network correlate: here 0.8.
            score = np.sqrt(0.8) * base[:, None] + np.sqrt(0.2) * rng.standard_normal((len(patients), 25))
            chosen = np.argsort(rng.random((PATIENTS, 25)), axis=0) < m
            found = auc_matrix(score, chosen[patients].astype(np.int8), clusters=patients)
            shares.append(np.mean(found.p < 0.05))
            values.append(found.p)
        p = np.concatenate(values)
        print(f"shared scores, {m} case patients: p < .05 {share(p, .05)}, < .01 {share(p, .01)}; SD over runs of the "
              f"share below .05 {np.std(shares):.4f}, independent tests {np.sqrt(.05 * .95 / 25):.4f}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 100_000, sys.argv[2:] or ["1", "2", "4", "uneven"])
