"""What share of discoveries is false, by Benjamini-Hochberg and Benjamini-Yekutieli, where phenotypes are correlated.

Run: python tests/benchmarks/false_discovery.py [--replicates 2000] [--phenotypes 200] [--planted 0 20 60]
     [--patients 2000] [--score-correlation 0 0.5 0.9]

Each replicate is a study of its own: 1.3 encounters a patient with an intraclass correlation of 0.7, prevalences of 5
to 20 %, and labels that correlate by 0.8 (tetrachoric) within blocks of ten, as phenotypes and their parents do. All
scores share a part that knows of no label (`--score-correlation`). The first `--planted` phenotypes have an AUC of
about 0.65, the others 0.5 exactly. A discovery is q < 0.05, either direction. Printed with Monte-Carlo errors in
brackets: the false discovery rate (mean share of false ones, 0 without discoveries), which Benjamini-Hochberg
promises to keep below 0.05 times the share of nulls, the family-wise error of Holm, and the share of the planted that
Benjamini-Hochberg finds.

Seen with 200 phenotypes and 2,000 patients (300 replicates; without planted ones 400):

=========================  ================  ===============  ================  =====
planted, correlation       BH (promised)     BY               Holm, any error   found
=========================  ================  ===============  ================  =====
0, 0                       0.048 (0.050)     0.013            0.048
20, 0.5                    0.0398 (0.0450)   0.0068           0.040             0.9995
20, 0.9                    0.0399 (0.0450)   0.0059           0.030             0.9995
=========================  ================  ===============  ================  =====

Monte-Carlo errors: 0.011, 0.006 and 0.011 in the first row, 0.003, 0.001 and 0.011 in the others.
"""

from __future__ import annotations

import argparse

import numpy as np
from scipy import stats

from phewas.stats.auc import auc_matrix
from phewas.stats.multiplicity import benjamini_hochberg, benjamini_yekutieli, holm

BLOCK, WITHIN, ICC, SHIFT = 10, 0.8, 0.7, 0.55


def study(rng: np.random.Generator, patients: int, size: int, planted: int, shared: float) -> np.ndarray:
    """Return p-values [P] of one made-up study."""
    owner = np.concatenate([np.arange(patients), np.arange(0, patients, 3)])
    block = np.repeat(rng.standard_normal((patients, -(-size // BLOCK)), dtype=np.float32), BLOCK, axis=1)[:, :size]
    latent = np.sqrt(WITHIN) * block + np.sqrt(1 - WITHIN) * rng.standard_normal(block.shape, dtype=np.float32)
    label = (latent > stats.norm.isf(rng.uniform(0.05, 0.2, size)).astype(np.float32)).astype(np.int8)[owner]

    def noise(columns: int) -> np.ndarray:
        own = rng.standard_normal((patients, columns), dtype=np.float32)[owner]
        return np.sqrt(ICC) * own + np.sqrt(1 - ICC) * rng.standard_normal(own.shape, dtype=np.float32)

    score = np.sqrt(shared) * noise(1) + np.sqrt(1 - shared) * noise(size)
    score[:, :planted] += SHIFT * label[:, :planted]
    return auc_matrix(score, label, clusters=owner).p


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--replicates", type=int, default=2_000)
    parser.add_argument("--phenotypes", type=int, default=200)
    parser.add_argument("--patients", type=int, default=2_000)
    parser.add_argument("--planted", type=int, nargs="+", default=[0, 20, 60])
    parser.add_argument("--score-correlation", type=float, nargs="+", default=[0.0, 0.5, 0.9])
    asked = parser.parse_args()
    for planted in asked.planted:
        for shared in asked.score_correlation:
            rng = np.random.default_rng(7)
            share: dict[str, list[float]] = {"BH": [], "BY": [], "Holm": [], "found": []}
            for _ in range(asked.replicates):
                p = study(rng, asked.patients, asked.phenotypes, planted, shared)
                for name, method in (("BH", benjamini_hochberg), ("BY", benjamini_yekutieli)):
                    hits = method(p) < 0.05
                    share[name].append(hits[planted:].sum() / max(hits.sum(), 1))
                share["Holm"].append(float((holm(p)[planted:] < 0.05).any()))
                share["found"].append(float((benjamini_hochberg(p)[:planted] < 0.05).mean()) if planted else np.nan)
            told = ", ".join(f"{name} {np.mean(v):.4f} ({np.std(v) / np.sqrt(len(v)):.4f})"
                             for name, v in share.items() if not np.isnan(v).any())
            limit = 0.05 * (1 - planted / asked.phenotypes)
            print(f"{planted} of {asked.phenotypes} planted, scores correlate by {shared:g}: {told}; BH promises "
                  f"{limit:.4f}", flush=True)


if __name__ == "__main__":
    main()
