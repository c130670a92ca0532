"""The built-in cohort at its shipped seed: what was planted is found, and nothing else is."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest

from phewas.cohorts.emulator.planted import PLANTED
from phewas.schema import PhenotypeResults


@pytest.fixture(scope="module")
def demo(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("demo") / "run"
    command = [sys.executable, "-m", "phewas", "run", "--cohort", "demo", "--out", str(out)]
    env = {k: v for k, v in os.environ.items() if k != "PHEWAS_DATA"}
    done = subprocess.run(command, cwd=out.parent, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return out


def results_of(demo: Path, *kinds: str) -> pl.DataFrame:
    codes = [p.phecode for p in PLANTED if p.kind in kinds]
    return PhenotypeResults.read(demo).filter(pl.col("phenotype").is_in(codes))


def test_every_planted_effect_is_found(demo):
    found = results_of(demo, "effect")
    assert found.height == 5
    assert (found["status"] == "tested").all()
    assert (found["prevalence"] >= 0.15).all()
    assert (found["auc_low"] > 0.5).all()
    assert (found["q_fdr"] < 0.05).all()
    assert (found["delta_low"] > 0).all()


def test_planted_effects_rank_above_everything_else(demo):
    scored = PhenotypeResults.read(demo).filter(pl.col("auc").is_not_null())
    effects = {p.phecode.split(".")[0] for p in PLANTED if p.kind == "effect"}
    planted = pl.col("phenotype").str.split(".").list.first().is_in(list(effects))
    assert scored.filter(planted)["auc"].min() > scored.filter(~planted)["auc"].max()


def test_no_null_is_found(demo):
    tested = PhenotypeResults.read(demo).filter(pl.col("status") == "tested")
    nulls = results_of(demo, "null", "sex")
    assert nulls.filter(pl.col("status") == "tested").height >= 12
    assert (nulls["q_fdr"].drop_nulls() >= 0.05).all()
    # A parent of a planted phecode has its labels; everything else tested must stay silent, too.
    effects = {p.phecode.split(".")[0] for p in PLANTED if p.kind == "effect"}
    others = tested.filter(~pl.col("phenotype").str.split(".").list.first().is_in(list(effects)))
    assert (others["q_fdr"] >= 0.05).all()


def test_what_follows_age_alone_does_not_beat_age_and_sex(demo):
    age = results_of(demo, "age")
    assert (age["baseline_auc"] > 0.7).all()
    assert (age["delta_high"] < 0).all()


def test_rare_phenotypes_keep_their_row_and_their_reason(demo):
    rare = results_of(demo, "rare")
    assert rare.height == 4
    assert (rare["status"] != "tested").all()
    assert rare["auc"].null_count() == 4


def test_the_report_says_what_it_is(demo):
    page = (demo / "report" / "index.html").read_text()
    assert "EMULATED DATA" in page
    assert "started from random weights" in page


def test_three_gigabytes_are_enough(demo):
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss < 3e6  # in kilobytes, the largest child so far
