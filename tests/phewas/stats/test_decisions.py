"""Net benefit: the figures of the package dcurves, worked out by hand, and no figure without a probability."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from scipy import special

from phewas.schema import NetBenefit
from phewas.stats.calibration import Tuning, calibration
from phewas.stats.decisions import net_benefit
from phewas.stats.precision import patient_draws

THRESHOLDS = [0.05, 0.1, 0.2, 0.3]
# Of dcurves 1.1.7 (`dca`) for these very rows: the model, and treating all.
DCURVES = [0.177640, 0.146177, 0.117554, 0.089263], [0.176839, 0.131108, 0.022497, -0.117146]


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(5)
    owner = np.repeat(np.arange(400), rng.integers(1, 4, 400))
    y = (rng.random(len(owner)) < 0.2).astype(np.int8)
    logit = (rng.normal(size=len(owner)) + 1.2 * y - 1.8).astype(np.float32)
    return logit[:, None], y[:, None], owner.astype(np.intp)


def found(data, *, plain=True, tuning=None, thresholds=THRESHOLDS, draws=400) -> pl.DataFrame:
    return NetBenefit.check(net_benefit(
        *data, ["a"], thresholds=thresholds, plain=plain, tuning=tuning,
        drawn=patient_draws(400, n_draws=draws, seed=0)))


def test_figures_are_those_of_dcurves(data):
    table = found(data)
    np.testing.assert_allclose(table["net_benefit"], DCURVES[0], atol=6e-7)
    np.testing.assert_allclose(table["treat_all"], DCURVES[1], atol=6e-7)
    np.testing.assert_allclose(table["over_treat_all"], np.subtract(*DCURVES), atol=2e-6)
    assert (table["low"] < table["net_benefit"]).all()
    assert (table["net_benefit"] < table["high"]).all()
    flagged = [(special.expit(data[0][:, 0].astype(float)) >= t).sum() for t in THRESHOLDS]
    assert table["n_flagged"].to_list() == flagged


def test_bounds_are_percentiles_over_whole_patients(data):
    logit, y, owner = data
    drawn = patient_draws(400, n_draws=25, seed=3)
    table = net_benefit(logit, y, owner, ["a"], thresholds=[0.2], plain=True, tuning=None, drawn=drawn)
    own, over = [], []
    for b in range(25):
        rows = np.repeat(np.arange(len(owner)), drawn[owner, b])
        p, true = special.expit(logit[rows, 0].astype(float)) >= 0.2, y[rows, 0] == 1
        own.append((p & true).mean() - (p & ~true).mean() * 0.2 / 0.8)
        over.append(own[-1] - (true.mean() - (1 - true.mean()) * 0.2 / 0.8))
    bounds = (0.025, 0.975)
    np.testing.assert_allclose(table.select("low", "high").row(0), np.quantile(own, bounds), atol=1e-6)
    np.testing.assert_allclose(table.select("over_low", "over_high").row(0), np.quantile(over, bounds), atol=1e-6)


def test_excluded_rows_and_patients_do_not_count(data):
    logit, y, owner = data
    masked = y.copy()
    masked[owner < 50] = -1
    kept = owner >= 50
    half = found((logit, masked, owner))
    alone = found((logit[kept], y[kept], owner[kept]))
    assert half.select("net_benefit", "treat_all").equals(alone.select("net_benefit", "treat_all"))


def test_without_a_probability_there_is_a_reason_and_no_figure(data):
    rng = np.random.default_rng(0)
    few = Tuning(rng.normal(size=(30, 1)), np.r_[np.ones(5), np.zeros(25)].astype(np.int8)[:, None], np.arange(30))
    for plain, tuning, reason in ((None, None, "unknown_training"), (False, None, "no_tuning_cases"),
                                  (False, few, "no_tuning_cases")):
        table = found(data, plain=plain, tuning=tuning)
        assert table["status"].to_list() == [reason] * 4
        assert table["net_benefit"].null_count() == table["low"].null_count() == 4
        assert calibration(*data, ["a"], plain=plain, tuning=tuning)[0]["status"].to_list() == [reason]


def test_recalibration_undoes_a_shift_of_the_logits(data):
    """Logits that are 3 too high are worthless as they are; recalibrated on tuning patients they serve as before."""
    logit, y, owner = data
    rng = np.random.default_rng(1)
    label = (rng.random(4000) < 0.2).astype(np.int8)
    tuning = Tuning((rng.normal(size=4000) + 1.2 * label + 1.2)[:, None], label[:, None], np.arange(4000))
    shifted = found((logit + 3, y, owner), thresholds=[0.2])["net_benefit"][0]
    mended = found((logit + 3, y, owner), plain=False, tuning=tuning, thresholds=[0.2])
    assert mended["status"][0] == "recalibrated"
    assert mended["net_benefit"][0] == pytest.approx(DCURVES[0][2], abs=0.01)
    assert shifted < mended["low"][0]
