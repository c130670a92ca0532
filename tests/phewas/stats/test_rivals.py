"""Rivals: they are told nothing of the encounter's own codes nor of later ones, and no scored label reaches them."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from phewas.config import EvaluateConfig
from phewas.errors import SplitError
from phewas.learning.probe import Prepared
from phewas.rundir import write_json, write_npy
from phewas.schema import (
    LABELS_PATH,
    LOGITS_PATH,
    Definitions,
    Diagnoses,
    Encounters,
    LabelColumns,
    LabelRows,
    Overview,
    Patients,
    PhenotypeResults,
    Phenotypes,
    PredictionColumns,
    PredictionRows,
    Recordings,
    RivalInputs,
    Rivals,
    Splits,
)
from phewas.stats import rival_inputs
from phewas.stats.compare import compare_matrix
from phewas.stats.crossfit import fold_ranks
from phewas.stats.evaluate import evaluate
from phewas.stats.rival_design import Design
from phewas.stats.rivals import Fitted, rivals
from phewas.stats.units import read_units

NAMES = ["seen", "recorded", "both", "silent"]


def write_study(run: Path, *, cross: bool = False, patients: int = 900) -> Path:
    """`seen` shows in the scores alone, `recorded` in the length of the recording, `both` in both, `silent` in none."""
    rng = np.random.default_rng(3)
    owner = np.concatenate([np.arange(patients), np.arange(0, patients, 3)])
    ids, names = [f"p{i:04d}" for i in range(patients)], [f"e{k:05d}" for k in range(len(owner))]
    has = rng.random((patients, len(NAMES))) < 0.25
    labels = has[owner].astype(np.int8)
    labels[rng.random(labels.shape) < 0.05] = -1
    logits = rng.normal(size=labels.shape) + has[owner] * np.array([1.2, 0, 2.5, 0])
    # The encoder sees how long the recording is, a little: what it says of `recorded` is no merit of its own.
    length = np.exp(rng.normal(size=len(owner)) * 0.5 + has[owner, 1] * 0.9 + has[owner, 2] * 0.5)
    logits[:, 1] += 0.5 * np.log(length)
    side = np.where(np.arange(patients) % 2 == 0, "held_out", "train")
    fold = np.arange(patients) % 5
    start = datetime(2201, 1, 1)
    Patients.write(Patients.build({"patient_id": p, "sex": "FM"[k % 2]} for k, p in enumerate(ids)), run)
    visits = [{"encounter_id": e, "patient_id": ids[o], "start": start + timedelta(hours=k), "age": 40.0 + o % 50,
               "index_time": start + timedelta(hours=k, minutes=10)}
              for k, (e, o) in enumerate(zip(names, owner, strict=True))]
    frame = Encounters.build(visits).with_columns(
        src_mode=pl.Series(rng.choice(["walk", "ambulance"], len(owner))),
        src_pulse=pl.Series([f"{v:.0f}" if v < 90 else "" for v in rng.normal(75, 12, len(owner))]))
    Encounters.write(frame, run)
    Splits.write(Splits.build(
        {"patient_id": p, "split": "crossfit" if cross else s, "fold": int(f) if cross else None, "why": "test"}
        for p, s, f in zip(ids, side.tolist(), fold, strict=True)), run)
    Phenotypes.write(Phenotypes.build(
        {"phenotype": name, "description": name, "chapter": "A", "chapter_order": 1, "sex": "both", "vocabulary": "t 1"}
        for name in NAMES), run)
    LabelRows.write(pl.DataFrame({"encounter_id": names, "patient_id": [ids[o] for o in owner]}), run)
    LabelColumns.write(pl.DataFrame({"phenotype": NAMES}), run)
    write_npy(labels, run / LABELS_PATH)
    Recordings.write(Recordings.build(
        {"recording_id": f"r{k}", "encounter_id": e, "channel": "PPG", "path": f"{e}.hea", "signal": "Pleth",
         "fs_hz": 125.0, "n_samples": int(n * 12_500), "start": start} for k, (e, n) in
        enumerate(zip(names, length, strict=True))), run)
    Diagnoses.write(Diagnoses.empty(), run)
    scored = np.arange(len(owner)) if cross else np.flatnonzero(side[owner] == "held_out")
    write_npy(logits[scored].astype(np.float32), run / LOGITS_PATH)
    PredictionColumns.write(pl.DataFrame({"phenotype": NAMES}), run)
    PredictionRows.write(PredictionRows.build(
        {"encounter_id": names[k], "patient_id": ids[owner[k]], "split": "crossfit" if cross else "held_out",
         "fold": int(fold[owner[k]]) if cross else None, "model_id": "m", "n_segments": 3} for k in scored), run)
    write_json({"settings": {"loss": "plain"}}, run / "model" / "model.json")
    return run


def windows_of(run: Path) -> pl.DataFrame:
    rows = LabelRows.read(run)
    return pl.concat([rows.with_columns(
        segment_id=pl.col("encounter_id") + f":{k}", recording_id=pl.col("encounter_id"), start_sample=k,
        draw=k, q_flat=0.0, q_step=0.001) for k in range(3)])


def acquisition_of(run: Path) -> rival_inputs.Inputs:
    found = rival_inputs.acquisition(run, windows_of(run), channels=["PPG"], columns=["mode"], most=20)
    return rival_inputs.restricted(found, run, windows_of(run)["encounter_id"])


@pytest.fixture(scope="module")
def study(tmp_path_factory) -> Path:
    return write_study(tmp_path_factory.mktemp("rivals"))


def judged(run: Path) -> pl.DataFrame:
    told = [acquisition_of(run), rival_inputs.vitals(run, ["pulse"]), rival_inputs.utilisation(run)]
    evaluate(run, config=EvaluateConfig(), seed=0, label_window="through_visit", rivals=told, prepare=Prepared.of)
    return Rivals.read(run)


def test_the_phenotype_that_only_the_recording_tells_is_flagged(study):
    table = judged(study)
    assert table.height == 3 * len(NAMES)
    by = {(row["rival"], row["phenotype"]): row for row in table.iter_rows(named=True)}
    assert {name for name in NAMES if by["acquisition", name]["explains"]} == {"recorded"}
    assert by["acquisition", "recorded"]["low"] > 0.6
    assert by["acquisition", "both"]["low"] > 0.5  # the recording tells it, too, but the encoder sees more
    assert not any(by[rival, name]["explains"] for rival in ("vitals", "utilisation") for name in NAMES)
    results = PhenotypeResults.read(study)
    flagged = results.filter(pl.col("flags").str.contains("acquisition_explains"))["phenotype"].to_list()
    assert flagged == ["recorded"]
    figures = dict(Overview.read(study).select("measure", "value").iter_rows())
    assert (figures["n_with_acquisition"], figures["n_explained_acquisition"]) == (4, 1)
    assert figures["n_beats_acquisition"] == 2
    told = RivalInputs.read(study)
    kinds = dict(told.filter(pl.col("rival") == "acquisition").select("input", "kind").iter_rows())
    assert kinds["mode"] == "category"
    assert kinds["hour"] == "hour"
    assert kinds["recorded_s"] == "number"
    assert told.filter(pl.col("rival") == "vitals")["missing_scored"][0] == pytest.approx(0.1, abs=0.05)


def test_its_model_and_comparison_are_those_of_other_libraries(study):
    """scikit-learn on the same columns, and the paired comparison of the tool's tested function."""
    table = judged(study).filter(pl.col("rival") == "acquisition")
    units, told = read_units(study, unit="encounter"), acquisition_of(study)
    design = Design.learn(told, units.train_rows)
    x, z = (design.columns(told, rows).astype(float) for rows in (units.train_rows, units.label_rows))
    np.testing.assert_allclose(x.mean(axis=0), 0, atol=1e-5)
    np.testing.assert_allclose(x.std(axis=0), 1, atol=1e-5)
    y, labels = units.labels_of(units.train_rows, NAMES), units.unit_labels(NAMES)
    scores = Fitted(units, told, Prepared.of).scores(NAMES)
    for j, name in enumerate(NAMES):
        kept, used = y[:, j] >= 0, labels[:, j] >= 0
        model = LogisticRegression(C=1 / x.shape[1], tol=1e-10, max_iter=10_000).fit(x[kept], y[kept, j])
        theirs = model.decision_function(z)
        np.testing.assert_allclose(scores[:, j], theirs, atol=2e-4)
        row = table.row(by_predicate=pl.col("phenotype") == name, named=True)
        assert row["auc"] == pytest.approx(roc_auc_score(labels[used, j], theirs[used]), abs=2e-3)
    gap = compare_matrix(units.unit_logits(NAMES), scores, labels, clusters=units.patients[units.label_rows])
    np.testing.assert_allclose(table["difference"], gap.difference, atol=1e-12)
    np.testing.assert_allclose(table["difference_high"], gap.high, atol=1e-12)


def test_scored_labels_reach_no_rival(study, tmp_path):
    twin = write_study(tmp_path)
    before = Fitted(read_units(study, unit="encounter"), acquisition_of(study), Prepared.of).scores(NAMES)
    labels = np.load(twin / LABELS_PATH)
    units = read_units(twin, unit="encounter")
    labels[units.label_rows] = 1 - np.abs(labels[units.label_rows])
    write_npy(labels, twin / LABELS_PATH)
    units = read_units(twin, unit="encounter")
    np.testing.assert_array_equal(Fitted(units, acquisition_of(twin), Prepared.of).scores(NAMES), before)
    labels[units.train_rows] = 1 - np.abs(labels[units.train_rows])
    write_npy(labels, twin / LABELS_PATH)
    units = read_units(twin, unit="encounter")
    assert not np.array_equal(Fitted(units, acquisition_of(twin), Prepared.of).scores(NAMES), before)


def test_cross_fitted_rivals_learn_from_the_other_folds(tmp_path):
    run = write_study(tmp_path, cross=True, patients=300)
    units = read_units(run, unit="encounter")
    told = acquisition_of(run)
    before = Fitted(units, told, Prepared.of).scores(NAMES)
    mine = units.folds[units.label_rows] == 2
    labels = np.load(run / LABELS_PATH)
    labels[units.label_rows[mine]] = 0
    write_npy(labels, run / LABELS_PATH)
    after = Fitted(read_units(run, unit="encounter"), told, Prepared.of).scores(NAMES)
    np.testing.assert_array_equal(after[mine], before[mine])
    assert not np.allclose(after[~mine], before[~mine])
    write_npy(np.load(run / LABELS_PATH) * 0 + (np.arange(4) % 2).astype(np.int8), run / LABELS_PATH)
    assert np.isnan(Fitted(read_units(run, unit="encounter"), told, Prepared.of).scores(NAMES)).all()


def test_cross_fitted_scores_are_ranked_and_without_permutations_nothing_is_claimed(tmp_path):
    run = write_study(tmp_path, cross=True, patients=300)
    table = judged(run).filter(pl.col("rival") == "acquisition")
    units = read_units(run, unit="encounter")
    scores, labels = Fitted(units, acquisition_of(run), Prepared.of).scores(NAMES), units.unit_labels(NAMES)
    ranks = fold_ranks(scores, labels, units.folds[units.label_rows])
    used = labels[:, 1] >= 0
    assert table["auc"][1] == pytest.approx(roc_auc_score(labels[used, 1], ranks[used, 1]), abs=1e-12)
    assert table.select("low", "p_value", "difference_p", "explains").null_count().row(0) == (4, 4, 4, 4)


def test_sides_that_share_a_patient_are_refused(study):
    units = read_units(study, unit="encounter")
    object.__setattr__(units, "train_rows", np.append(units.train_rows, units.label_rows[0]))
    with pytest.raises(SplitError, match="training and the scored side"):
        Fitted(units, acquisition_of(study), Prepared.of)


DAY = datetime(2200, 5, 10, 12)


def write_history(run: Path, *, later: bool = False) -> Path:
    """Two patients: `a` with visits on days 0, 10 and 10 (an hour later), `b` without a past."""
    visits = [("a0", "a", 0, 0), ("a1", "a", 10, 0), ("a2", "a", 10, 1), ("b0", "b", 3, 0), ("b1", "b", None, 0)]
    codes = [  # patient, visit, code, day
        ("a", "a0", "I10", 0), ("a", None, "I10", -400), ("a", None, "I11", -3), ("a", None, "E11", 9),
        ("a", "a1", "E78", 10), ("a", None, "Z00", 10), ("b", "b0", "I10", 3), ("b", None, "K21", None),
        # Dated before its own visit: it still belongs to it.
        ("a", "a1", "J45", 2),
    ]
    if later:
        visits += [("a9", "a", 30, 0)]
        codes += [("a", "a9", "N17", 30), ("a", None, "N18", 20), ("b", None, "N19", 4)]
    Encounters.write(Encounters.build(
        {"encounter_id": e, "patient_id": p, "start": None if d is None else DAY + timedelta(days=d, hours=h)}
        for e, p, d, h in visits), run)
    Diagnoses.write(Diagnoses.build(
        {"patient_id": p, "encounter_id": e, "code_raw": c, "code": c, "vocabulary": "ICD10CM", "source": "t",
         "recorded": None if d is None else (DAY + timedelta(days=d)).date(), "source_row": k}
        for k, (p, e, c, d) in enumerate(codes)), run)
    LabelRows.write(pl.DataFrame({"encounter_id": [e for e, *_ in visits], "patient_id": [p for _, p, *_ in visits]}),
                    run)
    Definitions.write(Definitions.build(
        {"phenotype": f, "code_system": "ICD10CM", "code": c}
        for f, c in (("401", "I10"), ("401", "I11"), ("250", "E11"), ("272", "E78"), ("495", "J45"))), run)
    return run


def counts_of(run: Path) -> dict[str, dict[str, float]]:
    found = rival_inputs.utilisation(run)
    rows = LabelRows.read(run)["encounter_id"].to_list()
    return {name: dict(zip(rows, np.expm1(values), strict=True)) for name, values in found.numbers.items()}


def test_utilisation_counts_strictly_earlier_care(tmp_path):
    found = counts_of(write_history(tmp_path))
    nan = float("nan")
    assert found["earlier_encounters"] == pytest.approx({"a0": 0, "a1": 1, "a2": 2, "b0": 0, "b1": nan}, nan_ok=True)
    # a0: I10 and I11 of before. a1: these and E11; not its own E78 and J45, nor Z00 of the same day.
    assert found["earlier_codes"] == pytest.approx({"a0": 2, "a1": 3, "a2": 3, "b0": 0, "b1": nan}, nan_ok=True)
    assert found["earlier_phenotypes"] == pytest.approx({"a0": 1, "a1": 2, "a2": 2, "b0": 0, "b1": nan}, nan_ok=True)


def test_a_later_visit_changes_nothing_for_an_earlier_one(tmp_path):
    before, after = counts_of(write_history(tmp_path / "one")), counts_of(write_history(tmp_path / "two", later=True))
    for name, values in before.items():
        assert {e: after[name][e] for e in values} == pytest.approx(values, nan_ok=True)
    assert after["earlier_codes"]["a9"] == pytest.approx(7)  # I10, I11, E11, E78, J45, Z00 and N18, but not its own N17


def test_without_dates_there_is_no_utilisation_and_it_says_so(tmp_path):
    run = write_history(tmp_path)
    Diagnoses.write(Diagnoses.read(run).with_columns(recorded=pl.lit(None, dtype=pl.Date)), run)
    Encounters.write(Encounters.read(run).filter(pl.col("encounter_id").is_in(["a0", "b0"])), run)
    LabelRows.write(LabelRows.read(run).filter(pl.col("encounter_id").is_in(["a0", "b0"])), run)
    assert "before it" in (rival_inputs.utilisation(run).reason or "")
    assert "no vital signs" in (rival_inputs.vitals(run, ["HR"]).reason or "")


def test_columns_are_learned_from_training_rows_alone():
    rng = np.random.default_rng(0)
    number = rng.normal(100, 15, 400)
    number[::7] = np.nan
    words = rng.choice(np.array(["a", "b", ""]), 400)
    same = 7 + 1e-7 * rng.normal(size=400)
    told = rival_inputs.Inputs("t", {"n": number, "same": same, "never": np.full(400, np.nan)}, {"w": words},
                               {"h": rng.uniform(0, 24, 400)})
    rows = np.arange(300)
    design = Design.learn(told, rows)
    assert set(design.blocks) == {"n", "w", "h"}
    columns = design.columns(told, np.arange(400))
    # n: a spline of four knots and its absence; w: two of three levels; h: two waves and their doubles.
    assert columns.shape[1] == 3 + 1 + 2 + 4
    changed = rival_inputs.Inputs("t", {**told.numbers, "n": np.where(np.arange(400) < 300, number, 1e4)},
                                  told.categories, told.hours)
    np.testing.assert_array_equal(Design.learn(changed, rows).columns(changed, rows), columns[rows])
    hours = rival_inputs.Inputs("t", {}, {}, {"h": np.r_[told.hours["h"][:398], 0.0, 24.0 - 1e-9]})
    circle = Design.learn(hours, np.arange(398)).columns(hours, np.array([398, 399]))
    np.testing.assert_allclose(circle[0], circle[1], atol=1e-5)  # midnight is one hour
    strange = words.copy()
    strange[399] = "unheard of"
    seen = rival_inputs.Inputs("t", told.numbers, {"w": strange}, told.hours)
    assert np.isfinite(design.columns(seen, np.array([399]))).all()



def test_a_cross_fitted_rival_that_says_the_same_of_everyone_explains_nothing(tmp_path):
    run = write_study(tmp_path, cross=True, patients=300)
    units = read_units(run, unit="encounter")
    odd = np.zeros(len(units.age))
    odd[np.flatnonzero(units.patients == 0)] = 1.0  # one patient alone is unlike the others, and is in one fold
    told = rival_inputs.Inputs("acquisition", {"odd": odd})
    known = np.ones(4, dtype=bool)
    table, _ = rivals(units, NAMES, [told], prepare=Prepared.of, family=known, stand_in=np.arange(4),
                      factor=np.ones(4), level=0.95)
    assert (table["auc"] - 0.5).abs().max() < 0.01
    assert table["explains"].to_list() == [False] * 4
