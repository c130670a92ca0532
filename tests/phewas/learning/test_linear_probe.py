"""The published linear-probe protocol: grids, scikit-learn's numbers, patients, and files that cannot be."""

from __future__ import annotations

import json

import numpy as np
import polars as pl
import pytest
from typer.testing import CliRunner

from phewas.cli import app
from phewas.errors import LearningError, SplitError
from phewas.learning import linear_probe
from phewas.learning.linear_probe import evaluate, measures, read_task


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """Write embeddings of 120 patients with three rows each, and a label of each kind."""
    rng = np.random.default_rng(0)
    patients = np.repeat(np.arange(120), 3)
    x = rng.standard_normal((360, 10)) + rng.standard_normal((120, 10))[patients]
    names = np.array([f"p{p:03d}" for p in patients])
    target = tmp_path_factory.mktemp("task") / "task.npz"
    np.savez(
        target, embedding=x.astype(np.float32), patient_id=names, split=np.where(patients < 80, "train", "test"),
        hr=70 + 5 * x[:, 0] + rng.standard_normal(360), ill=(x[:, 1] + rng.standard_normal(360) > 0).astype(float),
        grade=np.digitize(x[:, 2], [-1, 1]),
    )  # fmt: skip
    return target


def test_regression_is_ridge_by_the_published_grid(file):
    from sklearn.linear_model import Ridge
    from sklearn.metrics import mean_absolute_error
    from sklearn.model_selection import cross_val_score
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    task, x = read_task(file, task="hr", kind="regression", seed=0)
    found = evaluate(task, x, seed=0, bootstraps=60)
    train, y = ~task.test, task.labels
    by_alpha = {a: cross_val_score(make_pipeline(StandardScaler(), Ridge(a)), x[train], y[train], cv=5,
                                   scoring="neg_mean_absolute_error").mean() for a in (0.1, 1, 10, 100)}  # fmt: skip
    best = max(by_alpha, key=by_alpha.get)
    assert found["chosen"] == {"alpha": best}
    theirs = make_pipeline(StandardScaler(), Ridge(best)).fit(x[train], y[train]).predict(x[task.test])
    value, low, high = found["measures"]["mae"]
    assert value == pytest.approx(mean_absolute_error(y[task.test], theirs))
    assert low < value < high
    assert found["measures"]["r"][0] > 0.9
    assert found["n_train"] == 240
    assert found["bootstrap"] == {"samples": 60, "undefined": 0, "unit": "patient"}


def test_binary_is_logistic_regression_and_the_interval_knows_patients(file):
    task, x = read_task(file, task="ill", kind="binary", seed=0)
    found = evaluate(task, x, seed=0, bootstraps=40)
    assert found["chosen"]["C"] in (0.01, 0.1, 1, 10, 100)
    auc, low, high = found["measures"]["auc"]
    assert 0.7 < low < auc < high < 1
    assert found == evaluate(task, x, seed=0, bootstraps=40)
    assert found["measures"]["auc"] != evaluate(task, x, seed=1, bootstraps=40)["measures"]["auc"]


def test_several_classes_are_a_forest_by_macro_auc(file, monkeypatch):
    from sklearn.metrics import roc_auc_score

    assert linear_probe.GRIDS["multiclass"] == {
        "fit__n_estimators": [100, 200], "fit__max_depth": [10, 20], "fit__min_samples_split": [2, 5]}  # fmt: skip
    monkeypatch.setitem(linear_probe.GRIDS, "multiclass", {"fit__n_estimators": [20], "fit__max_depth": [10]})
    task, x = read_task(file, task="grade", kind="multiclass", seed=0)
    assert evaluate(task, x, seed=0, bootstraps=10)["measures"]["auc"][0] > 0.7
    rng = np.random.default_rng(0)
    y, p = rng.integers(0, 3, 50).astype(str), rng.dirichlet(np.ones(3), 50)
    ours = measures(y, p, np.array(["0", "1", "2"]))["auc"]
    assert ours == pytest.approx(roc_auc_score(y, p, multi_class="ovr", average="macro"))


def write(folder, **columns):
    target = folder / "t.npz"
    np.savez(target, **columns)
    return target


def test_rows_without_a_label_are_counted_and_a_draw_is_by_patient(tmp_path):
    rng = np.random.default_rng(0)
    y = rng.integers(-1, 2, 200)
    names = np.repeat([f"p{i}" for i in range(50)], 4)
    task, _ = read_task(write(tmp_path, y=y, patient_id=names), task="y", kind="binary", seed=0)
    assert task.left_out == (y < 0).sum()
    assert not set(task.patients[task.test]) & set(task.patients[~task.test])
    assert 0.05 < task.test.mean() < 0.4
    two = read_task(write(tmp_path, y=np.where(y < 0, -1, 1)), task="y", kind="binary", seed=0)[0]
    assert two.left_out == 0
    assert set(two.labels) == {"-1", "1"}


def test_what_cannot_be_is_told(tmp_path):
    with pytest.raises(LearningError, match="there is no file"):
        read_task(tmp_path / "no.npz", task="y", kind="binary", seed=0)
    with pytest.raises(LearningError, match=r"no label 'hr'\nExpected: one of sex"):
        read_task(write(tmp_path, sex=np.zeros(3)), task="hr", kind="binary", seed=0)
    with pytest.raises(LearningError, match="is no number"):
        read_task(write(tmp_path, y=np.array(["a", "b"])), task="y", kind="regression", seed=0)
    with pytest.raises(LearningError, match="cannot be read"):
        read_task(write(tmp_path, y=np.array([object(), None])), task="y", kind="binary", seed=0)
    sides, names = np.array(["train", "test", "train", "test"]), np.array(["a", "a", "b", "c"])
    file = write(tmp_path, y=np.array([0, 1, 0, 1]), patient_id=names, split=sides)
    with pytest.raises(SplitError, match="1 patients of t"):
        read_task(file, task="y", kind="binary", seed=0)
    with pytest.raises(LearningError, match="has 3 values"):
        read_task(write(tmp_path, y=np.tile([0, 1, 2], 30)), task="y", kind="binary", seed=0)
    with pytest.raises(SplitError, match="split 'dev' is unknown"):
        read_task(write(tmp_path, y=np.arange(2), split=np.array(["dev", "test"])), task="y", kind="binary", seed=0)


def test_the_command_embeds_signals_and_probes_them(tmp_path):
    rng = np.random.default_rng(0)
    t = np.arange(1250) / 125
    rate = rng.uniform(50, 110, 120)
    waves = [np.sin(2 * np.pi * r / 60 * t) + 0.3 * np.sin(4 * np.pi * r / 60 * t + 1) for r in rate]
    table = pl.DataFrame({"signal": waves, "hr": rate, "patient_id": [f"p{i}" for i in range(120)]})
    table.write_parquet(tmp_path / "ppg.parquet")
    words = ["probe", "--data", tmp_path / "ppg.parquet", "--task", "hr", "--type", "regression", "--fs-hz", 125,
             "--bootstraps", 20, "--out", tmp_path / "found.json"]  # fmt: skip
    done = CliRunner().invoke(app, list(map(str, words)))
    assert done.exit_code == 0, done.output
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["measures"]["mae"][0] < 3
    assert "training and" in done.output
