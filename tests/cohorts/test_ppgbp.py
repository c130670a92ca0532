"""PPG-BP: a workbook written by the test, and the real folder where it is there."""

from __future__ import annotations

from pathlib import Path

import openpyxl
import polars as pl
import pytest

from phewas.cohorts import get
from phewas.errors import CohortError

SOURCE = get("ppgbp")
HEADER = ["Num.", "subject_ID", "Sex(M/F)", "Age(year)", "Height(cm)", "Weight(kg)", "Systolic Blood Pressure(mmHg)",
          "Diastolic Blood Pressure(mmHg)", "Heart Rate(b/m)", "BMI(kg/m^2)", "Hypertension", "Diabetes",
          "cerebral infarction", "cerebrovascular disease"]  # fmt: skip


def write(root: Path, rows: list[list[object]], header: list[str] = HEADER) -> Path:
    base = root / "Data File"
    (base / "0_subject").mkdir(parents=True)
    book = openpyxl.Workbook()
    for row in (["Cardiovascular Dataset"], header, *rows):
        book.active.append(row)
    book.save(base / "PPG-BP dataset.xlsx")
    return root


def read(run: Path, name: str) -> pl.DataFrame:
    return pl.read_parquet(run / "cohort" / f"{name}.parquet")


def test_known_people(tmp_path: Path) -> None:
    body = [152, 63, 161, 89, 97, 27.3]
    root = write(
        tmp_path / "ppg",
        [
            [1, 2, "Female", 45, *body, "Stage 2 hypertension", "Type 2 Diabetes", None, None],
            [2, 3, "Male", "?", *body, "Prehypertension", None, None, "insufficiency of cerebral blood supply"],
            [3, 6, "Female", 47, *body, "Normal", "Gestational", "cerebral infarction", None],
            [4, 6, "Female", 47, *body, "Normal", None, None, None],
            [5, None, "Female", 47, *body, "Normal", None, None, None],
        ],
    )
    signals = root / "Data File" / "0_subject"
    for name in ("2_1", "2_2", "3_1", "6_10", "6_9", "77_1"):
        (signals / f"{name}.txt").write_text("\t".join(["2181.0"] * 2100) + "\t")
    (signals / "2_3.txt").write_text("2181.0\tx")
    (signals / "3_2.txt").write_text("")
    (signals / "readme.md").write_text("")
    run = tmp_path / "run"
    SOURCE.build(root, run)
    assert read(run, "patients").select("patient_id", "sex").rows() == [("2", "F"), ("3", "M"), ("6", "F")]
    assert read(run, "encounters")["age"].to_list() == [45.0, None, 47.0]
    assert read(run, "encounters")["src_sbp_mmhg"].to_list() == [161.0] * 3
    r = read(run, "recordings")
    assert r["recording_id"].to_list() == ["2_1", "2_2", "3_1", "6_9", "6_10"]
    assert r["path"][0] == "Data File/0_subject/2_1.txt"
    assert set(r["n_samples"]) == {2100}
    d = read(run, "diagnoses").select("patient_id", "code", "certainty", "code_raw", "source_row")
    assert d.rows() == [
        ("2", "E11.9", None, "Type 2 Diabetes", 1),
        ("2", "I10", None, "Stage 2 hypertension", 1),
        ("3", "I10", "uncertain", "Prehypertension", 2),
        ("3", "I67.82", None, "insufficiency of cerebral blood supply", 2),
        ("6", "I63.9", None, "cerebral infarction", 3),
    ]
    lost = read(run, "rejects").select("table", "source_row", "reason").rows()
    assert sorted(lost, key=str) == sorted(
        [
            ("diagnoses", 3, "unknown_diagnosis"), ("encounters", 2, "bad_number"),
            ("encounters", 4, "duplicate_encounter"), ("encounters", 5, "blank_id"),
            ("recordings", None, "read_failed"), ("recordings", None, "unknown_encounter"),
            ("recordings", None, "foreign_file"), ("recordings", None, "zero_length"),
        ],
        key=str,
    )  # fmt: skip


def test_what_is_told(tmp_path: Path) -> None:
    def told(root: Path) -> str:
        with pytest.raises(CohortError) as caught:
            SOURCE.build(root, tmp_path / "run")
        return str(caught.value)

    (tmp_path / "empty").mkdir()
    assert "PPG-BP dataset.xlsx missing" in told(tmp_path / "empty")
    renamed = [h.replace("Diabetes", "Diabetic") for h in HEADER]
    assert "Did you mean Diabetic?" in told(write(tmp_path / "renamed", [[1, 2]], renamed))
    assert "lists nobody" in told(write(tmp_path / "nobody", []))
    root = write(tmp_path / "damaged", [])
    (root / "Data File" / "PPG-BP dataset.xlsx").write_bytes(b"no workbook")
    assert "not a readable workbook" in told(root)
    assert "downloaded" in SOURCE.card.obtain or "download" in SOURCE.card.obtain


def test_the_real_folder(shared: Path, tmp_path: Path) -> None:
    root = shared / "ppg-bp"
    SOURCE.build(root, tmp_path)
    assert len(read(tmp_path, "patients")) == 219
    assert read(tmp_path, "patients")["sex"].value_counts().sort("sex").rows() == [("F", 115), ("M", 104)]
    r = read(tmp_path, "recordings")
    assert len(r) == 657
    assert r["encounter_id"].n_unique() == 219
    assert len(read(tmp_path, "rejects")) == 0
    # Counts of the workbook's words, taken from the workbook by hand.
    n = read(tmp_path, "diagnoses").group_by("code", "certainty").len().sort("code", "certainty").rows()
    assert n == [("E11.9", None, 38), ("I10", None, 54), ("I10", "uncertain", 85), ("I63.9", None, 20),
                 ("I67.82", None, 15), ("I67.9", None, 10)]  # fmt: skip
