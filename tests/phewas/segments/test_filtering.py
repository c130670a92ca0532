"""Preprocessing as each encoder published it, against mne and scipy called with the published arguments."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from scipy import signal

from phewas.encoders import registry
from phewas.encoders.registry import (
    ECG_1LEAD_500,
    ECG_12LEAD_100,
    ECG_12LEAD_500,
    ECG_500,
    PAPAGEI_125,
    PPG_50,
    PPG_125,
    PPG_125_PLAIN,
    PPG_ECG_250,
    Band,
    InputContract,
    Notch,
    resampling_ratio,
)
from phewas.errors import EncoderError
from phewas.segments.filtering import Whole, condition, prepare, standardise, survey, upside_down
from phewas.segments.readers import Recording

CONTRACTS = {name: value for name, value in vars(registry).items() if isinstance(value, InputContract)}


def ppg(fs_hz: float, seconds: float, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    t = np.arange(round(fs_hz * seconds)) / fs_hz
    drift = 4 * np.sin(2 * np.pi * 0.07 * t + 1)
    pulse = 3 * np.sin(2 * np.pi * 1.2 * t) + np.sin(2 * np.pi * 2.4 * t + 1)
    return 100 + drift + pulse + 0.3 * rng.standard_normal(len(t))


def ecg(fs_hz: float, seconds: float, mains_hz: float = 50.0) -> np.ndarray:
    rng = np.random.default_rng(3)
    t = np.arange(round(fs_hz * seconds)) / fs_hz
    beat = np.exp(-0.5 * (((t % 0.8) - 0.3) / 0.012) ** 2) + 0.25 * np.exp(-0.5 * (((t % 0.8) - 0.55) / 0.04) ** 2)
    noise = 0.2 * np.sin(2 * np.pi * mains_hz * t) + 0.02 * rng.standard_normal(len(t))
    return beat + 0.4 * np.sin(2 * np.pi * 0.2 * t) + noise


def given(done, contract):
    """What the network is given."""
    return done.values if contract.standardised else done.values * done.scale[..., None] + done.offset[..., None]


def apart(ours: np.ndarray, theirs: np.ndarray) -> float:
    return float(np.abs(ours - theirs).max() / theirs.std())


@pytest.mark.parametrize("fs_hz", [62.5, 100.0, 125.0, 250.0, 500.0])
def test_anyppg_is_mnes_filter_then_scipys_resampling(fs_hz):
    mne = pytest.importorskip("mne")
    x = ppg(fs_hz, 10)
    y = mne.filter.filter_data(x, fs_hz, 0.5, 8.0, method="iir", iir_params={"order": 3, "ftype": "butter"},
                               verbose=False)  # fmt: skip
    ratio = Fraction(125) / Fraction(fs_hz)
    y = signal.resample_poly(y, ratio.numerator, ratio.denominator)
    done = prepare(x[None].astype(np.float32), fs_hz=fs_hz, contract=PPG_125, window_s=10.0)
    expected = (y - y.mean()) / (y.std() + 1e-5)
    assert apart(done.values[0], expected) < 1e-4
    assert apart(done.values[0].astype(np.float16), expected) < 2e-3
    assert done.scale[0] == pytest.approx(y.std(), rel=1e-5)


def test_the_ecg_beside_anyppg_is_mnes_filter():
    mne = pytest.importorskip("mne")
    x = ecg(500.0, 10)
    y = mne.filter.filter_data(x, 500.0, 0.5, 40.0, method="iir", iir_params={"order": 5, "ftype": "butter"},
                               verbose=False)  # fmt: skip
    contract = replace(ECG_500, notch=None, polarity="as_recorded")
    done = prepare(x[None].astype(np.float32), fs_hz=500.0, contract=contract, window_s=10.0)
    assert apart(done.values[0], (y - y.mean()) / (y.std() + 1e-8)) < 1e-4


@pytest.mark.parametrize("fs_hz", [64.0, 125.0, 500.0])
def test_papagei_filters_the_standardised_recording(fs_hz):
    """The published order on a whole recording; ours sees one window of it with 10 s on either side."""
    x = ppg(fs_hz, 120)
    z = (x - x.mean()) / x.std()
    sections = signal.cheby2(4, 20, [0.5, 12], "bandpass", fs=fs_hz, output="sos")
    y = signal.sosfiltfilt(sections, z)
    if fs_hz >= 75:
        taps = round(fs_hz * 0.05)
        y = signal.filtfilt(np.full(taps, 1 / taps), 1, y)
    at, n, context = round(40 * fs_hz), round(10 * fs_hz), round(10 * fs_hz)
    ratio = Fraction(125) / Fraction(fs_hz)
    expected = signal.resample_poly(y[at : at + n], ratio.numerator, ratio.denominator)
    whole = survey(Recording(fs_hz, len(x), lambda a, b: x[a:b].astype(np.float32)), polarity=False)
    assert (whole.mean, whole.sd) == pytest.approx((x.mean(), x.std()), rel=1e-6)
    raw = x[None, at - context : at + n + context].astype(np.float32)
    got = condition(raw, fs_hz=fs_hz, contract=PAPAGEI_125, channel="PPG", window_s=10.0, before=context, whole=[whole])
    assert apart(got[0], expected) < 2e-3  # what the filter still remembers after ten seconds
    # The same stretch, whole, is the same operation to the last digits.
    edges = condition(x[None].astype(np.float32), fs_hz=fs_hz, window_s=120.0, channel="PPG", whole=[whole],
                      contract=replace(PAPAGEI_125, band=replace(PAPAGEI_125.band, edges="scipy")))  # fmt: skip
    expected = signal.resample_poly(y, ratio.numerator, ratio.denominator)
    settled = slice(20 * 125, -20 * 125)
    assert apart(edges[0, settled], expected[settled]) < 1e-4


def test_ecgfounder_is_its_published_steps():
    x = np.stack([ecg(500.0, 10, 50.0) * gain + gain for gain in np.linspace(0.5, 2, 12)])
    b, a = signal.iirnotch(50, 30, fs=500)
    y = signal.filtfilt(b, a, x)
    b, a = signal.butter(4, [0.67, 40], "bandpass", fs=500)
    y = signal.filtfilt(b, a, y)
    y = y - np.stack([signal.medfilt(lead, 201) for lead in y])
    expected = (y - y.mean()) / (y.std() + 1e-8)
    parts = [
        condition(lead[None].astype(np.float32), fs_hz=500.0, contract=ECG_12LEAD_500, channel=name, window_s=10.0)
        for lead, name in zip(x, ECG_12LEAD_500.channels, strict=True)
    ]
    done = standardise(np.stack(parts, axis=1), ECG_12LEAD_500)
    assert apart(given(done, ECG_12LEAD_500)[0], expected) < 1e-4
    assert np.abs(done.values).max() < 30  # fits two bytes
    one = prepare(x[:1].astype(np.float32), fs_hz=500.0, contract=ECG_1LEAD_500, window_s=10.0)
    alone = (y[0] - y[0].mean()) / (y[0].std() + 1e-8)
    assert apart(given(one, ECG_1LEAD_500)[0], alone) < 1e-4


def test_the_notch_is_the_sites():
    at_50, at_60 = ECG_500.at_site(50), ECG_500.at_site(60)
    assert len({ECG_500.digest, at_50.digest, at_60.digest, ECG_500.at_site(None).digest}) == 4
    assert ECG_500.at_site(None).notch is None
    assert PPG_125.at_site(60) == PPG_125
    assert ECG_12LEAD_500.at_site(60).notch == Notch(50.0, edges="scipy")  # published so, wherever it was recorded
    tone = np.sin(2 * np.pi * 60 * np.arange(5000) / 500) + ecg(500.0, 10, 60.0)
    wide = replace(at_60, band=Band("butter", 2, 0.5, 200.0))
    hum = [
        np.abs(np.fft.rfft(condition(tone[None].astype(np.float32), fs_hz=500.0, contract=c, channel="ECG_II",
                                     window_s=10.0, whole=[Whole(0, 1, 1, inverted=False)])[0]))[600]
        for c in (wide, replace(wide, notch=None))
    ]  # fmt: skip
    assert hum[0] < 0.02 * hum[1]  # all but the first and last moments


def test_an_ecg_upside_down_is_turned():
    x = np.stack([ecg(250.0, 10), -ecg(250.0, 10)])
    assert upside_down(x, fs_hz=250.0).tolist() == [False, True]
    contract = replace(ECG_500, polarity="window")
    done = prepare(x.astype(np.float32), fs_hz=250.0, contract=contract, window_s=10.0)
    assert np.abs(done.values[0] - done.values[1]).max() < 1e-5
    long = -np.tile(ecg(250.0, 8), 20)
    long[: 250 * 30] = np.nan
    recording = Recording(250.0, len(long), lambda a, b: long[a:b].astype(np.float32))
    assert survey(recording, polarity=True).inverted
    plain = prepare(-x.astype(np.float32), fs_hz=250.0, contract=replace(PPG_125, polarity="window"), window_s=10.0)
    assert plain.values[0].mean() == pytest.approx(0, abs=1e-4)  # a pulse wave is never turned


@pytest.mark.parametrize("kind", ["butter", "cheby2", "fir"])
@pytest.mark.parametrize(("low", "high"), [(0.5, 8.0), (0.5, None), (None, 8.0)])
def test_filters_pass_their_band_and_no_more(kind, low, high):
    fs_hz, n = 125.0, 125 * 60
    order = 400 if kind == "fir" else 4
    band = Band(kind, order, low, high, attenuation_db=30.0)
    contract = InputContract(("PPG",), fs_hz, band, steps=("band", "resample"))
    t = np.arange(n) / fs_hz
    gain = []
    for hz in (0.05, 2.0, 25.0):
        tone = np.sin(2 * np.pi * hz * t)[None].astype(np.float32)
        y = condition(tone, fs_hz=fs_hz, contract=contract, channel="PPG", window_s=60.0)
        gain.append(y[0, 1250:-1250].std() * np.sqrt(2))
    assert gain[1] == pytest.approx(1, abs=0.02)
    assert (gain[0] < 0.05) == (low is not None)
    assert (gain[2] < 0.05) == (high is not None)


def test_a_fir_band_is_scipys():
    x = ppg(500.0, 20)
    contract = InputContract(("PPG",), 500.0, Band("fir", 150, 3.0, 45.0), steps=("band", "resample"))
    taps = signal.firwin(151, [3.0, 45.0], pass_zero=False, fs=500)
    got = condition(x[None].astype(np.float32), fs_hz=500.0, contract=contract, channel="PPG", window_s=20.0)
    assert apart(got[0], signal.filtfilt(taps, 1, x)) < 1e-4


def test_minus_one_to_one_over_all_leads():
    x = np.stack([ecg(500.0, 5) * gain for gain in range(1, 13)])
    parts = [
        condition(lead[None].astype(np.float32), fs_hz=500.0, contract=ECG_12LEAD_100, channel=name, window_s=5.0)
        for lead, name in zip(x, ECG_12LEAD_100.channels, strict=True)
    ]
    out = given(standardise(np.stack(parts, 1), ECG_12LEAD_100), ECG_12LEAD_100)
    assert out.shape == (1, 12, 500)
    assert (out.min(), out.max()) == pytest.approx((-1, 1), abs=1e-5)


def test_two_channels_have_bands_of_their_own():
    fs_hz, t = 250.0, np.arange(2500) / 250
    tone = np.sin(2 * np.pi * 20 * t)[None].astype(np.float32)
    kept = [
        condition(tone, fs_hz=fs_hz, contract=PPG_ECG_250, channel=c, window_s=10.0)[0, 500:-500].std()
        for c in ("PPG", "ECG_II")
    ]
    assert kept[0] < 0.01
    assert kept[1] == pytest.approx(np.sqrt(0.5), rel=0.05)


def test_short_windows_are_padded_at_both_ends():
    x = ppg(1000.0, 2.1)[None].astype(np.float32)
    whole = [Whole(float(x.mean()), float(x.std()), x.size, inverted=False)]
    done = prepare(x, fs_hz=1000.0, contract=PAPAGEI_125, window_s=2.1, whole=whole)
    out = given(done, PAPAGEI_125)[0]
    assert out.shape == (1250,)
    assert np.abs(out[:490]).max() < 1e-5
    assert np.abs(out[-490:]).max() < 1e-5
    assert out[494:756].std() > 0.1


@pytest.mark.parametrize("contract", [PPG_50, PPG_125_PLAIN])
def test_what_the_network_standardises_itself_comes_as_recorded(contract):
    x = ppg(125.0, 10)
    plain = prepare(x[None].astype(np.float32), fs_hz=125.0, contract=contract, window_s=10.0)
    loud = prepare((x * 1000)[None].astype(np.float32), fs_hz=125.0, contract=contract, window_s=10.0)
    assert np.allclose(given(loud, contract), 1000 * given(plain, contract), rtol=1e-3, atol=1)
    assert np.abs(plain.values).max() < 10


@pytest.mark.parametrize(("fs_hz", "to_hz"), [(62.4725, 125), (124.945, 125), (249.89, 500), (62.5, 125), (117, 50)])
def test_ratios_are_exact_or_all_but(fs_hz, to_hz):
    ratio = resampling_ratio(fs_hz, to_hz, window_s=10.0)
    assert abs(10 * fs_hz * float(ratio) - 10 * to_hz) <= 0.01
    assert ratio.denominator <= 10_000


def test_a_rate_that_would_drift_is_refused():
    with pytest.raises(EncoderError, match="drift"):
        resampling_ratio(61.80339887, 500.0, window_s=1e8)


def test_a_window_that_the_encoder_does_not_take_is_refused():
    PPG_125.check_window(3.3)
    ECG_12LEAD_100.check_window(5.0)
    with pytest.raises(EncoderError, match="windows of 5 s"):
        ECG_12LEAD_100.check_window(10.0)


@pytest.mark.parametrize("name", sorted(CONTRACTS))
def test_every_contract_gives_finite_windows_of_its_length(name):
    contract = CONTRACTS[name]
    window_s = contract.window_s or 10.0
    parts = []
    for channel in contract.channels:
        x = (ecg if channel.startswith("ECG") else ppg)(250.0, window_s)
        whole = [Whole(float(x.mean()), float(x.std()), len(x), inverted=False)]
        parts.append(condition(np.stack([x, np.full_like(x, 7.0)]).astype(np.float32), fs_hz=250.0, contract=contract,
                               channel=channel, window_s=window_s, whole=whole * 2))  # fmt: skip
    out = given(standardise(np.stack(parts, 1), contract), contract)
    assert out.shape == (2, len(contract.channels), contract.length(window_s))
    assert np.isfinite(out).all()
    assert contract.words().startswith("+".join(contract.channels))
    assert len({c.digest for c in CONTRACTS.values()}) == len(CONTRACTS)


@pytest.mark.parametrize(
    "wrong",
    [
        {"channels": ()}, {"channels": ("PPG", "PPG")}, {"fs_hz": 0.0}, {"steps": ("band",)},
        {"steps": ("resample", "resample")}, {"band": (None, None)},
        {"normalise_scope": "recording", "normalise_by": "minmax"},
        {"normalise_over": "all", "steps": ("normalise", "resample")},
    ],
)  # fmt: skip
def test_contracts_that_cannot_be_are_refused(wrong):
    with pytest.raises(EncoderError):
        InputContract(**({"channels": ("PPG",), "fs_hz": 125.0} | wrong))


@pytest.mark.parametrize(
    "wrong",
    [("butter", 3, 8.0, 0.5), ("butter", 0, 0.5, 8.0), ("butter", 3, None, None), ("cheby2", 4, 0.5, 12.0)],
)
def test_bands_that_cannot_be_are_refused(wrong):
    with pytest.raises(EncoderError):
        Band(*wrong)
