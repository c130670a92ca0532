"""The further tables of MC-MED: read by column name, and of their values only those from before the signal."""

from __future__ import annotations

import csv
import datetime as dt
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest

from phewas.cohorts import get
from phewas.cohorts.base import covariates
from phewas.cohorts.emulator.mcmed import emulate_mcmed
from phewas.cohorts.emulator.options import options
from phewas.cohorts.numerics import OTHER_TABLES, read_further
from phewas.errors import CohortError, PhewasWarning

SOURCE = get("mcmed")
Build = Callable[..., dict[str, pl.DataFrame]]


def test_vital_signs_are_those_from_before_the_signal(tree: Path, tmp_path: Path, build: Build) -> None:
    """Visit 101 arrives at 07:00; its PPG begins at 07:10:00.5. A minute mean of 07:09 is over before it, 07:10 not."""
    day = "2264-03-01T07"
    (tree / "numerics.csv").write_text(
        "Time,CSN,Source,Measure,Value,More\n"
        f"{day}:08:00Z,101,Monitor,HR,80,\n{day}:09:00Z,101,Monitor,HR,90,\n{day}:10:00Z,101,Monitor,HR,150,\n"
        f"{day}:30:00Z,101,Chart,SBP,200,\n{day}:05:00Z, 101 ,Chart,Temp,98.6,\n{day}:01:00Z,101,Chart,SpO2,97\n"
        f"{day}:02:00Z,101,Chart,SpO2,none,\nsoon,101,Chart,RR,18,\n{day}:02:00Z,999,Chart,RR,18,\n"
        '2265-03-01T06:30:00Z,102,Chart,Temp,"37,5",\n'
    )
    t = build(tree, tmp_path / "run")
    rows = {r["encounter_id"]: r for r in t["encounters"].to_dicts()}
    one = {k.removeprefix("src_before_"): v for k, v in rows["101"].items() if k.startswith("src_before_")}
    assert {k: None if v is None else round(v, 3) for k, v in one.items()} == {
        "HR": 90.0, "RR": None, "SpO2": 97.0, "SBP": None, "DBP": None, "MAP": None, "Temp_C": 37.0,
    }  # fmt: skip
    assert rows["102"]["src_before_Temp_C"] == 37.5
    assert set(covariates(t["encounters"], card=SOURCE.card)) >= {"src_before_HR", "src_before_Temp_C"}
    note = t["flow"].filter(pl.col("reason").str.contains("numerics.csv")).row(0, named=True)
    assert (note["n_out"], note["kind"]) == (2, "note")
    (tree / "numerics.csv").write_text(
        f'CSN,Source,Measure,Value,Time\n101,Monitor,HR,80,{day}:08:00Z\n101,"Chart,RR,18,{day}:08:00Z\n'
        f'101,"Chart","SpO2","97",{day}:08:00Z\n101,Chart,SBP,120,"{day}:07:00Z\n'
    )
    with pytest.warns(PhewasWarning, match="unclosed quotation mark"):
        t = build(tree, tmp_path / "quote")
    one = next(r for r in t["encounters"].to_dicts() if r["encounter_id"] == "101")
    assert [one[f"src_before_{n}"] for n in ("HR", "RR", "SpO2", "SBP")] == [80, 18, 97, 120]
    (tree / "numerics.csv").write_text("CSN,Measure,Val,Time\n")
    with pytest.raises(CohortError, match=r"no column 'Value'\. Did you mean Val"):
        build(tree, tmp_path / "other")


def test_all_eight_tables_are_read_by_name(tmp_path: Path, build: Build) -> None:
    made = emulate_mcmed(tmp_path / "mc-med", options=options("tiny", lab_newlines=0.2), seed=2, workers=1)
    for name in OTHER_TABLES:
        # The columns in another order: nothing is read by place.
        file = made.root / name
        with file.open(encoding="utf-8", newline="") as handle:
            table = list(csv.reader(handle))
        with file.open("w", encoding="utf-8", newline="") as handle:
            csv.writer(handle).writerows(row[::-1] for row in table)
        got = read_further(made.root, name)
        assert (got.n_rows, len(got.rejects)) == (made.rows[name.removesuffix(".csv")], 0)
        assert got.rows.columns == ["source_row", *OTHER_TABLES[name]]
    labs = read_further(made.root, "labs.csv").rows
    assert labs.schema["Result_time"] == pl.Datetime("us")
    assert labs["Component_result"].str.contains("\n").any()
    temperatures = read_further(made.root, "numerics.csv").rows.filter(Measure="Temp")["Value"]
    assert 30 < temperatures.min() < temperatures.max() < 43
    with pytest.raises(CohortError, match=r"Did you mean labs\.csv"):
        read_further(made.root, "lab.csv")
    t = build(made.root, tmp_path / "run")
    encounters = t["encounters"]
    assert encounters["src_Triage_Temp_C"].drop_nulls().is_between(30, 43).all()
    # Of an independent reading: the last value of each measure at least a minute before the signal.
    numerics = read_further(made.root, "numerics.csv").rows
    for row in encounters.to_dicts():
        mine = numerics.filter(pl.col("CSN") == row["encounter_id"], Measure="HR").sort("Time")
        mine = mine.filter(pl.col("Time") <= row["index_time"] - dt.timedelta(seconds=60))
        assert row["src_before_HR"] == (mine["Value"][-1] if len(mine) else None)
