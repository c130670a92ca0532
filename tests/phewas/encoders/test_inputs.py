"""The input contract: what does not fit is an error that names the conversion which makes it fit."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import signal
from torch import nn

from phewas.encoders import inputs, registry
from phewas.errors import EncoderError

ANYPPG = registry.get("anyppg")


def windows(n: int = 8, channels: int = 1, samples: int = 1250) -> np.ndarray:
    x = np.random.default_rng(0).standard_normal((n, channels, samples))
    return (x - x.mean(-1, keepdims=True)) / x.std(-1, keepdims=True)


def test_what_fits_passes():
    inputs.check_signal(ANYPPG, channels=("PPG",), fs_hz=125.0, samples=1250)
    inputs.check_batch(ANYPPG, windows())
    inputs.check_batch(ANYPPG, windows().astype(np.float16))


def test_another_rate_comes_with_the_resampling_that_mends_it():
    with pytest.raises(EncoderError, match="100 Hz, and anyppg takes 125 Hz") as caught:
        inputs.check_signal(ANYPPG, channels=("PPG",), fs_hz=100.0)
    assert "resample_poly(x, 5, 4, axis=-1)" in caught.value.cure
    assert signal.resample_poly(np.zeros((2, 1000)), 5, 4, axis=-1).shape == (2, 1250)
    with pytest.raises(EncoderError, match="250 Hz, and pulse-ppg takes 50 Hz") as caught:
        inputs.check_signal(registry.get("pulse-ppg"), channels=("PPG",), fs_hz=250.0)
    assert "resample_poly(x, 1, 5, axis=-1)" in caught.value.cure


@pytest.mark.parametrize("channels", [("ECG_II",), ("PPG", "ECG_II"), 2])
def test_other_channels_are_told(channels):
    with pytest.raises(EncoderError, match="anyppg takes PPG"):
        inputs.check_signal(ANYPPG, channels=channels, fs_hz=125.0)


def test_the_order_of_channels_counts():
    m2ae = registry.get("m2ae")
    inputs.check_signal(m2ae, channels=m2ae.contract.channels, fs_hz=m2ae.contract.fs_hz)
    with pytest.raises(EncoderError, match="m2ae takes"):
        inputs.check_signal(m2ae, channels=m2ae.contract.channels[::-1], fs_hz=m2ae.contract.fs_hz)


def test_a_length_that_is_not_taken_says_which_is():
    with pytest.raises(EncoderError, match=r"at least 8 samples") as caught:
        inputs.check_length(registry.get("moment-small"), 7)
    assert "zero-pad" in caught.value.cure
    with pytest.raises(EncoderError, match="takes windows of 5 s, and 10 s were asked for") as caught:
        inputs.check_length(registry.get("hubert-ecg-small"), 1000)
    assert "window_s = 5" in caught.value.cure
    with pytest.raises(EncoderError, match="at most 8,192 samples"):
        inputs.check_length(registry.get("chronos-2"), 9000)


def test_windows_that_were_not_standardised_are_told_unless_the_network_does_it():
    raw = 512 + 30 * windows()
    with pytest.raises(EncoderError, match=r"window 0 has mean 512 and standard deviation 30") as caught:
        inputs.check_batch(ANYPPG, raw)
    mended = eval(caught.value.cure.partition(", after")[0], {"x": raw})
    inputs.check_batch(ANYPPG, mended)
    inputs.check_batch(registry.get("pulse-ppg"), raw)


def test_a_few_flat_windows_are_no_reason_to_stop():
    x = windows()
    x[:2] = 0
    inputs.check_batch(ANYPPG, x)


def test_missing_samples_and_a_missing_axis_are_told():
    x = windows()
    x[3, 0, 7] = np.nan
    with pytest.raises(EncoderError, match="NaN"):
        inputs.check_batch(ANYPPG, x)
    with pytest.raises(EncoderError, match="have shape") as caught:
        inputs.check_batch(ANYPPG, windows()[:, 0])
    assert "x[:, None, :]" in caught.value.cure


class Wrong(nn.Module):
    """Give whatever is asked for."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind

    def forward(self, x):
        match self.kind:
            case "map":
                return x.repeat(1, 64, 1)
            case "nan":
                return torch.full((len(x), 64), torch.nan)
            case "tuple":
                return (x,)
            case _:
                raise ValueError("kernel larger than input")


@pytest.mark.parametrize(
    ("kind", "told"),
    [("map", r"maps \[2, 1, 1250\] to \[2, 64, 1250\]"), ("nan", "NaN"), ("tuple", "to tuple"),
     ("error", "ValueError: kernel larger")],
)  # fmt: skip
def test_an_encoder_that_breaks_its_own_record_is_told_before_a_run(kind, told):
    spec = replace(registry.get("net1d-small"), name="mine")
    with pytest.raises(EncoderError, match=told):
        inputs.try_out(spec, Wrong(kind), window_s=10.0)


def test_trying_out_leaves_the_mode_as_it_was():
    model = registry.get("net1d-small").build().train()
    before = model.first_bn.running_mean.clone()
    inputs.try_out(registry.get("net1d-small"), model, window_s=10.0)
    assert model.training
    assert torch.equal(model.first_bn.running_mean, before)
