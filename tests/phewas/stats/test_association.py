from __future__ import annotations

import numpy as np
import pytest
import statsmodels.api as sm
from scipy import stats
from statsmodels.duration.hazard_regression import PHReg

from phewas.errors import StatisticsError
from phewas.stats.association import linear, logistic
from phewas.stats.regression import REDUNDANT, RUNS_AWAY
from phewas.stats.survival import cox

N = 1500


@pytest.fixture(scope="module")
def study():
    """Four phenotypes with exclusions, covariates on wide scales, a few unknown values, two rows for some patients."""
    rng = np.random.default_rng(3)
    covariates = np.column_stack([rng.normal(58, 12, N), rng.integers(0, 2, N), rng.normal(0, 1e-3, N)])
    predictor = rng.normal(5, 3, N)
    patients = rng.integers(0, 1100, N)
    eta = -1.5 + 0.03 * (covariates[:, [0]] - 58) + predictor[:, None] * np.array([0.1, 0.0, -0.2, 0.05])
    labels = (rng.random((N, 4)) < 1 / (1 + np.exp(-eta))).astype(np.int8)
    labels[rng.random((N, 4)) < 0.1] = -1
    covariates[:5, 0], predictor[5:9] = np.nan, np.nan
    return predictor, covariates, labels, patients


def rows_of(study, j):
    predictor, covariates, labels, patients = study
    keep = (labels[:, j] >= 0) & np.isfinite(predictor) & np.isfinite(covariates).all(axis=1)
    return sm.add_constant(np.column_stack([covariates, predictor]))[keep], labels[keep, j], patients[keep]


def tight(model, **options):
    return model.fit(disp=0, method="newton", tol=1e-13, maxiter=60, **options)


def test_wald_lrt_and_clustered_errors_are_those_of_statsmodels(study):
    predictor, covariates, labels, patients = study
    wald = logistic(predictor, labels, covariates=covariates, firth_below=0)
    ratio = logistic(predictor, labels, covariates=covariates, firth_below=0, test="lrt")
    grouped = logistic(predictor, labels, covariates=covariates, firth_below=0, clusters=patients)
    for j in range(4):
        design, y, who = rows_of(study, j)
        full, reduced = tight(sm.Logit(y, design)), tight(sm.Logit(y, design[:, :-1]))
        robust = tight(sm.Logit(y, design), cov_type="cluster", cov_kwds={"groups": who})
        assert wald.beta[j] == pytest.approx(full.params[-1], rel=1e-8, abs=1e-12)
        assert wald.se[j] == pytest.approx(full.bse[-1], rel=1e-8)
        assert wald.p[j] == pytest.approx(full.pvalues[-1], rel=1e-7)
        assert (wald.low[j], wald.high[j]) == pytest.approx(tuple(full.conf_int()[-1]), rel=1e-8)
        assert 10 ** -ratio.neg_log10_p[j] == pytest.approx(stats.chi2.sf(2 * (full.llf - reduced.llf), 1), rel=1e-7)
        assert grouped.se[j] == pytest.approx(robust.bse[-1], rel=1e-8)
        assert grouped.p[j] == pytest.approx(robust.pvalues[-1], rel=1e-7)
        assert (wald.n_cases[j], wald.n_controls[j]) == ((y == 1).sum(), (y == 0).sum())
        assert grouped.n_case_clusters[j] == len(np.unique(who[y == 1]))


def test_firth_is_that_of_firthmodels(study):
    firthmodels = pytest.importorskip("firthmodels")
    predictor, covariates, labels, _ = study
    found = logistic(predictor, labels[:, :2], covariates=covariates, firth_below=10**6)
    last = covariates.shape[1]
    for j in range(2):
        design, y, _ = rows_of(study, j)
        scale = design[:, 1:].std(axis=0)  # theirs converges less well on raw scales
        other = firthmodels.FirthLogisticRegression(max_iter=200, gtol=1e-11, xtol=1e-11).fit(design[:, 1:] / scale, y)
        other.lrt([last])
        bounds = other.conf_int(method="pl", features=[last])[last] / scale[-1]
        assert found.beta[j] == pytest.approx(other.coef_[last] / scale[-1], rel=1e-8, abs=1e-11)
        assert found.p[j] == pytest.approx(other.lrt_pvalues_[last], rel=1e-6)
        assert (found.low[j], found.high[j]) == pytest.approx(tuple(bounds), rel=1e-5)
        assert found.method[j].startswith("Firth")


def test_firth_of_a_table_of_four_cells_adds_a_half_to_each():
    """Saturated models: the penalised estimate is the log odds ratio of the cells plus 1/2 (Heinze and Schemper)."""
    predictor = np.repeat([0.0, 0, 1, 1], [40, 5, 30, 0])
    labels = np.repeat([0, 1, 0, 1], [40, 5, 30, 0]).astype(np.int8)[:, None]
    found = logistic(predictor, labels, firth_below=0, min_cases=1)
    assert found.beta[0] == pytest.approx(np.log(0.5 * 40.5 / (30.5 * 5.5)), rel=1e-9)
    assert np.isfinite([found.p[0], found.low[0], found.high[0]]).all()
    assert "separates" in found.note[0]


def test_least_squares_is_that_of_statsmodels(study):
    predictor, covariates, _, patients = study
    rng = np.random.default_rng(5)
    outcomes = 100 + 3 * np.nan_to_num(predictor)[:, None] * [0.0, 1.0] + rng.normal(0, 20, (N, 2))
    outcomes[rng.random((N, 2)) < 0.1] = np.nan
    alone = linear(predictor, outcomes, covariates=covariates)
    grouped = linear(predictor, outcomes, covariates=covariates, clusters=patients)
    for j in range(2):
        keep = np.isfinite(outcomes[:, j]) & np.isfinite(predictor) & np.isfinite(covariates).all(axis=1)
        model = sm.OLS(outcomes[keep, j], sm.add_constant(np.column_stack([covariates, predictor]))[keep])
        plain, robust = model.fit(), model.fit(cov_type="cluster", cov_kwds={"groups": patients[keep]})
        assert (alone.beta[j], alone.se[j]) == pytest.approx((plain.params[-1], plain.bse[-1]), rel=1e-8)
        assert alone.neg_log10_p[j] == pytest.approx(-np.log10(plain.pvalues[-1]), rel=1e-7)
        assert (alone.low[j], alone.high[j]) == pytest.approx(tuple(plain.conf_int()[-1]), rel=1e-8)
        assert grouped.se[j] == pytest.approx(robust.bse[-1], rel=1e-8)


def test_a_score_of_its_own_for_every_phenotype(study):
    predictor, covariates, labels, _ = study
    each = np.column_stack([predictor, predictor**2, -predictor, predictor])
    found = logistic(each, labels, covariates=covariates)
    for j in range(4):
        alone = logistic(each[:, j], labels[:, [j]], covariates=covariates)
        assert (found.beta[j], found.se[j]) == (alone.beta[0], alone.se[0])


def test_threads_change_no_bit(study):
    predictor, covariates, labels, patients = study
    many = np.tile(labels, 20)
    one, two = (logistic(predictor, many, covariates=covariates, clusters=patients, threads=t) for t in (1, 2))
    assert one.beta.tobytes() == two.beta.tobytes()
    assert one.se.tobytes() == two.se.tobytes()


def test_covariates_that_say_nothing_here_are_dropped_and_named(study):
    predictor, covariates, labels, _ = study
    labels = labels.copy()
    labels[covariates[:, 1] == 1, 0] = -1
    found = logistic(predictor, labels, covariates=covariates, names=["age", "male", "pc"])
    without = logistic(predictor, labels[:, [0]], covariates=covariates[:, [0, 2]])
    assert found.beta[0] == pytest.approx(without.beta[0], rel=1e-9)
    assert "male" in found.note[0]
    assert not found.note[1]
    twice = logistic(covariates[:, 1] * 2.0, labels[:, 1:], covariates=covariates)
    assert all(note.startswith(REDUNDANT) for note in twice.note)
    assert np.isnan(twice.beta).all()


def test_a_covariate_that_separates_leaves_the_predictor_its_estimate(study):
    predictor, covariates, labels, _ = study
    label = labels[:, [0]].copy()
    rare = np.zeros(N)
    rare[np.flatnonzero(label[:, 0] == 0)[:8]] = 1
    found = logistic(predictor, label, covariates=np.column_stack([covariates, rare]), firth_below=0)
    label[rare == 1] = -1
    without = logistic(predictor, label, covariates=covariates, firth_below=0)
    assert RUNS_AWAY in found.note[0] or "Firth" in found.note[0]
    if RUNS_AWAY in found.note[0]:
        assert found.beta[0] == pytest.approx(without.beta[0], rel=1e-6)


def test_too_few_cases_no_model(study):
    predictor, covariates, labels, patients = study
    labels = labels.copy()
    labels[np.flatnonzero(labels[:, 0] == 1)[19:], 0] = 0
    found = logistic(predictor, labels, covariates=covariates, clusters=patients)
    assert np.isnan(found.p[0])
    assert found.note[0].startswith("no model:")


def test_what_cannot_be_asked_is_told(study):
    predictor, covariates, labels, patients = study
    with pytest.raises(StatisticsError, match="independent rows"):
        logistic(predictor, labels, covariates=covariates, clusters=patients, test="lrt")
    with pytest.raises(StatisticsError, match="1, 0 and -1"):
        logistic(predictor, labels + 3, covariates=covariates)
    with pytest.raises(StatisticsError, match="do not fit together"):
        logistic(predictor[:-1], labels, covariates=covariates)


def test_cox_is_that_of_statsmodels_on_raw_columns():
    rng = np.random.default_rng(8)
    age, x = rng.normal(60, 10, 500), rng.normal(2, 3, 500)
    hidden = rng.exponential(np.exp(-0.03 * (age - 60) - 0.2 * x)) * 2000
    time = np.ceil(np.minimum(hidden, 1000))[:, None]
    event = (hidden <= 1000)[:, None]
    found = cox(x, time, event, covariates=np.column_stack([age, np.ones(500)]), names=["age", "always"])
    fit = PHReg(time[:, 0], np.column_stack([age, x]), status=event[:, 0].astype(int), ties="efron").fit()
    assert (found.beta[0], found.se[0]) == pytest.approx((fit.params[1], fit.bse[1]), rel=1e-5)
    assert found.n_cases[0] == event.sum()
    assert "always" in found.note[0]
