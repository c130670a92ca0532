"""`phewas embed --array`: one's own windows through the encoder's own preprocessing."""

from __future__ import annotations

import sys

import numpy as np
import polars as pl
import pytest

from phewas import cli
from phewas.encoders.pulse_features import NAMES


@pytest.fixture
def call(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)

    def go(*words):
        monkeypatch.setattr(sys, "argv", ["phewas", "embed", *map(str, words)])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        shown = capsys.readouterr()
        return stop.value.code, " ".join((shown.out + shown.err).split())

    return go


def pulses(fs_hz=250.0):
    t = np.arange(round(10 * fs_hz)) / fs_hz
    return np.array([2000 + 30 * np.sin(2 * np.pi * rate / 60 * t) for rate in (60, 72, 90)])


@pytest.mark.parametrize("form", ["npy", "npz", "parquet", "columns"])
def test_every_form_of_file_gives_the_same_rates(call, tmp_path, form):
    file = tmp_path / f"own.{'parquet' if form == 'columns' else form}"
    x = pulses()
    if form == "npy":
        np.save(file, x[:, None])
    elif form == "npz":
        np.savez(file, signal=x)
    elif form == "parquet":
        pl.DataFrame({"id": [1, 2, 3], "signal": x.tolist()}).write_parquet(file)
    else:
        pl.DataFrame(x, schema=[f"s{i}" for i in range(x.shape[1])], orient="row").write_parquet(file)
    code, shown = call("--array", file, "--fs-hz", 250, "--out", "e.parquet")
    assert code == 0, shown
    assert "3 embeddings of 49 numbers (10-s windows)" in shown
    rates = pl.read_parquet(tmp_path / "e.parquet")["embedding"].to_numpy()[:, NAMES.index("rate")]
    np.testing.assert_allclose(rates, [60, 72, 90], atol=0.3)


def test_gaps_are_bridged_and_empty_rows_are_nan(call, tmp_path):
    x = pulses(125.0)
    x[0, 300:310] = np.nan
    x[1] = np.nan
    np.save(tmp_path / "own.npy", x)
    code, shown = call("--array", "own.npy", "--fs-hz", 125, "--encoder", "net1d-small", "--out", "e.parquet")
    assert code == 0
    assert "1 rows hold no number" in shown
    found = pl.read_parquet(tmp_path / "e.parquet")["embedding"].to_numpy()
    assert np.isfinite(found[[0, 2]]).all()
    assert np.isnan(found[1]).all()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ((), "nothing to embed"),
        (("--array", "own.npy", "--cohort", "demo"), "at once"),
        (("--array", "own.npy", "--out", "e.parquet"), "samples per second"),
        (("--array", "own.npy", "--fs-hz", 125), "no Parquet file to write"),
        (("--array", "none.npy", "--fs-hz", 125, "--out", "e.parquet"), "there is no file"),
        (("--array", "own.npy", "--fs-hz", 12, "--out", "e.parquet"), "more than 16 Hz"),
        (("--array", "own.npy", "--fs-hz", 125, "--out", "e.parquet", "--encoder", "anyppg"), "weights of anyppg"),
        (("--array", "text.npy", "--fs-hz", 125, "--out", "e.parquet"), "cannot be read as an array"),
        (("--array", "flat.npy", "--fs-hz", 125, "--out", "e.parquet"), "holds float64 [5]"),
    ],
)
def test_mistakes_are_told_with_their_cure(call, tmp_path, words, told):
    np.save(tmp_path / "own.npy", pulses(125.0))
    np.save(tmp_path / "flat.npy", np.zeros(5))
    (tmp_path / "text.npy").write_text("no array")
    code, shown = call(*words)
    assert code == 2
    assert told in shown
    assert "Traceback" not in shown
