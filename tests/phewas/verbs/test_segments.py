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


def test_windows_are_exported_without_patients(cut, tmp_path, monkeypatch):
    monkeypatch.setattr("phewas.segments.export.BLOCK_ROWS", 7)  # many blocks, the last one shorter
    for name in ("w.npz", "w.parquet"):
        assert run("segments", "export", tmp_path / name, "--run", cut).exit_code == 0
    index = pl.read_parquet(next((cut / "segments").glob("*/index.parquet")))
    assert pl.read_parquet(tmp_path / "w.parquet").drop("signal").equals(index.drop("patient_id"))
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


def test_windows_are_exported_as_edf(cut, tmp_path):
    edfio = pytest.importorskip("edfio")
    for name in ("w.edf", "w.parquet"):
        done = run("segments", "export", tmp_path / name, "--run", cut)
        assert done.exit_code == 0, done.output
    content = edfio.read_edf(tmp_path / "w.edf")
    table = pl.read_parquet(tmp_path / "w.parquet")
    expected = table["signal"].to_numpy().reshape(-1)
    assert [s.label for s in content.signals] == ["PPG"]
    assert content.signals[0].sampling_frequency == 125
    assert np.abs(content.signals[0].data[: len(expected)] - expected).max() < np.abs(expected).max() / 2**14
    assert [a.text for a in content.annotations][:3] == ["0", "1", "2"]


def test_an_encoder_of_two_channels_is_cut_shown_and_exported(cut, tmp_path, monkeypatch):
    """MC-MED's lead II beside its pulse wave, though the cohort is indexed by the pulse wave."""
    from dataclasses import replace

    from phewas.encoders import registry

    plain = registry.get
    two = replace(plain("net1d-small"), name="two", contract=registry.PPG_ECG_125)
    monkeypatch.setattr(registry, "get", lambda name: two if name == "two" else plain(name))
    data, folder = cut.parent / "mc-med", tmp_path / "run"
    done = run("segments", "--cohort", "mcmed", "--data", data, "--out", folder, "--encoder", "two", "--workers", 1)
    assert done.exit_code == 0, done.output
    assert "mains" not in done.output  # the card says which
    assert list((folder / "segments").glob("windows-10-PPG+ECG_II.parquet"))
    assert run("segments", "show", 0, "--run", folder, "--out", tmp_path / "w.png").output.count("ECG_II, ") == 2
    assert run("segments", "export", tmp_path / "w.parquet", "--run", folder).exit_code == 0
    assert {"signal", "signal_ECG_II"} <= set(pl.read_parquet_schema(tmp_path / "w.parquet"))
    index = pl.read_parquet(folder / "cohort" / "encounters.parquet").select("encounter_id", "index_time")
    before = pl.read_parquet(cut / "cohort" / "encounters.parquet").select("encounter_id", "index_time")
    assert index.equals(before)
