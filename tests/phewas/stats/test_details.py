"""Tables beside the AUCs, each against another library or a design in which the answer is known."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
import statsmodels.api as sm
from scipy import special, stats
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score, roc_curve
from statsmodels.stats.proportion import proportion_confint

from phewas.config import EvaluateConfig
from phewas.stats.calibration import Tuning, calibration, robust_logistic
from phewas.stats.curves import curves, operating_points
from phewas.stats.joint import normal_statistic
from phewas.stats.precision import (
    _kernel,
    _plain,
    patient_draws,
    precision_bounds,
    prevalence_bounds,
    wilson,
)
from phewas.stats.specificity import rank_anchors, specificity
from phewas.stats.subgroups import Grouping, subgroups, with_q


@pytest.fixture(scope="module")
def data():
    """400 patients with 1 to 3 rows, 3 phenotypes, ties, a tenth excluded."""
    rng = np.random.default_rng(5)
    owner = np.repeat(np.arange(400), rng.integers(1, 4, 400))
    risk = rng.random((400, 3)) < 0.3
    labels = risk[owner].astype(np.int8)
    labels[rng.random(labels.shape) < 0.1] = -1
    scores = np.round(rng.normal(size=labels.shape) + risk[owner], 1).astype(np.float32)
    return scores, labels, owner.astype(np.intp)


@pytest.mark.parametrize("way", ["plain", "compiled"])
def test_bootstrapped_average_precision_is_that_of_weighted_rows(data, way):
    scores, labels, owner = data
    drawn = patient_draws(400, n_draws=7, seed=0)
    assert (drawn.sum(axis=0) == 400).all()
    used = labels[:, 0] >= 0
    y, s, codes = labels[used, 0] == 1, scores[used, 0], owner[used]
    order = np.argsort(-s, kind="stable")
    last = np.append(s[order][1:] != s[order][:-1], True)
    ap, share = (_plain if way == "plain" else _kernel())(y[order], last, codes[order], drawn)
    for b in range(7):
        weight = drawn[codes, b].astype(float)
        assert ap[b] == pytest.approx(average_precision_score(y, s, sample_weight=weight), abs=1e-6)
        assert share[b] == pytest.approx(np.average(y, weights=weight), abs=1e-7)


def test_bounds_of_precision_lie_around_it_and_widen_with_the_factor(data):
    scores, labels, owner = data
    ap = np.array([average_precision_score(labels[u, j], scores[u, j])
                   for j in range(3) for u in [labels[:, j] >= 0]])
    drawn = patient_draws(400, n_draws=200, seed=1)
    found = precision_bounds(scores, labels, owner, average_precision=ap, drawn=drawn)
    wide = precision_bounds(scores, labels, owner, average_precision=ap, drawn=drawn, factor=np.array([2.0, 1, np.nan]))
    assert (found.ap_low < ap).all()
    assert (ap < found.ap_high).all()
    lift = ap / [labels[labels[:, j] >= 0, j].mean() for j in range(3)]
    assert ((found.lift_low < lift) & (lift < found.lift_high)).all()
    assert wide.se_logit[0] == pytest.approx(2 * found.se_logit[0])
    assert np.isnan(wide.ap_low[2])


def test_prevalence_is_wilson_for_independent_rows_and_wider_for_patients(data):
    _, labels, owner = data
    alone = prevalence_bounds(labels, np.arange(len(labels), dtype=np.intp))
    count, n = (labels == 1).sum(axis=0), (labels >= 0).sum(axis=0)
    low, high = proportion_confint(count, n, method="wilson")
    np.testing.assert_allclose(alone, [low, high], rtol=2e-3)
    np.testing.assert_allclose(wilson(count / n, n, z=stats.norm.ppf(0.975)), [low, high], rtol=1e-12)
    grouped = prevalence_bounds(labels, owner)
    assert (grouped[1] - grouped[0] > 1.2 * (high - low)).all()
    none = prevalence_bounds(np.zeros((50, 1), np.int8), np.repeat(np.arange(25), 2))
    assert none[1][0] == pytest.approx(proportion_confint(0, 25, method="wilson")[1])


def test_curves_are_those_of_scikit_learn(data):
    scores, labels, _ = data
    table = curves(scores, labels, ["a", "b", "c"])
    used = labels[:, 1] >= 0
    y, s = labels[used, 1], scores[used, 1]
    roc = table.filter((pl.col("phenotype") == "b") & (pl.col("curve") == "roc"))
    fpr, tpr, _ = roc_curve(y, s, drop_intermediate=False)
    np.testing.assert_allclose(roc["x"], fpr)
    np.testing.assert_allclose(roc["y"], tpr)
    pr = table.filter((pl.col("phenotype") == "b") & (pl.col("curve") == "pr"))
    precision, recall, _ = precision_recall_curve(y, s)
    pairs = set(zip(recall.round(12), precision.round(12), strict=True))
    assert set(zip(pr["x"].round(12), pr["y"].round(12), strict=True)) <= pairs
    # Steps under the kept points are the average precision, as long as none was left out.
    area = (pr["x"].diff().fill_null(pr["x"][0]) * pr["y"]).sum()
    assert area == pytest.approx(average_precision_score(y, s))


def test_long_curves_have_200_points_and_keep_their_area():
    rng = np.random.default_rng(2)
    y = (rng.random((20_000, 1)) < 0.03).astype(np.int8)
    s = rng.normal(size=y.shape) + y
    roc = curves(s, y, ["a"]).filter(pl.col("curve") == "roc")
    assert 150 < len(roc) <= 200
    assert (roc["x"][0], roc["y"][0], roc["x"][-1], roc["y"][-1]) == (0, 0, 1, 1)
    assert np.trapezoid(roc["y"], roc["x"]) == pytest.approx(roc_auc_score(y[:, 0], s[:, 0]), abs=2e-3)
    points = operating_points(s, y, ["a"], np.array([int(y.sum())]))
    fpr, tpr, _ = roc_curve(y[:, 0], s[:, 0], drop_intermediate=False)
    for row in points.iter_rows(named=True):
        assert row["sensitivity"] == pytest.approx(tpr[1 - fpr >= row["specificity"] - 1e-12].max())
        assert row["low"] < row["sensitivity"] < row["high"]
        assert row["reached"] >= row["specificity"]


def test_robust_logistic_is_statsmodels(data):
    scores, labels, owner = data
    used = labels[:, 0] >= 0
    y, x = (labels[used, 0] == 1).astype(float), sm.add_constant(scores[used, 0].astype(float))
    codes = np.unique(owner[used], return_inverse=True)[1]
    theirs = sm.Logit(y, x).fit(disp=0, tol=1e-12, cov_type="cluster",
                                cov_kwds={"groups": codes, "use_correction": False})
    ours, c = robust_logistic(x, y, codes), codes.max() + 1
    np.testing.assert_allclose(ours.beta, theirs.params, rtol=1e-8)
    np.testing.assert_allclose(ours.covariance, theirs.cov_params() * c / (c - 1), rtol=1e-7)
    separated = robust_logistic(x, (x[:, 1] > 0).astype(float), codes)
    assert np.isnan(separated.beta).all()


def test_calibration_of_probabilities_that_are_true_and_of_weighted_ones():
    rng = np.random.default_rng(3)
    eta = rng.normal(-1, 1.2, size=(6_000, 1))
    y = (rng.random(eta.shape) < special.expit(eta)).astype(np.int8)
    who = np.arange(6_000, dtype=np.intp) // 2
    table, bins = calibration(eta, y, who, ["a"], plain=True, tuning=None)
    row = table.row(0, named=True)
    assert row["status"] == "raw"
    assert row["intercept_low"] < 0 < row["intercept_high"]
    assert row["slope_low"] < 1 < row["slope_high"]
    assert row["ece"] < 0.02
    p = special.expit(eta[:, 0])
    assert row["brier"] == pytest.approx(np.mean((p - y[:, 0]) ** 2))
    assert row["brier_skill"] == pytest.approx(1 - row["brier"] / (y.mean() * (1 - y.mean())))
    assert bins["n"].to_list() == [600] * 10
    assert (bins["n_cases"].sum(), bins["n"].sum()) == (int(y.sum()), 6_000)
    # A weighted loss shifts and squeezes the logits: only the tuning patients can put them right.
    bent = 0.5 * eta + 2
    assert calibration(bent, y, who, ["a"], plain=False, tuning=None)[0]["status"][0] == "no_tuning_cases"
    assert calibration(bent, y, who, ["a"], plain=None, tuning=None)[0]["brier"][0] is None
    eta2 = rng.normal(-1, 1.2, size=(4_000, 1))
    y2 = (rng.random(eta2.shape) < special.expit(eta2)).astype(np.int8)
    tuning = Tuning(0.5 * eta2 + 2, y2, np.arange(4_000, dtype=np.intp))
    mended = calibration(bent, y, who, ["a"], plain=False, tuning=tuning)[0].row(0, named=True)
    assert mended["status"] == "recalibrated"
    assert mended["slope"] == pytest.approx(1, abs=0.12)
    assert mended["oe_ratio"] == pytest.approx(1, abs=0.06)


def grouped(seed: int, *, gap: float, shared: bool = False, patients: int = 1_000):
    rng = np.random.default_rng(seed)
    owner = np.repeat(np.arange(patients, dtype=np.intp), 2)
    level = np.arange(2 * patients) % 2 if shared else (owner % 2)
    case = rng.random(patients) < 0.3
    personal = rng.normal(size=patients)
    score = 0.8 * personal[owner] + 0.6 * rng.normal(size=2 * patients) + case[owner] * (0.5 + gap * level)
    return score[:, None], case[owner].astype(np.int8)[:, None], owner, level.astype(np.int64)


def test_subgroups_are_aucs_of_their_rows_and_their_difference_is_found():
    score, label, owner, level = grouped(1, gap=0.7)
    table = subgroups(score, label, owner, ["a"], Grouping("sex", ("F", "M"), level), config=EvaluateConfig())
    whole, f, m = table.iter_rows(named=True)
    for row, code in ((f, 0), (m, 1)):
        assert row["auc"] == pytest.approx(roc_auc_score(label[level == code, 0], score[level == code, 0]), abs=1e-12)
        assert row["auc_low"] < row["auc"] < row["auc_high"]
        assert row["n_case_patients"] == len(np.unique(owner[(level == code) & (label[:, 0] == 1)]))
    logit, slope = special.logit([f["auc"], m["auc"]]), [r["auc_se"] / (r["auc"] * (1 - r["auc"])) for r in (f, m)]
    assert whole["statistic"] == pytest.approx((logit[0] - logit[1]) ** 2 / np.sum(np.square(slope)))
    assert whole["p_value"] < 0.001
    q = with_q(table, family={"a": True})
    assert q["q_fdr"].drop_nulls().to_list() == pytest.approx([whole["p_value"]])


def test_heterogeneity_holds_its_level_where_patients_are_in_both_groups():
    p = []
    for seed in range(120):
        score, label, owner, level = grouped(seed, gap=0, shared=True, patients=300)
        table = subgroups(score, label, owner, ["a"], Grouping("visit", ("a", "b"), level), config=EvaluateConfig())
        p.append(table["p_value"][0])
    # Ignoring the shared patients would reject almost never: the difference would look far noisier than it is.
    assert 0.01 < np.mean(np.array(p) < 0.05) < 0.12
    assert stats.kstest(p, "uniform").pvalue > 0.001


def test_small_groups_have_counts_and_nothing_else():
    score, label, owner, level = grouped(1, gap=0)
    level = np.where(owner < 40, 1, 0)
    table = subgroups(score, label, owner, ["a"], Grouping("sex", ("F", "M"), level), config=EvaluateConfig())
    whole, f, m = table.iter_rows(named=True)
    assert (whole["status"], f["status"], m["status"]) == ("too_few_groups", "tested", "too_few_cases")
    assert m["auc"] is None
    assert m["n_case_patients"] > 0
    assert whole["p_value"] is None


def test_specificity_tells_severity_from_disease():
    rng = np.random.default_rng(8)
    n = 4_000
    sick = rng.normal(size=n)
    names = ["1.1", "2", "3", "4", "1.2"]
    own = rng.normal(size=n)
    logits = np.column_stack([sick, sick + 0.3 * rng.normal(size=n), sick + 0.3 * rng.normal(size=n),
                              own + 0.3 * sick, sick + 0.1 * rng.normal(size=n)])
    risk = np.column_stack([sick, sick, sick, own, sick])
    labels = (rng.random(risk.shape) < special.expit(risk - 1.5)).astype(np.int8)
    order = rank_anchors(logits, count=3)
    ranked = {names[k]: logits[:, k] for k in order}
    assert len({"4"} & set(ranked)) == 1
    table = specificity(logits, labels, np.arange(n, dtype=np.intp), names, ranked=ranked, anchors=2, seed=0)
    rows = {row["phenotype"]: row for row in table.iter_rows(named=True)}
    assert rows["2"]["explained"] > 0.9
    assert rows["2"]["residual_auc"] < 0.6
    assert rows["4"]["explained"] < 0.4
    assert rows["4"]["gain_low"] > 0.05
    assert rows["4"]["residual_auc"] > 0.65
    for name, row in rows.items():
        assert all(a.split(".")[0] != name.split(".")[0] for a in row["anchors"].split("; "))


def test_statistics_come_to_the_normal_scale_without_underflow():
    z = np.array([0.0, 1.5, 6.0, 30.0])
    logs = -(np.log(2) + stats.norm.logsf(z)) / np.log(10)
    np.testing.assert_allclose(normal_statistic(logs), z, atol=1e-9)
    assert normal_statistic(np.array([5_000.0]))[0] > 100
