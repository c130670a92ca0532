"""Pulse features on real recordings beside heartpy, neurokit2, chest-strap intervals and ECG; what NaN becomes."""

from __future__ import annotations

import itertools

import numpy as np
import polars as pl
import pytest
import torch

from phewas.config import RunConfig
from phewas.encoders import pulse_features as pf
from phewas.encoders import registry
from phewas.encoders.pulse_features_beats import find_beats, find_peaks, median_by_row
from phewas.encoders.registry import PPG_125
from phewas.errors import EncoderError
from phewas.learning import probe
from phewas.learning.labels import Study
from phewas.learning.predict import score
from phewas.plan import plan
from phewas.segments.filtering import prepare
from phewas.segments.store import SegmentStore

pytestmark = pytest.mark.filterwarnings("ignore")  # of the reference packages


def column(values, name):
    return values[:, pf.NAMES.index(name)]


def windows(values, fs_hz, window_s=10.0):
    samples = round(window_s * fs_hz)
    count = len(values) // samples
    raw = np.asarray(values[: count * samples], dtype=np.float32).reshape(count, samples)
    ready = prepare(raw, fs_hz=fs_hz, contract=PPG_125, window_s=window_s).values
    return ready.astype(np.float16).astype(np.float32)  # as the store holds them


def clean(values):
    return (column(values, "likeness") > 0.9) & (column(values, "covered") > 0.8)


@pytest.fixture(scope="module")
def recordings(shared_data):
    bidmc = pl.read_csv(shared_data / "paired" / "bidmc_01_Signals.csv").rename(str.strip)
    resting = pl.read_csv(shared_data / "paired" / "bio_resting_5min_100hz.csv")
    return {
        "bidmc": (bidmc["PLETH"].to_numpy(), bidmc["II"].to_numpy(), 125.0),
        "resting": (resting["PPG"].to_numpy(), resting["ECG"].to_numpy(), 100.0),
    }


def heartpy_wheel():
    heartpy = pytest.importorskip("heartpy")
    values, times = heartpy.load_exampledata(2)
    return values, heartpy.get_samplerate_datetime(times, timeformat="%Y-%m-%d %H:%M:%S.%f")


# --- against other people's code ---------------------------------------------------------------------------------


def test_heart_rate_is_heartpys_on_clean_windows_of_a_drive():
    heartpy = pytest.importorskip("heartpy")
    wheel = windows(*heartpy_wheel())
    ours = pf.pulse_features(wheel, fs_hz=125.0)
    compared = []
    for window, rate in zip(wheel[clean(ours)], column(ours, "rate")[clean(ours)], strict=True):
        try:
            found, measures = heartpy.process(heartpy.scale_data(window.astype(np.float64)), 125.0)
        except heartpy.exceptions.BadSignalWarning:
            continue
        # heartpy drops beats that it does not trust, and then no longer has neighbouring intervals throughout.
        if not len(found["removed_beats"]) and len(found["peaklist"]) == len(find_peaks(window[None], 125.0)[1]):
            compared.append(abs(measures["bpm"] - rate))
    assert len(compared) >= 30
    assert max(compared) < 1.0


@pytest.mark.parametrize("name", ["bidmc", "resting"])
def test_heart_rate_is_neurokits_on_clean_windows(recordings, name):
    neurokit2 = pytest.importorskip("neurokit2")
    values, _, fs_hz = recordings[name]
    ready = windows(values, fs_hz)
    ours = pf.pulse_features(ready, fs_hz=125.0)
    good = clean(ours)
    theirs = []
    for window in ready[good]:
        peaks = neurokit2.ppg_findpeaks(window.astype(np.float64), sampling_rate=125)["PPG_Peaks"]
        theirs.append(60 * 125 / np.diff(peaks).mean())
    assert good.sum() >= 0.6 * len(ready)
    assert np.abs(column(ours, "rate")[good] - theirs).max() < 1.0


@pytest.mark.parametrize("name", ["bidmc", "resting"])
def test_heart_rate_is_that_of_the_ecg_beside(recordings, name):
    """R peaks are sharp enough to be found by a threshold alone on these two recordings."""
    from scipy.signal import butter, sosfiltfilt
    from scipy.signal import find_peaks as peaks_of

    pulse, ecg, fs_hz = recordings[name]
    ours = pf.pulse_features(windows(pulse, fs_hz), fs_hz=125.0)
    sharp = sosfiltfilt(butter(2, (5, 20), "bandpass", fs=fs_hz, output="sos"), ecg) ** 2
    beats = peaks_of(sharp, height=0.3 * np.quantile(sharp, 0.995), distance=round(0.35 * fs_hz))[0] / fs_hz
    truth = np.array([60 / np.diff(beats[(beats >= 10 * i) & (beats < 10 * i + 10)]).mean() for i in range(len(ours))])
    gap = np.abs(column(ours, "rate") - truth)[clean(ours)]
    assert np.median(gap) < 0.3
    assert np.quantile(gap, 0.9) < 1.0  # the window's first and last beat may fall on one side only


@pytest.mark.parametrize("subject", ["05", "06", "15", "16", "17"])
def test_beat_intervals_are_those_of_a_chest_strap(shared_data, subject):
    folder = shared_data / "welltory" / "data" / f"subject_{subject}"
    frames = np.genfromtxt(folder / "PPG.csv", delimiter=",", names=True)
    truth = np.array((folder / "RR.txt").read_text().split(), dtype=float) / 1000
    even = np.arange(frames["time"][0] / 1000, frames["time"][-1] / 1000, 0.02)
    red = -np.interp(even, frames["time"] / 1000, frames["R"])  # more blood, less light
    beats, _ = find_beats(windows(red, 50.0, len(red) / 50).astype(np.float64), 125.0)
    ours = np.diff(beats.peak_s)
    # The strap's clock started at another moment: the shift that fits best is taken, beat by beat.
    shifts = [(i, j) for i in range(15) for j in range(15) if min(len(ours) - i, len(truth) - j) >= 60]
    error, i, j = min((np.median(np.abs(ours[i : i + 60] - truth[j : j + 60])), i, j) for i, j in shifts)
    n = min(len(ours) - i, len(truth) - j)
    assert error < 0.015
    assert abs(60 / ours[i : i + n].mean() - 60 / truth[j : j + n].mean()) < 1.0


def test_variability_is_heartpys_for_the_same_intervals():
    heartpy = pytest.importorskip("heartpy")
    wheel = windows(*heartpy_wheel())
    ours = pf.pulse_features(wheel, fs_hz=125.0)
    beats, _ = find_beats(wheel.astype(np.float64), 125.0)
    checked = 0
    for row in np.flatnonzero(clean(ours))[:10]:
        gaps = 1000 * np.diff(beats.peak_s[beats.row == row])
        change = np.diff(gaps)
        _, theirs = heartpy.analysis.calc_ts_measures(gaps, change, change**2)
        np.testing.assert_allclose(column(ours, "rmssd")[row], theirs["rmssd"], rtol=1e-4)
        np.testing.assert_allclose(column(ours, "pnn50")[row], (np.abs(change) > 50).mean(), atol=1e-6)
        work = {"RR_list": gaps, "RR_masklist": np.zeros(len(gaps))}
        plane = heartpy.analysis.calc_poincare(gaps, measures={}, working_data=work)
        assert column(ours, "sd1_sd2")[row] == pytest.approx(plane["sd1/sd2"], rel=1e-4)
        checked += 1
    assert checked == 10


def test_entropy_and_moments_are_scipys():
    from scipy import stats

    wheel = windows(*heartpy_wheel())[:20]
    ours = pf.pulse_features(wheel, fs_hz=125.0)
    np.testing.assert_allclose(column(ours, "skewness"), stats.skew(wheel.astype(float), axis=1), atol=1e-3)
    np.testing.assert_allclose(column(ours, "kurtosis"), stats.kurtosis(wheel.astype(float), axis=1) + 3, atol=1e-3)
    beats, _ = find_beats(wheel.astype(np.float64), 125.0)
    for row in range(20):
        counts = np.unique(np.floor(np.diff(beats.peak_s[beats.row == row]) / 0.05), return_counts=True)[1]
        assert column(ours, "interval_entropy")[row] == pytest.approx(stats.entropy(counts), abs=1e-5)


def test_sample_entropy_is_that_of_a_loop_over_pairs():
    wheel = windows(*heartpy_wheel())[:20]
    ours = column(pf.pulse_features(wheel, fs_hz=125.0), "cosen")
    beats, _ = find_beats(wheel.astype(np.float64), 125.0)
    for row in range(20):
        gaps = np.diff(beats.peak_s[beats.row == row])
        one = two = 0
        for i in range(len(gaps) - 1):
            for j in range(i + 1, len(gaps) - 1):
                if abs(gaps[i] - gaps[j]) <= 0.03:
                    one += 1
                    two += abs(gaps[i + 1] - gaps[j + 1]) <= 0.03
        expected = np.log(one / two) + np.log(0.06) - np.log(gaps.mean()) if two else np.nan
        assert ours[row] == pytest.approx(expected, abs=1e-4, nan_ok=True)


# --- known waves ----------------------------------------------------------------------------------------------------


def made_pulse(rates, fs_hz=125.0, seconds=10.0, notch=0.35):
    """Two bell curves a beat, the second `notch` as tall and 0.3 s later, one window a rate."""
    t = np.arange(round(seconds * fs_hz)) / fs_hz
    out = []
    for rate in rates:
        starts = np.arange(-1, seconds + 1, 60 / rate)[:, None]
        wave = np.exp(-0.5 * ((t - starts - 0.2) / 0.07) ** 2) + notch * np.exp(-0.5 * ((t - starts - 0.5) / 0.09) ** 2)
        out.append(wave.sum(0))
    return np.array(out)


@pytest.mark.parametrize("fs_hz", [50.0, 125.0, 1000.0])
def test_a_made_pulse_is_measured_as_it_was_made(fs_hz):
    rates = np.array([48.0, 60.0, 75.0, 96.0])
    values = pf.pulse_features(made_pulse(rates, fs_hz), fs_hz=fs_hz)
    np.testing.assert_allclose(column(values, "rate"), rates, atol=0.2)
    np.testing.assert_allclose(column(values, "rate_autocorrelation"), rates, atol=1.5)
    np.testing.assert_allclose(column(values, "delay"), 300, atol=25)
    np.testing.assert_allclose(column(values, "reflection")[:3], 0.35, atol=0.05)
    np.testing.assert_allclose(column(values, "width50"), 2.355 * 70, atol=25)
    assert (column(values, "sdnn") < 3).all()
    assert (column(values, "likeness") > 0.99).all()


def test_a_taller_second_wave_is_told():
    low, high = (pf.pulse_features(made_pulse([60], notch=n), fs_hz=125.0) for n in (0.2, 0.6))
    for name in ("reflection", "notch_height", "area_ratio", "mean_height"):
        assert column(low, name)[0] < column(high, name)[0], name


def test_gain_and_offset_and_neighbours_change_nothing():
    x = made_pulse([50, 64, 81]) + 0.01 * np.random.default_rng(0).standard_normal((3, 1250))
    alone = np.concatenate([pf.pulse_features(row[None], fs_hz=125.0) for row in x])
    np.testing.assert_allclose(pf.pulse_features(x, fs_hz=125.0), alone, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(pf.pulse_features(700 + 40 * x, fs_hz=125.0), alone, rtol=2e-2, atol=2e-2)


def test_short_windows_have_a_rate_and_a_shape_and_no_variability():
    values = pf.pulse_features(made_pulse([80, 90], seconds=2.1), fs_hz=125.0)
    for name in ("rate", "rise_time", "width50", "notch_time", "skewness"):
        assert np.isfinite(column(values, name)).all(), name
    for name in ("sdnn", "cosen", "turning"):
        assert np.isnan(column(values, name)).all(), name


def test_a_window_without_a_pulse_is_missing_not_invented():
    flat = pf.pulse_features(np.full((2, 1250), 3.0), fs_hz=125.0)
    assert np.isnan(flat).all()
    noise = pf.pulse_features(np.random.default_rng(0).standard_normal((4, 1250)), fs_hz=125.0)
    assert not np.isinf(noise).any()
    assert pf.pulse_features(np.empty((0, 1250)), fs_hz=125.0).shape == (0, pf.WIDTH)


def test_too_short_or_too_slow_is_told():
    with pytest.raises(EncoderError, match="at least 1 s"):
        pf.pulse_features(np.zeros((1, 100)), fs_hz=125.0)
    with pytest.raises(EncoderError, match="20 Hz"):
        pf.pulse_features(np.zeros((1, 100)), fs_hz=10.0)


def test_the_table_describes_each_column_once():
    assert len(set(pf.NAMES)) == pf.WIDTH == registry.get("pulse-features").width
    for feature in pf.FEATURES:
        assert feature.low < feature.high
        assert feature.unit
        assert feature.needs
        assert feature.meaning
        assert feature.source


def test_the_median_against_numpy():
    rng = np.random.default_rng(3)
    table = rng.standard_normal((50, 9))
    table[rng.random(table.shape) < 0.3] = np.nan
    np.testing.assert_allclose(median_by_row(table), np.nanmedian(table, axis=1))


def test_peaks_and_feet_are_those_of_the_definition_written_with_numpy():
    """Elgendi's rule on noise, a wandering line, level tops and short windows, against plain convolutions."""
    rng = np.random.default_rng(5)
    waves = [rng.standard_normal(600), np.cumsum(rng.standard_normal(600)), np.round(3 * np.sin(np.arange(600) / 15))]
    x = np.stack([(w - w.mean()) / w.std() for w in waves]).astype(np.float32)
    row, place = find_peaks(x, 125.0)
    for k, wave in enumerate(x.astype(np.float64)):
        square = np.maximum(wave, 0) ** 2
        short, long = (np.convolve(square, np.full(n, 1 / n), mode="same") for n in (15, 85))
        near = short > long + 0.02 * square.mean()
        near[[0, -1]] = False
        edges = np.flatnonzero(np.diff(near)) + 1
        kept: list[int] = []
        for a, b in zip(edges[::2], edges[1::2], strict=True):
            tops = [i for i in range(a, b) if wave[i - 1] < wave[i] >= wave[i + 1]]
            if b - a >= 15 and tops:
                kept.append(max(tops, key=lambda i: wave[i]))
        found = place[row == k].tolist()
        assert len(kept) > 2
        assert set(found) <= set(kept), k
        for a, b in itertools.pairwise(found):
            assert b - a >= 0.3 * 125
        for gone in set(kept) - set(found):
            assert any(abs(gone - i) < 0.3 * 125 and wave[i] >= wave[gone] for i in kept if i != gone)


# --- as an encoder ------------------------------------------------------------------------------------------------


def test_the_module_answers_as_the_function_does():
    x = made_pulse([60, 70])
    module = registry.get("pulse-features").build()
    out = module(torch.from_numpy(x[:, None]).half())
    assert out.dtype == torch.float32
    assert not list(module.parameters())
    np.testing.assert_allclose(out.numpy(), pf.pulse_features(x.astype(np.float16), fs_hz=125.0))


def test_an_encounter_is_the_mean_of_the_windows_that_show_a_feature():
    class Parts(torch.nn.Module):
        may_miss = True

        def forward(self, x):
            out = x[:, 0, :2].clone()
            out[out > 90] = float("nan")
            return out

    values = np.array([[1, 99], [3, 4], [99, 99], [5, 99]], dtype=np.float16)
    store = SegmentStore(pl.DataFrame({"segment_id": range(4)}), ((values,),), np.array([0, 4]))

    study = Study(pl.DataFrame({"row": [0, 2], "n_windows": [2, 2]}), np.zeros((2, 1), np.int8), ("x",))
    means = score(Parts(), store, study, np.array([0, 1]), device=torch.device("cpu"))
    np.testing.assert_array_equal(means, np.array([[2, 4], [5, np.nan]], dtype=np.float32))


def test_gaps_are_filled_by_the_training_median_and_flagged():
    x = np.array([[1, np.nan, np.nan], [2, 7, np.nan], [9, 5, np.nan]], dtype=np.float32)
    fill, flagged = probe.gaps(x)
    np.testing.assert_array_equal(fill, [2, 6, 0])
    np.testing.assert_array_equal(flagged, [1])
    later = probe.without_gaps(np.array([[np.nan, np.nan, 3]], dtype=np.float32), fill, flagged)
    np.testing.assert_array_equal(later, [[2, 6, 3, 1]])


def test_heads_with_gaps_are_those_of_scikit_learn():
    from sklearn.impute import SimpleImputer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    rng = np.random.default_rng(5)
    x = rng.standard_normal((300, 6)).astype(np.float32)
    y = (x[:, 0] + rng.standard_normal(300) > 0.5).astype(np.int8)
    x[rng.random(x.shape) < np.array([0.2, 0, 0.5, 0, 0.1, 0])] = np.nan
    theirs = make_pipeline(
        SimpleImputer(strategy="median", add_indicator=True), StandardScaler(), LogisticRegression(C=0.1, tol=1e-8)
    ).fit(x[:200], y[:200])
    ours = probe.fit_heads(x[:200], y[:200, None], l2=10.0)
    np.testing.assert_allclose(ours(x[200:])[:, 0], theirs.decision_function(x[200:]), atol=1e-3)


def asked(**options):
    return plan(RunConfig(cohort="demo", **options), out=None, command="test")


def test_it_is_frozen_and_the_default_of_a_probe():
    with pytest.raises(EncoderError, match="cannot be fine-tuned: its features are computed by formula"):
        asked(encoder="pulse-features", fit="finetune")
    assert asked(encoder="pulse-features").fit == "probe"
    assert asked(fit="probe").spec.name == "pulse-features"
    assert asked(fit="probe", encoder="net1d-small").spec.name == "net1d-small"
    assert asked(fit="probe", weights="random").spec.name == "net1d-small"
    assert asked().spec.name == "net1d-small"
