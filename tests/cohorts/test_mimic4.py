"""MIMIC-IV: rates that are no whole numbers, read from real files, and the choice among encounters."""

from __future__ import annotations

import datetime as dt
import shutil
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from phewas.cohorts import get
from phewas.cohorts.matching import match
from phewas.errors import CohortError
from phewas.schema import DATETIME, Encounters, Patients
from phewas.segments.readers import open_recording

HOSP = {
    "patients": "subject_id,gender,anchor_age,anchor_year\n10000001,F,52,2180\n",
    "admissions": "subject_id,hadm_id,admittime,dischtime,race\n10000001,20000001,2180-05-06 22:23:00,,WHITE\n",
    "diagnoses_icd": "subject_id,hadm_id,seq_num,icd_code,icd_version\n10000001,20000001,1,I10    ,10\n",
}


def write(root: Path) -> Path:
    (root / "hosp").mkdir(parents=True)
    for name, text in HOSP.items():
        (root / "hosp" / f"{name}.csv").write_text(text)
    return root


def test_a_real_multi_rate_record(shared: Path, tmp_path: Path) -> None:
    root = write(tmp_path / "data")
    folder = root / "waves" / "p100" / "p10000001" / "mixedsignals"
    folder.mkdir(parents=True)
    for file in (shared / "wfdb").glob("mixedsignals*"):
        shutil.copy(file, folder)
    get("mimic4").build(root, tmp_path / "run")
    rows = pl.read_parquet(tmp_path / "run" / "cohort" / "recordings.parquet")
    # No date in this sample, but the patient has one encounter only.
    # Several samples a frame: each signal at its own rate, and as long as that makes it.
    assert rows.select("channel", "encounter_id", "fs_hz", "n_samples").rows() == [
        (c, "20000001", 62.4725 * n, 14400 * n) for c, n in (("ECG_II", 4), ("PPG", 2), ("RESP", 1))
    ]
    import wfdb

    whole = wfdb.rdrecord(str(folder / "mixedsignals"), smooth_frames=False)
    assert [len(x) for x, n in zip(whole.e_p_signal, whole.sig_name, strict=True) if n in ("II", "Pleth", "Resp")] == [
        rows.filter(pl.col("channel") == c)["n_samples"].item() for c in ("ECG_II", "PPG", "RESP")
    ]
    row = rows.filter(pl.col("channel") == "PPG").row(0, named=True)
    opened = open_recording(root, row["path"], signal=row["signal"], fs_hz=row["fs_hz"], n_samples=row["n_samples"])
    pulse = opened.read(2000, 14000)
    assert np.isfinite(pulse).all()
    assert np.allclose(pulse, whole.e_p_signal[whole.sig_name.index("Pleth")][2000:14000], atol=1e-4)
    # A pulse: its strongest rhythm lies between 40 and 180 a minute if the rate is right.
    power = np.abs(np.fft.rfft(pulse - pulse.mean())) ** 2
    freq_hz = np.fft.rfftfreq(len(pulse), 1 / row["fs_hz"])
    low = freq_hz > 0.5
    assert 0.66 < freq_hz[low][np.argmax(power[low])] < 3.0


def test_waves_and_ecgs_are_two_cohorts() -> None:
    assert get("mimic4").card.index_channel == "PPG"
    assert get("mimic4ecg").card.index_channel == "ECG_II"
    # Half of the patients of MIMIC-IV are in MIMIC-III too.
    assert get("mimic4").card.pretraining_name == "MIMIC-IV, MIMIC-III"


def test_a_stay_without_times_is_refused(tmp_path: Path) -> None:
    root = write(tmp_path / "data")
    (root / "ed").mkdir()
    (root / "ed" / "diagnosis.csv").write_text("subject_id,stay_id,seq_num,icd_code,icd_version\n")
    with pytest.raises(CohortError, match="without edstays"):
        get("mimic4").build(root, tmp_path / "run")


def test_matching() -> None:
    def at(hour: float) -> dt.datetime:
        return dt.datetime(2180, 1, 1) + dt.timedelta(hours=hour)

    encounters = Encounters.build(
        [
            {"encounter_id": "stay", "patient_id": "a", "start": at(0), "end": at(100)},
            {"encounter_id": "emergency", "patient_id": "a", "start": at(-5), "end": at(1)},
            {"encounter_id": "inner", "patient_id": "a", "start": at(50), "end": at(60)},
            {"encounter_id": "only", "patient_id": "b", "start": None, "end": None},
        ]
    )
    patients = Patients.build({"patient_id": p, "sex": "U"} for p in "ab")
    cases = [
        ("before", "a", at(-4), "emergency"),
        ("across", "a", at(0.5), "stay"),  # two hours: one half in the emergency stay, all of it in the admission
        ("inside", "a", at(52), "inner"),  # both hold it all; the later one is meant
        ("near", "a", at(110), "stay"),
        ("far", "a", at(125), None),
        ("undated", "a", None, None),
        ("single", "b", None, "only"),
        ("stranger", "c", at(0), None),
    ]
    rows = pl.DataFrame(
        [(n, p, "PPG", f"{n}.hea", "Pleth", 1.0, 7200, start) for n, p, start, _ in cases],
        schema={"recording_id": pl.String, "patient_id": pl.String, "channel": pl.String, "path": pl.String,
                "signal": pl.String, "fs_hz": pl.Float64, "n_samples": pl.Int64, "start": DATETIME}, orient="row",
    )  # fmt: skip
    recordings, rejects = match(rows, encounters=encounters, patients=patients)
    got = dict(recordings.select("recording_id", "encounter_id").iter_rows())
    assert got == {n: e for n, _, _, e in cases if e is not None}
    assert sorted(rejects.select("path", "reason").rows()) == [
        ("far.hea", "unknown_encounter"), ("stranger.hea", "unknown_patient"), ("undated.hea", "unknown_encounter"),
    ]  # fmt: skip
