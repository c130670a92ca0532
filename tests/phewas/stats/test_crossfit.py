from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from scipy import stats

from phewas.errors import StatisticsError
from phewas.stats.auc import auc_matrix
from phewas.stats.crossfit import apply_null, fold_ranks, null_from, permute_labels, without_inference


def test_fold_ranks_by_hand():
    scores = np.array([[3.0], [1.0], [1.0], [9.0], [-100.0], [50.0]])
    labels = np.array([[1], [0], [0], [-1], [0], [1]], dtype=np.int8)
    found = fold_ranks(scores, labels, np.array([0, 0, 0, 0, 1, 1]))
    np.testing.assert_allclose(found[:, 0], [2.5 / 3, 1 / 3, 1 / 3, np.nan, 0.25, 0.75])
    shifted = fold_ranks(scores * 7 - 3, labels, np.array([0, 0, 0, 0, 1, 1]))
    np.testing.assert_array_equal(found, shifted)


def test_fold_ranks_match_scipy_and_refuse():
    rng = np.random.default_rng(4)
    scores = rng.integers(0, 9, (60, 5)).astype(np.float32)
    labels = rng.integers(-1, 2, (60, 5)).astype(np.int8)
    folds = rng.integers(0, 3, 60)
    found = fold_ranks(scores, labels, folds)
    for fold in range(3):
        for j in range(5):
            rows = (folds == fold) & (labels[:, j] >= 0)
            np.testing.assert_allclose(found[rows, j], (stats.rankdata(scores[rows, j]) - 0.5) / rows.sum())
    assert np.isnan(found[labels == -1]).all()
    scores[np.flatnonzero(labels[:, 2] == 0)[0], 2] = np.nan
    with pytest.raises(StatisticsError, match="NaN"):
        fold_ranks(scores, labels, folds)
    with pytest.raises(StatisticsError, match="shape"):
        fold_ranks(scores, labels, folds[:5])


def test_permutation_moves_whole_patients():
    codes = np.array([0, 1, 1, 2, 3, 3, 4, 5, 5, 5])
    labels = np.arange(20, dtype=np.int8).reshape(10, 2)
    seen = set()
    for number in range(150):
        moved = permute_labels(labels, codes, seed=1, permutation=number)
        np.testing.assert_array_equal(np.sort(moved[:, 0]), labels[:, 0])
        np.testing.assert_array_equal(moved[codes == 5], labels[codes == 5])
        blocks = {tuple(moved[codes == c, 0]) for c in (1, 3)}
        assert blocks == {tuple(labels[codes == c, 0]) for c in (1, 3)}
        assert set(moved[[0, 3, 6], 0]) == {0, 6, 12}
        seen.add(moved.tobytes())
    assert len(seen) == 12
    again = permute_labels(labels, codes, seed=1, permutation=3)
    np.testing.assert_array_equal(again, permute_labels(labels, codes, seed=1, permutation=3))


def test_permutations_are_uniform():
    labels = np.arange(3, dtype=np.int8)[:, None]
    draws = [tuple(permute_labels(labels, np.arange(3), seed=9, permutation=k)[:, 0]) for k in range(1200)]
    counts = np.array([draws.count(kind) for kind in set(draws)])
    assert len(counts) == 6
    assert stats.chisquare(counts).pvalue > 1e-3


def ridge_scores(X, labels, folds):
    """Cross-fitted ridge scores for every phenotype: a small probe."""
    scores = np.empty(labels.shape)
    for fold in np.unique(folds):
        train = folds != fold
        Z = X[train] - X[train].mean(0)
        Y = labels[train] - labels[train].mean(0)
        scores[~train] = (X[~train] - X[train].mean(0)) @ np.linalg.solve(Z.T @ Z + 20 * np.eye(X.shape[1]), Z.T @ Y)
    return scores


def study(rng, *, effect=0.0, patients=200, phenotypes=25):
    folds = np.arange(patients) % 5
    labels = (rng.random((patients, phenotypes)) < 0.25).astype(np.int8)
    X = rng.normal(size=(patients, 12))
    X[:, 0] += effect * labels[:, 0]
    return X, labels, folds


def run(X, labels, folds, *, permutations=199):
    names, codes = [f"p{j}" for j in range(labels.shape[1])], np.arange(len(labels))

    def shuffled():
        for k in range(permutations):
            moved = permute_labels(labels, codes, seed=0, permutation=k)
            yield k, ridge_scores(X, moved, folds), moved

    null = null_from(shuffled(), phenotypes=names, folds=folds, clusters=codes)
    ranks = fold_ranks(ridge_scores(X, labels, folds), labels, folds)
    return auc_matrix(ranks, labels, clusters=codes), null, names


def test_p_is_uniform_under_the_null():
    rng = np.random.default_rng(12)
    p, naive = [], []
    for _ in range(4):
        plain, null, names = run(*study(rng, phenotypes=60), permutations=99)
        p.append(apply_null(plain, null, phenotypes=names).auc.p)
        naive.append(plain.p)
    values = np.concatenate(p)
    assert stats.kstest(values, "uniform").pvalue > 0.001
    assert (values <= 0.05).mean() < 0.10
    # The reason for all this: plain clustered t rejects far too often on cross-fitted scores.
    assert (np.concatenate(naive) < 0.05).mean() > (values <= 0.05).mean()


def test_effect_is_found_and_interval_is_wider():
    plain, null, names = run(*study(np.random.default_rng(3), effect=1.5), permutations=199)
    found = apply_null(plain, null, phenotypes=names)
    assert found.auc.p[0] == 1 / 200
    assert found.auc.neg_log10_p[0] == pytest.approx(np.log10(200))
    assert (found.factor >= 1).all()
    assert np.median(found.factor) > 1
    assert (found.auc.low <= plain.low + 1e-15).all()
    np.testing.assert_allclose(found.auc.se, plain.se * found.factor)
    by_hand = null.filter(pl.col("phenotype") == "p4")
    assert found.factor[4] == pytest.approx(max(1, by_hand["auc"].std() / by_hand["se"].mean()))
    exceed = ((by_hand["auc"] - 0.5).abs() >= abs(plain.auc[4] - 0.5)).sum()
    assert found.auc.p[4] == pytest.approx((1 + exceed) / 200)
    assert (found.auc.p_test == "patient label permutation").all()


def test_too_few_permutations_give_nothing():
    plain, null, names = run(*study(np.random.default_rng(3), phenotypes=2), permutations=20)
    found = apply_null(plain, null, phenotypes=names).auc
    assert np.isnan([found.p, found.se, found.low, found.high]).all()
    np.testing.assert_array_equal(found.auc, plain.auc)
    bare = without_inference(plain)
    assert np.isnan([bare.p, bare.se, bare.low]).all()
    assert (bare.ci_method == "").all()


def test_null_is_sorted_and_nulls_are_null():
    labels = np.array([[1, 0], [0, 0], [1, 0], [0, 0]], dtype=np.int8)
    scores = np.arange(8.0).reshape(4, 2)
    folds = np.zeros(4, dtype=np.int8)
    found = null_from([(1, scores, labels), (0, -scores, labels)], phenotypes=["a", "b"], folds=folds,
                      clusters=np.arange(4))
    assert found["permutation"].to_list() == [0, 1, 0, 1]
    assert found["auc"].to_list() == [0.75, 0.25, None, None]
    assert null_from([], phenotypes=["a"], folds=folds, clusters=folds).is_empty()
