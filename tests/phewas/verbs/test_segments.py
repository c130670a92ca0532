"""`phewas segments`: cut, show and export on a small emulated tree."""

from __future__ import annotations

import json

import numpy as np
import polars as pl
import pytest
from typer.testing import CliRunner

from phewas.cli import app
from phewas.cohorts.emulator.mcmed import emulate_mcmed
from phewas.cohorts.emulator.options import options
from phewas.errors import ConfigError, RunError
from phewas.verbs.segments import sketch

RUNNER = CliRunner()


def run(*words):
    return RUNNER.invoke(app, list(map(str, words)), catch_exceptions=True)


@pytest.fixture(scope="module")
def cut(tmp_path_factory):
    folder = tmp_path_factory.mktemp("segments")
    emulate_mcmed(folder / "mc-med", options=options("demo", patients=30), seed=3)
    done = run("segments", "--cohort", "mcmed", "--data", folder / "mc-med", "--out", folder / "run", "--workers", 1)
    assert done.exit_code == 0, done.output
    return folder / "run"


def test_cutting_needs_no_weights_and_leaves_them_open(cut):
    manifest = json.loads((cut / "run.json").read_text())
    assert manifest["identity"]["encoder"] == "anyppg"
    assert manifest["identity"]["weights"] == "undecided"
    assert set(manifest["steps"]) == {"cohort", "split", "phenotypes", "segments"}


def test_a_later_run_may_settle_the_weights(cut, tmp_path):
    import shutil

    from phewas.rundir import RunDirectory

    copy = tmp_path / "run"
    shutil.copytree(cut, copy)
    directory = RunDirectory(copy)
    directory.claim(directory.identity | {"weights": "abc"})
    directory.save()
    assert RunDirectory(copy).identity["weights"] == "abc"
    again = RunDirectory(copy)
    again.claim(again.identity | {"weights": "undecided"})
    assert again.identity["weights"] == "abc"
    with pytest.raises(RunError, match="weights was abc, now def"):
        again.claim(again.identity | {"weights": "def"})


def test_a_window_is_shown(cut, tmp_path):
    done = run("segments", "show", 0, "--run", cut, "--out", tmp_path / "w.png")
    assert done.exit_code == 0, done.output
    assert "raw, 125 Hz, 10 s" in done.output
    assert any(0x2800 < ord(c) < 0x2900 for c in done.output)
    assert (tmp_path / "w.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    unknown = run("segments", "show", "nowhere:1", "--run", cut)
    assert isinstance(unknown.exception, ConfigError)
    assert isinstance(run("segments", "show", 0, "--run", tmp_path).exception, RunError)


def test_windows_are_exported_without_patients(cut, tmp_path):
    for name in ("w.npz", "w.parquet"):
        assert run("segments", "export", tmp_path / name, "--run", cut).exit_code == 0
    table = pl.read_parquet(tmp_path / "w.parquet")
    arrays = np.load(tmp_path / "w.npz", allow_pickle=False)
    assert "patient_id" not in table.columns
    assert "patient_id" not in arrays.files
    assert arrays["signal"].shape == (table.height, 1, 1250)
    np.testing.assert_allclose(np.stack(table["signal"].to_numpy()), arrays["signal"][:, 0], atol=1e-6)
    assert isinstance(run("segments", "export", tmp_path / "w.mat", "--run", cut).exception, ConfigError)


def test_the_sketch_follows_the_signal():
    text = sketch(np.array([0.0, 0, 0, 0, 1, 1, 1, 1]), columns=4, lines=2).split("\n")
    assert len(text) == 2
    assert text[0].lstrip("\u2800") != text[0]  # low on the left: nothing above there
    assert len(text[0]) == 4  # high on the right
    assert len(text[1]) == 2
    assert set(sketch(np.full(10, np.nan), columns=4, lines=2)) <= {"\n", "\u2800"}
