from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from scipy import stats

from phewas.errors import StatisticsError
from phewas.stats.auc import auc
from phewas.stats.compare import compare_matrix, inflate_difference

FRAME = pl.read_csv(Path(__file__).parent / "data" / "stats_reference.csv")


def column(name: str) -> np.ndarray:
    return FRAME[name].to_numpy()


def pair(a: str, b: str, *, clustered: bool = False):
    label = column("y")[:, None]
    clusters = column("patient") if clustered else None
    return compare_matrix(column(a)[:, None], column(b)[:, None], label, clusters=clusters)


# pROC 1.18.0, paired DeLong: covariance, Z, two-sided normal p.
PAIRED = [
    ("cont_a", "cont_b", 0.00043302143936, -0.595601229629, 0.551441655027),
    ("cont_a", "ord5", 0.00107729626413, 1.91211903397, 0.0558609279974),
    ("cont_a", "fp16", 0.00110949848696, 0.952939990902, 0.340620476367),
    ("near1", "cont_a", -4.3351610907e-07, 6.06339481185, 1.33277959055e-09),
    ("cont_a", "const", 0.0, 8.24505035883, 1.6509067637e-16),
]


@pytest.mark.parametrize("a, b, covariance, z, p", PAIRED)
def test_matches_proc(a, b, covariance, z, p):
    found = pair(a, b)
    variances = [auc(column(name), column("y")).se[0] ** 2 for name in (a, b)]
    assert (sum(variances) - found.se[0] ** 2) / 2 == pytest.approx(covariance, abs=1e-13)
    assert found.statistic[0] == pytest.approx(z, rel=1e-9)
    assert 2 * stats.norm.sf(abs(found.statistic[0])) == pytest.approx(p, rel=1e-8)
    # t has the heavier tail.
    assert found.p[0] > p


def test_matches_obuchowski():
    found = pair("cont_a", "cont_b", clustered=True)
    assert found.se[0] ** 2 == pytest.approx(0.00163712087106, rel=1e-10)
    z = found.difference[0] / found.se[0]
    assert 2 * stats.norm.sf(abs(z)) == pytest.approx(0.599494573467, rel=1e-10)
    other = pair("cont_a", "ord5", clustered=True)
    assert other.se[0] ** 2 == pytest.approx(8.99822526943e-05, rel=1e-9)
    z = other.difference[0] / other.se[0]
    assert 2 * stats.norm.sf(abs(z)) == pytest.approx(0.0780722670321, rel=1e-9)


def test_identical_and_constant():
    same = pair("cont_a", "cont_a", clustered=True)
    assert (same.difference[0], same.se[0], same.p[0], same.low[0], same.high[0]) == (0.0, 0.0, 1.0, 0.0, 0.0)
    against = pair("cont_a", "const")
    alone = auc(column("cont_a"), column("y"))
    assert against.statistic[0] == pytest.approx(alone.statistic[0], rel=1e-12)
    assert against.df[0] == pytest.approx(alone.df[0], rel=1e-12)
    assert against.p[0] == pytest.approx(alone.p[0], rel=1e-9)
    apart = pair("separated", "const")
    assert (apart.difference[0], apart.se[0]) == (0.5, 0.0)
    assert np.isnan([apart.p[0], apart.low[0]]).all()


def test_masked_rows_and_antisymmetry():
    label = column("y_masked")[:, None]
    a, b = column("cont_a")[:, None].copy(), column("cont_b")[:, None].astype(np.float32)
    a[label[:, 0] == -1] = np.nan
    forth, back = compare_matrix(a, b, label), compare_matrix(b, a, label)
    assert forth.difference[0] == -back.difference[0]
    assert forth.low[0] == -back.high[0]
    kept = label[:, 0] >= 0
    subset = compare_matrix(a[kept], b[kept], label[kept])
    assert forth.p[0] == pytest.approx(subset.p[0], rel=1e-12)


def test_inflation_widens():
    found = pair("cont_a", "ord5")
    wider = inflate_difference(found, np.array([2.0]))
    assert wider.se[0] == 2 * found.se[0]
    assert wider.p[0] > found.p[0]
    assert wider.high[0] - wider.low[0] == pytest.approx(2 * (found.high[0] - found.low[0]))


def test_shapes():
    with pytest.raises(StatisticsError, match="shapes"):
        compare_matrix(np.zeros((3, 1)), np.zeros((3, 2)), np.zeros((3, 1)))


def test_paired_type_one_error():
    """Two equally good correlated scores, two encounters a patient: about 5 % rejections."""
    rng = np.random.default_rng(77)
    reps, patients = 400, 400
    sick = rng.random((patients, reps)) < 0.15
    shared = rng.normal(size=(patients, reps)) + sick
    scores = []
    for _ in range(2):
        own, noise = rng.normal(size=(patients, reps)), rng.normal(size=(2, patients, reps))
        scores.append((shared + 0.7 * own + 0.7 * noise).reshape(-1, reps))
    labels = np.concatenate([sick, sick]).astype(np.int8)
    found = compare_matrix(*scores, labels, clusters=np.tile(np.arange(patients), 2))
    assert 0.02 < (found.p < 0.05).mean() < 0.09
