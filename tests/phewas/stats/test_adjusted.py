"""The AUC within sex and age decade: against pairs counted one by one, and by simulation."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import special, stats

from phewas.stats.adjusted import adjusted_auc, strata
from phewas.stats.auc import auc_matrix


def study(seed: int, *, n: int = 400, own: float = 0.8):
    """Two units a patient; score and risk both rise with age, `own` is what the score sees beyond it."""
    rng = np.random.default_rng(seed)
    owner = np.repeat(np.arange(n, dtype=np.intp), 2)
    age, sex = rng.uniform(20, 90, n), rng.choice(np.array(["F", "M"]), n)
    decade = np.floor(age / 10)
    case = rng.random(n) < special.expit(-1 + (decade - 5) / 2)
    score = (decade - 5)[owner] / 2 + own * case[owner] + rng.normal(size=n)[owner] + rng.normal(size=2 * n)
    return np.round(score, 2)[:, None], case[owner].astype(np.int8)[:, None], owner, strata(age[owner], sex[owner])


def test_it_is_the_share_of_pairs_within_strata_weighted_by_cases():
    score, label, owner, codes = study(1)
    codes[:7] = -1
    row = adjusted_auc(score, label, owner, ["a"], codes).row(0, named=True)
    total, cases = 0.0, 0
    for code in np.unique(codes[codes >= 0]):
        x, y = (score[(codes == code) & (label[:, 0] == k), 0] for k in (1, 0))
        if len(x) and len(y):
            total += np.mean((x[:, None] > y) + 0.5 * (x[:, None] == y), axis=1).sum()
            cases += len(x)
    assert row["adjusted_auc"] == pytest.approx(total / cases, abs=1e-12)
    assert row["adjusted_auc"] < row["auc"]
    assert row["adjusted_low"] < row["adjusted_auc"] < row["adjusted_high"]


def test_one_stratum_is_the_plain_auc():
    score, label, owner, codes = study(2)
    row = adjusted_auc(score, label, owner, ["a"], np.zeros_like(codes)).row(0, named=True)
    plain = auc_matrix(score, label, clusters=owner)
    assert row["adjusted_auc"] == pytest.approx(plain.auc[0], abs=1e-12)
    assert row["adjusted_se"] == pytest.approx(plain.se[0], rel=0.01)


def test_one_stratum_has_nearly_the_plain_p_where_encounters_are_uneven():
    rng = np.random.default_rng(3)
    owner = np.repeat(np.arange(1200), rng.geometric(0.4, 1200))
    label = (owner < 400).astype(np.int8)[:, None]
    score = rng.normal(size=1200)[owner, None] + 0.35 * label + rng.normal(size=(len(owner), 1))
    row = adjusted_auc(score, label, owner, ["a"], np.zeros(len(owner), dtype=np.int64)).row(0, named=True)
    plain = auc_matrix(score, label, clusters=owner)
    wald = 2 * stats.t.sf((plain.auc[0] - 0.5) / plain.se[0], plain.df[0])
    assert np.log(row["p_value"]) == pytest.approx(np.log(plain.p[0]), rel=0.02)
    assert np.log(row["p_value"]) > 0.97 * np.log(wald)


def test_what_age_alone_explains_is_gone_and_the_interval_covers():
    p, plain = [], []
    for seed in range(150):
        score, label, owner, codes = study(seed, n=300, own=0)
        row = adjusted_auc(score, label, owner, ["a"], codes).row(0, named=True)
        p.append(row["p_value"])
        plain.append(row["auc"])
    assert np.mean(plain) > 0.6
    assert 0.01 < np.mean(np.array(p) < 0.05) < 0.11


def test_unknown_age_or_sex_is_in_no_stratum():
    found = strata(np.array([55.0, np.nan, 55.0, 55.0]), np.array(["F", "F", "U", "M"]))
    assert found[1] == found[2] == -1
    assert found[0] != found[3]
