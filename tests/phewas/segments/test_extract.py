"""Windows, quality, filtering and the store; real pulse waves from the heartpy package among them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest
import wfdb
from scipy import signal as scipy_signal

from phewas.config import SegmentConfig
from phewas.encoders.registry import PPG_125, Band, InputContract
from phewas.errors import SignalError
from phewas.schema import Encounters, Recordings, Rejects, Splits
from phewas.segments import quality
from phewas.segments.cutting import Work
from phewas.segments.extract import FLOW_FILE, REJECTS_FILE, extract
from phewas.segments.filtering import prepare
from phewas.segments.store import SegmentStore, windows_file
from phewas.segments.windows import candidates


def cohort(run: Path, recordings: list[dict]) -> None:
    """Write the two tables that extraction reads; one patient for each encounter."""
    Recordings.write(Recordings.build({"channel": "PPG", "signal": "Pleth"} | r for r in recordings), run)
    ids = sorted({r["encounter_id"] for r in recordings})
    Encounters.write(Encounters.build({"encounter_id": e, "patient_id": f"p{e}"} for e in ids), run)


def cut(run: Path, root: Path, **more) -> SegmentStore:
    options = {"window_s": 10.0, "seed": 0, "workers": 1, "config": SegmentConfig(), "fingerprint": "f" * 32} | more
    extract(run, root=root, contract=PPG_125, **options)
    return SegmentStore.open(run, PPG_125)


def wave(rng: np.random.Generator, n: int, fs_hz: float) -> np.ndarray:
    t = np.arange(n) / fs_hz
    return 100 + 3 * np.sin(2 * np.pi * 1.2 * t) + np.sin(2 * np.pi * 2.4 * t + 1) + 0.01 * rng.standard_normal(n)


@pytest.fixture
def tree(tmp_path):
    """Three encounters: one long, one short, one whose rates differ; with gaps, a flat stretch and a missing file."""
    rng = np.random.default_rng(5)
    root, run = tmp_path / "data", tmp_path / "run"
    root.mkdir()
    rows = []

    def add(name: str, encounter: str, values: np.ndarray, fs_hz: float = 125.0) -> None:
        wfdb.wrsamp(name, fs=fs_hz, units=["NU"], sig_name=["Pleth"], p_signal=values[:, None], fmt=["16"],
                    write_dir=str(root))  # fmt: skip
        rows.append({"recording_id": name, "encounter_id": encounter, "path": f"{name}.hea", "fs_hz": fs_hz,
                     "n_samples": len(values)})  # fmt: skip

    add("a1", "a", wave(rng, 125 * 400, 125))
    gaps = wave(rng, 125 * 60, 125)
    gaps[:1250] = np.nan
    gaps[1250 : 1250 + 200] = np.nan
    gaps[5000:6250] = 7.0
    add("b1", "b", gaps)
    add("c1", "c", wave(rng, 500 * 45, 500), 500.0)
    add("c2", "c", wave(rng, 625, 62.5), 62.5)
    add("c3", "c", wave(rng, 1249, 125))
    rows.append({"recording_id": "d1", "encounter_id": "d", "path": "gone.hea", "fs_hz": 125.0, "n_samples": 2500})
    cohort(run, rows)
    return root, run


def test_what_is_kept_and_what_is_not(tree):
    root, run = tree
    store = cut(run, root)
    per = dict(store.index.group_by("encounter_id").len().iter_rows())
    assert per == {"a": 20, "b": 4, "c": 5}  # b: one window missing, one flat; c: four at 500 Hz and one at 62.5 Hz
    flow = pl.read_parquet(run / FLOW_FILE)
    lost = {r["reason"]: r["n_in"] - r["n_out"] for r in flow.to_dicts()}
    assert lost["windows with too many missing samples"] == 1
    assert lost["windows with flat stretches"] == 1
    assert lost["windows that could not be read"] == 2
    rejects = Rejects.check(pl.read_parquet(run / REJECTS_FILE))
    assert rejects.select("reason", "path").rows() == [("read_failed", "gone.hea")]
    gap = store.index.filter((pl.col("recording_id") == "b1") & (pl.col("start_sample") == 1250))
    assert gap.item(0, "q_invalid") == pytest.approx(0.16)


def test_the_store_is_what_an_independent_pipeline_gives(tree):
    root, run = tree
    store = cut(run, root)
    for outside in (-1, store.index.height):
        with pytest.raises(IndexError):
            store.gather(np.array([0, outside]))
    values = store.gather(np.arange(store.index.height))
    assert values.shape == (29, 1, 1250)
    assert values.dtype == np.float16
    mne = pytest.importorskip("mne")
    butterworth = {"order": 3, "ftype": "butter"}
    for i, row in enumerate(store.index.to_dicts()):
        record = wfdb.rdrecord(str(root / row["recording_id"]))
        x = record.p_signal[row["start_sample"] : row["start_sample"] + int(10 * record.fs), 0]
        if np.isnan(x).any():
            continue
        y = mne.filter.filter_data(x, record.fs, 0.5, 8.0, method="iir", iir_params=dict(butterworth), verbose=False)
        y = scipy_signal.resample_poly(y, *{62.5: (2, 1), 125.0: (1, 1), 500.0: (1, 4)}[float(record.fs)])
        z = (y - y.mean()) / (y.std() + 1e-5)
        assert np.abs(values[i, 0] - z).max() < 2e-3 * max(1, np.abs(z).max())
        assert row["offset"] == pytest.approx(y.mean(), abs=1e-4)
        assert row["scale"] == pytest.approx(y.std(), rel=1e-4)


def test_the_choice_depends_on_seed_and_encounter_alone(tree, tmp_path):
    root, run = tree
    one = cut(run, root)
    files = {f.name: f.read_bytes() for f in (run / "segments").rglob("*") if f.is_file()}
    two = cut(run, root, workers=2, config=SegmentConfig(shard_encounters=1))
    assert two.index.drop("draw").equals(one.index.drop("draw"))
    assert np.array_equal(one.gather(np.arange(29)), two.gather(np.arange(29)))
    cut(run, root)
    assert {f.name: f.read_bytes() for f in (run / "segments").rglob("*") if f.is_file()} == files
    other = cut(run, root, seed=1)
    assert not other.index["segment_id"].equals(one.index["segment_id"])


def test_an_interrupted_extraction_goes_on(tree, monkeypatch):
    from phewas.segments import extract as module

    root, run = tree
    whole = cut(run, root)
    expected = whole.gather(np.arange(29))
    seen = []
    real = module.extract_shard

    def dies(shard):
        if shard.number == 2:
            raise KeyboardInterrupt
        seen.append(shard.number)
        return real(shard)

    settings = {"config": SegmentConfig(shard_encounters=1), "fingerprint": "g" * 32}
    monkeypatch.setattr(module, "extract_shard", dies)
    with pytest.raises(KeyboardInterrupt):
        cut(run, root, **settings)
    monkeypatch.undo()
    touched = []
    real_encounter = Work.encounter
    monkeypatch.setattr(Work, "encounter", lambda w, g: (touched.append(w.shard.number), real_encounter(w, g)))
    again = cut(run, root, **settings)
    assert seen == [0, 1]
    assert set(touched) == {2, 3}
    assert np.array_equal(again.gather(np.arange(29)), expected)
    assert not list((run / "segments").glob(".work-*"))


def test_no_usable_window_is_told(tree):
    root, run = tree
    with pytest.raises(SignalError, match="no PPG recording has a usable window"):
        cut(run, root, window_s=3600.0)


def test_windows_are_drawn_once_each_and_cover_the_grid():
    grid = candidates(np.array([1000, 35, 250]), np.array([100, 50, 100]), seed=3, encounter_id="e")
    pairs = set(zip(grid.recording.tolist(), grid.start_sample.tolist(), strict=True))
    assert len(pairs) == len(grid.recording) == 12
    assert pairs == {(0, 100 * k) for k in range(10)} | {(2, 0), (2, 100)}


def test_flatness_knows_neither_gain_nor_unit():
    rng = np.random.default_rng(0)
    x = wave(rng, 1250, 125).astype(np.float32)
    x[200:700] = x[200]
    for gain in (1e-6, 1.0, 1e6):
        assert quality.measure(x * np.float32(gain), fs_hz=125).flat == pytest.approx(0.4, abs=0.002)
    assert quality.measure(wave(rng, 1250, 125).astype(np.float32), fs_hz=125).flat == 0
    assert quality.measure(np.zeros(100, np.float32), fs_hz=125).flat == 1
    assert quality.measure(np.full(100, np.nan, np.float32), fs_hz=125).invalid == 1


def test_gaps_are_bridged_by_straight_lines():
    x = np.array([np.nan, 1, np.nan, np.nan, 4, np.nan], dtype=np.float32)
    assert quality.fill_gaps(x).tolist() == [1, 1, 2, 3, 4, 4]


@pytest.mark.parametrize("fs_hz", [62.4725, 62.5, 100.0, 125.0, 128.0, 250.0, 360.0, 500.0, 1000.0])
def test_a_tone_keeps_its_place_at_any_rate(fs_hz):
    samples = round(10 * fs_hz)
    t = np.arange(samples) / fs_hz
    x = np.sin(2 * np.pi * 2 * t).astype(np.float32)[None]
    done = prepare(x, fs_hz=fs_hz, contract=InputContract(("PPG",), 125.0, None), window_s=10.0)
    expected = np.sin(2 * np.pi * 2 * np.arange(1250) / 125) * np.sqrt(2)
    middle = slice(125, 1125)
    assert np.abs(done.values[0, middle] - expected[middle]).max() < 1e-3


def test_a_constant_window_becomes_zeros():
    done = prepare(np.full((1, 1250), 4.0, np.float32), fs_hz=125.0, contract=PPG_125, window_s=10.0)
    assert np.abs(done.values).max() < 1e-3
    assert done.scale[0] < 1e-6


def test_contracts_have_names_of_their_own():
    other = InputContract(("PPG",), 125.0, Band("butter", 3, 0.5, 12.0))
    assert other.digest != PPG_125.digest
    assert InputContract(("PPG",), 125.0, Band("butter", 3, 0.5, 8.0)).digest == PPG_125.digest


@pytest.mark.filterwarnings("ignore")  # heartpy's own
@pytest.mark.parametrize(("example", "fs_hz", "n_windows"), [(0, 100.0, 2), (1, 117.0, 11), (2, 100.0, 13)])
def test_real_pulse_waves_from_heartpy(tmp_path, example, fs_hz, n_windows):
    """Write a real recording as WFDB, cut it, and let heartpy find the same heart rate before and after."""
    heartpy = pytest.importorskip("heartpy")
    values = np.asarray(heartpy.load_exampledata(example)[0], dtype=np.float64)[: round(130 * fs_hz)]
    root, run = tmp_path / "data", tmp_path / "run"
    root.mkdir()
    wfdb.wrsamp("real", fs=fs_hz, units=["NU"], sig_name=["Pleth"], p_signal=values[:, None], fmt=["16"],
                write_dir=str(root))  # fmt: skip
    cohort(run, [{"recording_id": "real", "encounter_id": "e", "path": "real.hea", "fs_hz": fs_hz,
                  "n_samples": len(values)}])  # fmt: skip
    back = wfdb.rdrecord(str(root / "real")).p_signal[:, 0]
    assert np.abs(back - values).max() < np.ptp(values) / 2**14
    store = cut(run, root)
    windows = store.gather(np.arange(store.index.height))[:, 0].astype(np.float64)
    assert len(windows) == n_windows
    np.testing.assert_allclose(windows.mean(1), 0, atol=2e-3)
    np.testing.assert_allclose(windows.std(1), 1, atol=2e-3)

    def rate(signal, fs):
        try:
            return heartpy.process(signal, fs)[1]["bpm"]
        except heartpy.exceptions.BadSignalWarning:
            return np.nan

    starts = store.index["start_sample"].to_list()
    raw = np.array([rate(values[s : s + round(10 * fs_hz)], fs_hz) for s in starts])
    ours = np.array([rate(w, 125.0) for w in windows])
    both = np.isfinite(raw) & np.isfinite(ours)
    assert both.sum() >= 0.75 * n_windows
    assert np.median(np.abs(raw - ours)[both]) < 1.0


def test_windows_table_is_named_after_its_choice(tree):
    root, run = tree
    cut(run, root)
    assert windows_file(run, window_s=10.0, channels=("PPG",)).name == "windows-10-PPG.parquet"
    assert pl.read_parquet(windows_file(run, window_s=10.0, channels=("PPG",))).height == 29


def test_all_windows_on_request(tree):
    root, run = tree
    store = cut(run, root, config=SegmentConfig(n_segments="all"))
    per = dict(store.index.group_by("encounter_id").len().iter_rows())
    assert per == {"a": 40, "b": 4, "c": 5}


def test_training_patients_keep_a_larger_pool(tree):
    root, run = tree
    sides = {"pa": "train", "pb": "held_out", "pc": "tuning", "pd": "train"}
    Splits.write(Splits.build({"patient_id": p, "split": s, "why": "test"} for p, s in sides.items()), run)
    small = cut(run, root).index.filter(pl.col("encounter_id") == "a")["segment_id"].to_list()
    store = cut(run, root, config=SegmentConfig(pool=30))
    pooled = store.index.filter(pl.col("encounter_id") == "a")["segment_id"].to_list()
    assert len(pooled) == 30
    assert pooled[:20] == small  # the pool goes on where the usual draw ends
    assert store.index.filter(pl.col("encounter_id") == "c").height == 5


def clipped(x: np.ndarray, level: float) -> np.ndarray:
    return np.minimum(x, np.quantile(x, level)).astype(np.float32)


def test_clipping_is_seen_and_a_coarse_scale_is_not():
    rng = np.random.default_rng(2)
    t = np.arange(1250) / 125
    x = np.sin(2 * np.pi * 1.1 * t)
    assert quality.measure(clipped(x, 0.7), fs_hz=125).saturated > 0.2
    coarse = np.round((x + 0.01 * rng.standard_normal(1250)) * 64).astype(np.float32)
    assert quality.measure(coarse, fs_hz=125).saturated < 0.02
    assert quality.measure(clipped(x, 0.7), fs_hz=125).reason(SegmentConfig()) == "saturated"


@pytest.mark.parametrize("rate", [42, 60, 75, 110, 160, 200])
def test_the_pulse_rate_of_a_known_wave(rate):
    t = np.arange(1250) / 125
    phase = (t * rate / 60) % 1
    x = np.exp(-0.5 * ((phase - 0.3) / 0.08) ** 2) + 0.4 * np.exp(-0.5 * ((phase - 0.6) / 0.1) ** 2)
    found = quality.measure(x.astype(np.float32), fs_hz=125)
    assert abs(found.rate_per_min - rate) < 0.03 * rate
    assert found.reason(SegmentConfig(rate_range_per_min=(30, 220))) is None
    assert found.reason(SegmentConfig(rate_range_per_min=(300, 400))) == "pulse_rate"


def test_noise_has_no_pulse_rate():
    noise = np.random.default_rng(0).standard_normal(1250).astype(np.float32)
    measured = quality.measure(np.cumsum(noise).astype(np.float32), fs_hz=125)
    assert np.isnan(quality.measure(np.ones(1250, np.float32), fs_hz=125).rate_per_min)
    assert measured.flat == 0


def test_the_published_flat_rule_depends_on_the_unit():
    t = np.arange(1250) / 125
    x = np.sin(2 * np.pi * 1.2 * t).astype(np.float32)
    assert quality.measure(x, fs_hz=125, flat_rule="anyppg").flat < 0.05
    assert quality.measure(x * np.float32(1e-3), fs_hz=125, flat_rule="anyppg").flat == 1
    assert quality.measure(x * np.float32(1e-3), fs_hz=125).flat == 0


@pytest.mark.filterwarnings("ignore")
def test_pulse_rates_of_real_recordings_are_heartpys():
    heartpy = pytest.importorskip("heartpy")
    values, fs_hz = np.asarray(heartpy.load_exampledata(1)[0], dtype=np.float64), 117.0
    ours, theirs = [], []
    for start in range(0, 12 * 1170, 1170):
        window = values[start : start + 1170]
        try:
            theirs.append(heartpy.process(window, fs_hz)[1]["bpm"])
        except heartpy.exceptions.BadSignalWarning:
            continue
        ours.append(quality.measure(window.astype(np.float32), fs_hz=fs_hz).rate_per_min)
    # The first windows are noise, on which neither can be right.
    assert np.nanmedian(np.abs(np.array(ours) - np.array(theirs))[2:]) < 2


def test_numbers_that_overflowed_are_seen_in_a_pulse_wave_alone():
    t = np.arange(1250) / 125
    wave = 1500 * np.sin(2 * np.pi * 1.2 * t) + 1000
    wrapped = ((wave + 2048) % 4096 - 2048).astype(np.float32)
    assert quality.measure(wrapped, fs_hz=125).reason(SegmentConfig()) == "wrapped"
    assert quality.measure(wrapped, fs_hz=125).reason(SegmentConfig(drop_wrapped=False)) is None
    assert quality.measure(wrapped, fs_hz=125, channel="ECG_II").reason(SegmentConfig()) is None
    step = np.where(t < 5, 0, 1).astype(np.float32) + 1e-3 * wave.astype(np.float32) / 2500
    assert quality.measure(step, fs_hz=125).wrapped == 0


@pytest.mark.parametrize(("limit", "reason"), [(None, None), (0.5, None), (0.1, "gap"), (0.0, "gap")])
def test_gaps_are_bridged_up_to_a_length(limit, reason):
    x = wave(np.random.default_rng(0), 1250, 125).astype(np.float32)
    x[100:130] = np.nan
    measured = quality.measure(x, fs_hz=125)
    assert measured.gap_s == pytest.approx(0.24)
    assert measured.reason(SegmentConfig(max_gap_s=limit)) == reason


def test_beats_like_their_average_are_told_from_noise():
    rng = np.random.default_rng(1)
    t = np.arange(1250) / 125
    phase = (t * 1.15) % 1
    beats = np.exp(-0.5 * ((phase - 0.3) / 0.08) ** 2) + 0.4 * np.exp(-0.5 * ((phase - 0.6) / 0.1) ** 2)
    clean = quality.template_correlation(beats.astype(np.float32), fs_hz=125, channel="PPG")
    noise = quality.template_correlation(
        np.cumsum(rng.standard_normal(1250)).astype(np.float32), fs_hz=125, channel="PPG"
    )
    assert clean > 0.98
    assert noise < 0.86
    measured = quality.measure(beats.astype(np.float32), fs_hz=125, template=True)
    assert measured.reason(SegmentConfig(min_template=0.86)) is None
    assert quality.template_correlation(np.ones(1250, np.float32), fs_hz=125, channel="PPG") == 0


def test_beats_of_real_recordings_are_judged_as_a_person_would(shared_data):
    table = pl.read_csv(shared_data / "paired" / "bidmc_01_Signals.csv")
    columns = {name.strip(): table.get_column(name).to_numpy().astype(np.float32) for name in table.columns}
    for name, channel, least in (("PLETH", "PPG", 0.86), ("II", "ECG_II", 0.66)):
        found = [
            quality.template_correlation(columns[name][at : at + 1250], fs_hz=125, channel=channel)
            for at in range(0, 50_000, 1250)
        ]
        assert np.mean(np.array(found) > least) > 0.9


def test_the_step_of_digitisation_is_that_of_the_gain_whatever_the_wave():
    t = np.arange(1250) / 125
    for gain in (100.0, 2000.0):
        for wave in (np.sin(2 * np.pi * t), 0.2 * np.sin(2 * np.pi * 1.7 * t) ** 3 + 0.5):
            stored = (np.round(wave * gain) / gain).astype(np.float32)
            stored[:5] = np.nan
            assert quality.measure(stored, fs_hz=125).step == pytest.approx(1 / gain, rel=1e-2)
    assert np.isnan(quality.measure(np.ones(1250, dtype=np.float32), fs_hz=125).step)
