"""Every source through the whole run: a made-up hospital in its layout, with one disease in the pulse and one not.

The hospital is the same for all of them: 110 patients of one encounter each, with heart failure (428, a faster pulse)
and reflux (530.1, nothing). What differs is the files, and so the code that reads them.
"""

from __future__ import annotations

import datetime as dt
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
import wfdb
from typer.testing import CliRunner

from phewas.cli import app
from phewas.cohorts.emulator.mcmed import emulate_mcmed
from phewas.cohorts.emulator.options import options
from phewas.cohorts.emulator.planted import PLANTED
from phewas.cohorts.emulator.pulse import Storage, Wave, write_record
from phewas.cohorts.emulator.signal import LATENTS, Heart, traits_of
from phewas.encoders import registry
from phewas.schema import Flow, PhenotypeResults, Recordings, Rejects, Splits

FAILURE, REFLUX = ("4280", "I509"), ("53081", "K219")
SETTINGS = """
fit = "probe"
heldout = "random:0.5"
[segments]
n_segments = 2
[learn]
batch_encounters = 64
"""
STORED = Storage("16", 8_000.5, 3, "NU")


@dataclass(frozen=True)
class One:
    """A patient with one encounter: `ill` has heart failure, `sour` has reflux."""

    number: int
    female: bool
    age: int
    ill: bool
    sour: bool
    arrival: dt.datetime

    @property
    def left(self) -> dt.datetime:
        return self.arrival + dt.timedelta(hours=30)

    @property
    def begin(self) -> dt.datetime:
        return self.arrival + dt.timedelta(hours=1)

    @property
    def codes(self) -> list[tuple[str, str]]:
        return [c for c, has in ((FAILURE, self.ill), (REFLUX, self.sour)) if has]

    def _heart(self, seconds: float) -> tuple[Heart, np.random.Generator]:
        rng = np.random.default_rng(self.number)
        latent = dict(zip(LATENTS, rng.standard_normal(len(LATENTS)).tolist(), strict=True))
        traits = traits_of(latent, frozenset(("rate", "shape") if self.ill else ()), in_rhythm=True, cv=0.2)
        return Heart.beating(rng, duration_s=seconds, traits=traits), rng

    def pulse(self, fs_hz: float, seconds: float = 21.0) -> Wave:
        heart, rng = self._heart(seconds)
        return heart.pleth(rng, np.arange(round(seconds * fs_hz)) / fs_hz, hum=0.0)

    def lead(self, fs_hz: float, seconds: float) -> Wave:
        heart, rng = self._heart(seconds)
        return heart.lead_ii(rng, np.arange(round(seconds * fs_hz)) / fs_hz, hum=0.0)


def hospital(n: int = 110) -> list[One]:
    rng = np.random.default_rng(0)
    first = dt.datetime(2137, 1, 1, 9, 30)
    return [
        One(k + 1, bool(rng.random() < 0.5), int(rng.integers(25, 85)), k % 2 == 0, bool(rng.random() < 0.5),
            first + dt.timedelta(days=int(rng.integers(0, 3_000))))
        for k in range(n)
    ]  # fmt: skip


def csv(path: Path, header: str, rows: list[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join([header, *rows]) + "\n")


def run_to_the_end(cohort: str, folder: Path, settings: str, *, encoder: Sequence[object] = ("net1d-small",)) -> Path:
    """Run a cohort whose files lie in ``data``, and return the run directory."""
    (folder / "small.toml").write_text(settings)
    words = ["run", "--cohort", cohort, "--data", folder / "data", "--encoder", *encoder, "--config",
             folder / "small.toml", "--out", folder / "run", "--workers", "1"]  # fmt: skip
    done = CliRunner().invoke(app, list(map(str, words)))
    assert done.exit_code == 0, done.output
    assert (folder / "run" / "report" / "index.html").is_file()
    return folder / "run"


def mimic3(root: Path, people: list[One]) -> None:
    """Multi-segment records of variable layout, as in the matched subset: layout, segment, gap, segment."""
    csv(root / "PATIENTS.csv", "subject_id,gender,dob",
        [f"{p.number},{'FM'[not p.female]},{p.arrival.year - p.age}-01-01 00:00:00" for p in people])  # fmt: skip
    csv(root / "ADMISSIONS.csv", "subject_id,hadm_id,admittime,dischtime",
        [f"{p.number},{1000 + p.number},{p.arrival},{p.left}" for p in people])  # fmt: skip
    csv(root / "DIAGNOSES_ICD.csv", "subject_id,hadm_id,seq_num,icd9_code",
        [f"{p.number},{1000 + p.number},1,{nine}" for p in people for nine, _ in p.codes])  # fmt: skip
    for p in people:
        name = f"p{p.number:06d}-{p.begin:%Y-%m-%d-%H-%M}"
        folder = root / "waves" / "p00" / f"p{p.number:06d}"
        wave, half = p.pulse(125.0, 24.0), 1_500
        for k, part in enumerate((wave[:half], wave[half:]), start=1):
            write_record(folder, f"33{p.number:05d}_{k:04d}", part, signal="PLETH", fs_hz=125.0, storage=STORED,
                         start=p.begin, fraction="none")  # fmt: skip
        layout = f"33{p.number:05d}_layout"
        (folder / f"{layout}.hea").write_text(f"{layout} 1 125 0 {p.begin:%H:%M:%S}\n~ 0 8000/NU 16 0 0 0 0 PLETH\n")
        (folder / f"{name}.hea").write_text(
            f"{name}/4 1 125 3250 {p.begin:%H:%M:%S} {p.begin:%d/%m/%Y}\n"
            f"{layout} 0\n33{p.number:05d}_0001 1500\n~ 250\n33{p.number:05d}_0002 1500\n"
        )


def mimic4(root: Path, people: list[One]) -> None:
    """Both code versions, padded, and records whose rate is no whole number."""
    csv(root / "hosp" / "patients.csv", "subject_id,gender,anchor_age,anchor_year",
        [f"{10_000_000 + p.number},{'FM'[not p.female]},{p.age},{p.arrival.year}" for p in people])  # fmt: skip
    csv(root / "hosp" / "admissions.csv", "subject_id,hadm_id,admittime,dischtime,race",
        [f"{10_000_000 + p.number},{20_000_000 + p.number},{p.arrival},{p.left},WHITE" for p in people])  # fmt: skip
    csv(root / "hosp" / "diagnoses_icd.csv", "subject_id,hadm_id,seq_num,icd_code,icd_version",
        [f"{10_000_000 + p.number},{20_000_000 + p.number},1,"
         + (f"{nine:<7},9" if p.number % 3 == 0 else f"{ten:<7},10")
         for p in people for nine, ten in p.codes])  # fmt: skip
    for p in people:
        subject, name = 10_000_000 + p.number, f"8{p.number:07d}"
        folder = root / "waves" / f"p{str(subject)[:3]}" / f"p{subject}" / name
        write_record(folder, name, p.pulse(62.4725), signal="Pleth", fs_hz=62.4725, storage=STORED, start=p.begin,
                     fraction="milliseconds")  # fmt: skip


LEADS = ("I", "II", "III", "aVR", "aVL", "aVF", "V1", "V2", "V3", "V4", "V5", "V6")


def mimic4ecg(root: Path, people: list[One]) -> None:
    """Twelve leads of ten seconds a record, interleaved, found through a list."""
    mimic4(root, people)
    rows = []
    for p in people:
        study = 40_000_000 + p.number
        place = f"files/p1000/p{10_000_000 + p.number}/s{study}"
        (root / place).mkdir(parents=True)
        lead, rng = p.lead(500.0, 10.0), np.random.default_rng(p.number)
        leads = np.stack([lead * (0.4 + 0.05 * k) for k in range(12)], axis=1) + 0.01 * rng.standard_normal((5_000, 12))
        wfdb.wrsamp(str(study), fs=500, units=["mV"] * 12, sig_name=list(LEADS), p_signal=leads, fmt=["16"] * 12,
                    base_datetime=p.begin, write_dir=str(root / place))  # fmt: skip
        rows.append(f"{10_000_000 + p.number},{study},{study},{p.begin},{place}/{study}")
    csv(root / "record_list.csv", "subject_id,study_id,file_name,ecg_time,path", rows)


def founder(folder: Path) -> tuple[object, ...]:
    """Write random weights in the nesting of ECGFounder's file; return the words that name encoder and weights."""
    torch.manual_seed(0)
    state = registry.get("ecgfounder-12lead").build().state_dict()
    torch.save({"state_dict": state, "epoch": 3, "optimizer": {"state": {}}}, folder / "12_lead_ECGFounder.pth")
    return "ecgfounder-12lead", "--weights", folder / "12_lead_ECGFounder.pth"


def arrays(root: Path, people: list[One]) -> None:
    for p in people:
        (root / "waves").mkdir(parents=True, exist_ok=True)
        np.save(root / "waves" / f"{p.number}.npy", p.pulse(100.0).astype(np.float32))


def meds(root: Path, people: list[One]) -> None:
    """Two shards, arrays listed in a table, and a split of the dataset's own."""
    arrays(root, people)
    (root / "metadata").mkdir()
    (root / "data").mkdir()
    schema = {"subject_id": pl.Int64, "time": pl.Datetime("us"), "code": pl.String}
    for shard in (0, 1):
        events: list[tuple[int, dt.datetime | None, str]] = []
        for p in people[shard::2]:
            events.append((p.number, None, f"GENDER//{'FM'[not p.female]}"))
            events.append((p.number, p.arrival - dt.timedelta(days=365 * p.age), "MEDS_BIRTH"))
            events.append((p.number, p.arrival, "HOSPITAL_ADMISSION//URGENT"))
            events += [(p.number, p.left, f"DIAGNOSIS//ICD//10//{ten}") for _, ten in p.codes]
            events.append((p.number, p.left, "HOSPITAL_DISCHARGE//HOME"))
        pl.DataFrame(events, schema=schema, orient="row").write_parquet(root / "data" / f"{shard}.parquet")
    pl.DataFrame(
        [(p.number, p.begin, f"waves/{p.number}.npy", "PPG", 100.0) for p in people],
        schema={"subject_id": pl.Int64, "time": pl.Datetime("us"), "path": pl.String, "channel": pl.String,
                "fs_hz": pl.Float64}, orient="row",
    ).write_parquet(root / "recordings.parquet")  # fmt: skip
    sides = ["held_out" if p.number % 5 < 3 else "tuning" if p.number % 10 == 3 else "train" for p in people]
    pl.DataFrame({"subject_id": [p.number for p in people], "split": sides}).write_parquet(
        root / "metadata" / "subject_splits.parquet"
    )


def omop(root: Path, people: list[One]) -> None:
    """Half the conditions with a source concept, half with 0 and a source value that names its code system."""
    arrays(root, people)
    csv(root / "person.csv", "person_id,gender_concept_id,year_of_birth",
        [f"{p.number},{8532 if p.female else 8507},{p.arrival.year - p.age}" for p in people])  # fmt: skip
    csv(root / "visit_occurrence.csv", "visit_occurrence_id,person_id,visit_start_date,visit_start_datetime,"
        "visit_end_date,visit_end_datetime",
        [f"{500 + p.number},{p.number},{p.arrival:%Y-%m-%d},{p.arrival},{p.left:%Y-%m-%d},{p.left}"
         for p in people])  # fmt: skip
    concept = {"I509": 901, "K219": 902}
    csv(root / "concept.csv", "concept_id,vocabulary_id,concept_code", ["901,ICD10CM,I50.9", "902,ICD10CM,K21.9"])
    csv(root / "condition_occurrence.csv", "person_id,visit_occurrence_id,condition_start_date,"
        "condition_source_concept_id,condition_source_value",
        [f"{p.number},{500 + p.number},{p.left:%Y-%m-%d},{concept[ten] if p.number % 4 < 2 else 0},ICD10CM:{ten}"
         for p in people for _, ten in p.codes])  # fmt: skip
    csv(root / "recordings.csv", "visit_occurrence_id,path,channel,start,fs_hz",
        [f"{500 + p.number},waves/{p.number}.npy,PPG,{p.begin},100" for p in people])  # fmt: skip


def tables(root: Path, people: list[One]) -> None:
    arrays(root, people)
    csv(root / "stays.csv", "stay,who,came,went,years,sex",
        [f"s{p.number},w{p.number},{p.arrival},{p.left},{p.age},{'FM'[not p.female]}" for p in people])  # fmt: skip
    csv(root / "codes.csv", "who,code,day",
        [f"w{p.number},{ten},{p.left:%Y-%m-%d}" for p in people for _, ten in p.codes])  # fmt: skip
    csv(root / "signals.csv", "stay,file,began", [f"s{p.number},waves/{p.number}.npy,{p.begin}" for p in people])
    (root / "cohort.toml").write_text("""
title = "A clinic"
[encounters]
file = "stays.csv"
columns = {encounter_id = "stay", patient_id = "who", start = "came", end = "went", age = "years", sex = "sex"}
[diagnoses]
file = "codes.csv"
code_system = "ICD10CM"
columns = {patient_id = "who", code = "code", recorded = "day"}
[recordings]
file = "signals.csv"
channel = "PPG"
fs_hz = 100
columns = {encounter_id = "stay", path = "file", start = "began"}
""")


def test_the_emulated_hospital_packed_and_with_every_fault(tmp_path: Path) -> None:
    """The layout of MC-MED at its smallest: waveforms in ten archives, all channels, the faults of real files."""
    often = {"no_dat": 0.03, "no_hea": 0.03, "truncated": 0.03, "unparsable": 0.03, "no_date": 0.03, "missing": 0.2}
    chosen = options("tiny", patients=150, zip=True, monitored=0.95, no_history=0.0, least_share=0.45,
                     effects_follow_age=False, **often)  # fmt: skip
    emulate_mcmed(tmp_path / "data", options=chosen, seed=4, workers=1)
    assert len(list((tmp_path / "data").glob("waveforms_*.zip"))) == 10
    out = run_to_the_end("mcmed", tmp_path, SETTINGS)
    rejects = Rejects.read(out)
    assert {"signal_missing", "header_missing", "signal_truncated", "header_unreadable", "no_date"} <= set(
        rejects["reason"]
    )
    recordings = Recordings.read(out)
    assert set(recordings["channel"]) == {"PPG", "ECG_II", "RESP"}
    assert recordings["member"].null_count() == 0
    results = PhenotypeResults.read(out).filter(pl.col("status") == "tested")
    assert len({p.phecode for p in PLANTED if p.carries} & set(results["phenotype"])) >= 3
    flow = Flow.read(out).filter(unit="encounters", step="cohort")
    assert flow["n_in"][0] == json.loads((tmp_path / "emulated.json").read_text())["rows"]["visits"]


LAYOUTS = {"mimic3": mimic3, "mimic4": mimic4, "mimic4ecg": mimic4ecg, "meds": meds, "omop": omop, "tables": tables}


@pytest.mark.parametrize("name", sorted(LAYOUTS))
def test_from_its_files_to_the_report(name: str, tmp_path: Path) -> None:
    people = hospital()
    LAYOUTS[name](tmp_path / "data", people)
    settings = SETTINGS.replace("random:0.5", "official:file") if name == "meds" else SETTINGS
    settings = settings.replace("n_segments = 2", "n_segments = 1") if name == "mimic4ecg" else settings
    encoder = founder(tmp_path) if name == "mimic4ecg" else ("net1d-small",)
    out = run_to_the_end(name, tmp_path, settings, encoder=encoder)
    if name == "mimic4ecg":
        assert registry.get("ecgfounder-12lead").tensor in (out / "report" / "index.html").read_text(encoding="utf-8")
        assert set(Recordings.read(out)["channel"]) == {f"ECG_{lead}" for lead in LEADS}
    assert Rejects.read(out).height == 0
    results = PhenotypeResults.read(out)
    # ICD-9 and ICD-10 codes of both diseases end in phenotypes below the same two.
    roots = results.filter(pl.col("status") == "tested")["phenotype"].str.split(".").list.first().unique()
    assert set(roots) == {"428", "530"}
    failure = results.filter(phenotype="428.1").row(0, named=True)
    assert failure["auc_low"] > 0.5, failure
    splits = Splits.read(out)
    assert len(splits) == len(people)
    held = set(splits.filter(split="held_out")["patient_id"])
    if name == "meds":
        assert held == {str(p.number) for p in people if p.number % 5 < 3}
        assert json.loads((out / "cohort" / "disjointness.json").read_text())["rule"] == "official:file"
    # Every identifier ends in the number of its patient.
    numbers = {int(re.sub(r"\D", "", h)) % 10_000_000 for h in held}
    assert failure["n_cases"] == sum(p.ill for p in people if p.number in numbers)
    flow = Flow.read(out)
    assert flow.filter(unit="encounters", step="cohort")["n_out"].min() == len(people)
