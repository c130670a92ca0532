"""EDF and Parquet recordings: the samples that were written, from any start, and files that cannot be read."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from phewas.errors import SignalError
from phewas.segments.readers import open_recording

edfio = pytest.importorskip("edfio")


@pytest.fixture
def edf(tmp_path):
    rng = np.random.default_rng(0)
    pleth = np.sin(np.arange(125 * 60) / 20) + 0.1 * rng.standard_normal(125 * 60)
    ecg = rng.standard_normal(500 * 60)
    slow = rng.standard_normal(int(62.5 * 60))
    edfio.Edf(
        [
            edfio.EdfSignal(pleth, 125, label="Pleth", physical_dimension="NU"),
            edfio.EdfSignal(ecg, 500, label="ECG II"),
            edfio.EdfSignal(slow, 62.5, label="Resp"),
        ],
        data_record_duration=2,
    ).write(tmp_path / "r.edf")
    return tmp_path, {"Pleth": (125.0, pleth), "ECG II": (500.0, ecg), "Resp": (62.5, slow)}


@pytest.mark.parametrize("label", ["Pleth", "ECG II", "Resp"])
def test_any_stretch_is_what_was_written(edf, label):
    root, signals = edf
    fs_hz, values = signals[label]
    opened = open_recording(root, "r.edf", signal=f" {label.upper()} ", fs_hz=fs_hz, n_samples=len(values))
    step = np.ptp(values) / 2**15
    for start, stop in [(0, 10), (1, 2), (333, 1583), (len(values) - 7, len(values)), (0, len(values))]:
        got = opened.read(start, stop)
        assert got.dtype == np.float32
        np.testing.assert_allclose(got, values[start:stop], atol=step)
    tail = opened.read(len(values) - 3, len(values) + 3)
    assert np.isfinite(tail[:3]).all()
    assert np.isnan(tail[3:]).all()


def test_unknown_labels_and_other_files_are_told(edf, tmp_path):
    root, _ = edf
    with pytest.raises(SignalError, match="0 signals 'ABP'"):
        open_recording(root, "r.edf", signal="ABP", fs_hz=125.0, n_samples=10)
    (root / "x.edf").write_bytes(b"not an edf file" * 40)
    with pytest.raises(SignalError, match="not a readable EDF"):
        open_recording(root, "x.edf", signal="Pleth", fs_hz=125.0, n_samples=10)


def test_parquet_columns(tmp_path):
    pl.DataFrame({"Pleth": [1.0, None, 3.5], "II": [1, 2, 3]}).write_parquet(tmp_path / "a.parquet")
    read = open_recording(tmp_path, "a.parquet", signal="Pleth", fs_hz=125.0, n_samples=3).read
    np.testing.assert_array_equal(read(0, 4), np.array([1.0, np.nan, 3.5, np.nan], dtype=np.float32))
    assert open_recording(tmp_path, "a.parquet", signal="II", fs_hz=125.0, n_samples=3).read(1, 3).tolist() == [2, 3]
    with pytest.raises(SignalError, match="no column 'ABP'"):
        open_recording(tmp_path, "a.parquet", signal="ABP", fs_hz=125.0, n_samples=3)
    pl.DataFrame({"Pleth": ["a"]}).write_parquet(tmp_path / "t.parquet")
    with pytest.raises(SignalError, match="not a Parquet file of numbers"):
        open_recording(tmp_path, "t.parquet", signal="Pleth", fs_hz=125.0, n_samples=1)
