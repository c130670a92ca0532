"""Batched heads: scikit-learn's coefficients in both precisions, a strength per phenotype, patients left out whole."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from phewas.learning import logistic, probe


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    latent = rng.standard_normal((3000, 60))
    x = (latent @ (rng.standard_normal((60, 60)) * (np.arange(1, 61) ** -0.7)[:, None])).astype(np.float32)
    prevalence = np.array([0.01, 0.03, 0.1, 0.3, 0.5])
    logit = latent[:, :5] * np.array([1.5, 1, 0.5, 0, 2]) + np.log(prevalence / (1 - prevalence))
    y = (rng.random((3000, 5)) < 1 / (1 + np.exp(-logit))).astype(np.int8)
    y[rng.random(y.shape) < 0.1] = -1
    return x, y


def scikit_learns(x, y, heads, l2):
    from sklearn.linear_model import LogisticRegression

    z = (x - heads.mean) / heads.scale
    for p in range(y.shape[1]):
        kept = y[:, p] >= 0
        fit = LogisticRegression(C=1 / l2[p], tol=1e-9, max_iter=20_000).fit(z[kept], y[kept, p])
        yield p, fit.coef_[0], fit.intercept_[0]


@pytest.mark.parametrize("small", [0, logistic.SMALL])
def test_heads_of_one_strength_each_are_scikit_learns_in_both_precisions(data, monkeypatch, small):
    monkeypatch.setattr(logistic, "SMALL", small)
    monkeypatch.setitem(logistic.BLOCK_PHENOTYPES, "cpu", 2)
    monkeypatch.setitem(logistic.BLOCK_ROWS, "cpu", 700)
    x, y = data
    l2 = np.array([3.0, 30.0, 300.0, 3.0, 3000.0])
    heads = probe.fit_heads(x, y, l2=l2)
    for p, weight, bias in scikit_learns(x, y, heads, l2):
        np.testing.assert_allclose(heads.weight[:, p], weight, atol=1e-3)
        np.testing.assert_allclose(heads.bias[p], bias, atol=1e-3)


def test_a_warm_start_ends_where_a_cold_one_does(data):
    x, y = data
    prepared = probe.Prepared.of(x)
    far = prepared.fit(y, l2=3000.0)
    warm, cold = prepared.fit(y, l2=3.0, start=far), prepared.fit(y, l2=3.0)
    np.testing.assert_allclose(warm.weight, cold.weight, atol=1e-4)


def test_more_features_than_rows_and_columns_that_repeat_others():
    rng = np.random.default_rng(1)
    x = rng.standard_normal((80, 200)).astype(np.float32)
    x[:, 100:] = x[:, :100]
    y = (x[:, :1] + rng.standard_normal((80, 2)) > 0).astype(np.int8)
    heads = probe.fit_heads(x, y, l2=4.0)
    np.testing.assert_allclose(heads.weight[:100], heads.weight[100:], atol=1e-6)
    for p, weight, _ in scikit_learns(x, y, heads, np.full(2, 4.0)):
        np.testing.assert_allclose(heads.weight[:, p], weight, atol=1e-3)


def test_each_phenotype_gets_the_strength_that_predicts_it_best(data):
    x, y = data
    patients = np.repeat(np.arange(1000), 3)
    chosen = probe.choose_strengths(x, y, patients, seed=0) / len(x)
    assert set(chosen) <= set(probe.STRENGTHS)
    assert chosen[3] == max(chosen)  # nothing to learn: the strongest
    assert chosen[4] < chosen[3]
    np.testing.assert_array_equal(chosen, probe.choose_strengths(x, y, patients, seed=0) / len(x))


def test_a_patient_is_left_out_whole(monkeypatch):
    """Features that name the patient predict the labels within patients and nothing across: only grouping tells."""
    monkeypatch.setattr(probe, "STRENGTHS", (0.01, 0.1, 1.0))
    rng = np.random.default_rng(2)
    patients = np.repeat(np.arange(60), 5)
    x = (rng.standard_normal((60, 60))[patients] + 0.01 * rng.standard_normal((300, 60))).astype(np.float32)
    y = rng.integers(0, 2, (60, 4)).astype(np.int8)[patients]
    grouped = probe.choose_strengths(x, y, patients, seed=0) / 300
    alone = probe.choose_strengths(x, y, np.arange(300), seed=0) / 300
    assert alone.max() < grouped.min()


def test_cross_entropy_is_torchs():
    torch.manual_seed(0)
    logits, labels = torch.randn(30, 3) * 5, torch.randint(-1, 2, (30, 3))
    each = torch.nn.functional.binary_cross_entropy_with_logits(logits, labels.clamp(min=0).float(), reduction="none")
    ours = probe.cross_entropy(logits.numpy(), labels.numpy().astype(np.int8))
    np.testing.assert_allclose(ours, (each * (labels >= 0)).sum(0).numpy(), rtol=1e-5)
