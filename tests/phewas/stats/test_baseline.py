from __future__ import annotations

import numpy as np
import pytest
import statsmodels.api as sm
from sklearn.linear_model import LogisticRegression

from phewas.errors import SplitError, StatisticsError
from phewas.stats.auc import auc_matrix
from phewas.stats.baseline import Design, fit_logistic, fit_predict, spline_columns, spline_knots


def people(rows: int = 900, *, seed: int = 3, whole: bool = False):
    rng = np.random.default_rng(seed)
    age = rng.uniform(18, 95, rows)
    age = np.floor(age) if whole else age
    age[rng.random(rows) < 0.05] = np.nan
    sex = rng.choice(np.array(["F", "M", "U"]), rows, p=[0.5, 0.47, 0.03])
    filled = np.where(np.isnan(age), 55, age)
    eta = np.stack([0.05 * (filled - 70), -2 + 0.8 * (sex == "M"), 0.002 * (filled - 50) ** 2 - 2], axis=1)
    labels = (rng.random(eta.shape) < 1 / (1 + np.exp(-eta))).astype(np.int8)
    labels[rng.random(eta.shape) < 0.1] = -1
    return age, sex, labels


@pytest.mark.parametrize("whole", [False, True])
def test_coefficients_match_statsmodels(whole):
    age, sex, labels = people(whole=whole)
    train, score = np.arange(600), np.arange(600, 900)
    ours = fit_predict(age, sex, labels[:600], train_rows=train, score_rows=score, patients=np.arange(900), ridge=0.0)
    design = Design.learn(age[:600], sex[:600], with_sex=True)
    X = design.columns(age, sex)
    assert X.shape[1] == 1 + 4 + 1 + 2
    np.testing.assert_allclose(X[:600, 1:].T @ X[:600, 1:] / 600, np.eye(7), atol=1e-9)
    for j in range(labels.shape[1]):
        keep = labels[:600, j] >= 0
        peer = sm.Logit(labels[:600, j][keep], X[:600][keep]).fit(disp=0, method="newton", tol=1e-12, maxiter=200)
        beta = fit_logistic(X[:600][keep], labels[:600, j][keep].astype(float)[:, None],
                            np.ones((int(keep.sum()), 1)), ridge=0.0)[0]
        np.testing.assert_allclose(beta, peer.params, rtol=1e-7, atol=1e-8)
        np.testing.assert_allclose(ours[:, j], X[600:] @ peer.params, rtol=1e-7, atol=1e-8)


def test_ridge_matches_scikit_learn():
    age, sex, labels = people()
    keep = labels[:, 0] >= 0
    X = Design.learn(age, sex, with_sex=True).columns(age, sex)[keep]
    y = labels[keep, 0]
    peer = LogisticRegression(C=1 / 3.0, tol=1e-12, max_iter=10_000, solver="newton-cholesky").fit(X[:, 1:], y)
    ours = fit_logistic(X, y.astype(float)[:, None], np.ones((len(y), 1)), ridge=3.0)[0]
    np.testing.assert_allclose(ours, [peer.intercept_[0], *peer.coef_[0]], atol=1e-7)


def test_spline_is_harrells():
    knots = spline_knots(np.arange(1.0, 1001))
    np.testing.assert_allclose(knots, np.quantile(np.arange(1.0, 1001), [0.05, 0.275, 0.5, 0.725, 0.95]))
    assert len(spline_knots(np.arange(50.0))) == 4
    assert len(spline_knots(np.arange(20.0))) == 3
    assert len(spline_knots(np.array([30.0] * 90 + [60.0] * 90))) == 0
    x = np.array([-500.0, -400.0, -300.0, 2000.0, 2100.0, 2200.0])
    basis = spline_columns(x, knots)
    # Straight beyond the outer knots.
    np.testing.assert_allclose(basis[0] - 2 * basis[1] + basis[2], 0, atol=1e-9)
    np.testing.assert_allclose(basis[3] - 2 * basis[4] + basis[5], 0, atol=1e-6)
    k = np.array([1.0, 2.0, 4.0])
    by_hand = (3.0**3 - 2.0**3 * (4 - 1) / (4 - 2) + 0.0) / 9
    assert spline_columns(np.array([4.0]), k)[0, 1] == pytest.approx(by_hand)


def test_no_patient_on_both_sides():
    age, sex, labels = people(40)
    with pytest.raises(SplitError, match="1 patients"):
        fit_predict(age, sex, labels[:20], train_rows=np.arange(20), score_rows=np.arange(20, 40),
                    patients=np.array([*range(20), 0, *range(21, 40)]))
    with pytest.raises(StatisticsError, match="no training rows"):
        fit_predict(age, sex, labels[:0], train_rows=np.arange(0), score_rows=np.arange(40), patients=np.arange(40))


def test_scored_labels_and_row_order_have_no_say():
    age, sex, labels = people(whole=True)
    train, score = np.arange(600), np.arange(600, 900)
    one = fit_predict(age, sex, labels[:600], train_rows=train, score_rows=score, patients=np.arange(900))
    order = np.random.default_rng(0).permutation(600)
    two = fit_predict(age, sex, labels[order], train_rows=train[order], score_rows=score, patients=np.arange(900))
    np.testing.assert_allclose(one, two, rtol=1e-9)


def test_separation_sex_specific_and_single_class():
    rng = np.random.default_rng(8)
    age = rng.uniform(20, 90, 400)
    sex = np.where(np.arange(400) % 2 == 0, "F", "M")
    labels = np.zeros((300, 4), dtype=np.int8)
    labels[:, 0] = age[:300] > 60
    labels[sex[:300] == "M", 1] = -1
    labels[(sex[:300] == "F") & (age[:300] < 45), 1] = 1
    labels[:, 2] = 0
    labels[:, 3] = sex[:300] == "M"
    found = fit_predict(age, sex, labels, train_rows=np.arange(300), score_rows=np.arange(300, 400),
                        patients=np.arange(400), phenotype_sex=np.array(["both", "F", "both", "both"]))
    assert np.isnan(found[:, 2]).all()
    assert np.isfinite(found[:, [0, 1, 3]]).all()
    truth = np.stack([age[300:] > 60, age[300:] < 45, sex[300:] == "M"], axis=1).astype(np.int8)
    assert (auc_matrix(found[:, [0, 1, 3]], truth).auc > 0.99).all()
    # No sex columns for a phenotype of one sex: a man and a woman of one age score the same.
    twins = fit_predict(np.array([*age[:300], 50.0, 50.0]), np.array([*sex[:300], "F", "M"]), labels,
                        train_rows=np.arange(300), score_rows=np.array([300, 301]), patients=np.arange(302),
                        phenotype_sex=np.array(["both", "F", "both", "both"]))
    assert twins[0, 1] == twins[1, 1]
    assert twins[0, 3] != twins[1, 3]


def test_no_age_and_no_sex_known():
    rng = np.random.default_rng(2)
    labels = rng.integers(0, 2, (50, 2)).astype(np.int8)
    found = fit_predict(np.full(80, np.nan), np.full(80, "U"), labels, train_rows=np.arange(50),
                        score_rows=np.arange(50, 80), patients=np.arange(80))
    expected = np.log(labels.mean(0) / (1 - labels.mean(0)))
    np.testing.assert_allclose(found, np.tile(expected, (30, 1)), atol=1e-9)


def test_many_distinct_ages_are_rounded_without_harm():
    age, sex, labels = people(9000)
    train, score = np.arange(8500), np.arange(8500, 9000)
    ours = fit_predict(age, sex, labels[:8500], train_rows=train, score_rows=score, patients=np.arange(9000), ridge=0.0)
    X = Design.learn(age[:8500], sex[:8500], with_sex=True).columns(age, sex)
    for j in range(labels.shape[1]):
        keep = labels[:8500, j] >= 0
        peer = sm.Logit(labels[:8500, j][keep], X[:8500][keep]).fit(disp=0, method="newton")
        np.testing.assert_allclose(ours[:, j], X[8500:] @ peer.params, atol=2e-3)
