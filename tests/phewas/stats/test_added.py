"""Encoder beside age and sex: against statsmodels, and where there is nothing to add."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import polars as pl
import pytest
import statsmodels.api as sm
from scipy import special, stats
from sklearn.metrics import roc_auc_score

from phewas.stats.added import added_value
from phewas.stats.baseline import fit_predict
from phewas.stats.units import Units

NAMES = ["adds", "nothing"]


@pytest.fixture(scope="module")
def units() -> Units:
    """2,000 patients, two encounters each: 800 train, 400 tuning, 800 scored; `nothing` is age alone."""
    rng = np.random.default_rng(7)
    owner = np.repeat(np.arange(2_000, dtype=np.intp), 2)
    age, sex = rng.uniform(20, 90, 2_000), rng.choice(np.array(["F", "M"]), 2_000)
    own = rng.normal(size=2_000)
    centred = (age - 55) / 20
    risk = np.stack([special.expit(-1.5 + centred + own), special.expit(-1.5 + centred)], axis=1)
    labels = (rng.random(risk.shape) < risk)[owner].astype(np.int8)
    logits = np.stack([own, centred], axis=1)[owner] + 0.5 * rng.normal(size=(4_000, 2))
    train, tuning, scored = (np.flatnonzero(m) for m in (owner < 800, (owner >= 800) & (owner < 1200), owner >= 1200))
    columns = {name: j for j, name in enumerate(NAMES)}
    return Units(
        logits=logits.astype(np.float32), labels=labels, head_of=columns, label_of=columns, prediction_rows=scored,
        label_rows=scored, encounters=pl.Series([str(k) for k in scored]), tuning_prediction_rows=tuning,
        tuning_label_rows=tuning, patients=owner, age=age[owner], sex=sex[owner], folds=None,
        train_rows=np.concatenate([train, tuning]), fitted_rows=train, n_dropped=0, n_unscored=0)


def test_wald_and_combination_are_those_of_statsmodels(units):
    table = added_value(units, NAMES, np.array(["both", "both"])).rows_by_key("phenotype", named=True, unique=True)
    row = table["adds"]
    rows, train, tuning = units.label_rows, units.fitted_rows, units.tuning_label_rows
    base = fit_predict(units.age, units.sex, units.labels[train], train_rows=train, patients=units.patients,
                       score_rows=np.concatenate([tuning, rows]))[:, 0]
    left, right = base[: len(tuning)], base[len(tuning) :]
    score = units.logits[:, 0].astype(float)
    y, x = units.labels[rows, 0], sm.add_constant(np.column_stack([right, score[rows]]))
    codes = units.patients[rows]
    theirs = sm.Logit(y, x).fit(disp=0, tol=1e-12, cov_type="cluster",
                                cov_kwds={"groups": codes, "use_correction": False})
    c = len(np.unique(codes))
    se = theirs.bse[2] * np.sqrt(c / (c - 1))
    assert row["beta"] == pytest.approx(theirs.params[2], rel=1e-7)
    assert row["beta_se"] == pytest.approx(se, rel=1e-7)
    cases = len(np.unique(codes[y == 1]))
    assert row["p_value"] == pytest.approx(2 * stats.t.sf(abs(theirs.params[2] / se), cases - 1), rel=1e-5)
    weights = sm.Logit(units.labels[tuning, 0], sm.add_constant(np.column_stack([left, score[tuning]]))).fit(
        disp=0, tol=1e-12).params
    combined = weights[1] * right + weights[2] * score[rows]
    assert row["combined_auc"] == pytest.approx(roc_auc_score(y, combined), abs=1e-6)
    assert row["baseline_auc"] == pytest.approx(roc_auc_score(y, right), abs=1e-12)
    assert row["gain_low"] > 0.02
    assert row["p_value"] < 1e-6
    # An encoder that sees age and nothing else has a high AUC and adds nothing.
    assert table["nothing"]["baseline_auc"] > 0.65
    assert table["nothing"]["p_value"] > 0.01
    assert abs(table["nothing"]["gain"]) < 0.01


def test_without_tuning_cases_there_is_a_reason(units):
    few = replace(units, tuning_prediction_rows=units.tuning_prediction_rows[:10],
                  tuning_label_rows=units.tuning_label_rows[:10])
    assert set(added_value(few, NAMES, np.array(["both", "both"]))["status"]) == {"too_few_tuning_cases"}
    alone = replace(units, fitted_rows=np.empty(0, dtype=np.intp))
    assert set(added_value(alone, NAMES, np.array(["both", "both"]))["status"]) == {"no_baseline"}
    assert added_value(replace(units, folds=units.patients % 5), NAMES, np.array(["both", "both"])).height == 0
