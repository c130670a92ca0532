"""Pooling against statsmodels; tables of sites, what is refused and what is hidden."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from scipy import special, stats
from statsmodels.stats.meta_analysis import combine_effects

from phewas.errors import SchemaError, StatisticsError
from phewas.stats.meta import pool
from phewas.stats.meta_tables import combine_tables


def example(k: int, size: int = 30) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(k)
    return rng.normal(0.5, 0.4, (k, size)), rng.uniform(0.005, 0.2, (k, size))


@pytest.mark.parametrize("k", [2, 3, 8])
def test_dersimonian_laird_and_hartung_knapp_equal_statsmodels(k):
    y, v = example(k)
    ours = pool(y, v, between="dersimonian-laird", at_least_one=False)
    checked = 0
    for j in range(y.shape[1]):
        theirs = combine_effects(y[:, j], v[:, j], method_re="dl")
        close = {"rel": 1e-10, "abs": 1e-10}
        assert ours.q[j] == pytest.approx(theirs.q, **close)
        assert ours.i2[j] == pytest.approx(max(theirs.i2, 0.0), **close)
        assert ours.fixed_effect[j] == pytest.approx(theirs.mean_effect_fe, **close)
        assert ours.fixed_se[j] == pytest.approx(theirs.sd_eff_w_fe, **close)
        assert ours.fixed_p[j] == pytest.approx(
            2 * stats.norm.sf(abs(theirs.mean_effect_fe / theirs.sd_eff_w_fe)), **close)
        if theirs.tau2 > 0:  # statsmodels does not cut it at 0
            checked += 1
            low, high = theirs.conf_int(use_t=True)[3]
            for mine, other in ((ours.tau2, theirs.tau2), (ours.effect, theirs.mean_effect_re), (ours.low, low),
                                (ours.high, high), (ours.se, np.sqrt(theirs.var_hksj_re))):
                assert mine[j] == pytest.approx(other, **close)
    assert checked > 5


@pytest.mark.parametrize("k", [2, 3, 8])
def test_paule_mandel_equals_statsmodels(k):
    y, v = example(k)
    ours = pool(y, v)
    checked = 0
    for j in range(y.shape[1]):
        theirs = combine_effects(y[:, j], v[:, j], method_re="pm", atol=1e-7, maxiter=500)
        if theirs.tau2 > 0:
            checked += 1
            # It stops where the equation holds to 1e-7, and restarts from 0 if asked for more.
            assert ours.tau2[j] == pytest.approx(theirs.tau2, rel=1e-5)
            assert ours.effect[j] == pytest.approx(theirs.mean_effect_re, rel=1e-5)
        # Ours solves the equation to the last digits.
        w = 1 / (v[:, j] + ours.tau2[j])
        rest = float((w * (y[:, j] - ours.effect[j]) ** 2).sum())
        assert rest == pytest.approx(k - 1, rel=1e-10) if ours.tau2[j] > 0 else rest <= k - 1
    assert checked > 5


def test_few_sites_that_agree_get_no_narrower_interval_than_equal_effects():
    y, v = np.full((3, 1), 0.5), np.full((3, 1), 0.04)
    careful, plain = pool(y, v), pool(y, v, at_least_one=False)
    assert plain.se[0] < 1e-15
    assert careful.se[0] == pytest.approx(careful.fixed_se[0])
    alone = pool(np.array([[0.5], [np.nan]]), np.array([[0.04], [np.nan]]))
    assert (alone.effect[0], alone.se[0], alone.n_sites[0]) == (0.5, pytest.approx(0.2), 1)
    assert np.isnan(alone.tau2[0])
    nobody = pool(np.full((2, 1), np.nan), np.full((2, 1), np.nan))
    assert np.isnan(nobody.effect[0])
    assert nobody.weights.sum() == 0
    with pytest.raises(StatisticsError, match="positive"):
        pool(y, 0 * v)


def site(shift: float = 0.0, **change) -> pl.DataFrame:
    auc = special.expit(np.array([0.4, 0.9, 1.4]) + shift)
    half = 1.96 * np.array([0.1, 0.2, 0.3])
    return pl.DataFrame({
        "phenotype": ["008", "411", "427"], "vocabulary": "phecode1.2", "label_window": "any", "unit": "encounter",
        "status": "tested", "auc": auc, "auc_low": special.expit(special.logit(auc) - half),
        "auc_high": special.expit(special.logit(auc) + half), "n_case_patients": ["100", "40", "25"],
        "n_control_patients": ["900", "960", "975"],
    } | change)


def test_tables_of_sites_are_pooled_on_the_logit_scale():
    found = combine_tables({"a": site(), "b": site(0.3), "c": site(-0.2)})
    row = found.pooled.row(0, named=True)
    y = np.array([[0.4], [0.7], [0.2]])
    alone = pool(y, np.full((3, 1), (0.1 * 1.96 / 1.959963984540054) ** 2))
    assert row["auc"] == pytest.approx(special.expit(alone.effect[0]), abs=1e-10)
    assert row["auc_low"] == pytest.approx(special.expit(alone.low[0]), abs=1e-10)
    assert row["auc_prediction_low"] < row["auc_low"] < row["auc"]
    assert row["i2"] == pytest.approx(alone.i2[0], abs=1e-9)
    assert (row["n_sites"], row["n_case_patients"], row["status"]) == (3, 300, "pooled")
    weights = found.sites.filter(pl.col("phenotype") == "008")
    assert weights["site"].to_list() == ["a", "b", "c"]
    assert weights["weight"].sum() == pytest.approx(1)


def test_small_cells_stay_hidden_and_out():
    small = site(n_case_patients=["<11", "40", "7"])
    found = combine_tables({"a": site(), "b": small, "c": site(0.1)})
    rows = found.sites.filter((pl.col("site") == "b") & pl.col("phenotype").is_in(["008", "427"]))
    assert rows["left_out"].to_list() == ["small_cell", "small_cell"]
    assert rows["n_case_patients"].null_count() == 2
    assert rows["auc"].null_count() == 2
    assert rows["weight"].to_list() == [0.0, 0.0]
    assert found.pooled["n_case_patients"].to_list() == [200, 120, 50]
    one = combine_tables({"a": site(), "b": site(status=["too_few_cases", "tested", "tested"])})
    assert one.pooled["status"].to_list() == ["one_site", "pooled", "pooled"]
    assert one.pooled["q_fdr"].null_count() == 1


def betas(shift: float = 0.0, **change) -> pl.DataFrame:
    return pl.DataFrame({
        "phenotype": ["008", "411"], "predictor": "rs1", "adjustment": "age; sex", "type": "logistic",
        "beta": [0.2 + shift, 0.5], "SE": [0.1, 0.2], "n_total": [1000, 900], "n_cases": [100, 90],
        "n_controls": [900, 810]} | change)


def test_coefficients_of_sites():
    found = combine_tables({"a": betas(), "b": betas(0.3)})
    theirs = combine_effects(np.array([0.2, 0.5]), np.array([0.01, 0.01]), method_re="dl")
    row = found.pooled.row(0, named=True)
    # Two equal variances: Paule-Mandel and DerSimonian-Laird agree.
    assert row["effect"] == pytest.approx(theirs.mean_effect_re, abs=1e-10)
    assert row["tau2"] == pytest.approx(theirs.tau2, abs=1e-10)
    assert row["OR"] == pytest.approx(np.exp(row["effect"]))
    told = combine_tables({"a": betas(), "b": betas(adjustment="age")}).notes
    assert "different covariates" in told[0]
    assert "one degree of freedom" in told[-1]


def test_mistakes_are_told():
    for tables, match in (
        ({"a": site()}, "only site"),
        ({"a": site(), "b": site(vocabulary="phecodeX")}, "differ in vocabulary"),
        ({"a": site(), "b": site(unit="patient")}, "differ in unit"),
        ({"a": site(unit="segment"), "b": site(unit="segment")}, "count segments"),
        ({"a": site(), "b": site().drop("auc_low")}, "b lacks the columns auc_low"),
        ({"a": site(), "b": betas()}, "holds AUCs"),
        ({"a": site(), "b": site(phenotype=["1", "2", "3"])}, "share no phenotype"),
        ({"a": site(), "b": pl.concat([site(), site()])}, "several rows"),
        ({"a": betas(), "b": betas(type="linear")}, "differ in type"),
    ):
        with pytest.raises(SchemaError, match=match):
            combine_tables(tables)
