"""Emulated files as an independent reader sees them, and the emulated cohort of the demo."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import wfdb
from sklearn.metrics import roc_auc_score

from phewas.cohorts import get
from phewas.cohorts.demo import Demo
from phewas.cohorts.emulator.hospital import Hospital
from phewas.cohorts.emulator.mcmed import emulate_mcmed
from phewas.cohorts.emulator.options import options
from phewas.cohorts.emulator.planted import PLANTED
from phewas.cohorts.emulator.pulse import FULL_SCALE, Storage, encode, storage_for, write_record

Build = Callable[..., dict[str, pl.DataFrame]]
SEED = 7


@pytest.mark.parametrize("fmt", sorted(FULL_SCALE))
@pytest.mark.parametrize("n", [1, 2, 3, 1250, 1251])
def test_records_read_back_by_an_independent_reader(tmp_path: Path, fmt: str, n: int) -> None:
    import datetime as dt

    rng = np.random.default_rng(n)
    values = rng.uniform(-1, 2, n)
    values[n // 2] = np.nan if n > 2 else values[n // 2]
    storage = storage_for(rng, fmt=fmt, units="NU")
    assert storage.gain != round(storage.gain)
    start = dt.datetime(2294, 2, 3, 4, 5, 6, 789_000)
    write_record(
        tmp_path, "a_1", values, signal="Pleth", fs_hz=62.5, storage=storage, start=start, fraction="milliseconds"
    )
    got = wfdb.rdrecord(str(tmp_path / "a_1"))
    assert got.base_datetime == start
    assert (got.fs, got.sig_len, got.sig_name, got.units) == (62.5, n, ["Pleth"], ["NU"])
    np.testing.assert_array_equal(np.isnan(got.p_signal[:, 0]), np.isnan(values))
    np.testing.assert_allclose(got.p_signal[:, 0], values, atol=0.5001 / storage.gain, equal_nan=True)
    digital = wfdb.rdrecord(str(tmp_path / "a_1"), physical=False, return_res=32)
    np.testing.assert_array_equal(digital.d_signal[:, 0], encode(values, storage)[1])
    if fmt != "32":
        assert digital.calc_checksum() == [c % 65536 for c in digital.checksum]


def test_the_range_is_clipped() -> None:
    assert encode(np.array([9.0, -9.0]), Storage("212", 1000.0, 0, "NU"))[1].tolist() == [2047, -2047]


def test_common_conditions_and_their_effects(tmp_path: Path) -> None:
    hospital = Hospital(options("demo", patients=3_000).effective(), seed=5)
    block = hospital.block(0, 3_000)
    begun, seen = block.begun()[block.monitored], block.monitored
    age = block.years[seen].astype(float)
    for k, planted in enumerate(PLANTED):
        y = begun[:, k]
        if planted.kind == "rare":
            assert y.mean() < 0.02, planted
        elif planted.kind == "effect":
            assert y.mean() > 0.18, planted
            assert abs(roc_auc_score(y, age) - 0.5) < 0.05, planted
        elif planted.kind == "age":
            assert roc_auc_score(y, age) > 0.75, planted
        elif planted.kind == "null":
            assert y.mean() > 0.18, planted
            assert abs(roc_auc_score(y, age) - 0.5) < 0.05, planted
    assert sum(p.kind in ("null", "sex") for p in PLANTED) >= 12
    assert 1.1 < seen.sum() / 3_000 < 1.4
    # A hospital keeps its own shares, and its rhythm condition follows age.
    own = Hospital(options("full", patients=3_000).effective(), seed=5).block(0, 3_000)
    share = (~np.isnan(own.onsets)).mean(axis=0)
    assert share[[p.code for p in PLANTED].index("J44.9")] < 0.13
    assert roc_auc_score(own.begun()[:, 0], own.years.astype(float)) > 0.65


def test_the_demo_has_what_goes_wrong_in_real_files(tmp_path: Path, build: Build) -> None:
    emulate_mcmed(tmp_path / "mc-med", options=options("demo"), seed=SEED, workers=1)
    t = build(tmp_path / "mc-med", tmp_path / "run")
    of_files = set(t["rejects"].filter(pl.col("table") == "recordings")["reason"])
    assert {"signal_truncated", "signal_missing", "header_missing", "no_date", "header_unreadable", "zero_length",
            "unexpected_rate", "summary_without_files", "not_in_summary", "summary_mismatch",
            "unknown_encounter"} <= of_files  # fmt: skip
    of_rows = set(t["rejects"].filter(pl.col("table") != "recordings")["reason"])
    assert {"duplicate_encounter", "duplicate_row", "several_codes", "unknown_patient", "blank_id",
            "short_row"} <= of_rows  # fmt: skip
    rows = set(t["diagnoses"].filter(pl.col("source") == "pmh")["source_row"])
    rows |= set(t["rejects"].filter(pl.col("source") == "pmh")["source_row"])
    n = t["flow"].filter(pl.col("unit") == "rows")["n_in"][0]
    assert rows == set(range(1, n + 1))
    assert set(t["recordings"]["channel"]) == {"PPG", "ECG_II", "RESP"}


def test_demo_is_resumed_and_mended(tmp_path: Path) -> None:
    demo = Demo(get("demo").card, patients=12, seed=3)
    demo.build(None, tmp_path)
    tree = demo.data_root(None, tmp_path)
    assert tree == tmp_path / "demo" / "mc-med"
    first = {f.name: f.read_bytes() for f in (tmp_path / "cohort").iterdir()}
    marked = (tree / "visits.csv").stat().st_mtime_ns
    demo.build(None, tmp_path)
    assert (tree / "visits.csv").stat().st_mtime_ns == marked
    # Half a tree, as a killed run leaves it, is made anew; so is one without its mark.
    shutil.rmtree(tree / "waveforms")
    (tmp_path / "demo" / "finished.json").unlink()
    demo.build(None, tmp_path)
    assert first == {f.name: f.read_bytes() for f in (tmp_path / "cohort").iterdir()}
    assert demo.fingerprint(None) != Demo(demo.card, patients=13, seed=3).fingerprint(None)
    assert demo.scan(None)["n_patients"] == 12
