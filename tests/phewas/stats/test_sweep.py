"""The compiled pass gives what the NumPy pass gives, whatever the type, the memory order and the scores."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

from phewas.errors import StatisticsError
from phewas.stats.sweep import COMPILED, sweep

pytestmark = pytest.mark.skipif(not COMPILED, reason="numba is not installed")


def example(n: int = 900, p: int = 19, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    scores = rng.standard_normal((n, p)).astype(np.float32)
    labels = (rng.random((n, p)) < np.linspace(0.0, 0.9, p)).astype(np.int8)
    labels[rng.random(labels.shape) < 0.1] = -1
    labels[labels[:, 1] == 1, 1] = 0
    labels[5, 1] = 1
    return scores, labels, rng.integers(0, n // 2, n)


def agree(scores: np.ndarray, labels: np.ndarray, **options) -> None:
    ours, plain = (sweep(scores, labels, compiled=compiled, **options) for compiled in (True, False))
    mine, theirs = (vars(one) | vars(one.spread) for one in (ours, plain))
    for name, value in theirs.items():
        if isinstance(value, np.ndarray):
            close = {"rtol": 1e-5, "atol": 1e-9} if name == "shares" else {"rtol": 1e-11, "atol": 1e-24}
            if name == "slope":  # sums of deviations of either sign
                close["atol"] = 1e-14
            np.testing.assert_allclose(mine[name], value, err_msg=name, **close)


SHAPES = {
    "float32": lambda s: s,
    "float64": lambda s: s.astype(np.float64),
    "float16": lambda s: s.astype(np.float16),
    "column-major": np.asfortranarray,
    "reversed": lambda s: s[:, ::-1],
    "ties": np.round,
    "constant": np.zeros_like,
    "both zeros": lambda s: np.where(s > 0, np.float32(0), np.float32(-0.0)),
    "infinite": lambda s: np.where(s > 1.5, np.inf, np.where(s < -1.5, -np.inf, s)),
    "only infinite": lambda s: np.where(s > 0, np.inf, -np.inf),
    "crowded": lambda s: np.exp(30 * s.astype(np.float64)),
    "tiny steps": lambda s: 1 + np.round(s * 50) * np.finfo(np.float64).eps,
    "huge": lambda s: s.astype(np.float64) * 3e307,
}


@pytest.mark.parametrize("shape", SHAPES)
def test_compiled_equals_numpy(shape):
    scores, labels, patients = example()
    made = SHAPES[shape](scores)
    agree(made, labels)
    agree(made, labels, clusters=patients)
    agree(made, labels, clusters=patients, other=scores)


def test_shares_of_the_patients():
    scores, labels, patients = example()
    agree(scores, labels, clusters=patients, shares=True)
    agree(scores, labels, shares=True)


def test_against_scikit_learn_on_a_memory_map(tmp_path):
    scores, labels, _ = example(3000, 9)
    np.save(tmp_path / "scores.npy", scores)
    found = sweep(np.load(tmp_path / "scores.npy", mmap_mode="r"), labels, compiled=True)
    for j in range(2, 9):
        used = labels[:, j] >= 0
        assert found.auc[j] == pytest.approx(roc_auc_score(labels[used, j], scores[used, j]), abs=1e-14)
        precision = average_precision_score(labels[used, j], scores[used, j])
        assert found.average_precision[j] == pytest.approx(precision, abs=1e-14)


def test_threads_change_nothing():
    scores, labels, patients = example(400, 200)
    one, many = (sweep(scores, labels, clusters=patients, compiled=True, threads=k) for k in (1, 4))
    assert one.auc.tobytes() == many.auc.tobytes()
    for name, value in vars(one.spread).items():
        assert value.tobytes() == getattr(many.spread, name).tobytes()


@pytest.mark.parametrize("compiled", [True, False])
def test_nan_and_wrong_labels_are_named(compiled):
    scores, labels, _ = example(50, 90)
    scores[labels == -1] = np.nan
    sweep(scores, labels, compiled=compiled)
    broken, wrong = scores.copy(), labels.copy()
    broken[labels[:, 71] >= 0, 71] = np.nan
    with pytest.raises(StatisticsError, match="column 71 has no score"):
        sweep(broken, labels, compiled=compiled)
    wrong[3, 70] = 2
    with pytest.raises(StatisticsError, match="column 70 has labels"):
        sweep(np.nan_to_num(scores), wrong, compiled=compiled)
