"""How often 95 % intervals cover, by case patients, AUC and encounters per patient; cross-fitted inference on request.

Run: python tests/benchmarks/interval_coverage.py [replicates=2000] [part=all|split|crossfit|crossfit-effect]
(not named coverage.py, which numba would import in place of the package of that name)

`split`: scores are binormal with an intraclass correlation of 0.7, 1,000 patients with 1, 2, 4 or an uneven (geometric,
mean 2) number of encounters each; each replicate is a column. "Wald" has the same variance at both bounds, that at the
estimate, with the same df. `crossfit`: 219 patients with 20 or
54 cases, five folds of a ridge probe on 16 features, 199 permutations refitted; replicates are a hundredth of those
asked for. Its target is the mean AUC over replicates. The Monte-Carlo error near 0.95 is 0.218 / sqrt(replicates).

Seen with 4,000 replicates (Monte-Carlo error 0.0034; AUC 0.55 / 0.70 / 0.85):

===================  ========================  ========================
encounters, cases    as reported               Wald
===================  ========================  ========================
uneven, 20 patients  0.965 / 0.954 / 0.948     0.940 / 0.931 / 0.916
uneven, 50           0.959 / 0.951 / 0.947     0.944 / 0.939 / 0.936
uneven, 100          0.959 / 0.955 / 0.945     0.955 / 0.946 / 0.940
1, 100               0.949 / 0.949 / 0.952     the same
2, 100               0.957 / 0.954 / 0.953     the same
4, 100               0.955 / 0.951 / 0.947     the same
===================  ========================  ========================

With 20 cases and 1, 2 or 4 encounters each: 0.934 to 0.959.

Cross-fitted, 219 patients (500 replicates at an AUC of 0.70, 200 without effect):

==================  =================  =================
cases               AUC 0.50           AUC 0.70
==================  =================  =================
20                  0.950 (0.015)      0.952 (0.010)
54                  0.955 (0.015)      0.974 (0.007)
==================  =================  =================

p was below 0.05 in 0.035 and 0.030 of those without effect, and in 0.58 and 0.94 of the others.
"""

from __future__ import annotations

import sys

import numpy as np
from scipy import stats

from phewas.stats.auc import auc_matrix
from phewas.stats.baseline import fit_logistic
from phewas.stats.crossfit import apply_null, fold_ranks, null_from, permute_labels
from phewas.stats.tails import logit_bounds, t_quantile

ICC, PATIENTS, COLUMNS = 0.7, 1_000, 500


def split(replicates: int) -> None:
    rng = np.random.default_rng(1)
    for kind in ("uneven", "1", "2", "4"):
        for m in (20, 50, 100):
            for target in (0.55, 0.7, 0.85):
                shift = np.sqrt(2) * stats.norm.ppf(target)
                inside = np.zeros(2)
                for _ in range(max(replicates // COLUMNS, 1)):
                    counts = rng.geometric(0.5, PATIENTS) if kind == "uneven" else np.full(PATIENTS, int(kind))
                    owner = np.repeat(np.arange(PATIENTS), counts)
                    score = np.sqrt(ICC) * rng.standard_normal((PATIENTS, COLUMNS))[owner]
                    score += np.sqrt(1 - ICC) * rng.standard_normal(score.shape)
                    label = np.repeat((owner < m).astype(np.int8)[:, None], COLUMNS, axis=1)
                    score[owner < m] += shift
                    found = auc_matrix(score, label, clusters=owner)
                    low, high = logit_bounds(found.auc, found.se, t_quantile(0.95, found.df))
                    inside += [np.mean((found.low <= target) & (target <= found.high)),
                               np.mean((low <= target) & (target <= high))]
                share = inside / max(replicates // COLUMNS, 1)
                print(f"encounters {kind}, case patients {m}, AUC {target}: {share[0]:.4f}, Wald {share[1]:.4f}",
                      flush=True)


def crossfit(
    replicates: int, *, with_null: bool = True, n: int = 219, width: int = 16, draws: int = 199
) -> None:
    rng = np.random.default_rng(2)
    for cases, planted in ((20, 1.08), (54, 0.97)):
        # The shift of one feature that brings the cross-fitted AUC to 0.70; ridge and five folds cost some of it.
        for effect in (0.0, planted) if with_null else (planted,):
            areas, bounds, p = [], [], []
            for k in range(replicates):
                label = np.zeros((n, 1), dtype=np.int8)
                label[rng.choice(n, cases, replace=False)] = 1
                x = rng.standard_normal((n, width))
                x[:, 0] += effect * label[:, 0]
                design = np.column_stack([np.ones(n), x])
                folds, who = rng.integers(0, 5, n), np.arange(n)

                def scored(y: np.ndarray, design: np.ndarray = design, folds: np.ndarray = folds) -> np.ndarray:
                    out = np.empty(y.shape)
                    for fold in range(5):
                        fit, mine = folds != fold, folds == fold
                        beta = fit_logistic(design[fit], (y[fit] == 1).astype(float), np.ones(y[fit].shape), ridge=10.0)
                        out[mine] = design[mine] @ beta.T
                    return out

                ways = [permute_labels(label, who, seed=k, permutation=b) for b in range(draws)]
                every = scored(np.concatenate(ways, axis=1))
                null = null_from(((b, every[:, b : b + 1], way) for b, way in enumerate(ways)), phenotypes=["a"],
                                 folds=folds, clusters=who)
                found = apply_null(auc_matrix(fold_ranks(scored(label), label, folds), label, clusters=who), null,
                                   phenotypes=["a"]).auc
                areas.append(found.auc[0])
                bounds.append((found.low[0], found.high[0]))
                p.append(found.p[0])
            target, edges = float(np.mean(areas)), np.array(bounds)
            share = np.mean((edges[:, 0] <= target) & (target <= edges[:, 1]))
            print(f"cross-fitted, {cases} cases, mean AUC {target:.3f}: coverage {share:.3f} "
                  f"({np.sqrt(share * (1 - share) / replicates):.3f}), p < .05 {np.mean(np.array(p) < .05):.3f}",
                  flush=True)


if __name__ == "__main__":
    size = int(sys.argv[1]) if len(sys.argv) > 1 else 2_000
    part = sys.argv[2] if len(sys.argv) > 2 else "all"
    if part in ("all", "split"):
        split(size)
    if part in ("all", "crossfit", "crossfit-effect"):
        crossfit(max(size // 100, 10), with_null=part != "crossfit-effect")
