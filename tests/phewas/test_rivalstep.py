"""Rivals through a whole run of an emulated cohort: what only the recording tells is flagged, what the wave tells not."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

from phewas import pipeline, settings
from phewas.cohorts.emulator.mcmed import emulate_mcmed
from phewas.cohorts.emulator.options import options
from phewas.errors import ConfigError
from phewas.plan import Plan, plan
from phewas.schema import PhenotypeResults, RivalInputs, Rivals

RECORDED, RHYTHM = "272.1", "427.21"


@pytest.fixture(scope="module")
def tree(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("mc-med") / "data"
    made = options("demo", patients=330, longer_recorded=6.0, segment_max_s=600.0)
    emulate_mcmed(root, options=made, seed=5, workers=1)
    return root


def planned(tree: Path, out: Path, **evaluate) -> Plan:
    given = {
        "cohort": "mcmed", "data": tree, "encoder": "pulse-features", "fit": "probe", "heldout": "random:0.4",
        "workers": 1, "segments": {"n_segments": 4, "shard_encounters": 60}, "learn": {"l2": 100.0},
        "evaluate": evaluate,
    }  # fmt: skip
    return plan(settings.resolve(given, None), out=out, command="phewas run")


@pytest.fixture(scope="module")
def run(tree, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("rivals") / "run"
    pipeline.run(planned(tree, out, rivals=["vitals", "utilisation", "acquisition", "pulse-features"]), until="evaluate")
    return out


def test_acquisition_explains_what_only_the_recording_tells(run):
    table = Rivals.read(run).filter(pl.col("rival") == "acquisition")
    results = PhenotypeResults.read(run).filter(pl.col("status") == "tested")
    explained = table.filter(pl.col("explains"))["phenotype"].to_list()
    assert RECORDED in explained
    assert RHYTHM not in explained
    flagged = results.filter(pl.col("flags").str.contains("acquisition_explains"))["phenotype"].to_list()
    assert sorted(flagged) == sorted(explained)
    rhythm = table.row(by_predicate=pl.col("phenotype") == RHYTHM, named=True)
    assert rhythm["difference_low"] > 0.1
    assert rhythm["difference_q"] < 0.01


def test_each_rival_says_what_it_was_told(run):
    told = RivalInputs.read(run)
    vitals = told.filter(pl.col("rival") == "vitals")
    assert set(vitals["input"]) == {f"Triage_{name}" for name in ("Temp_C", "HR", "RR", "SpO2", "SBP", "DBP")}
    assert set(vitals["kind"]) == {"number"}
    acquired = set(told.filter(pl.col("rival") == "acquisition")["input"])
    assert acquired >= {"segments", "recorded_s", "rate_hz", "q_step", "q_flat", "Means_of_arrival", "hour", "file"}
    itself = told.filter(pl.col("rival") == "pulse-features").row(0, named=True)
    assert (itself["kind"], itself["reason"]) == ("none", "they are the encoder itself")


def test_a_column_that_is_not_there_is_refused(tree, run):
    with pytest.raises(ConfigError, match="vitals names Heart_rate"):
        pipeline.run(planned(tree, run, vitals=["Heart_rate"]), until="evaluate")
