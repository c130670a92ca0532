from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from statsmodels.stats.multitest import multipletests

from phewas.errors import StatisticsError
from phewas.stats.multiplicity import benjamini_hochberg, bonferroni


@given(st.lists(st.one_of(st.floats(0, 1), st.sampled_from([0.0, 0.01, 1.0])), min_size=1, max_size=40))
def test_against_statsmodels(values):
    p = np.array(values)
    np.testing.assert_allclose(benjamini_hochberg(p), multipletests(p, method="fdr_bh")[1], rtol=1e-12, atol=1e-300)
    np.testing.assert_allclose(bonferroni(p), multipletests(p, method="bonferroni")[1], rtol=1e-12, atol=1e-300)


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
