from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from sklearn.metrics import roc_auc_score
from typer.testing import CliRunner

from phewas.cli import app
from phewas.errors import ConfigError, SchemaError
from phewas.schema import Calibration, PhenotypeResults, Splits
from phewas.stats.auc import auc_matrix
from phewas.stats.imported import import_predictions


@pytest.fixture(scope="module")
def tables():
    """600 patients with two encounters each, half of them predicted; 008 must stay text."""
    rng = np.random.default_rng(4)
    owner = np.repeat(np.arange(600), 2)
    age = rng.uniform(20, 90, 600)
    risk = rng.random((600, 2)) < 1 / (1 + np.exp(-(age[:, None] - 70) / 12))
    case = risk[owner].astype(int)
    p = 1 / (1 + np.exp(-(rng.normal(size=case.shape) + 2 * case - 1)))
    ids = [f"{k:05d}" for k in range(1_200)]
    labels = pl.DataFrame({"encounter_id": ids, "008": case[:, 0], "411.2": case[:, 1]})
    labels = labels.with_columns(pl.when(pl.int_range(pl.len()) % 11 == 0).then(None).otherwise("008").alias("008"))
    people = pl.DataFrame({"encounter_id": ids, "patient_id": [f"p{o}" for o in owner], "age": age[owner],
                           "sex": np.where(owner % 2, "female", "M")})
    scores = pl.DataFrame({"encounter_id": ids, "008": p[:, 0], "411.2": p[:, 1]}).filter(pl.Series(owner < 300))
    return scores, labels, people


def test_csv_to_results_and_report(tables, tmp_path):
    scores, labels, people = tables
    scores.write_csv(tmp_path / "scores.csv")
    labels.write_csv(tmp_path / "labels.csv")
    people.write_parquet(tmp_path / "people.parquet")
    out = tmp_path / "out"
    done = CliRunner().invoke(app, [
        "evaluate", "--predictions", str(tmp_path / "scores.csv"), "--labels", str(tmp_path / "labels.csv"),
        "--patients", str(tmp_path / "people.parquet"), "--baseline", "age,sex", "--vocabulary", "phecode1.2",
        "--probabilities", "--out", str(out)], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    rows = PhenotypeResults.read(out).rows_by_key("phenotype", named=True, unique=True)
    assert set(rows) == {"008", "411.2"}
    both = scores.join(labels, on="encounter_id", suffix="_y").join(people, on="encounter_id")
    for name, row in rows.items():
        frame = both.drop_nulls(f"{name}_y")
        y, s = frame[f"{name}_y"].to_numpy(), frame[name].to_numpy()
        assert row["auc"] == pytest.approx(roc_auc_score(y, s), abs=1e-6)
        codes = np.unique(frame["patient_id"].to_numpy().astype(str), return_inverse=True)[1]
        assert row["auc_se"] == pytest.approx(auc_matrix(s[:, None], y[:, None], clusters=codes).se[0], rel=1e-5)
        assert row["baseline_auc"] > 0.6
        assert row["delta_low"] < row["delta_auc"] < row["delta_high"]
        assert row["brier"] == pytest.approx(np.mean((s - y) ** 2), abs=1e-6)
    assert rows["411.2"]["description"].lower().startswith("myocardial")
    assert set(Calibration.read(out)["status"]) == {"raw"}
    assert (out / "report" / "index.html").is_file()
    assert (out / "report" / "results.xlsx").is_file()
    again = CliRunner().invoke(app, ["evaluate", "--predictions", str(tmp_path / "scores.csv"), "--labels",
                                     str(tmp_path / "labels.csv"), "--out", str(out)])
    assert isinstance(again.exception, ConfigError)


def test_without_patients_every_encounter_counts_and_it_is_said(tables, tmp_path):
    scores, labels, _ = tables
    found = import_predictions(scores, labels, None, run=tmp_path)
    assert "every encounter counts as a patient" in found.warnings[0]
    assert not found.with_baseline
    assert Splits.read(tmp_path)["split"].value_counts().sort("split")["count"].to_list() == [600, 600]


def test_mistakes_are_told(tables, tmp_path):
    scores, labels, people = tables
    for change, match in (
        (lambda: (scores.rename({"008": "009"}), labels, people), "have no labels"),
        (lambda: (pl.concat([scores, scores[:3]]), labels, people), "repeat"),
        (lambda: (scores, labels[5:], people), "predicted encounters have no labels"),
        (lambda: (scores, labels.with_columns(pl.lit(2).alias("008")), people), "hold 2"),
        (lambda: (scores, labels, people[9:]), "no patient"),
        (lambda: (scores, labels, people.with_columns(sex=pl.lit("x"))), "sex holds"),
        (lambda: (scores, labels, people.with_columns(split=pl.lit("train"))), "not held out"),
        (lambda: (scores.drop("encounter_id"), labels, people), "lack the column"),
        (lambda: (scores.with_columns(pl.lit("x").alias("008")), labels, people), "hold text"),
    ):
        with pytest.raises(SchemaError, match=match):
            import_predictions(*change(), run=tmp_path)
    with pytest.raises(ConfigError, match="age or sex"):
        import_predictions(scores, labels, people.drop("age"), run=tmp_path, baseline=True)
    with pytest.raises(SchemaError, match="outside 0 to 1"):
        import_predictions(scores.with_columns(pl.col("008") * 2), labels, people, run=tmp_path, probabilities=True)
