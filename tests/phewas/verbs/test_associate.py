from __future__ import annotations

from datetime import date, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import statsmodels.api as sm
from statsmodels.duration.hazard_regression import PHReg
from statsmodels.stats.multitest import multipletests
from typer.testing import CliRunner

from phewas import cli
from phewas.errors import ConfigError, SchemaError
from phewas.rundir import write_npy
from phewas.schema import (
    LABELS_PATH,
    LOGITS_PATH,
    Encounters,
    LabelColumns,
    LabelRows,
    Patients,
    Phenotypes,
    PredictionColumns,
    PredictionRows,
)

N = 800


def go(*arguments) -> str:
    done = CliRunner().invoke(cli.app, ["associate", *map(str, arguments)])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done.output


@pytest.fixture(scope="module")
def tables(tmp_path_factory) -> Path:
    """Persons, a folder of `phewas map` with dates, and wide labels; ids with leading zeros."""
    folder = tmp_path_factory.mktemp("association")
    rng = np.random.default_rng(2)
    ids = [f"{k:05d}" for k in range(N)]
    site = rng.choice(["east", "north", "west"], N, p=[0.5, 0.3, 0.2])
    sex, age, dose = rng.choice(["F", "M"], N), rng.normal(50, 10, N).round(1), rng.integers(0, 3, N)
    pl.DataFrame({
        "person_id": ids, "sex": sex, "age": age, "site": site, "dose": dose,
        "lab": rng.normal(size=N).round(3), "begin": [date(2010, 1, 1)] * N, "finish": [date(2020, 1, 1)] * N,
    }).with_columns(age=pl.when(pl.col("person_id") == "00003").then(None).otherwise("age")).write_csv(
        folder / "persons.csv")
    mapped = folder / "mapped"
    mapped.mkdir()
    rows = []
    for phenotype in ("008", "250.2", "634"):
        case = rng.random(N) < 1 / (1 + np.exp(1.5 - 0.4 * dose * (phenotype == "250.2") - 0.02 * (age - 50)))
        for k in range(N):
            if phenotype == "634" and sex[k] == "M":
                continue
            if case[k] or rng.random() < 0.03:
                rows.append((ids[k], phenotype, 3 if case[k] else 1,
                             date(2005, 1, 1) + timedelta(days=int(rng.integers(0, 6000)))))
    counts = pl.DataFrame(rows, schema=["patient_id", "phenotype", "distinct_days", "first_date"], orient="row")
    counts.write_parquet(mapped / "counts.parquet")
    pl.DataFrame({"phenotype": ["008", "250.2", "634"], "description": ["Infection", "Diabetes", "Miscarriage"],
                  "chapter": ["a", "b", "c"], "sex": ["both", "both", "F"]}).write_parquet(
        mapped / "phenotypes.parquet")
    return folder


def test_counts_of_phewas_map_to_a_table_of_associations(tables):
    text = go(tables / "persons.csv", "--phenotypes", tables / "mapped", "--predictor", "dose", "--covariates",
              "age,sex,site", "--firth-below", 0, "--out", tables / "r.csv")
    assert "3 phenotypes" in text
    assert "1 rows lack" in text
    found = pl.read_csv(tables / "r.csv", schema_overrides={"phenotype": pl.String})
    assert found["phenotype"].to_list() == ["008", "250.2", "634"]
    assert found["description"].to_list() == ["Infection", "Diabetes", "Miscarriage"]
    persons = pl.read_csv(tables / "persons.csv", schema_overrides={"person_id": pl.String})
    counts = pl.read_parquet(tables / "mapped" / "counts.parquet")
    for row in found.iter_rows(named=True):
        mine = persons.join(counts.filter(phenotype=row["phenotype"]), left_on="person_id", right_on="patient_id",
                            how="left").drop_nulls("age").with_columns(days=pl.col("distinct_days").fill_null(0))
        mine = mine.filter(pl.col("days") != 1)
        if row["phenotype"] == "634":  # men are no controls
            mine = mine.filter(sex="F")
            assert "sex=" in row["note"]
        columns = [np.ones(len(mine)), mine["age"], mine["site"] == "north", mine["site"] == "west"]
        columns += [] if row["phenotype"] == "634" else [mine["sex"] == "M"]
        design = np.column_stack([np.asarray(c, dtype=float) for c in [*columns, mine["dose"]]])
        fit = sm.Logit((mine["days"] >= 2).to_numpy().astype(float), design).fit(disp=0, tol=1e-12)
        assert (row["beta"], row["SE"]) == pytest.approx((fit.params[-1], fit.bse[-1]), rel=1e-7)
        assert row["OR"] == pytest.approx(np.exp(row["beta"]))
        assert (row["n_total"], row["n_cases"]) == (len(mine), (mine["days"] >= 2).sum())
    assert found["p_bonferroni"].to_list() == pytest.approx(np.minimum(found["p"].to_numpy() * 3, 1))


def test_wide_labels_several_predictors_and_categories(tables):
    rng = np.random.default_rng(4)
    wide = pl.DataFrame({"person_id": [f"{k:05d}" for k in range(100, N)],
                         "008": rng.choice([-1, 0, 1], N - 100, p=[0.1, 0.6, 0.3])})
    wide.write_csv(tables / "wide.csv")
    text = go(tables / "persons.csv", "--phenotypes", tables / "wide.csv", "--predictor", "dose", "--predictor", "sex",
              "--categorical", "site", "--test", "lrt", "--out", tables / "w.parquet")
    assert "100 persons have no row" in text
    found = pl.read_parquet(tables / "w.parquet")
    assert found["predictor"].to_list() == ["dose", "sex=M"]
    assert found["method"].to_list() == ["likelihood ratio"] * 2
    assert found["n_total"].to_list() == [(wide["008"] >= 0).sum()] * 2


def test_phenotypes_with_equal_labels_are_one_hypothesis(tables):
    """Corrections are those of statsmodels over each question asked once."""
    rng = np.random.default_rng(9)
    dose = pl.read_csv(tables / "persons.csv")["dose"].to_numpy()
    a, b = rng.integers(0, 2, N), (rng.random(N) < 0.2 + 0.15 * dose).astype(int)
    pl.DataFrame({"person_id": [f"{k:05d}" for k in range(N)], "1": a, "1.1": a, "2": b, "2.1": b, "2.11": b,
                  "3": rng.integers(0, 2, N), "4": np.zeros(N, dtype=int), "4.1": np.zeros(N, dtype=int)},
                 ).write_csv(tables / "alike.csv")
    go(tables / "persons.csv", "--phenotypes", tables / "alike.csv", "--predictor", "dose", "--predictor", "lab",
       "--out", tables / "alike.parquet", "--small-cell", 0)
    found = pl.read_parquet(tables / "alike.parquet")
    assert found["same_as"].to_list() == [None, "1", None, "2", "2", None, None, None] * 2
    once = found.filter(pl.col("same_as").is_null() & pl.col("p").is_not_null())
    assert len(once) == 6
    for name, method in (("q_fdr", "fdr_bh"), ("p_bonferroni", "bonferroni")):
        np.testing.assert_allclose(once[name], multipletests(once["p"].to_numpy(), method=method)[1], rtol=1e-12)
        assert found[name][3:5].to_list() == [found[name][2]] * 2
        assert found[name][11:13].to_list() == [found[name][10]] * 2
    assert found["p_bonferroni"].is_null().sum() == 4


def test_linear_and_embedding_dimensions(tables):
    rng = np.random.default_rng(6)
    ids = [f"{k:05d}" for k in range(N)]
    pl.DataFrame({"patient_id": ids, "embedding": rng.normal(size=(N, 3)).tolist()}).write_parquet(
        tables / "embedding.parquet")
    pl.DataFrame({"patient_id": ids, "potassium": rng.normal(4, 0.5, N)}).write_csv(tables / "labs.csv")
    go(tables / "embedding.parquet", "--phenotypes", tables / "labs.csv", "--predictor", "embedding", "--model",
       "linear", "--out", tables / "l.csv")
    found = pl.read_csv(tables / "l.csv")
    assert found["predictor"].to_list() == ["embedding:0", "embedding:1", "embedding:2"]
    assert "OR" not in found.columns
    go(tables / "embedding.parquet", "--phenotypes", tables / "labs.csv", "--predictor", "embedding:2", "--model",
       "linear", "--out", tables / "l2.csv")
    assert pl.read_csv(tables / "l2.csv")["beta"][0] == pytest.approx(found["beta"][2])


def test_cox_counts_incident_cases_only(tables):
    go(tables / "persons.csv", "--phenotypes", tables / "mapped", "--predictor", "dose", "--covariates", "age",
       "--model", "cox", "--start", "begin", "--end", "finish", "--out", tables / "c.csv")
    found = pl.read_csv(tables / "c.csv", schema_overrides={"phenotype": pl.String})
    counts = pl.read_parquet(tables / "mapped" / "counts.parquet")
    persons = pl.read_csv(tables / "persons.csv", schema_overrides={"person_id": pl.String}).drop_nulls("age")
    begin, finish = date(2010, 1, 1), date(2020, 1, 1)
    for row in found.iter_rows(named=True):
        dates = {r[0]: r[2:] for r in counts.filter(phenotype=row["phenotype"]).iter_rows()}
        follow = []
        for person in persons.iter_rows(named=True):
            days, first = dates.get(person["person_id"], (0, None))
            if row["phenotype"] == "634" and person["sex"] == "M":
                continue
            if first is None or first > finish:
                follow.append((person["dose"], person["age"], (finish - begin).days, 0))
            elif first > begin and days >= 2:
                follow.append((person["dose"], person["age"], (first - begin).days, 1))
        dose, age, time, event = np.array(follow, dtype=float).T
        fit = PHReg(time, np.column_stack([age, dose]), status=event, ties="efron").fit()
        assert (row["n_total"], row["n_cases"]) == (len(time), event.sum())
        assert (row["beta"], row["SE"]) == pytest.approx((fit.params[1], fit.bse[1]), rel=1e-5)
        assert row["HR"] == pytest.approx(np.exp(row["beta"]))


def test_a_run_associates_each_phenotype_with_its_own_score(tmp_path):
    rng = np.random.default_rng(1)
    ids = [f"p{k:03d}" for k in range(400)]
    owner = np.concatenate([np.arange(400), np.arange(100)])
    encounters = [f"e{k:03d}" for k in range(500)]
    truth = (rng.random(400) < 0.4)[owner]
    logits = np.column_stack([rng.normal(size=500) + truth, rng.normal(size=500)]).astype(np.float32)
    Patients.write(Patients.build({"patient_id": i, "sex": "FM"[k % 2]} for k, i in enumerate(ids)), tmp_path)
    Encounters.write(Encounters.build({"encounter_id": e, "patient_id": ids[o], "age": 40.0 + o % 30}
                                      for e, o in zip(encounters, owner, strict=True)), tmp_path)
    LabelRows.write(pl.DataFrame({"encounter_id": encounters, "patient_id": [ids[o] for o in owner]}), tmp_path)
    LabelColumns.write(pl.DataFrame({"phenotype": ["a", "b"]}), tmp_path)
    Phenotypes.write(Phenotypes.build({"phenotype": n, "description": n, "chapter": "A", "chapter_order": 1,
                                       "sex": "both", "vocabulary": "t"} for n in "ab"), tmp_path)
    write_npy(np.column_stack([truth, truth]).astype(np.int8), tmp_path / LABELS_PATH)
    write_npy(logits[::-1], tmp_path / LOGITS_PATH)
    PredictionColumns.write(pl.DataFrame({"phenotype": ["a", "b"]}), tmp_path)
    PredictionRows.write(PredictionRows.build(
        {"encounter_id": encounters[r], "patient_id": ids[owner[r]], "split": "held_out", "model_id": "m",
         "n_segments": 1} for r in range(499, -1, -1)), tmp_path)
    go("--phenotypes", tmp_path, "--covariates", "age,sex", "--out", tmp_path / "r.csv")
    found = pl.read_csv(tmp_path / "r.csv")
    assert found["method"].to_list() == ["patient-clustered Wald z"] * 2
    assert found["n_case_patients"][0] == len(np.unique(owner[truth]))
    score = (logits[:, 0] - logits[:, 0].mean()) / logits[:, 0].std()
    design = np.column_stack([np.ones(500), 40.0 + owner % 30, owner % 2, score])
    fit = sm.Logit(truth.astype(float), design).fit(disp=0, cov_type="cluster", cov_kwds={"groups": owner}, tol=1e-12)
    assert (found["beta"][0], found["SE"][0]) == pytest.approx((fit.params[-1], fit.bse[-1]), rel=1e-5)


def test_small_counts_are_hidden_unless_asked_for(tables):
    wide = pl.DataFrame({"person_id": [f"{k:05d}" for k in range(N)],
                         "rare": [1] * 7 + [0] * (N - 7), "common": [1, 0] * (N // 2)})
    wide.write_csv(tables / "rare.csv")
    asked = (tables / "persons.csv", "--phenotypes", tables / "rare.csv", "--predictor", "dose", "--min-cases", 5)
    assert "below 11 are hidden" in go(*asked, "--out", tables / "shown.csv")
    rare, common = pl.read_csv(tables / "shown.csv", infer_schema=False).to_dicts()
    assert (rare["n_cases"], rare["n_case_patients"], rare["p"], rare["counts_rounded"]) == ("<11", "<11", None, "true")
    assert int(rare["n_controls"]) % 10 == 0
    assert int(rare["n_total"]) % 10 == 0
    assert (common["n_cases"], common["counts_rounded"]) == (str(N // 2), "false")
    assert common["p"] is not None
    assert "not for sharing" in go(*asked, "--small-cell", 0, "--out", tables / "raw.parquet")
    assert pl.read_parquet(tables / "raw.parquet")["n_cases"].to_list() == [7, N // 2]
    few = go(*asked[:-1], 20, "--out", tables / "few.csv")
    assert "1 with too few" in few
    assert pl.read_csv(tables / "few.csv")["note"][0] == "no model: <11 case patients, fewer than 20"


def test_mistakes_are_told_with_their_cure(tables):
    mapped = tables / "mapped"
    pl.read_csv(tables / "persons.csv", schema_overrides={"person_id": pl.String}).with_columns(
        same=pl.lit(3), blank=pl.lit(None, pl.String)).write_csv(tables / "odd.csv")
    persons = tables / "odd.csv"
    with pytest.raises(SchemaError, match=r"there is no .*nowhere"):
        go(persons, "--phenotypes", tables / "nowhere", "--predictor", "dose", "--out", tables / "x.csv")
    for options, words in (
        (["--predictor", "same"], "same is 3 in every row"),
        (["--predictor", "dose", "--covariates", "blank"], "covariate blank is empty"),
        (["--predictor", "dose", "--covariates", "agee"], "Did you mean age"),
        (["--predictor", "doze"], "Did you mean dose"),
        (["--predictor", "site"], "3 different values"),
        (["--predictor", "begin"], "numbers"),
        (["--predictor", "dose", "--covariates", "dose"], "predictor and covariate"),
        (["--predictor", "dose", "--model", "cox"], "follow-up"),
        (["--predictor", "score"], "run directory"),
        ([], "no predictor"),
    ):
        with pytest.raises((ConfigError, SchemaError)) as error:
            go(persons, "--phenotypes", mapped, "--out", tables / "x.csv", *options)
        assert words in str(error.value)
    pl.DataFrame({"person_id": ["zz"], "dose": [1]}).write_csv(tables / "other.csv")
    with pytest.raises(SchemaError, match="none of the"):
        go(tables / "other.csv", "--phenotypes", mapped, "--predictor", "dose", "--out", tables / "x.csv")
    assert not (tables / "x.csv").exists()
