from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.multitest import multipletests

from phewas.errors import StatisticsError
from phewas.stats.maxt import max_t
from phewas.stats.multiplicity import benjamini_hochberg, benjamini_yekutieli, bonferroni, holm


@given(st.lists(st.one_of(st.floats(0, 1), st.sampled_from([0.0, 0.01, 1.0])), min_size=1, max_size=40))
def test_against_statsmodels(values):
    p = np.array(values)
    np.testing.assert_allclose(benjamini_hochberg(p), multipletests(p, method="fdr_bh")[1], rtol=1e-12, atol=1e-300)
    np.testing.assert_allclose(bonferroni(p), multipletests(p, method="bonferroni")[1], rtol=1e-12, atol=1e-300)
    np.testing.assert_allclose(holm(p), multipletests(p, method="holm")[1], rtol=1e-12, atol=1e-300)
    np.testing.assert_allclose(benjamini_yekutieli(p), multipletests(p, method="fdr_by")[1], rtol=1e-12, atol=1e-300)


def test_family_is_fixed():
    p = np.array([0.01, np.nan, 0.02, 0.001])
    family = np.array([True, True, True, False])
    np.testing.assert_allclose(bonferroni(p, family=family), [0.03, np.nan, 0.06, np.nan])
    np.testing.assert_allclose(benjamini_hochberg(p, family=family), [0.03, np.nan, 0.03, np.nan])
    assert np.isnan(benjamini_hochberg(p, family=np.zeros(4, bool))).all()


def test_refusals():
    with pytest.raises(StatisticsError, match="outside"):
        bonferroni(np.array([1.2]))
    with pytest.raises(StatisticsError, match="shape"):
        benjamini_hochberg(np.array([0.2]), family=np.array([True, False]))


def test_max_t_of_independent_statistics_is_sidak():
    # Independent shares: the joint quantile of 200 normals is known.
    shares = np.random.default_rng(0).standard_normal((200, 3000)).astype(np.float32)
    found = max_t(shares, np.full(200, 3.0), n_draws=4000)
    sidak = 1 - (1 - 2 * stats.norm.sf(3.0)) ** 200
    assert found.p[0] == pytest.approx(sidak, abs=0.03)
    assert found.quantile == pytest.approx(stats.norm.isf((1 - 0.95 ** (1 / 200)) / 2), abs=0.06)


def test_max_t_of_one_statistic_many_times_is_that_of_one():
    shares = np.tile(np.random.default_rng(1).standard_normal(2500).astype(np.float32), (50, 1))
    statistic = np.full(50, -2.0)
    statistic[3] = np.nan
    family = np.arange(50) < 40
    found = max_t(shares, statistic, n_draws=4000, family=family)
    assert found.p[0] == pytest.approx(2 * stats.norm.sf(2.0), abs=0.012)
    assert np.isnan(found.p[[3, 45]]).all()
    assert found.quantile == pytest.approx(1.96, abs=0.07)
    with pytest.raises(StatisticsError, match="shares"):
        max_t(shares[:3], statistic)
