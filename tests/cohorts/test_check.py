"""`phewas check`: what a minute's look finds, on small trees with one thing wrong at a time."""

from __future__ import annotations

import contextlib
import datetime as dt
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from typer.testing import CliRunner

import phewas.cohorts.check as check_module
import phewas.cohorts.mcmed_sample as mcmed_sample
from phewas.cli import app
from phewas.cohorts.check import Report, check
from phewas.cohorts.csvtext import parse_number
from phewas.cohorts.numerics import OTHER_TABLES, temperature_c, temperature_unit
from phewas.cohorts.peek import peek
from phewas.errors import CohortError, ConfigError

VISITS = "MRN,CSN,Age,Gender,Race,Ethnicity,Triage_Temp,Dx_ICD9,Dx_ICD10,Arrival_time,Departure_time"
T0 = dt.datetime(2270, 5, 1, 8)
CODES = [("Dx10", "I10"), ("Dx10", "E119"), ("Dx9", "4019"), ("Dx10", "J449"), ("Dx9", "25000")]


def write_tree(
    root: Path,
    *,
    visits: int = 60,
    hours: int = 0,
    swap_types: bool = False,
    swap_ids: bool = False,
    age: Callable[[int], float] = lambda k: 20 + k % 60,
    temperature: Callable[[int], float] = lambda _: 36.8,
    years: int = 0,
    rate_hz: int = 125,
    flat: bool = False,
) -> Path:
    """Write a tree with one PPG record of 35 seconds in every second visit; two visits a patient."""
    root.mkdir()
    rows, noted = [VISITS], ["MRN,Noted_date,CodeType,Code"]
    wave = (np.sin(np.arange(35 * 125) / 15) * 1000).astype("<i2")
    for k in range(visits):
        mrn, csn, start = 5000 + k // 2, 9000 + k, T0 + dt.timedelta(days=k)
        stamps = [f"{t:%Y-%m-%dT%H:%M:%SZ}" for t in (start, start + dt.timedelta(hours=5))]
        rows.append(f"{mrn},{csn},{age(k):g},F,,,{temperature(k):g},786.50,R07.9,{','.join(stamps)}")
        kind, code = CODES[k % len(CODES)]
        kind = {"Dx10": "Dx9", "Dx9": "Dx10"}[kind] if swap_types else kind
        day = (start - dt.timedelta(days=400)).replace(year=start.year - 1 - years)
        noted.append(f"{csn if swap_ids else mrn},{day:%Y-%m-%d}T00:00:00Z,{kind},{code}")
        if k % 2 == 0:
            folder = root / "waveforms" / f"{csn % 1000:03d}" / str(csn) / "Pleth"
            folder.mkdir(parents=True)
            at = start + dt.timedelta(hours=1 + hours)
            (folder / f"{csn}_1.hea").write_text(
                f"{csn}_1 1 {rate_hz} {len(wave)} {at:%H:%M:%S} {at:%d/%m/%Y}\n{csn}_1.dat 16 500/NU 16 0 0 0 0 Pleth\n"
            )
            (folder / f"{csn}_1.dat").write_bytes((wave * 0 if flat else wave).tobytes())
    (root / "visits.csv").write_text("\n".join(rows) + "\n")
    (root / "pmh.csv").write_text("\n".join(noted) + "\n")
    return root


def warned(report: Report) -> dict[str, str]:
    return {f.title: f.evidence for f in report.findings if f.level == "warning"}


def test_a_sound_tree(tmp_path: Path) -> None:
    report = check("mcmed", root=write_tree(tmp_path / "t"))
    assert warned(report) == {}
    assert list(report.expect.values()) == ["30", "60", "30", "30", "30", "90"]
    assert "pmh.csv: 60 rows" in report.there
    assert "labs.csv" in report.missing
    assert report.losses == []
    assert not report.sampled
    assert report.cost["segment store"] == "0.2 MB for anyppg"


def test_nothing_is_written(tmp_path: Path) -> None:
    root = write_tree(tmp_path / "t")
    before = sorted((p, p.stat().st_mtime_ns) for p in tmp_path.rglob("*"))
    check("mcmed", root=root)
    assert sorted((p, p.stat().st_mtime_ns) for p in tmp_path.rglob("*")) == before


def test_swapped_code_types(tmp_path: Path) -> None:
    found = warned(check("mcmed", root=write_tree(tmp_path / "t", swap_types=True)))
    assert set(found) == {"code system of pmh"}
    assert "that of another ICD revision" in found["code system of pmh"]


@pytest.mark.parametrize("hours", [8, -7])
def test_another_time_zone(tmp_path: Path, hours: int) -> None:
    found = warned(check("mcmed", root=write_tree(tmp_path / "t", hours=hours)))
    assert set(found) == {"time zone"}
    # One hour after arrival of five: the smallest shift that helps.
    assert "0.0% of 30 dated recordings begin during their encounter; shifted by" in found["time zone"]
    shift = int(found["time zone"].split("shifted by ")[1].split(" h")[0])
    assert 0 <= 1 + hours + shift <= 5
    assert "100.0%" in found["time zone"]


def test_dates_shifted_apart(tmp_path: Path) -> None:
    assert "dates of diagnoses" in warned(check("mcmed", root=write_tree(tmp_path / "t", years=200)))


def test_swapped_identifiers_stop_the_look(tmp_path: Path) -> None:
    with pytest.raises(CohortError, match="swapped"):
        check("mcmed", root=write_tree(tmp_path / "t", swap_ids=True))


def test_half_of_the_identifiers_astray(tmp_path: Path) -> None:
    root = write_tree(tmp_path / "t")
    text = (root / "pmh.csv").read_text().split("\n")
    text[31:61] = [f"77{line}" for line in text[31:61]]
    (root / "pmh.csv").write_text("\n".join(text))
    found = warned(check("mcmed", root=root))
    assert found["swapped identifiers"].startswith("50.0% of 60 diagnosis rows name a patient")


def test_units(tmp_path: Path) -> None:
    root = write_tree(tmp_path / "a", age=lambda k: (k % 3) / 2, temperature=lambda k: 36.8 if k % 3 else 98.4)
    found = warned(check("mcmed", root=root))
    assert set(found) == {"unit of age", "unit of Triage_Temp of visits.csv"}
    assert "66.7% Celsius, 33.3% Fahrenheit" in found["unit of Triage_Temp of visits.csv"]
    found = warned(check("mcmed", root=write_tree(tmp_path / "b", rate_hz=250)))
    assert set(found) == {"unit of time in the signals"}
    assert set(warned(check("mcmed", root=write_tree(tmp_path / "c", flat=True)))) == {"signals"}


def test_a_sample_estimates_the_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = write_tree(tmp_path / "t", visits=400)
    for k in range(0, 400, 8):  # a quarter of the folders lose their signal
        (root / f"waveforms/{(9000 + k) % 1000:03d}/{9000 + k}/Pleth/{9000 + k}_1.dat").unlink()
    monkeypatch.setattr(mcmed_sample, "ENCOUNTERS", 80)
    report = check("mcmed", root=root)
    assert report.sampled
    usable = int(report.expect["encounters with a 10-s PPG window"].removeprefix("about "))
    assert 120 <= usable <= 175
    assert report.expect["encounters with signal files"] == "200"
    lost = {reason: n for _, reason, n in report.losses}
    assert 20 <= lost["signal_missing"] <= 85
    again = check("mcmed", root=root)
    assert (report.expect, report.losses, report.findings) == (again.expect, again.losses, again.findings)
    assert any(check("mcmed", root=root, seed=s).losses != report.losses for s in (1, 2, 3))


def test_packed_waveforms_are_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = write_tree(tmp_path / "t", visits=100)
    plain = check("mcmed", root=root)
    with zipfile.ZipFile(root / "waveforms_0xx.zip", "w", zipfile.ZIP_DEFLATED) as packed:
        for file in sorted((root / "waveforms").rglob("*.*")):
            packed.write(file, file.relative_to(root).as_posix())
    shutil.rmtree(root / "waveforms")
    assert check("mcmed", root=root).expect == plain.expect
    monkeypatch.setattr(mcmed_sample, "ENCOUNTERS", 25)
    report = check("mcmed", root=root)
    assert report.sampled
    assert report.expect["encounters with signal files"] == "50"
    (tmp_path / "above").mkdir()
    root.rename(tmp_path / "above" / "data")
    assert warned(check("mcmed", root=tmp_path / "above")) == {}


def test_other_tables_are_looked_at(tmp_path: Path) -> None:
    root = write_tree(tmp_path / "t")
    rows = "".join(f"{9000 + k},Monitor,Temp,{98.6 if k % 2 else 37.0},2270-05-01T08:00:00Z\n" for k in range(100))
    (root / "numerics.csv").write_text("CSN,Source,Measure,Value,Time\n" + rows)
    (root / "labs.csv").write_text('CSN,Order_time,Component_result\n9000,,"a, ""b""\nc"\n')
    report = check("mcmed", root=root)
    assert "numerics.csv: 100 rows (vital signs before the signal)" in report.there
    assert "labs.csv: 1 rows (not read by a run)" in report.there
    assert "50.0% Celsius, 50.0% Fahrenheit" in warned(report)["unit of Temp of numerics.csv"]
    notes = {f.title: f.evidence for f in report.findings if f.level == "note"}
    assert "Result_time" in notes["labs.csv lacks columns of the data dictionary"]
    assert set(OTHER_TABLES) - {"numerics.csv", "labs.csv"} <= set(report.missing)


def test_ppgbp(shared: Path) -> None:
    report = check("ppgbp", root=shared / "ppg-bp")
    assert warned(report) == {}
    assert report.expect["patients"] == "219"


def test_a_large_source_of_another_kind_is_only_listed(shared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check_module, "BUILD_FILES", 10)
    report = check("ppgbp", root=shared / "ppg-bp")
    assert report.sampled
    assert "--until cohort" in report.findings[0].cure


def test_mistakes(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no cohort"):
        check("mcmd", root=tmp_path)
    with pytest.raises(CohortError, match="not an MC-MED folder"):
        check("mcmed", root=tmp_path)
    with pytest.raises(CohortError, match="needs its data folder"):
        check("mcmed", root=None)


# --- the verbs ---


def test_the_verb(tmp_path: Path) -> None:
    root = write_tree(tmp_path / "t", hours=8)
    done = CliRunner().invoke(app, ["check", "--cohort", "mcmed", "--data", str(root)])
    assert done.exit_code == 0, done.output
    for part in ("To expect", "LOOK  time zone", "1 thing to look at first", "nothing was written"):
        assert part in done.output
    strict = CliRunner().invoke(app, ["check", "--cohort", "mcmed", "--data", str(root), "--strict"])
    assert isinstance(strict.exception, CohortError)
    assert not [k for k in range(9000, 9060) if str(k) in done.output]


def test_cohorts_and_their_cards() -> None:
    listed = CliRunner().invoke(app, ["cohorts"])
    assert listed.exit_code == 0
    assert "mcmed " in listed.output
    card = CliRunner().invoke(app, ["cohorts", "show", "mcmed"])
    assert "credentialed access" in card.output
    assert "phewas check --cohort mcmed --data FOLDER" in card.output
    assert "Triage_acuity" in card.output
    assert isinstance(CliRunner().invoke(app, ["cohorts", "show", "mcmd"]).exception, ConfigError)


def test_a_mistake_ends_without_traceback(tmp_path: Path) -> None:
    code = "from phewas.cli import main; main()"
    done = subprocess.run([sys.executable, "-c", code, "check", "--cohort", "mcmed", "--data", str(tmp_path / "no")],
                          capture_output=True, text=True, check=False)  # fmt: skip
    assert done.returncode == 2
    assert "does not exist" in done.stderr
    assert "Traceback" not in done.stderr


# --- parts ---


def test_temperature_is_read_by_its_value() -> None:
    values = [36.8, 98.2, 23.1, 41.4, 106.0, 13.0, 55.4, 50.0, 0.0, 370.0, None]
    frame = pl.DataFrame({"t": values})
    got = frame.select(temperature_c(pl.col("t")).alias("c"), temperature_unit(pl.col("t")).alias("u"))
    assert got["u"].to_list() == ["C", "F", "C", "C", "F", "C", "F", None, None, None, None]
    want = [36.8, 36.7778, 23.1, 41.4, 41.1111, 13.0, 13.0, None, None, None, None]
    assert got["c"].to_list() == [None if w is None else pytest.approx(w, abs=1e-3) for w in want]
    # Every body temperature survives the way through Fahrenheit; no value is both.
    celsius = pl.DataFrame({"t": np.linspace(13.1, 46.9, 200)})
    there = celsius.select(temperature_c(pl.col("t") * 9 / 5 + 32))["t"].to_numpy()
    np.testing.assert_allclose(there, celsius["t"].to_numpy(), rtol=1e-12)
    text = pl.DataFrame({"t": ["98,6", "37.0", "warm"]}).select(temperature_c(parse_number(pl.col("t"))))
    assert text["t"].to_list() == [pytest.approx(37.0), 37.0, None]


def test_peek_counts_or_estimates(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("\ufeffa,b\n" + "".join(f'{k:06d},"x, ""y""\nz"\n' for k in range(5000)) + "short\n")
    whole = peek(path)
    assert (whole.n_rows, whole.exact, whole.n_short, whole.columns) == (5001, True, 1, ["a", "b"])
    assert whole.rows["b"][0] == 'x, "y"\nz'
    part = peek(path, max_bytes=10_000)
    assert not part.exact
    assert part.n_short == 0
    assert part.n_rows == pytest.approx(5001, rel=0.01)
    assert peek(path, header=False).columns == ["column_1", "column_2"]
    (tmp_path / "empty.csv").write_text("")
    with pytest.raises(CohortError, match="is empty"):
        peek(tmp_path / "empty.csv")
    (tmp_path / "binary.csv").write_bytes(bytes(range(256)) * 4)
    with contextlib.suppress(CohortError):
        peek(tmp_path / "binary.csv")
