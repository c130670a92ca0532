"""Two channels and more in the same ten seconds, and one choice of windows for several encoders."""

from __future__ import annotations

import datetime as dt
import json
import shutil
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
import wfdb

from phewas.config import SegmentConfig
from phewas.encoders.registry import ECG_500, PAPAGEI_125, PPG_50, PPG_125, PPG_ECG_125, InputContract
from phewas.errors import SignalError
from phewas.schema import Encounters, Recordings
from phewas.segments.cutting import Work
from phewas.segments.extract import FLOW_FILE, extract
from phewas.segments.filtering import prepare
from phewas.segments.store import SegmentStore, choice_file, windows_file
from phewas.segments.windows import stretches

NOON = dt.datetime(2250, 3, 1, 12)
RAW = InputContract(("PPG", "ECG_II"), 125.0, None, steps=("resample",), normalise_scope="none")


def clock(seconds: np.ndarray) -> np.ndarray:
    """A signal that tells the time: its phase is the second since noon."""
    return np.sin(2 * np.pi * 1.3 * seconds) + 0.3 * np.sin(2 * np.pi * 2.7 * seconds)


@pytest.fixture
def tree(tmp_path):
    """One encounter with two PPG and two ECG recordings that overlap in part, one with PPG alone, one without dates."""
    root, run, rows = tmp_path / "data", tmp_path / "run", []
    root.mkdir()

    def add(name: str, encounter: str, channel: str, fs_hz: float, start_s: float, seconds: float) -> None:
        n = round(seconds * fs_hz)
        x = clock(start_s + np.arange(n) / fs_hz)
        wfdb.wrsamp(name, fs=fs_hz, units=["mV"], sig_name=[channel], p_signal=x[:, None], fmt=["24"],
                    write_dir=str(root))  # fmt: skip
        rows.append({"recording_id": name, "encounter_id": encounter, "channel": channel, "path": f"{name}.hea",
                     "signal": channel, "fs_hz": fs_hz, "n_samples": n,
                     "start": NOON + dt.timedelta(seconds=start_s)})  # fmt: skip

    add("p1", "a", "PPG", 125.0, 0.0, 100.0)
    add("p2", "a", "PPG", 62.5, 200.0, 60.0)
    add("e1", "a", "ECG_II", 500.0, 33.333, 100.0)  # 66.7 s with p1
    add("e2", "a", "ECG_II", 500.0, 90.0, 150.0)  # begins within e1; 40 s with p2
    add("p3", "b", "PPG", 125.0, 0.0, 60.0)
    both = np.stack([clock(np.arange(125 * 45) / 125)] * 2, axis=1)
    wfdb.wrsamp("c1", fs=125, units=["NU", "mV"], sig_name=["PPG", "ECG_II"], p_signal=both, fmt=["24", "24"],
                write_dir=str(root))  # fmt: skip
    rows += [{"recording_id": f"c1{c}", "encounter_id": "c", "channel": c, "path": "c1.hea", "signal": c,
              "fs_hz": 125.0, "n_samples": 125 * 45} for c in ("PPG", "ECG_II")]  # fmt: skip
    Recordings.write(Recordings.build(rows), run)
    Encounters.write(Encounters.build({"encounter_id": e, "patient_id": f"p{e}"} for e in "abc"), run)
    return root, run


def cut(run, root, contract, **more) -> SegmentStore:
    options = {"window_s": 10.0, "seed": 0, "workers": 1, "config": SegmentConfig(), "fingerprint": "f" * 32} | more
    extract(run, root=root, contract=contract, **options)
    return SegmentStore.open(run, contract)


def test_windows_come_from_where_both_are_recorded(tree):
    root, run = tree
    store = cut(run, root, RAW)
    assert dict(store.index.group_by("encounter_id").len().iter_rows()) == {"a": 10, "c": 4}
    assert windows_file(run, window_s=10.0, channels=RAW.channels).name == "windows-10-PPG+ECG_II.parquet"
    both = store.gather(np.arange(store.index.height))
    assert both.shape == (14, 2, 1250)
    # Either channel tells the time; they agree to half a sample of each.
    ppg, ecg = both[:, 0, 100:-100].astype(float), both[:, 1, 100:-100].astype(float)
    steepest = 2 * np.pi * (1.3 + 0.3 * 2.7)
    assert np.abs(ppg - ecg).max() < steepest * (0.5 / 62.5 + 0.5 / 500) + 0.01
    starts = {r["recording_id"]: r["start"] for r in Recordings.read(run).to_dicts()}
    for row in store.index.filter(pl.col("encounter_id") == "a").to_dicts():
        at = [
            (starts[row[f"recording_id{end}"]] - NOON).total_seconds() + row[f"start_sample{end}"] / fs_hz
            for end, fs_hz in (("", 125 if row["recording_id"] == "p1" else 62.5), ("_ECG_II", 500))
        ]
        assert abs(at[0] - at[1]) <= 0.5 / 62.5 + 0.5 / 500
    assert store.index["segment_id"].n_unique() == 14
    assert {"q_flat_ECG_II", "scale_ECG_II", "offset_ECG_II"} <= set(store.index.columns)
    flow = pl.read_parquet(run / FLOW_FILE)
    assert flow.item(0, "reason").endswith("with PPG and ECG_II recorded at the same time")


def test_no_time_comes_twice_where_recordings_of_a_channel_overlap():
    def record(channel, start_s, seconds):
        return {"channel": channel, "fs_hz": 100.0, "n_samples": round(100 * seconds), "path": "x", "member": None,
                "start": NOON + dt.timedelta(seconds=start_s)}  # fmt: skip

    records = [record("PPG", 0, 100), record("E", 10, 50), record("E", 40, 30), record("E", 20, 10), record("F", 0, 65)]
    found = stretches(records, ("PPG", "E"))
    assert [(s.which, s.offset_s, s.seconds) for s in found] == [((0, 1), (10, 0), 50), ((0, 2), (60, 20), 10)]
    three = stretches(records, ("PPG", "E", "F"))
    assert [(s.which, s.seconds) for s in three] == [((0, 1, 4), 50), ((0, 2, 4), 5)]
    assert stretches([record("PPG", 0, 10), record("E", 11, 10)], ("PPG", "E")) == []


def test_each_channel_goes_through_its_own_band(tree):
    root, run = tree
    store = cut(run, root, PPG_ECG_125)
    values = store.gather(np.arange(store.index.height))
    row = store.index.with_row_index("row").filter(pl.col("encounter_id") == "c").row(0, named=True)
    raw = wfdb.rdrecord(str(root / "c1")).p_signal[row["start_sample"] : row["start_sample"] + 1250].T
    for j, channel in enumerate(PPG_ECG_125.channels):
        alone = replace(PPG_ECG_125, channels=(channel,), band=PPG_ECG_125.band_of(channel))
        done = prepare(raw[j : j + 1].astype(np.float32), fs_hz=125.0, contract=alone, window_s=10.0)
        assert np.abs(values[row["row"], j] - done.values[0]).max() < 2e-3


def test_a_second_encoder_takes_the_same_windows_in_the_same_order(tree, monkeypatch):
    root, run = tree
    first = cut(run, root, PPG_125)
    read = []
    plain = Work._choose
    monkeypatch.setattr(Work, "_choose", lambda *more: (read.append(1), plain(*more))[1])
    tables = [p.read_bytes() for p in (windows_file(run, window_s=10.0, channels=("PPG",)), run / FLOW_FILE)]
    second = cut(run, root, PPG_50)
    assert not read  # nothing was drawn again
    keys = ["segment_id", "draw", "q_flat", "q_rate_per_min", "encounter_id"]
    assert second.index.select(keys).equals(first.index.select(keys))
    assert [p.read_bytes() for p in (windows_file(run, window_s=10.0, channels=("PPG",)), run / FLOW_FILE)] == tables
    assert second.gather(np.arange(3)).shape == (3, 1, 500)
    other = run.parent / "other"
    shutil.copytree(run / "cohort", other / "cohort")
    fresh = cut(other, root, PPG_50)
    assert read
    assert np.array_equal(fresh.gather(np.arange(20)), second.gather(np.arange(20)))
    monkeypatch.undo()
    # Another seed is another choice.
    assert not cut(run, root, PPG_50, seed=1).index["segment_id"].equals(first.index["segment_id"])
    # The ECG of the same encounters has windows of its own beside them.
    alone = cut(run, root, ECG_500.at_site(60))
    assert windows_file(run, window_s=10.0, channels=("ECG_II",)).is_file()
    assert alone.gather(np.arange(2)).shape == (2, 1, 5000)


def test_a_damaged_note_of_the_choice_is_made_anew(tree):
    root, run = tree
    cut(run, root, PPG_125)
    note = choice_file(run, window_s=10.0, channels=("PPG",))
    whole = note.read_text()
    note.write_text("{")
    cut(run, root, PPG_50)
    assert json.loads(note.read_text()) == json.loads(whole)


def test_a_window_that_is_gone_is_told(tree):
    root, run = tree
    cut(run, root, PPG_125)
    (root / "p3.dat").unlink()
    with pytest.raises(SignalError, match="can no longer be read"):
        cut(run, root, PPG_50)


def test_papageis_windows_are_those_of_the_recording_filtered_whole(tree):
    from scipy import signal

    root, run = tree
    store = cut(run, root, PAPAGEI_125)
    x = wfdb.rdrecord(str(root / "p1")).p_signal[:, 0]
    y = signal.sosfiltfilt(signal.cheby2(4, 20, [0.5, 12], "bandpass", fs=125, output="sos"), (x - x.mean()) / x.std())
    y = signal.filtfilt(np.full(6, 1 / 6), 1, y)
    inner = store.index.with_row_index("row").filter(
        (pl.col("recording_id") == "p1") & pl.col("start_sample").is_between(1250, 100 * 125 - 2 * 1250 - 1)
    )
    assert inner.height >= 6
    for row in inner.to_dicts():
        ours = store.gather(np.array([row["row"]]))[0, 0]
        theirs = y[row["start_sample"] : row["start_sample"] + 1250]
        assert np.abs(ours - theirs).max() / theirs.std() < 5e-3


def test_a_channel_that_nobody_has_is_told(tree):
    root, run = tree
    with pytest.raises(SignalError, match="no RESP recording") as told:
        cut(run, root, replace(PPG_125, channels=("RESP",)))
    assert "ECG_II, PPG" in str(told.value)


def test_many_windows_pass_through_in_batches(tree, monkeypatch):
    from phewas.segments import cutting

    root, run = tree
    whole = cut(run, root, RAW, config=SegmentConfig(n_segments="all"))
    expected = {f.name: f.read_bytes() for f in (run / "segments").rglob("*.npy")}
    monkeypatch.setattr(cutting, "BATCH_WINDOWS", 3)
    monkeypatch.setattr(cutting, "BATCH_ROWS", 2)
    shutil.rmtree(run / "segments")
    assert cut(run, root, RAW, config=SegmentConfig(n_segments="all")).index.equals(whole.index)
    assert {f.name: f.read_bytes() for f in (run / "segments").rglob("*.npy")} == expected
    shutil.rmtree(run / "segments")
    few = cut(run, root, RAW, config=SegmentConfig(n_segments="all", min_segments=5))
    assert few.index["encounter_id"].unique().to_list() == ["a"]
    assert few.gather(np.arange(10)).shape == (10, 2, 1250)
