"""Tests and intervals of an AUC when patients have several encounters: scipy's t-tests of patients' sums."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import special, stats

from phewas.stats.auc import KURTOSIS, auc, auc_matrix, tail_df
from phewas.stats.compare import compare_matrix
from phewas.stats.placement import placements
from phewas.stats.tails import logit_bounds, t_quantile


def visits(n_cases: int, n_controls: int, columns: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return scores without effect, labels and patients; encounters a patient are geometric of mean 2."""
    rng = np.random.default_rng(seed)
    owner = np.repeat(np.arange(n_cases + n_controls), rng.geometric(0.5, n_cases + n_controls))
    scores = rng.standard_normal((n_cases + n_controls, columns))[owner] + rng.standard_normal((len(owner), columns))
    return scores, np.tile((owner < n_cases).astype(np.int8)[:, None], columns), owner


def sums(values: np.ndarray, owner: np.ndarray) -> np.ndarray:
    """Return patients' sums of placements less 0.5, per encounter of the mean patient."""
    found = np.array([values[owner == who].sum() for who in np.unique(owner)])
    return found * len(np.unique(owner)) / len(owner)


@pytest.mark.parametrize("seed", range(4))
def test_is_welch_test_of_patients_sums(seed):
    scores, labels, owner = visits(15, 25, 1, seed)
    v10, v01 = placements(scores[:, 0], labels[:, 0])
    cases, controls = labels[:, 0] == 1, labels[:, 0] == 0
    welch = stats.ttest_ind(sums(v10 - 0.5, owner[cases]), -sums(v01 - 0.5, owner[controls]), equal_var=False)
    found = auc_matrix(scores, labels, clusters=owner)
    # Cases and controls tell the same difference once each.
    assert found.statistic[0] == pytest.approx(welch.statistic / 2, rel=1e-10)
    assert found.null_df[0] == pytest.approx(welch.df, rel=1e-10)
    inside = abs(found.statistic[0]) < np.sqrt(3)
    assert found.p[0] == pytest.approx(2 * stats.t.sf(abs(welch.statistic / 2), welch.df), rel=1e-9 if inside else 0.2)


def test_paired_difference_is_welch_test_of_patients_sums():
    scores, labels, owner = visits(15, 25, 2, 9)
    a, b = scores[:, :1], scores[:, 1:]
    own, other = placements(a[:, 0], labels[:, 0]), placements(b[:, 0], labels[:, 0])
    cases, controls = labels[:, 0] == 1, labels[:, 0] == 0
    welch = stats.ttest_ind(sums(own[0] - other[0], owner[cases]), -sums(own[1] - other[1], owner[controls]),
                            equal_var=False)
    found = compare_matrix(a, b, labels[:, :1], clusters=owner)
    assert found.statistic[0] == pytest.approx(welch.statistic / 2, rel=1e-10)
    assert found.p[0] == pytest.approx(2 * stats.t.sf(abs(welch.statistic / 2), welch.df), rel=1e-9)


def spread_at(true: float, v10: np.ndarray, v01: np.ndarray, owner: np.ndarray, cases: np.ndarray) -> float:
    """Return Welch's standard error of patients' sums of placements less `true`, as numpy's variances give it."""
    parts = (sums(v10 - true, owner[cases]), sums(v01 - true, owner[~cases]))
    return float(np.sqrt(sum(part.var(ddof=1) / len(part) for part in parts)))


@pytest.mark.parametrize("seed", range(3))
def test_interval_holds_what_the_test_would_not_reject(seed):
    scores, labels, owner = visits(12, 25, 2, seed)
    scores += 0.8 * labels
    cases = labels[:, 0] == 1
    found = auc_matrix(scores[:, :1], labels[:, :1], clusters=owner)
    v10, v01 = placements(scores[:, 0], labels[:, 0])
    area = found.auc[0]
    for bound in (found.low[0], found.high[0]):
        distance = (special.logit(area) - special.logit(bound)) * area * (1 - area)
        allowed = stats.t.ppf(0.975, found.df[0]) * spread_at(area - distance, v10, v01, owner, cases)
        assert abs(distance) == pytest.approx(allowed, rel=1e-9)
    gap = compare_matrix(scores[:, :1], scores[:, 1:], labels[:, :1], clusters=owner)
    w10, w01 = placements(scores[:, 1], labels[:, 0])
    for bound in (gap.low[0], gap.high[0]):
        allowed = stats.t.ppf(0.975, gap.df[0]) * spread_at(bound, v10 - w10, v01 - w01, owner, cases)
        assert abs(gap.difference[0] - bound) == pytest.approx(allowed, rel=1e-9)


def test_interval_of_a_high_auc_is_not_blown_up():
    """Unequal patients widen it by a few hundredths, wherever the AUC lies."""
    scores, labels, owner = visits(40, 200, 1, 6)
    found = auc_matrix(scores + 5.0 * labels, labels, clusters=owner)
    low, high = logit_bounds(found.auc, found.se, t_quantile(0.95, found.df))
    assert found.auc[0] > 0.99
    assert 1.0 < (special.logit(found.high[0]) - special.logit(found.low[0])) / (
        special.logit(high[0]) - special.logit(low[0])) < 1.2


def test_interval_covers_where_encounters_are_uneven():
    inside, total, true = np.zeros(2), 0, stats.norm.cdf(1.0 / 2)
    for seed in range(30):
        scores, labels, owner = visits(20, 200, 100, seed)
        found = auc_matrix(scores + 1.0 * labels, labels, clusters=owner)
        wald = logit_bounds(found.auc, found.se, t_quantile(0.95, found.df))
        inside += [np.sum((low <= true) & (true <= high)) for low, high in ((found.low, found.high), wald)]
        total += 100
    ours, wald = inside / total
    assert 0.935 < ours < 0.98
    assert wald < ours - 0.02


def test_equal_numbers_of_encounters_change_nothing():
    rng = np.random.default_rng(3)
    owner = np.repeat(np.arange(60), 3)
    scores = rng.standard_normal((180, 5))
    for labels in (np.tile((owner < 20).astype(np.int8)[:, None], 5),
                   np.tile(np.array([1, 0, 0], dtype=np.int8), 60)[:, None].repeat(5, axis=1)):
        found = auc_matrix(scores, labels, clusters=owner)
        np.testing.assert_allclose(found.statistic, (found.auc - 0.5) / found.se, rtol=1e-12)
        np.testing.assert_allclose(found.null_df, found.df, rtol=1e-12)
        low, high = logit_bounds(found.auc, found.se, t_quantile(0.95, found.df))
        np.testing.assert_allclose(found.low, low, rtol=1e-12)
        np.testing.assert_allclose(found.high, high, rtol=1e-12)


def test_one_patient_with_many_encounters_is_one_patient():
    rng = np.random.default_rng(4)
    owner = np.concatenate([np.zeros(400, dtype=int), np.arange(1, 1000)])
    label = ((owner == 0) | (owner > 960)).astype(np.int8)
    score = rng.standard_normal(len(owner)) + 2.0 * (owner == 0)
    found = auc(score, label, clusters=owner)
    assert found.auc[0] > 0.85
    assert 2 * stats.norm.sf((found.auc[0] - 0.5) / found.se[0]) < 1e-6
    assert found.p[0] > 0.2
    assert found.low[0] < 0.5
    other = compare_matrix(score[:, None], rng.standard_normal((len(owner), 1)), label[:, None], clusters=owner)
    assert other.difference[0] > 0.3
    assert (other.low[0], other.high[0]) == (-1.0, 1.0)


def test_tail_of_a_mean_of_bounded_values():
    """By simulation with scipy's own one-sample t-test, which is too short in the tail."""
    rng = np.random.default_rng(5)
    hits, total, level = np.zeros(2), 600_000, 0.001
    for _ in range(total // 50_000):
        # Beta(a, a) has an excess kurtosis of -6 / (2 a + 3).
        a = (-6 / KURTOSIS - 3) / 2
        found = stats.ttest_1samp(rng.beta(a, a, (40, 50_000)), 0.5)
        df = tail_df(found.statistic, np.full(50_000, 39.0))
        hits += [np.sum(found.pvalue < level), np.sum(2 * stats.t.sf(abs(found.statistic), df) < level)]
    plain, mended = hits / total / level
    assert plain > 1.15
    assert mended == pytest.approx(1.0, abs=3 * np.sqrt(1 / (total * level)))
    assert tail_df(np.array([0.0, 1.7, np.nan]), np.full(3, 39.0))[:2].tolist() == [39.0, 39.0]


def test_rejects_as_often_as_it_says_where_encounters_are_uneven():
    hits, total = np.zeros(2), 0
    for seed in range(20):
        scores, labels, owner = visits(40, 160, 1_000, seed)
        found = auc_matrix(scores, labels, clusters=owner)
        wald = 2 * stats.t.sf(abs(found.auc - 0.5) / found.se, found.df)
        hits += [np.sum(found.p < 0.01), np.sum(wald < 0.01)]
        total += 1_000
    p, wald = hits / total
    assert 0.006 < p < 0.012
    assert wald > 0.014
