"""Rivals through a run of an emulated cohort: what only the recording tells is flagged, what the wave tells is not."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

from phewas import pipeline, settings
from phewas.cohorts.emulator.mcmed import emulate_mcmed
from phewas.cohorts.emulator.options import options
from phewas.errors import ConfigError
from phewas.plan import Plan, plan
from phewas.schema import ControlSummary, NetBenefit, PhenotypeResults, RivalInputs, Rivals

RECORDED, RHYTHM = "272.1", "427.21"


@pytest.fixture(scope="module")
def tree(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("mc-med") / "data"
    made = options("demo", patients=330, longer_recorded=3.0, segment_max_s=300.0)
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
    rivals = ["vitals", "utilisation", "acquisition", "pulse-features"]
    own = out.parent / "own.csv"
    own.write_text(f"phenotype,kind\n{RECORDED},negative\n{RHYTHM},positive\n335,positive\n")
    pipeline.run(planned(tree, out, rivals=rivals, net_benefit=[0.2], controls_file=str(own)), until="evaluate")
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


def test_controls_of_ones_own_and_net_benefit(run):
    found = {row["kind"]: row for row in ControlSummary.read(run).iter_rows(named=True)}
    assert (found["negative"]["n_listed"], found["negative"]["looks_seen"]) == (1, False)
    assert (found["positive"]["n_listed"], found["positive"]["n_tested"], found["positive"]["n_above"]) == (2, 1, 1)
    table = NetBenefit.read(run).filter(pl.col("phenotype") == RHYTHM)
    assert table["status"].to_list() == ["raw"]
    assert table["over_treat_all"][0] > 0


def test_a_list_of_controls_is_looked_for_beside_the_settings(tmp_path):
    (tmp_path / "own.csv").write_text("phenotype,kind\n427.21,positive\n")
    (tmp_path / "run.toml").write_text('cohort = "demo"\n[evaluate]\ncontrols_file = "own.csv"\n')
    config = settings.resolve({}, tmp_path / "run.toml")
    assert config.evaluate.controls_file == tmp_path / "own.csv"
    before = config.evaluate.dependencies()
    (tmp_path / "own.csv").write_text("phenotype,kind\n427.22,positive\n")
    assert config.evaluate.dependencies() != before


def test_a_column_that_is_not_there_is_refused(tree, run):
    with pytest.raises(ConfigError, match="vitals names Heart_rate"):
        pipeline.run(planned(tree, run, vitals=["Heart_rate"]), until="evaluate")
    assert (run / PhenotypeResults.file).is_file(), "results were deleted before the mistake was told"


def test_pulse_features_of_another_encoders_windows_are_those_of_their_own_run(tree, run, tmp_path, monkeypatch):
    """Measured beside another encoder, in a folder of their own that is gone afterwards, and kept for the next time."""
    import numpy as np
    import torch

    from phewas import rivalstep
    from phewas.encoders.pulse_features import NAMES
    from phewas.learning.embed import Embed, embed_store
    from phewas.schema import LabelRows

    first = planned(tree, run)
    given = {"cohort": "mcmed", "data": tree, "encoder": "net1d-small", "heldout": "random:0.4", "workers": 1,
             "segments": {"n_segments": 4, "shard_encounters": 60},
             "evaluate": {"rivals": ["pulse-features", "acquisition"]}}  # fmt: skip
    made = plan(settings.resolve(given, None), out=tmp_path / "run", command="phewas run", start_from=run)
    pipeline.run(made, until="segments")
    before = {f: f.read_bytes() for f in (made.out / "segments").rglob("*") if f.is_file()}
    measured, acquired = rivalstep.inputs(made)
    assert {f.name for f in (made.out / "rivals").iterdir()} == {"pulse-features.parquet", "pulse-features.json"}
    assert {f: f.read_bytes() for f in (made.out / "segments").rglob("*") if f.is_file()} == before
    job = Embed(run=run, spec=first.spec, weights=None, weights_sha256="random", seed=0, device=torch.device("cpu"),
                precision="float32")
    own = pl.read_parquet(embed_store(job) / "encounters.parquet")
    place = {name: k for k, name in enumerate(LabelRows.read(made.out)["encounter_id"].to_list())}
    at = [place[name] for name in own["encounter_id"].to_list()]
    assert np.isnan(np.delete(measured.numbers["rate"], at)).all()
    for k, name in enumerate(NAMES):
        np.testing.assert_allclose(measured.numbers[name][at], own["embedding"].to_numpy()[:, k], rtol=1e-6)
    monkeypatch.setattr(rivalstep, "_measured", lambda *_: pytest.fail("measured twice"))
    assert rivalstep.inputs(made)[0].reason is None
    assert acquired.eligible.sum() == own.height
