"""`phewas embed --array`: one's own windows through the encoder's own preprocessing."""

from __future__ import annotations

import sys

import numpy as np
import polars as pl
import pytest
from scipy import signal

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


OWN = """
import torch
from phewas.encoders import registry


class Same(torch.nn.Module):
    def forward(self, x):
        return x[:, 0]


same = registry.EncoderSpec(name="same", title="t", description="d", factory=Same, contract=registry.{contract},
                            width={width}, pretrained=False)
"""


def seen(call, tmp_path, x, fs_hz, *, contract, width, more=()):
    """Return what an encoder of a contract is shown of a row: an encoder of one's own that hands it back."""
    (tmp_path / "own.py").write_text(OWN.format(contract=contract, width=width))
    np.save(tmp_path / "own.npy", x)
    code, shown = call("--array", "own.npy", "--fs-hz", fs_hz, "--encoder", "own.py:same", "--out", "e.parquet", *more)
    assert code == 0, shown
    return pl.read_parquet(tmp_path / "e.parquet")["embedding"].to_numpy(), shown


def test_papagei_s_signal_is_standardised_as_a_whole_and_then_filtered(call, tmp_path):
    rng = np.random.default_rng(0)
    t = np.arange(2500) / 250
    x = 900 + 40 * np.sin(2 * np.pi * 1.2 * t) + 100 * np.sin(2 * np.pi * 0.1 * t) + rng.standard_normal((2, 2500))
    got, _ = seen(call, tmp_path, x, 250, contract="PAPAGEI_125", width=1250)
    z = (x - x.mean(1, keepdims=True)) / x.std(1, keepdims=True)
    z = signal.sosfiltfilt(signal.cheby2(4, 20, [0.5, 12], "bandpass", fs=250, output="sos"), z, axis=1,
                           padlen=2000)  # fmt: skip
    taps = round(0.05 * 250)
    z = signal.filtfilt(np.ones(taps) / taps, 1, z, axis=1)
    wanted = signal.resample_poly(z, 1, 2, axis=1)
    middle = slice(350, 900)  # the ends depend on how a filter is continued beyond them
    np.testing.assert_allclose(got[:, middle], wanted[:, middle], atol=0.02)
    # Of the slow wave, which the filter takes away, the scale of the recording keeps a trace; a window's would not.
    assert got.std() < 0.5
    short, _ = seen(call, tmp_path, x[:, :1500], 250, contract="PAPAGEI_125", width=1250)
    assert np.abs(short[:, :250]).max() < 1e-4  # zeros, through half precision
    assert np.abs(short[:, -250:]).max() < 1e-4
    assert (short[:, 260:990].std(1) > 0).all()


def test_ecgfounder_s_signal_loses_mains_and_wander_as_published(call, tmp_path):
    rng = np.random.default_rng(1)
    t = np.arange(5000) / 500
    beats = np.exp(-0.5 * (((1.1 * t + 0.5) % 1 - 0.5) / 0.02) ** 2)
    x = beats + 0.3 * np.sin(2 * np.pi * 0.2 * t) + 0.5 * np.sin(2 * np.pi * 50 * t) + 0.01 * rng.standard_normal(5000)
    got, _ = seen(call, tmp_path, x[None], 500, contract="ECG_1LEAD_500", width=5000)
    y = signal.filtfilt(*signal.iirnotch(50, 30, 500), x)
    y = signal.filtfilt(*signal.butter(4, [0.67, 40], "bandpass", fs=500), y)
    y = y - signal.medfilt(y, 201)
    wanted = (y - y.mean()) / (y.std() + 1e-8)
    np.testing.assert_allclose(got[0], wanted, atol=0.02)


def test_the_mains_frequency_of_a_site_is_an_option(call, tmp_path):
    t = np.arange(5000) / 500
    x = (np.sin(2 * np.pi * 1.1 * t) + np.sin(2 * np.pi * 30 * t))[None]  # 30 Hz stands for mains within the band
    plain, told = seen(call, tmp_path, x, 500, contract="ECG_500", width=5000)
    assert "wants a notch at the mains frequency" in told
    cut, told = seen(call, tmp_path, x, 500, contract="ECG_500", width=5000, more=("--mains-hz", 30))
    assert "wants a notch" not in told

    def at_30(row):
        return np.abs(np.fft.rfft(row[1000:4000]))[180]

    assert at_30(cut[0]) < 0.02 * at_30(plain[0])
    code, shown = call("--cohort", "demo", "--mains-hz", 50)
    assert code == 2
    assert "belongs to --array" in shown
