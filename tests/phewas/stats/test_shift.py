"""Differences between tested and training patients, against effect sizes computed by others."""

from __future__ import annotations

import datetime as dt
import math
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.distance import mahalanobis
from statsmodels.stats.meta_analysis import effectsize_smd

from phewas.errors import SchemaError
from phewas.rundir import write_npy
from phewas.schema import (
    LABELS_PATH,
    Diagnoses,
    Encounters,
    LabelColumns,
    LabelRows,
    Patients,
    Phenotypes,
    PredictionRows,
    Shift,
    Splits,
    Table1,
)
from phewas.stats.shift import smd_continuous, smd_levels, smd_share, write_shift

RNG = np.random.default_rng(3)


@pytest.mark.parametrize("n", [5, 40, 1000])
def test_continuous_agrees_with_statsmodels(n: int) -> None:
    """For groups of one size the pooled variance is the mean variance; the small-sample factor is taken out."""
    a, b = RNG.normal(1, 2, n), RNG.normal(0, 5, n)
    hedges, _ = effectsize_smd(a.mean(), a.std(ddof=1), n, b.mean(), b.std(ddof=1), n)
    factor = 1 - 3 / (4 * 2 * n - 9)
    assert smd_continuous(a, b) == pytest.approx(hedges / factor, rel=1e-12)
    assert smd_continuous(b, a) == pytest.approx(-hedges / factor, rel=1e-12)


def test_the_study_whose_tested_visits_are_younger() -> None:
    """55 against 45 years with standard deviation 20 is half a standard deviation."""
    values = RNG.normal(0, 1, 100_000)
    values = (values - values.mean()) / values.std(ddof=1)
    assert smd_continuous(45 + 20 * values, 55 + 20 * values) == pytest.approx(-0.5, abs=1e-9)


@given(st.floats(0.01, 0.99), st.floats(0.01, 0.99))
def test_share_is_the_continuous_one_of_zeros_and_ones(p: float, q: float) -> None:
    n = 200_000
    a, b = (np.concatenate([np.ones(round(n * x)), np.zeros(n - round(n * x))]) for x in (p, q))
    assert smd_share(round(n * p) / n, round(n * q) / n) == pytest.approx(smd_continuous(a, b), abs=1e-4)


counts = st.lists(st.tuples(st.integers(1, 500), st.integers(1, 500)), min_size=2, max_size=7)


@given(counts)
def test_levels_agree_with_scipy(pairs: list[tuple[int, int]]) -> None:
    a, b = zip(*pairs, strict=True)
    p, q = (np.array(x)[:-1] / sum(x) for x in (a, b))
    spread = ((np.diag(p) - np.outer(p, p)) + (np.diag(q) - np.outer(q, q))) / 2
    assert smd_levels(a, b) == pytest.approx(mahalanobis(p, q, np.linalg.inv(spread)), abs=1e-7)
    # Which level comes first, and levels that nobody has, play no part.
    assert smd_levels([*a[::-1], 0], [*b[::-1], 0]) == pytest.approx(smd_levels(a, b), abs=1e-7)


@given(st.integers(1, 99), st.integers(1, 99))
def test_two_levels_are_a_share(x: int, y: int) -> None:
    assert smd_levels([x, 100 - x], [y, 100 - y]) == pytest.approx(abs(smd_share(x / 100, y / 100)), abs=1e-9)


def test_where_nothing_can_be_said() -> None:
    one = np.array([1.0])
    assert math.isnan(smd_continuous(one, np.array([1.0, 2.0])))
    assert smd_continuous(np.ones(3), np.ones(4)) == 0.0
    assert math.isnan(smd_continuous(np.ones(3), np.zeros(4)))
    assert smd_share(0, 0) == smd_share(1, 1) == 0.0
    assert math.isnan(smd_share(0, 1))
    assert math.isnan(smd_share(math.nan, 0.5))
    assert math.isnan(smd_levels([], []))
    assert math.isnan(smd_levels([1, 2], [0, 0]))
    assert smd_levels([5], [9]) == 0.0
    assert math.isnan(smd_levels([5, 0], [0, 9]))
    assert math.isnan(smd_levels([5, 5, 0], [5, 0, 5])) or smd_levels([5, 5, 0], [5, 0, 5]) > 1


DAY = dt.datetime(2290, 6, 15, 14)


def write_run(run: Path, *, cross: bool = False) -> Path:
    """Six patients, eight encounters: p0, p1 train, p2 tunes, p3 and p4 are tested, p5 is excluded."""
    sides = ["train", "train", "tuning", "held_out", "held_out", "excluded"]
    folds = [None] * 6
    if cross:
        sides, folds = ["crossfit"] * 5 + ["excluded"], [0, 0, 1, 1, 2, None]
    ids = [f"p{k}" for k in range(6)]
    Splits.write(Splits.build({"patient_id": p, "split": s, "fold": f, "why": "test"}
                              for p, s, f in zip(ids, sides, folds, strict=True)), run)  # fmt: skip
    sexes, races = "FMFMUF", ["White", "Asian", "White", "White", None, "White"]
    Patients.write(Patients.build({"patient_id": p, "sex": s, "race": r}
                                  for p, s, r in zip(ids, sexes, races, strict=True)), run)  # fmt: skip
    owners = [0, 0, 1, 2, 3, 3, 4, 5]
    ages = [50.0, 52.0, 60.0, None, 30.0, 31.0, 40.0, 99.0]
    names = [f"e{k}" for k in range(8)]
    Encounters.write(Encounters.build(
        {"encounter_id": e, "patient_id": ids[o], "age": a, "index_time": DAY + dt.timedelta(days=k)}
        for k, (e, o, a) in enumerate(zip(names, owners, ages, strict=True))), run)  # fmt: skip
    days = [("p0", "I10", -900), ("p0", "I10", 0), ("p0", "E11", 0), ("p0", "J44", 1), ("p3", "I10", 4),
            ("p3", "X", None)]  # fmt: skip
    Diagnoses.write(Diagnoses.build(
        {"patient_id": p, "code_raw": c, "code": c, "vocabulary": "ICD10CM", "source": "pmh", "source_row": k + 1,
         "recorded": None if d is None else (DAY + dt.timedelta(days=d)).date()}
        for k, (p, c, d) in enumerate(days)), run)  # fmt: skip
    Phenotypes.write(Phenotypes.build(
        {"phenotype": p, "description": p, "chapter": c, "chapter_order": o, "sex": "both", "vocabulary": "t"}
        for p, c, o in (("1", "rare", 1), ("2", "often", 2), ("3", "often", 2), ("4", "never", 3))), run)  # fmt: skip
    LabelColumns.write(pl.DataFrame({"phenotype": ["1", "2", "3", "4"]}), run)
    labels = np.zeros((8, 4), np.int8)
    labels[4, 0] = 1
    labels[[0, 4, 5], 1] = 1
    labels[[0, 6, 7], 2] = 1
    labels[:, 3] = -1
    order = [3, 1, 0, 2, 7, 6, 5, 4]  # label rows come in an order of their own
    LabelRows.write(pl.DataFrame({"encounter_id": [names[k] for k in order],
                                  "patient_id": [ids[owners[k]] for k in order]}), run)  # fmt: skip
    write_npy(labels[order], run / LABELS_PATH)
    scored = range(7) if cross else (4, 5, 6)
    PredictionRows.write(PredictionRows.build(
        {"encounter_id": names[k], "patient_id": ids[owners[k]], "split": sides[owners[k]], "fold": folds[owners[k]],
         "model_id": "m", "n_segments": 20} for k in scored), run)  # fmt: skip
    return run


def row(run: Path, variable: str, level: str = "", comparison: str = "held_out") -> dict:
    found = Shift.read(run).filter(variable=variable, level=level, comparison=comparison)
    return found.row(0, named=True)


def test_who_is_compared(tmp_path: Path) -> None:
    run = write_run(tmp_path)
    write_shift(run)
    age = row(run, "age")
    assert (age["n_tested"], age["n_training"], age["missing_tested"], age["missing_training"]) == (3, 3, 0, 1)
    assert age["mean_tested"] == pytest.approx(np.mean([30, 31, 40]))
    assert age["mean_training"] == pytest.approx(54.0)
    assert age["smd"] == pytest.approx(smd_continuous(np.array([30.0, 31, 40]), np.array([50.0, 52, 60])))
    sex = row(run, "sex")
    assert (sex["n_tested"], sex["missing_tested"], sex["n_training"]) == (1, 1, 3)
    assert (row(run, "sex", "F")["count_tested"], row(run, "sex", "F")["count_training"]) == (0, 2)
    assert (row(run, "race", "White")["count_tested"], row(run, "race", "Asian")["count_training"]) == (1, 1)
    assert row(run, "encounters_per_patient")["mean_training"] == pytest.approx(4 / 3)
    assert "ethnicity" not in Shift.read(run)["variable"].to_list()
    # Before the day of the index time: e0 has I10 from long ago; e1, a day later, also E11; J44 of its own day not.
    prior = row(run, "prior_codes")
    assert prior["mean_training"] == pytest.approx((1 + 2 + 0 + 0) / 4)
    assert prior["mean_tested"] == pytest.approx((0 + 1 + 0) / 3)
    assert (row(run, "chapter", "often")["count_tested"], row(run, "chapter", "often")["count_training"]) == (3, 1)
    assert (row(run, "chapter", "rare")["count_tested"], row(run, "chapter", "never")["count_training"]) == (1, 0)
    assert Shift.read(run).filter(variable="chapter")["level"].to_list() == ["often", "rare", "never"]


def test_folds_against_the_others(tmp_path: Path) -> None:
    run = write_run(tmp_path, cross=True)
    write_shift(run)
    assert Shift.read(run)["comparison"].unique().sort().to_list() == ["fold 0", "fold 1", "fold 2"]
    assert row(run, "age", comparison="fold 0")["n_tested"] == 3
    assert row(run, "age", comparison="fold 0")["n_training"] == 3
    assert row(run, "age", comparison="fold 2")["n_tested"] == 1
    assert row(run, "age", comparison="fold 2")["smd"] is None


def test_training_encounters_without_windows_do_not_count(tmp_path: Path) -> None:
    run = write_run(tmp_path)
    (run / "segments").mkdir()
    pl.DataFrame({"encounter_id": ["e0", "e0", "e2", "e4"]}).write_parquet(run / "segments/windows-10-PPG.parquet")
    write_shift(run)
    assert row(run, "age")["n_training"] == 2
    assert row(run, "age")["n_tested"] == 3
    assert row(run, "encounters_per_patient")["n_training"] == 2
    assert row(run, "encounters_per_patient")["mean_training"] == pytest.approx(1.5)


def test_table1(tmp_path: Path) -> None:
    run = write_run(tmp_path)
    write_shift(run)
    table = Table1.read(run)
    assert table["side"].unique(maintain_order=True).to_list() == ["train", "tuning", "held_out"]
    age = table.filter(side="train", variable="age").row(0, named=True)
    assert (age["n"], age["missing"], age["median"], age["q25"]) == (3, 0, 52.0, 51.0)
    assert table.filter(side="tuning", variable="age").row(0, named=True)["mean"] is None
    assert table.filter(side="held_out", variable="chapter", level="often")["count"].to_list() == [3]
    levels = table.filter(variable="race").group_by("side", maintain_order=True).agg(pl.col("level"))["level"].to_list()
    assert levels == [["Asian", "White"]] * 3


def test_without_training_patients_or_diagnoses(tmp_path: Path) -> None:
    run = write_run(tmp_path)
    Splits.write(Splits.read(run).with_columns(
        split=pl.when(pl.col("split") == "held_out").then(pl.col("split")).otherwise(pl.lit("excluded"))), run)
    (run / Diagnoses.file).unlink()
    write_shift(run)
    assert len(Shift.read(run)) == 0
    assert Table1.read(run).filter(variable="prior_codes").row(0, named=True)["missing"] == 3


def test_same_bytes_and_no_row_order(tmp_path: Path) -> None:
    run = write_run(tmp_path)
    write_shift(run)
    before = (run / Shift.file).read_bytes(), (run / Table1.file).read_bytes()
    for table in (Patients, Encounters, Diagnoses, Splits, PredictionRows):
        table.write(table.read(run).reverse(), run)
    write_shift(run)
    assert before == ((run / Shift.file).read_bytes(), (run / Table1.file).read_bytes())


def test_no_identifier_gets_in(tmp_path: Path) -> None:
    run = write_run(tmp_path)
    write_shift(run)
    for table in (Shift, Table1):
        text = table.read(run).write_csv()
        assert "p3" not in text
        assert "e4" not in text


def test_missing_tables_are_told(tmp_path: Path) -> None:
    run = write_run(tmp_path)
    (run / PredictionRows.file).unlink()
    with pytest.raises(SchemaError, match="missing"):
        write_shift(run)
