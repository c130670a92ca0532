"""`phewas evaluate` on parts of a cohort, on run directories, on tables of sites, and in blocks."""

from __future__ import annotations

import shutil
from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest
from typer.testing import CliRunner

from phewas.cli import app
from phewas.errors import ConfigError, PhewasError, SchemaError, SplitError, StatisticsError
from phewas.schema import PhenotypeResults, PredictionRows, Splits

ESTIMATES = ("auc", "auc_se", "auc_low", "auc_high", "neg_log10_p", "average_precision", "q_fdr", "n_patients",
             "n_cases", "n_controls", "n_excluded", "n_case_patients", "n_control_patients", "prevalence")


def evaluate(*arguments: object) -> str:
    done = CliRunner().invoke(app, ["evaluate", *map(str, arguments)])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done.output


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """900 encounters of 600 patients, whole and in two parts; 300 patients have encounters in both."""
    folder = tmp_path_factory.mktemp("study")
    rng = np.random.default_rng(8)
    owner = np.concatenate([np.arange(600), np.arange(300)])
    risk = rng.random((600, 3)) < np.array([0.3, 0.2, 0.02])
    case = (risk[owner] & (rng.random((900, 3)) < 0.9)).astype(int)
    score = np.round(rng.normal(size=case.shape) + case, 1)
    names = ["008", "411.2", "427"]
    ids = [f"{k:05d}" for k in range(900)]
    scores = pl.DataFrame({"encounter_id": ids} | {n: score[:, j] for j, n in enumerate(names)})
    labels = pl.DataFrame({"encounter_id": ids} | {n: case[:, j] for j, n in enumerate(names)})
    labels = labels.with_columns(pl.when(pl.int_range(pl.len()) % 11 == 0).then(None).otherwise("008").alias("008"))
    people = pl.DataFrame({"encounter_id": ids, "patient_id": [f"p{o}" for o in owner]})
    first = pl.Series(np.arange(900) < 450)
    for name, part in (("whole", None), ("a", first), ("b", ~first)):
        for what, frame in (("scores", scores), ("labels", labels), ("people", people)):
            (frame if part is None else frame.filter(part)).write_parquet(folder / f"{what}-{name}.parquet")
    scores.write_csv(folder / "scores.csv")

    def judged(name: str) -> str:
        evaluate("--predictions", folder / f"scores-{name}.parquet", "--labels", folder / f"labels-{name}.parquet",
                 "--patients", folder / f"people-{name}.parquet", "--out", folder / name, "--vocabulary", "phecode1.2")
        return name

    return SimpleNamespace(folder=folder, runs=[folder / judged(name) for name in ("whole", "a", "b")])


def same(ours: pl.DataFrame, theirs: pl.DataFrame) -> None:
    assert ours["phenotype"].to_list() == theirs["phenotype"].to_list()
    for name in ESTIMATES:
        np.testing.assert_allclose(ours[name].cast(pl.Float64).to_numpy(), theirs[name].cast(pl.Float64).to_numpy(),
                                   rtol=1e-10, err_msg=name)
    assert ours["status"].to_list() == theirs["status"].to_list()


def test_run_directories_are_joined_exactly(study, tmp_path):
    whole, a, b = study.runs
    told = evaluate("--combine", a, "--combine", b, "--out", tmp_path / "joined")
    assert "900 scored encounters of 600 patients, 300 of them with encounters in several parts" in told
    same(PhenotypeResults.read(tmp_path / "joined"), PhenotypeResults.read(whole))
    assert (tmp_path / "joined" / "report" / "index.html").is_file()


def test_parts_named_by_file_are_joined_exactly(study, tmp_path):
    f = study.folder
    evaluate(*[x for part in "ab" for x in ("--predictions", f / f"scores-{part}.parquet", "--labels",
                                            f / f"labels-{part}.parquet", "--patients", f / f"people-{part}.parquet")],
             "--out", tmp_path / "joined", "--vocabulary", "phecode1.2")
    same(PhenotypeResults.read(tmp_path / "joined"), PhenotypeResults.read(study.runs[0]))


@pytest.mark.parametrize("scores", ["scores-whole.parquet", "scores.csv"])
def test_predictions_in_blocks_give_the_same_table(study, tmp_path, scores, monkeypatch):
    monkeypatch.setattr("phewas.stats.large.memory_needed_mb", lambda files: 9_000)
    monkeypatch.setattr("phewas.stats.large.BLOCK_BYTES", 9 * 3 * 70)
    f, labels = study.folder, tmp_path / "labels.parquet"
    pl.read_parquet(f / "labels-whole.parquet").with_columns(pl.lit(0).alias("250.2")).write_parquet(labels)
    told = evaluate("--predictions", f / scores, "--labels", labels, "--patients",
                    f / "people-whole.parquet", "--out", tmp_path / "blocks", "--vocabulary", "phecode1.2")
    assert "read in blocks" in told
    assert "1 phenotypes have labels and no predictions, such as 250.2: left out" in told
    same(PhenotypeResults.read(tmp_path / "blocks"), PhenotypeResults.read(study.runs[0]))
    shown = pl.read_csv(tmp_path / "blocks" / "report" / "tables" / "phenotypes.csv", infer_schema=False)
    assert shown["auc"].null_count() == (PhenotypeResults.read(tmp_path / "blocks")["status"] != "tested").sum()
    assert sorted(p.name for p in (tmp_path / "blocks").iterdir()) == ["NOT-FOR-SHARING.txt", "report", "results"]
    with pytest.raises(ConfigError, match="read in blocks"):
        evaluate("--predictions", f / scores, "--labels", f / "labels-whole.parquet", "--out", tmp_path / "x",
                 "--baseline", "age,sex")
    blank = pl.read_parquet(f / "scores-whole.parquet").with_columns(
        pl.when(pl.int_range(pl.len()) < 20).then(None).otherwise("411.2").alias("411.2"))
    blank.write_parquet(tmp_path / "blank.parquet")
    with pytest.raises(StatisticsError, match=r"phenotype '411\.2' has no score \(NaN\) for 20 cases or controls"):
        evaluate("--predictions", tmp_path / "blank.parquet", "--labels", f / "labels-whole.parquet", "--out",
                 tmp_path / "z")
    shuffled = pl.read_parquet(f / "labels-whole.parquet").reverse()
    shuffled.write_parquet(tmp_path / "labels.parquet")
    with pytest.raises(SchemaError, match="not in the same order"):
        evaluate("--predictions", f / scores, "--labels", tmp_path / "labels.parquet", "--out", tmp_path / "y")


def test_labels_of_further_encounters_are_passed_over_in_blocks(study, tmp_path, monkeypatch):
    monkeypatch.setattr("phewas.stats.large.memory_needed_mb", lambda files: 9_000)
    monkeypatch.setattr("phewas.stats.large.BLOCK_BYTES", 9 * 3 * 50)
    f = study.folder
    evaluate("--predictions", f / "scores-b.parquet", "--labels", f / "labels-whole.parquet", "--patients",
             f / "people-whole.parquet", "--out", tmp_path / "blocks", "--vocabulary", "phecode1.2")
    same(PhenotypeResults.read(tmp_path / "blocks"), PhenotypeResults.read(study.runs[2]))


def test_sites_that_share_no_rows(study, tmp_path):
    tables = [run / "report" / "tables" / "phenotypes.csv" for run in study.runs[1:]]
    told = evaluate("--combine", tables[0], "--combine", tables[1], "--out", tmp_path / "pooled")
    assert "2 sites, 3 AUCs; 2 pooled" in told
    pooled = pl.read_parquet(tmp_path / "pooled" / "meta.parquet")
    whole = PhenotypeResults.read(study.runs[0])
    # Other patients weigh in other places: near, not equal.
    assert pooled["auc"][0] == pytest.approx(whole["auc"][0], abs=0.03)
    sites = pl.read_parquet(tmp_path / "pooled" / "meta_sites.parquet")
    assert sites["site"].unique().sort().to_list() == ["a", "b"]
    assert sites.filter(pl.col("phenotype") == "427")["left_out"].null_count() == 0


def test_mistakes_are_told(study, tmp_path):
    whole, a, b = study.runs
    f = study.folder
    table = a / "report" / "tables" / "phenotypes.csv"
    for arguments, kind, match in (
        (("--combine", a, "--combine", whole), SchemaError, "450 encounters are in several parts"),
        (("--combine", a), SchemaError, "stands alone"),
        (("--combine", table), SchemaError, "only site"),
        (("--combine", table, "--combine", table), SchemaError, "named twice"),
        (("--combine", table, "--combine", b), ConfigError, "is a folder"),
        (("--combine", a, "--predictions", f / "scores.csv"), ConfigError, "stands beside"),
        (("--predictions", f / "scores.csv"), ConfigError, "no labels were named"),
        ((), ConfigError, "no predictions were named"),
        (("--combine", tmp_path / "none.csv", "--combine", table), ConfigError, "there is no file"),
        (("--combine", tmp_path, "--combine", b), PhewasError, "is missing"),
        (("--predictions", f / "scores-a.parquet", "--predictions", f / "scores-whole.parquet", "--labels",
          f / "labels-whole.parquet"), SchemaError, "repeat"),
        (("--predictions", f / "scores-a.parquet", "--predictions", f / "labels-b.parquet", "--predictions",
          f / "people-b.parquet", "--labels", f / "labels-whole.parquet"), ConfigError, "differ in the columns"),
    ):
        with pytest.raises(kind, match=match):
            evaluate(*arguments, "--out", tmp_path / "out")
        assert not (tmp_path / "out").exists()


def test_parts_that_contradict_each_other(study, tmp_path):
    _, a, b = study.runs
    for number, (change, kind, match) in enumerate((
        (lambda run: Splits.write(Splits.read(run).with_columns(
            split=pl.when(pl.col("patient_id") == "p7").then(pl.lit("train")).otherwise("split")), run),
         SplitError, "1 patients are scored in one part and trained on in another"),
        (lambda run: PredictionRows.write(PredictionRows.read(run).with_columns(
            split=pl.lit("crossfit"), fold=pl.lit(0, pl.Int8)), run), SplitError, "cross-fitted"),
        (lambda run: PhenotypeResults.write(PhenotypeResults.read(run).with_columns(
            label_window=pl.lit("history")), run), SchemaError, "differ in their label windows: any; history"),
    )):
        other = tmp_path / f"b{number}"
        shutil.copytree(b, other)
        change(other)
        with pytest.raises(kind, match=match):
            evaluate("--combine", a, "--combine", other, "--out", tmp_path / "out")
