"""Blocks of rows give what the whole matrix gives, whatever the blocks, the types and the order of patients."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from phewas.errors import StatisticsError
from phewas.stats.auc import auc_matrix
from phewas.stats.streaming import row_blocks, stream_auc
from phewas.stats.sweep import COMPILED

EXACT = ("auc", "n_cases", "n_controls", "n_case_clusters", "n_control_clusters")


def example(n: int = 700, p: int = 21, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    scores = rng.standard_normal((n, p)).astype(np.float32)
    labels = (rng.random((n, p)) < np.linspace(0.0, 0.9, p)).astype(np.int8)
    labels[rng.random(labels.shape) < 0.1] = -1
    labels[:, 2] = np.abs(labels[:, 2])
    scores[:, 2] += 20 * labels[:, 2]
    return scores, labels, rng.integers(0, n // 2, n)


def agree(streamed, whole) -> None:
    for name, value in vars(whole).items():
        if name in EXACT:
            np.testing.assert_array_equal(getattr(streamed, name), value, err_msg=name)
        elif getattr(value, "dtype", None) == np.float64:
            np.testing.assert_allclose(getattr(streamed, name), value, rtol=1e-11, atol=1e-14, err_msg=name)
        elif isinstance(value, np.ndarray):
            np.testing.assert_array_equal(getattr(streamed, name), value, err_msg=name)


@pytest.mark.parametrize("compiled", [pytest.param(True, marks=pytest.mark.skipif(not COMPILED, reason="no numba")),
                                      False])
@pytest.mark.parametrize("rows", [1, 97, 700])
@pytest.mark.parametrize("grouped", [True, False])
def test_blocks_of_any_size_equal_the_whole(rows, grouped, compiled):
    scores, labels, patients = example()
    if rows == 1:
        scores, labels, patients = scores[:90], labels[:90], patients[:90] % 17
    clusters = patients if grouped else None
    agree(stream_auc(row_blocks(scores, labels, rows=rows), clusters=clusters, compiled=compiled),
          auc_matrix(scores, labels, clusters=clusters))


SHAPES = {
    "float64": lambda s: s.astype(np.float64),
    "float16": lambda s: s.astype(np.float16),
    "ties": np.round,
    "constant": np.zeros_like,
    "both zeros": lambda s: np.where(s > 0, np.float32(0), np.float32(-0.0)),
    "infinite": lambda s: np.where(s > 1.5, np.inf, np.where(s < -1.5, -np.inf, s)),
    "only infinite": lambda s: np.where(s > 0, np.inf, -np.inf),
    "crowded": lambda s: np.exp(30 * s.astype(np.float64)),
    "tiny steps": lambda s: 1 + np.round(s * 50) * np.finfo(np.float64).eps,
    "huge": lambda s: s.astype(np.float64) * 5e306,
}


@pytest.mark.parametrize("shape", SHAPES)
def test_any_scores(shape):
    scores, labels, patients = example(400, 9)
    made = SHAPES[shape](scores)
    agree(stream_auc(row_blocks(made, labels, rows=150), clusters=patients),
          auc_matrix(made, labels, clusters=patients))


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 60), st.integers(1, 5), st.integers(1, 40), st.booleans())
def test_property_any_order_of_blocks(seed, n, p, rows, spread):
    """Ties, patients over blocks, phenotypes of one kind only, blocks of unequal size, rows in another order."""
    rng = np.random.default_rng(seed)
    scores = rng.integers(-3, 4, (n, p)).astype(np.float32) if spread else rng.standard_normal((n, p))
    labels = rng.integers(-1, 2, (n, p)).astype(np.int8)
    patients = rng.integers(0, max(n // 2, 1), n)
    whole = auc_matrix(scores, labels, clusters=patients)
    cuts = np.sort(rng.integers(0, n + 1, rows))
    order = rng.permutation(n)
    kept = []
    for rows_ in (np.arange(n), order):
        blocks = [(scores[part], labels[part]) for part in np.split(rows_, cuts)]
        found = stream_auc(lambda blocks=blocks: iter(blocks), clusters=patients[rows_])
        agree(found, whole)
        kept.append(found.se.tobytes())
    assert kept[0] == kept[1]


def test_little_memory_makes_groups_of_columns(tmp_path):
    scores, labels, patients = example(2000, 40)
    np.save(tmp_path / "s.npy", scores)
    np.save(tmp_path / "l.npy", labels)
    blocks = row_blocks(*(np.load(tmp_path / name, mmap_mode="r") for name in ("s.npy", "l.npy")), rows=300)
    passes = []

    def counted():
        passes.append(1)
        return blocks()

    roomy = stream_auc(counted, clusters=patients)
    assert len(passes) == 2
    tight = stream_auc(counted, clusters=patients, memory_mb=0)
    assert len(passes) == 2 + 2 * 40
    assert tight.se.tobytes() == roomy.se.tobytes()
    agree(roomy, auc_matrix(scores, labels, clusters=patients))


def test_mistakes_are_told():
    scores, labels, patients = example(60, 40)
    broken = scores.copy()
    broken[50, 33], labels[50, 33] = np.nan, 1
    with pytest.raises(StatisticsError, match="column 33 has no score"):
        stream_auc(row_blocks(broken, labels, rows=20))
    with pytest.raises(StatisticsError, match="clusters have length 59"):
        stream_auc(row_blocks(scores, labels, rows=20), clusters=patients[1:])
    with pytest.raises(StatisticsError, match="block 1 has shape"):
        stream_auc(lambda: iter([(scores, labels), (scores[:, 1:], labels[:, 1:])]))
    once = iter([(scores, labels)])
    with pytest.raises(StatisticsError, match="a pass has 0 blocks"):
        stream_auc(lambda: once)
    assert len(stream_auc(lambda: iter([]))) == 0
