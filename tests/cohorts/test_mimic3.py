"""MIMIC-III: the published demo where it is there, and real multi-segment records through the adapter."""

from __future__ import annotations

import datetime as dt
import shutil
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from phewas.cohorts import get
from phewas.cohorts.mimic3 import named_start
from phewas.cohorts.records import CHANNELS, read_record
from phewas.errors import CohortError
from phewas.segments.readers import open_recording

SOURCE = get("mimic3")
TABLES = {
    "PATIENTS.csv": "subject_id,gender,dob\n878,F,2080-03-05 00:00:00\n",
    "ADMISSIONS.csv": "subject_id,hadm_id,admittime,dischtime\n878,1,2137-10-25 21:09:00,2137-11-02 17:15:00\n",
    "DIAGNOSES_ICD.csv": "subject_id,hadm_id,seq_num,icd9_code\n878,1,1,4280\n",
}


def read(run: Path, name: str) -> pl.DataFrame:
    return pl.read_parquet(run / "cohort" / f"{name}.parquet")


def test_the_published_demo(shared: Path, tmp_path: Path) -> None:
    root = shared / "icd" / "mimic-iii-demo-1.4"
    SOURCE.build(root, tmp_path)
    # Counts that the publisher gives for the demo.
    assert len(read(tmp_path, "patients")) == 100
    assert len(read(tmp_path, "encounters")) == 129
    diagnoses = read(tmp_path, "diagnoses")
    assert len(diagnoses) == 1761
    assert len(read(tmp_path, "rejects")) == 0
    assert diagnoses["recorded"].null_count() == 0
    # Sepsis (995.91) is coded in the first row of the file, for an admission that ended on that day.
    first = diagnoses.filter(pl.col("source_row") == 1).row(0, named=True)
    assert (first["code"], first["vocabulary"], first["recorded"]) == ("995.91", "ICD9CM", dt.date(2164, 11, 1))
    # The file itself, read by another parser: as many patients with hypertension, dots or not.
    raw = pl.read_csv(root / "DIAGNOSES_ICD.csv", infer_schema=False)
    assert set(raw.filter(pl.col("icd9_code") == "4019")["subject_id"]) == set(
        diagnoses.filter(pl.col("code") == "401.9")["patient_id"]
    )
    age = read(tmp_path, "encounters")["age"]
    assert age.max() == 90.0
    assert age.null_count() == 0
    assert SOURCE.scan(root)["n_encounters"] == 129


def test_a_real_partial_record(shared: Path, tmp_path: Path) -> None:
    root = tmp_path / "data"
    root.mkdir()
    for name, text in TABLES.items():
        (root / name).write_text(text)
    shutil.copytree(shared / "wfdb" / "p000878", root / "waves" / "p00" / "p000878")
    run = tmp_path / "run"
    SOURCE.build(root, run)
    rows = read(run, "recordings")
    # 2 of the record's 27 segments with signal are there; their places are 30 s and 46 s after its start.
    got = rows.select("channel", "n_samples", "start").rows()
    begin = dt.datetime(2137, 10, 26, 16, 57, 9)
    assert got == [
        ("PPG", 2000, begin + dt.timedelta(seconds=30)),
        ("ECG_II", 1750, begin + dt.timedelta(seconds=46)),
        ("PPG", 1750, begin + dt.timedelta(seconds=46)),
    ]
    assert read(run, "rejects")["reason"].to_list() == ["missing_file"]
    assert read(run, "encounters")["index_time"][0] == begin + dt.timedelta(seconds=30)
    wfdb = pytest.importorskip("wfdb")
    for row in rows.iter_rows(named=True):
        opened = open_recording(root, row["path"], signal=row["signal"], fs_hz=row["fs_hz"], n_samples=row["n_samples"])
        theirs = wfdb.rdrecord(str(root / row["path"].removesuffix(".hea")), channel_names=[row["signal"]])
        np.testing.assert_allclose(opened.read(0, row["n_samples"]), theirs.p_signal[:, 0], rtol=1e-5)


def test_real_multi_segment_records(shared: Path) -> None:
    root = shared / "wfdb"
    fixed = read_record(root, "fixed1/v102s.hea", channels=CHANNELS)
    assert [(p.channel, p.signal, p.fs_hz, p.n_samples) for p in fixed.pieces] == [
        ("ECG_II", "II", 250.0, 225000), ("PPG", "PLETH", 250.0, 225000), ("RESP", "RESP", 250.0, 225000),
    ]  # fmt: skip
    assert [loss.reason for loss in fixed.losses] == ["no_date"]
    rates = read_record(root, "041s/041s.hea", channels=CHANNELS)
    assert [(p.channel, p.n_samples, p.start) for p in rates.pieces] == [
        ("PPG", 2000, dt.datetime(1994, 10, 26, 8, 26, 4)), ("RESP", 2000, dt.datetime(1994, 10, 26, 8, 26, 4)),
    ]  # fmt: skip
    for piece in (*fixed.pieces, *rates.pieces):
        opened = open_recording(root, piece.path, signal=piece.signal, fs_hz=piece.fs_hz, n_samples=piece.n_samples)
        assert np.isfinite(opened.read(0, 500)).mean() > 0.9
    single = read_record(root, "a103l.hea", channels=CHANNELS)
    assert {p.channel for p in single.pieces} == {"ECG_II", "PPG"}


@pytest.mark.parametrize(
    ("name", "start"),
    [
        ("p00/p000878/p000878-2137-10-26-16-57.hea", dt.datetime(2137, 10, 26, 16, 57)),
        ("p000878-2137-13-26-16-57.hea", None),
        ("3269321_0001.hea", None),
    ],
)
def test_starts_from_names(name: str, start: dt.datetime | None) -> None:
    assert named_start(name) == start


def test_what_is_told(tmp_path: Path) -> None:
    def told() -> str:
        with pytest.raises(CohortError) as caught:
            SOURCE.build(tmp_path, tmp_path / "run")
        return str(caught.value)

    assert "patients, admissions, diagnoses_icd missing" in told()
    for name, text in TABLES.items():
        (tmp_path / name).write_text(text)
    (tmp_path / "patients.csv.gz").write_bytes(b"x")
    assert "more than once" in told()
    (tmp_path / "PATIENTS.csv").unlink()
    assert "cannot be unpacked" in told()
    (tmp_path / "patients.csv.gz").unlink()
    (tmp_path / "PATIENTS.csv").write_text("SUBJECT,GENDER,DOB\n1,F,2000-01-01\n")
    assert "Did you mean subject?" in told()
