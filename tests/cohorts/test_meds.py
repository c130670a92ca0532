"""MEDS: the spellings of codes in use, the known damage, visits without events, and the dataset's own split."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import polars as pl
import pytest

from phewas.cohorts import get
from phewas.cohorts.meds import subject_splits
from phewas.cohorts.meds_codes import Declared, check_codes, meaning, read_declared
from phewas.errors import CohortError, ConfigError

SOURCE = get("meds")


def write(root: Path, events: list[tuple[int, dt.datetime | None, str]], *, shard: str = "0") -> Path:
    (root / "data").mkdir(parents=True, exist_ok=True)
    # The types that the standard asks for.
    schema = {"subject_id": pl.Int64, "time": pl.Datetime("us"), "code": pl.String}
    pl.DataFrame(events, schema=schema, orient="row").write_parquet(root / "data" / f"{shard}.parquet")
    return root


def read(run: Path, name: str) -> pl.DataFrame:
    return pl.read_parquet(run / "cohort" / f"{name}.parquet")


@pytest.mark.parametrize(
    ("code", "kind", "text", "vocabulary"),
    [
        ("DIAGNOSIS//ICD//10//R531", "diagnosis", "R531", "ICD10CM"),
        ("DIAGNOSIS//ICD//9//5723", "diagnosis", "5723", "ICD9CM"),
        ("ICD10CM//E11.9", "diagnosis", "E11.9", "ICD10CM"),
        ("ICD10CM/E11.9", "diagnosis", "E11.9", "ICD10CM"),
        ("ICD9CM/250.00", "diagnosis", "250.00", "ICD9CM"),
        ("ICD10/I10", "diagnosis", "I10", "ICD10"),
        ("ICD10CM//I10//start", "diagnosis", "I10", "ICD10CM"),
        ("ICD10CM//I10//end", "other", None, None),
        ("ICD9CM//44826427//start", "concept", "44826427", None),
        ("SNOMED/3950001", "other", None, None),
        ("SNOMED/38341003", "diagnosis", "I10", "ICD10CM"),
        ("PROCEDURE//ICD//10//0DTJ4ZZ", "other", None, None),
        ("ICD10PCS/0DTJ4ZZ", "other", None, None),
        ("MEDS_BIRTH", "birth", None, None),
        ("MEDS_DEATH", "other", None, None),
        ("GENDER//F", "sex", "F", None),
        ("Gender/M", "sex", "M", None),
        ("Gender/8507", "sex", "M", None),
        ("HOSPITAL_ADMISSION//URGENT//CLINIC", "visit_start", None, None),
        ("HOSPITAL_DISCHARGE//HOME", "visit_end", None, None),
        ("Visit/IP", "visit_start", None, None),
        ("VISIT//9201//end", "visit_end", None, None),
    ],
)
def test_spellings(code: str, kind: str, text: str | None, vocabulary: str | None) -> None:
    found = meaning(code, Declared(parents={"SNOMED/38341003": ("SNOMED/1", "ICD10CM/I10")}))
    assert (found.kind, found.text, found.vocabulary) == (kind, text, vocabulary)


def test_the_known_damage_is_refused_by_name(tmp_path: Path) -> None:
    broken = "DIAGNOSIS//ICD//10//col(icd10_cm"
    with pytest.raises(CohortError, match=r"col\(icd10_cm"):
        check_codes(["DIAGNOSIS//ICD//9//5723", broken])
    root = write(tmp_path / "d", [(1, dt.datetime(2010, 1, 1), "Visit/IP"), (1, dt.datetime(2010, 1, 1), broken)])
    with pytest.raises(CohortError, match="known error of an extraction script"):
        SOURCE.build(root, tmp_path / "run")


def test_ends_follow_their_beginnings(tmp_path: Path) -> None:
    def day(k: int) -> dt.datetime:
        return dt.datetime(2264, 1, k)  # beyond the end of nanosecond times

    root = write(
        tmp_path / "d",
        [
            (1, day(1), "Visit/IP"), (1, day(3), "Visit/IP//end"), (1, day(5), "Visit/IP"), (1, day(8), "Visit/IP"),
            (1, day(9), "Visit/IP//end"), (2, day(2), "Visit/IP//end"), (2, day(4), "Visit/OP"),
        ],
    )  # fmt: skip
    SOURCE.build(root, tmp_path / "run")
    got = read(tmp_path / "run", "encounters").sort("patient_id", "start").select("start", "end").rows()
    assert got == [(day(1), day(3)), (day(5), None), (day(8), day(9)), (day(4), None)]
    assert read(tmp_path / "run", "rejects")["detail"].to_list() == ["an end without a beginning"]


def test_without_visits_each_recording_is_an_encounter(tmp_path: Path) -> None:
    born = dt.datetime(1950, 7, 1)
    root = write(tmp_path / "d", [(1, born, "MEDS_BIRTH"), (1, dt.datetime(2010, 1, 1), "ICD10CM/I10")])
    (root / "a.txt").write_text("1 2 3")
    (root / "b.txt").write_text("1 2 3")
    (root / "recordings.csv").write_text(
        "subject_id,path,channel,time,fs_hz\n1,a.txt,PPG,2010-07-01 00:00:00,100\n9,b.txt,PPG,,100\n,a.txt,PPG,,100\n"
    )
    SOURCE.build(root, tmp_path / "run")
    rows = read(tmp_path / "run", "encounters").select("encounter_id", "patient_id", "age").rows()
    assert [(e, p, None if a is None else round(a, 1)) for e, p, a in rows] == [
        ("1@2010-07-01 00:00:00", "1", 60.0), ("9@b.txt", "9", None),
    ]  # fmt: skip
    assert read(tmp_path / "run", "recordings")["encounter_id"].to_list() == ["1@2010-07-01 00:00:00", "9@b.txt"]


def test_the_own_split(tmp_path: Path) -> None:
    assert subject_splits(tmp_path) is None
    (tmp_path / "metadata").mkdir()
    file = tmp_path / "metadata" / "subject_splits.parquet"
    pl.DataFrame({"subject_id": [2, 1], "split": ["held_out", "train"]}).write_parquet(file)
    found = subject_splits(tmp_path)
    assert found is not None
    assert found.rows() == [("1", "train"), ("2", "held_out")]
    pl.DataFrame({"subject_id": [1, 1], "split": ["held_out", "train"]}).write_parquet(file)
    with pytest.raises(CohortError, match="two sides"):
        subject_splits(tmp_path)
    pl.DataFrame({"subject_id": [1], "split": ["test"]}).write_parquet(file)
    with pytest.raises(CohortError, match="'test'"):
        subject_splits(tmp_path)


def test_the_own_split_reaches_the_held_out_rule(tmp_path: Path) -> None:
    root = write(tmp_path / "d", [(1, dt.datetime(2010, 1, 1), "Visit/IP"), (2, dt.datetime(2010, 1, 1), "Visit/IP")])
    (root / "metadata").mkdir()
    file, run = root / "metadata" / "subject_splits.parquet", tmp_path / "run"
    pl.DataFrame({"subject_id": [2, 1], "split": ["held_out", "train"]}).write_parquet(file)
    SOURCE.build(root, run)
    assert read(run, "official_splits").rows() == [("1", "train"), ("2", "held_out")]
    pl.DataFrame({"subject_id": [1], "split": ["test"]}).write_parquet(file)
    with pytest.raises(CohortError, match="'test'"):
        SOURCE.build(root, tmp_path / "refused")
    assert not (tmp_path / "refused").exists()
    # A dataset without a split of its own leaves none behind from an earlier build.
    file.unlink()
    SOURCE.build(root, run)
    assert not (run / "cohort" / "official_splits.parquet").exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[[diagnoses]]\npattern = '('\nvocabulary = 'ICD10CM'", "no regular expression"),
        ("[[diagnoses]]\npattern = '(.*)'\nvocabulary = 'ICD10CM'", "marks no code"),
        ("[[diagnoses]]\npattern = '(?P<code>.*)'\nvocabulary = 'ICD11'", "no code system"),
        ("visits = 1", "unknown key 'visits'"),
        ("visit_start = 1", "no pattern"),
        ("= 1", "cannot be read"),
    ],
)
def test_declarations_are_checked(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "phewas-meds.toml").write_text(text)
    with pytest.raises(ConfigError, match=message):
        read_declared(tmp_path)


def test_no_dataset(tmp_path: Path) -> None:
    with pytest.raises(CohortError, match="not a MEDS dataset"):
        SOURCE.build(tmp_path, tmp_path / "run")
