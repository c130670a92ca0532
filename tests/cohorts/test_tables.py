"""Tables of one's own: the template works as printed, every wrong description is told, and any file format will do."""

from __future__ import annotations

import datetime as dt
import shutil
import tomllib
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from phewas.cohorts import get
from phewas.cohorts.tables import DESCRIPTION, Tables, describe, template
from phewas.errors import CohortError, ConfigError, PhewasError

SOURCE = get("tables")
EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "own_cohort.toml"
FILES = {
    "encounters.csv": "encounter_id,patient_id,start,end,age,sex\nv1,007,2024-03-01 08:00,2024-03-01 12:00,61,F\n",
    "diagnoses.csv": "patient_id,code,recorded\n007,I10,2024-02-01\n",
    "recordings.csv": "encounter_id,path,start\nv1,v1.npy,2024-03-01 09:00\n",
}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "mine"
    folder.mkdir()
    for name, text in FILES.items():
        (folder / name).write_text(text)
    np.save(folder / "v1.npy", np.arange(1250, dtype=np.float32))
    (folder / DESCRIPTION).write_text(template())
    return folder


def read(run: Path, name: str) -> pl.DataFrame:
    return pl.read_parquet(run / "cohort" / f"{name}.parquet")


def test_the_template_works_as_printed(root: Path, tmp_path: Path) -> None:
    assert EXAMPLE.read_text() == template()
    SOURCE.build(root, tmp_path / "run")
    assert read(tmp_path / "run", "patients").row(0)[:2] == ("007", "F")
    assert read(tmp_path / "run", "diagnoses")["recorded"].to_list() == [dt.date(2024, 2, 1)]
    row = read(tmp_path / "run", "recordings").row(0, named=True)
    assert (row["channel"], row["fs_hz"], row["n_samples"], row["start"]) == (
        "PPG", 125.0, 1250, dt.datetime(2024, 3, 1, 9),
    )  # fmt: skip
    assert len(read(tmp_path / "run", "rejects")) == 0
    assert SOURCE.scan(root)["n_recordings"] == 1
    assert isinstance(SOURCE, Tables)
    assert SOURCE.card_for(root).title == "My cohort"


def test_what_is_commented_out_is_understood(root: Path) -> None:
    """Every line that the template offers behind a # is one that can be used."""
    lines = [line.removeprefix("# ") if " = " in line or line.startswith("# [") else line
             for line in template().splitlines()[4:]]  # fmt: skip
    text = "\n".join(lines).replace('code_system = "ICD10CM"', "", 1)
    tomllib.loads(text)
    (root / DESCRIPTION).write_text(text)
    said = describe(root)
    assert said.public
    assert said.diagnoses.words == {"10": "ICD10CM", "9": "ICD9CM"}
    assert said.recordings is not None
    assert said.recordings.words == {"finger pulse": "PPG"}
    assert said.encounters.before == {"vitals": ("heart_rate",), "arrival": ("mode",)}


def test_what_is_known_on_arrival_is_kept_for_the_rivals(root: Path, tmp_path: Path) -> None:
    (root / "encounters.csv").write_text(
        "encounter_id,patient_id,start,end,age,sex,pulse,how\nv1,007,2024-03-01T08:30,,61,F,88,on foot\n")
    text = template().replace("[diagnoses]", '[encounters.vitals]\nHR = "Pulse"\n[encounters.arrival]\nmode = "how"\n'
                              "[diagnoses]", 1)
    (root / DESCRIPTION).write_text(text)
    SOURCE.build(root, tmp_path / "run")
    assert read(tmp_path / "run", "encounters").select("src_HR", "src_mode").rows() == [("88", "on foot")]
    assert isinstance(SOURCE, Tables)
    card = SOURCE.card_for(root)
    assert (card.covariates, card.vitals, card.arrival) == (("HR", "mode"), ("HR",), ("mode",))
    for odd in ("age", "heart rate"):
        (root / DESCRIPTION).write_text(text.replace("HR =", f'"{odd}" ='))
        with pytest.raises(ConfigError, match=rf"\[encounters.vitals\] names {odd}"):
            describe(root)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('title = "My cohort"', "title = 3", "title is 3"),
        ("[encounters]", "[encounter]", "Did you mean encounters"),
        ('file = "encounters.csv"', "", "names no file"),
        ('file = "encounters.csv"', 'file = "../mine/encounters.csv"\nx = 1', "unknown key 'encounters.x'"),
        ('file = "encounters.csv"', 'file = "/etc/passwd"', "leaves the folder"),
        ('file = "encounters.csv"', 'file = "none.csv"', "is not there"),
        ('file = "encounters.csv"', 'file = "v1.npy"', "of a kind that is not read"),
        ('encounter_id = "encounter_id"\npatient_id', "patient_id", r"\[encounters.columns\] lacks encounter_id"),
        ('sex = "sex"', 'gender = "sex"', "unknown key 'encounters.columns.gender'"),
        ('sex = "sex"', 'sex = "Sexe"', "no column 'sexe'. Did you mean sex"),
        ('code_system = "ICD10CM"', 'code_system = "icd10cm"', "Did you mean ICD10CM"),
        ('code_system = "ICD10CM"  ', "", "names no code systems"),
        ("fs_hz = 125.0", "fs_hz = 0", "recordings.fs_hz is 0"),
        ('channel = "PPG"  ', "channel = 1  #", "channel is 1"),
        ('patient_id = "patient_id"\ncode', "code", "lacks patient_id or encounter_id"),
        ('# time_format = "%d.%m.%Y"', 'time_format = "day.month"', "a format with a year"),
        ("[diagnoses]", "[diagnoses", "cannot be read"),
    ],
)
def test_wrong_descriptions_are_told(root: Path, tmp_path: Path, old: str, new: str, message: str) -> None:
    assert old in template()
    (root / DESCRIPTION).write_text(template().replace(old, new, 1))
    with pytest.raises(PhewasError, match=message):
        SOURCE.build(root, tmp_path / "run")


def test_no_description(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"holds no cohort\.toml"):
        SOURCE.build(tmp_path, tmp_path / "run")


def test_swapped_and_strange_identifiers_are_told(root: Path, tmp_path: Path) -> None:
    (root / "encounters.csv").write_text("patient_id,encounter_id,start,end,age,sex\nv1,7,,,61,F\nv2,7,,,61,F\n")
    with pytest.raises(CohortError, match="look swapped"):
        SOURCE.build(root, tmp_path / "run")
    (root / "encounters.csv").write_text("encounter_id,patient_id,start,end,age,sex\nv1,7,,,61,F\n")
    with pytest.raises(CohortError, match="leading zeros"):
        SOURCE.build(root, tmp_path / "run")


def test_parquet_and_text_give_the_same(root: Path, tmp_path: Path) -> None:
    SOURCE.build(root, tmp_path / "one")
    table = pl.read_csv(root / "encounters.csv", schema_overrides={"patient_id": pl.String}).with_columns(
        pl.col("start", "end").str.to_datetime("%Y-%m-%d %H:%M"), pl.col("age").cast(pl.Float64)
    )
    table.write_parquet(root / "encounters.parquet")
    text = template().replace("encounters.csv", "encounters.parquet")
    (root / DESCRIPTION).write_text(text)
    SOURCE.build(root, tmp_path / "two")
    for name in ("patients", "encounters", "recordings", "diagnoses", "rejects"):
        assert read(tmp_path / "one", name).equals(read(tmp_path / "two", name)), name
    # Identifiers that a table program made into floats are the same identifiers.
    (root / "diagnoses.csv").unlink()
    floats = pl.DataFrame({"patient_id": [7.0, None], "code": ["I10", "I10"], "recorded": ["2024-02-01"] * 2})
    floats.write_parquet(root / "diagnoses.parquet")
    (root / "encounters.csv").write_text(FILES["encounters.csv"].replace("007", "7"))
    (root / DESCRIPTION).write_text(template().replace("diagnoses.csv", "diagnoses.parquet"))
    SOURCE.build(root, tmp_path / "three")
    assert read(tmp_path / "three", "diagnoses")["patient_id"].to_list() == ["7"]
    assert read(tmp_path / "three", "rejects")["reason"].to_list() == ["blank_id"]


def test_the_fingerprint_sees_what_counts(root: Path) -> None:
    before = SOURCE.fingerprint(root)
    assert SOURCE.fingerprint(root) == before
    (root / "unrelated.txt").write_text("x")
    assert SOURCE.fingerprint(root) == before
    np.save(root / "v1.npy", np.zeros(10))
    after = SOURCE.fingerprint(root)
    assert after != before
    (root / "diagnoses.csv").write_text(FILES["diagnoses.csv"].replace("I10", "I11"))
    assert SOURCE.fingerprint(root) != after


def described(shared: Path, folder: Path) -> pl.DataFrame:
    """Write PPG-BP as tables of one's own below its signals; return the recordings that its own adapter finds."""
    own = folder / "own"
    get("ppgbp").build(shared / "ppg-bp", own)
    root = folder / "mine"
    root.mkdir()
    (root / "signals").symlink_to(shared / "ppg-bp" / "Data File" / "0_subject")
    people = read(own, "encounters").join(read(own, "patients"), on="patient_id")
    people.select("encounter_id", "patient_id", "age", "sex").write_csv(root / "visits.csv")
    read(own, "diagnoses").filter(pl.col("certainty").is_null()).select("encounter_id", "code").write_csv(
        root / "codes.csv"
    )
    recordings = read(own, "recordings")
    files = recordings.with_columns((pl.lit("signals/") + pl.col("path").str.extract(r"([^/]+)$")).alias("path"))
    files.select("encounter_id", "path", "recording_id").write_csv(root / "files.csv")
    (root / DESCRIPTION).write_text(
        'public = true\n[encounters]\nfile = "visits.csv"\n[encounters.columns]\nencounter_id = "encounter_id"\n'
        'patient_id = "patient_id"\nage = "age"\nsex = "sex"\n[diagnoses]\nfile = "codes.csv"\n'
        'code_system = "ICD10CM"\n[diagnoses.columns]\nencounter_id = "encounter_id"\ncode = "code"\n[recordings]\n'
        'file = "files.csv"\nchannel = "PPG"\nfs_hz = 1000\n[recordings.columns]\nencounter_id = "encounter_id"\n'
        'path = "path"\nrecording_id = "recording_id"\n'
    )
    return recordings


def test_real_data_are_the_same_through_a_description(shared: Path, tmp_path: Path) -> None:
    recordings = described(shared, tmp_path)
    root, own, run = tmp_path / "mine", tmp_path / "own", tmp_path / "run"
    # A link that leaves the folder is refused, whoever put it there.
    SOURCE.build(root, run)
    assert len(read(run, "recordings")) == 0
    assert set(read(run, "rejects")["reason"]) == {"out_of_root"}
    (root / "signals").unlink()
    shutil.copytree(shared / "ppg-bp" / "Data File" / "0_subject", root / "signals")
    SOURCE.build(root, run)
    assert read(run, "patients").select("patient_id", "sex").equals(read(own, "patients").select("patient_id", "sex"))
    keys = ("recording_id", "encounter_id", "channel", "fs_hz", "n_samples")
    assert read(run, "recordings").select(keys).sort(keys).equals(recordings.select(keys).sort(keys))
    coded = read(own, "diagnoses").filter(pl.col("certainty").is_null())
    both = [t.select("patient_id", "code").sort("patient_id", "code") for t in (coded, read(run, "diagnoses"))]
    assert both[0].equals(both[1])
    assert set(read(run, "rejects")["reason"]) == {"no_date"}
