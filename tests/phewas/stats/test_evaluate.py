from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from scipy import stats
from sklearn.metrics import average_precision_score, roc_auc_score
from statsmodels.stats.multitest import multipletests

from phewas.config import EvaluateConfig
from phewas.errors import ConfigError, SchemaError, SplitError, StatisticsError
from phewas.rundir import write_json, write_npy
from phewas.schema import (
    LABELS_PATH,
    LOGITS_PATH,
    Calibration,
    ChapterResults,
    Curves,
    Encounters,
    LabelColumns,
    LabelRows,
    Multiplicity,
    Overview,
    Patients,
    PermutationNull,
    PhenotypeResults,
    Phenotypes,
    PredictionColumns,
    PredictionRows,
    Splits,
    Subgroups,
)
from phewas.stats.auc import auc_matrix
from phewas.stats.compare import compare_matrix
from phewas.stats.crossfit import fold_ranks, null_from, permute_labels
from phewas.stats.evaluate import evaluate
from phewas.stats.versus import compare_runs

NAMES = ["seen", "age_only", "twin", "rare", "no_head", "few_train", "absent", "women", "everyone", "separate"]


def write_run(run: Path, *, cross: bool = False, train: bool = True, seed: int = 1, patients: int = 700) -> Path:
    """A study with two encounters for every third patient; `seen` shows in the scores, `age_only` only through age."""
    rng = np.random.default_rng(seed)
    ids = np.array([f"p{i:04d}" for i in range(patients)])
    sex = rng.choice(np.array(["F", "M", "U"]), patients, p=[0.5, 0.48, 0.02])
    age = np.floor(rng.uniform(20, 90, patients))
    age[:5] = np.nan
    held = np.arange(patients) % 2 == 0
    owner = np.concatenate([np.arange(patients), np.arange(0, patients, 3)])
    order = rng.permutation(len(owner))
    owner = owner[order]
    encounters = np.array([f"e{k:05d}" for k in range(len(owner))])
    years = np.nan_to_num(age, nan=55)
    risk = {
        "seen": rng.random(patients) < 0.25,
        "age_only": rng.random(patients) < 1 / (1 + np.exp(-(years - 65) / 8)),
        "rare": np.isin(np.arange(patients), np.flatnonzero(held)[5:24]),
        "no_head": rng.random(patients) < 0.3,
        "few_train": (rng.random(patients) < 0.3) & (held | (np.arange(patients) < 12)),
        "absent": np.zeros(patients, bool),
        "women": (rng.random(patients) < 0.3) & (sex == "F"),
        "everyone": np.arange(patients) % 40 != 0,
        "separate": rng.random(patients) < 0.3,
    }
    risk["twin"] = risk["seen"]
    labels = np.stack([risk[name][owner] for name in NAMES], axis=1).astype(np.int8)
    labels[sex[owner] != "F", NAMES.index("women")] = -1
    masked = rng.random(patients) < 0.1
    labels[masked[owner], 0] = labels[masked[owner], NAMES.index("twin")] = -1
    personal = rng.normal(size=(patients, len(NAMES)))
    logits = personal[owner] + 0.5 * rng.normal(size=(len(owner), len(NAMES)))
    logits[:, 0] += 1.5 * risk["seen"][owner]
    logits[:, 1] += (years[owner] - 55) / 20
    logits[:, NAMES.index("separate")] = np.where(risk["separate"][owner], 5, -5) + rng.random(len(owner))
    heads = [name for name in NAMES if name != "no_head"]
    start = datetime(2201, 1, 1)
    Patients.write(Patients.build({"patient_id": p, "sex": s} for p, s in zip(ids, sex.tolist(), strict=True)), run)
    Encounters.write(Encounters.build(
        {"encounter_id": e, "patient_id": ids[o], "index_time": None if k % 50 == 0 else start + timedelta(hours=k),
         "age": None if np.isnan(age[o]) else float(age[o])}
        for k, (e, o) in enumerate(zip(encounters.tolist(), owner, strict=True))), run)
    side = np.where(held, "held_out", "train" if train else "excluded")
    if cross:
        side = np.full(patients, "crossfit")
    fold = np.arange(patients) % 5
    Splits.write(Splits.build(
        {"patient_id": p, "split": s, "fold": int(f) if cross else None, "why": "test"}
        for p, s, f in zip(ids, side.tolist(), fold, strict=True)), run)
    Phenotypes.write(Phenotypes.build(
        {"phenotype": name, "description": name.title(), "chapter": "A" if j < 4 else "B", "chapter_order": 1 + (j > 3),
         "sex": "F" if name == "women" else "both", "vocabulary": "test 1",
         "same_as": "seen" if name == "twin" else None}
        for j, name in enumerate(NAMES)), run)
    LabelRows.write(pl.DataFrame({"encounter_id": encounters, "patient_id": ids[owner]}), run)
    LabelColumns.write(pl.DataFrame({"phenotype": NAMES}), run)
    write_npy(labels, run / LABELS_PATH)
    rows = np.flatnonzero(np.isin(side[owner], ["held_out", "crossfit"]))[:-3][::-1]
    write_npy(logits[rows][:, [NAMES.index(name) for name in heads]].astype(np.float32), run / LOGITS_PATH)
    write_json({"settings": {"loss": "plain"}}, run / "model" / "model.json")
    PredictionColumns.write(pl.DataFrame({"phenotype": heads}), run)
    PredictionRows.write(PredictionRows.build(
        {"encounter_id": encounters[r], "patient_id": ids[owner[r]], "split": side[owner[r]],
         "fold": int(fold[owner[r]]) if cross else None, "model_id": "m", "n_segments": 20} for r in rows), run)
    return run


def go(run: Path, **options) -> tuple[dict[str, dict], dict[str, float]]:
    evaluate(run, config=EvaluateConfig(**options), seed=0, label_window="through_visit")
    table, figures = PhenotypeResults.read(run), Overview.read(run)
    return ({row["phenotype"]: row for row in table.iter_rows(named=True)},
            dict(zip(figures["measure"], figures["value"], strict=True)))


def scored(run: Path, name: str) -> pl.DataFrame:
    """Scores, labels and patients of one phenotype, put together another way than the tool does."""
    logits, labels = np.load(run / LOGITS_PATH), np.load(run / LABELS_PATH)
    heads = PredictionColumns.read(run)["phenotype"].to_list()
    left = PredictionRows.read(run).with_columns(score=pl.Series(logits[:, heads.index(name)]))
    right = LabelRows.read(run).select("encounter_id", label=pl.Series(labels[:, NAMES.index(name)]))
    return left.join(right, on="encounter_id").filter(pl.col("label") >= 0)


def test_end_to_end(tmp_path):
    run = write_run(tmp_path)
    results, figures = go(run)
    assert list(results) == NAMES
    status = {name: row["status"] for name, row in results.items()}
    assert status == {
        "seen": "tested", "age_only": "tested", "twin": "tested", "rare": "too_few_cases",
        "no_head": "too_few_training_cases", "few_train": "too_few_training_cases", "absent": "no_cases",
        "women": "tested", "everyone": "too_few_controls", "separate": "tested"}
    for name, row in results.items():
        assert row["n_cases"] + row["n_controls"] + row["n_excluded"] == figures["n_scored_encounters"]
        if row["status"] != "tested":
            assert all(row[key] is None for key in ("auc", "p_value", "q_fdr", "auc_low", "delta_auc", "baseline_auc"))
        else:
            frame = scored(run, name)
            assert row["auc"] == pytest.approx(roc_auc_score(frame["label"], frame["score"]), abs=1e-12)
            assert row["average_precision"] == pytest.approx(
                average_precision_score(frame["label"], frame["score"]), abs=1e-12)
            assert row["ap_lift"] == pytest.approx(row["average_precision"] / frame["label"].mean())
            assert row["n_case_patients"] == frame.filter(pl.col("label") == 1)["patient_id"].n_unique()
            assert row["n_control_patients"] == frame.filter(pl.col("label") == 0)["patient_id"].n_unique()
            assert row["n_patients"] == frame["patient_id"].n_unique()
            assert row["unit"] == "encounter"
            assert row["label_window"] == "through_visit"
    seen, age_only = results["seen"], results["age_only"]
    assert seen["auc_low"] > 0.6
    assert "few_cases" in seen["flags"]
    assert seen["ci_method"].startswith("logit Obuchowski")
    assert seen["delta_q"] < 0.05
    assert seen["baseline_auc"] < 0.65
    assert age_only["baseline_auc"] > age_only["auc"]
    assert age_only["delta_auc"] == pytest.approx(age_only["auc"] - age_only["baseline_auc"], abs=1e-12)
    separate = results["separate"]
    assert separate["auc"] == 1.0
    assert "zero_variance" in separate["flags"]
    assert separate["auc_low"] < 1.0
    assert separate["p_test"].startswith("exact")
    assert results["absent"]["min_detectable_auc"] is None
    assert 0.5 < results["rare"]["min_detectable_auc"] < 0.8


def test_family_counts_identical_labels_once(tmp_path):
    results, figures = go(write_run(tmp_path))
    family = ["seen", "age_only", "women", "separate"]
    p = [results[name]["p_value"] for name in family]
    q = multipletests(p, method="fdr_bh")[1]
    np.testing.assert_allclose([results[name]["q_fdr"] for name in family], q, rtol=1e-12)
    assert results["women"]["p_bonferroni"] == pytest.approx(min(1, 4 * results["women"]["p_value"]))
    twin = results["twin"]
    assert (twin["same_as"], twin["q_fdr"]) == ("seen", results["seen"]["q_fdr"])
    assert "same_labels" in twin["flags"]
    assert figures["n_tested"] == 4
    assert figures["n_same_labels"] == 1
    chapters = {row["chapter"]: row for row in ChapterResults.read(tmp_path).iter_rows(named=True)}
    assert (chapters["A"]["n_phenotypes"], chapters["A"]["n_tested"], chapters["B"]["n_tested"]) == (4, 2, 2)
    assert chapters["A"]["mean_auc"] == pytest.approx((results["seen"]["auc"] + results["age_only"]["auc"]) / 2)
    assert figures["n_auc_70"] == sum(results[name]["auc"] >= 0.7 for name in family)
    assert figures["n_auc_70_low"] == sum(results[name]["auc_low"] >= 0.7 for name in family)
    assert figures["n_unscored_encounters"] == 3


def test_same_bytes_again_and_whatever_the_order_of_predictions(tmp_path):
    run = write_run(tmp_path)
    go(run)
    files = sorted((run / "results").iterdir())
    assert [file.name for file in files] == sorted(f"{name}.parquet" for name in (
        "added_value", "adjusted_auc", "calibration", "calibration_bins", "chapters", "control_summary", "controls",
        "cross_auc", "curves", "multiplicity", "net_benefit", "operating_points", "overview", "phenotypes",
        "rival_inputs", "rivals", "shift", "specificity", "subgroups", "table1"))
    before = [file.read_bytes() for file in files]
    rows, logits = PredictionRows.read(run), np.load(run / LOGITS_PATH)
    order = np.random.default_rng(0).permutation(len(rows))
    PredictionRows.write(rows[order], run)
    write_npy(logits[order], run / LOGITS_PATH)
    go(run)
    assert before == [file.read_bytes() for file in files]


def test_patient_unit_takes_the_first_encounter(tmp_path):
    run = write_run(tmp_path)
    results, figures = go(run, unit="patient")
    rows = PredictionRows.read(run).join(Encounters.read(run).select("encounter_id", "index_time"), on="encounter_id")
    first = {}
    for row in rows.iter_rows(named=True):
        key = (row["index_time"] or datetime.max, row["encounter_id"])
        if row["patient_id"] not in first or key < first[row["patient_id"]]:
            first[row["patient_id"]] = key
    frame = scored(run, "seen").filter(pl.col("encounter_id").is_in([key[1] for key in first.values()]))
    assert results["seen"]["auc"] == pytest.approx(roc_auc_score(frame["label"], frame["score"]), abs=1e-12)
    assert results["seen"]["unit"] == "patient"
    assert figures["n_scored_encounters"] == figures["n_scored_patients"] == len(first)
    assert figures["n_later_encounters"] == len(rows) - len(first)
    bm = stats.brunnermunzel(frame.filter(pl.col("label") == 0)["score"], frame.filter(pl.col("label") == 1)["score"])
    assert results["seen"]["p_value"] == pytest.approx(bm.pvalue, rel=1e-6)


def test_without_training_patients_there_is_no_baseline(tmp_path):
    results, figures = go(write_run(tmp_path, train=False))
    assert results["few_train"]["status"] == "tested"
    assert results["seen"]["baseline_auc"] is None
    assert results["seen"]["delta_p"] is None
    assert "no_baseline" in results["seen"]["flags"]
    assert figures["n_with_baseline"] == 0
    assert figures["median_baseline_auc"] is None


def test_crossfit_without_permutations_has_no_interval(tmp_path):
    run = write_run(tmp_path, cross=True)
    results, figures = go(run)
    seen = results["seen"]
    assert seen["auc"] > 0.7
    assert seen["baseline_auc"] is not None
    assert seen["delta_auc"] is not None
    for key in ("auc_se", "auc_low", "p_value", "q_fdr", "baseline_low", "delta_se", "delta_p", "ci_method", "p_test"):
        assert seen[key] is None, key
    assert "no_permutation_null" in seen["flags"]
    assert figures["n_significant"] == 0


def test_crossfit_with_permutations(tmp_path):
    run = write_run(tmp_path, cross=True, patients=300)
    rows, logits = PredictionRows.read(run), np.load(run / LOGITS_PATH)
    heads = PredictionColumns.read(run)["phenotype"].to_list()
    labels = np.load(run / LABELS_PATH)
    place = LabelRows.read(run).with_row_index("at")
    at = rows.join(place, on="encounter_id", how="left", maintain_order="left")["at"].to_numpy()
    mine = labels[at][:, [NAMES.index(name) for name in heads]]
    codes = np.unique(rows["patient_id"].to_numpy().astype(str), return_inverse=True)[1]
    folds = rows["fold"].to_numpy()
    PermutationNull.write(null_from(
        ((k, logits, permute_labels(mine, codes, seed=0, permutation=k)) for k in range(120)),
        phenotypes=heads, folds=folds, clusters=codes), run)
    results, _ = go(run)
    seen = results["seen"]
    expected = auc_matrix(fold_ranks(logits[:, :1], mine[:, :1], folds), mine[:, :1], clusters=codes)
    assert seen["auc"] == pytest.approx(expected.auc[0], abs=1e-12)
    assert seen["auc_se"] >= expected.se[0] - 1e-12
    assert seen["p_value"] == pytest.approx(1 / 121)
    assert seen["p_test"] == "patient label permutation"
    assert "approximate" in seen["ci_method"]
    assert "approximate_interval" in seen["flags"]
    assert seen["df"] > 1
    assert seen["delta_low"] < seen["delta_auc"] < seen["delta_high"]
    # Permutations of all encounters say nothing about first encounters only.
    other, _ = go(run, unit="patient")
    assert other["seen"]["p_value"] is None
    assert "no_permutation_null" in other["seen"]["flags"]


def replace_column(run: Path, table, **columns) -> None:
    table.write(table.read(run).with_columns(**columns), run)


def test_sides_must_agree(tmp_path):
    run = write_run(tmp_path)
    replace_column(run, Splits, split=pl.when(pl.col("patient_id") == "p0004").then(pl.lit("train"))
                   .otherwise(pl.col("split")))
    with pytest.raises(SplitError, match="another side"):
        go(run)


def test_folds_must_agree(tmp_path):
    run = write_run(tmp_path, cross=True)
    replace_column(run, Splits, fold=(pl.col("fold") + 1) % 5)
    with pytest.raises(SplitError, match="fold"):
        go(run)


def test_nobody_scored(tmp_path):
    run = write_run(tmp_path)
    for table in (Splits, PredictionRows):
        replace_column(run, table, split=pl.lit("train"))
    with pytest.raises(SplitError, match="held out"):
        go(run)


def test_inputs_must_fit(tmp_path):
    run = write_run(tmp_path)
    logits = np.load(run / LOGITS_PATH)
    write_npy(logits[1:], run / LOGITS_PATH)
    with pytest.raises(SchemaError, match="logits"):
        go(run)
    (run / LOGITS_PATH).write_bytes(b"not an array")
    with pytest.raises(SchemaError, match="cannot be read"):
        go(run)
    broken = logits.copy()
    broken[:, 0] = np.nan
    write_npy(broken, run / LOGITS_PATH)
    with pytest.raises(StatisticsError, match=r"seen"):
        go(run)
    write_npy(logits, run / LOGITS_PATH)
    replace_column(run, Encounters, patient_id=pl.lit("p0001"))
    with pytest.raises(SchemaError, match="another patient"):
        go(run)
    with pytest.raises(ConfigError, match="label window"):
        evaluate(run, config=EvaluateConfig(), seed=0, label_window="sometime")


def test_nothing_tested_still_writes_every_row(tmp_path):
    results, figures = go(write_run(tmp_path, patients=60))
    assert list(results) == NAMES
    assert figures["n_tested"] == 0
    assert figures["median_auc"] is None


def test_what_stands_beside_the_aucs(tmp_path):
    run = write_run(tmp_path)
    results, figures = go(run)
    family = ["seen", "age_only", "women", "separate"]
    p = [results[name]["p_value"] for name in family]
    for column, method in (("p_holm", "holm"), ("q_by", "fdr_by")):
        np.testing.assert_allclose([results[n][column] for n in family], multipletests(p, method=method)[1], rtol=1e-9)
    for name in family:
        row = results[name]
        assert row["p_value"] <= row["q_maxt"] + 2e-3
        assert row["prevalence_low"] < row["prevalence"] < row["prevalence_high"]
        assert row["brier"] > 0
    seen = results["seen"]
    assert seen["auc_low_joint"] < seen["auc_low"] < seen["auc_high"] < seen["auc_high_joint"]
    assert seen["ap_low"] < seen["average_precision"] < seen["ap_high"]
    assert seen["ap_lift_low"] < seen["ap_lift"] < seen["ap_lift_high"]
    assert results["twin"]["q_maxt"] == seen["q_maxt"]
    ways = {(r["question"], r["method"]): r for r in Multiplicity.read(run).iter_rows(named=True)}
    assert ways["auc", "benjamini_hochberg"]["n_above"] == figures["n_significant"]
    assert ways["auc", "none"]["n_family"] == 4
    assert 1.96 < ways["auc", "max_t"]["quantile"] < 3
    for row in ChapterResults.read(run).iter_rows(named=True):
        assert row["mean_auc_low"] < row["mean_auc"] < row["mean_auc_high"]
        assert 0 <= row["n_auc_60_low"] <= row["n_auc_60"] <= row["n_auc_60_high"] <= row["n_tested"]
    whole = Overview.read(run).rows_by_key("measure", named=True, unique=True)
    assert whole["n_auc_70"]["low"] <= whole["n_auc_70"]["value"] <= whole["n_auc_70"]["high"]
    assert whole["n_auc_50_joint"]["value"] <= whole["n_auc_50_low"]["value"]
    variables = Subgroups.read(run)["variable"].unique().to_list()
    assert sorted(variables) == ["age", "sex"]
    assert Curves.read(run)["phenotype"].n_unique() == 5
    assert set(Calibration.read(run)["status"]) == {"raw"}


def test_runs_are_compared_on_the_same_encounters_only(tmp_path):
    a, b = (write_run(tmp_path / name) for name in "ab")
    logits = np.load(b / LOGITS_PATH)
    logits[:, 0] = np.random.default_rng(0).normal(size=len(logits))
    write_npy(logits, b / LOGITS_PATH)
    for run in (a, b):
        go(run)
    table, chapters = compare_runs([a, b], names=["a", "b"])
    rows = table.rows_by_key("phenotype", named=True, unique=True)
    seen = rows["seen"]
    left, right = scored(a, "seen"), scored(b, "seen")
    joined = left.join(right.select("encounter_id", other="score"), on="encounter_id")
    codes = np.unique(joined["patient_id"].to_numpy().astype(str), return_inverse=True)[1]
    other, first, y = (joined[c].to_numpy()[:, None] for c in ("other", "score", "label"))
    expected = compare_matrix(other, first, y, clusters=codes)
    assert seen["difference"] == pytest.approx(expected.difference[0], abs=1e-12)
    assert seen["p_value"] == pytest.approx(expected.p[0], rel=1e-9)
    assert seen["outcome"] == "a"
    assert rows["women"]["difference"] == 0
    assert rows["women"]["outcome"] == "tie"
    whole = chapters.filter(pl.col("chapter") == "").row(0, named=True)
    assert (whole["n_phenotypes"], whole["n_a_better"], whole["n_b_better"]) == (4, 1, 0)
    assert whole["low"] < whole["mean_difference"] < whole["high"]
    shorter = write_run(tmp_path / "c", patients=690)
    go(shorter)
    with pytest.raises(ConfigError, match="different encounters"):
        compare_runs([a, shorter], names=["a", "c"])
    labels = np.load(b / LABELS_PATH)
    labels[labels[:, 0] >= 0, 0] ^= 1
    write_npy(labels, b / LABELS_PATH)
    with pytest.raises(ConfigError, match="label seen differently"):
        compare_runs([a, b], names=["a", "b"])
