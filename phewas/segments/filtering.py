"""From raw windows to what an encoder's input contract asks for: filter, resample, standardise."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy import signal

from phewas.encoders.registry import Band, InputContract

RATIO_DENOMINATOR = 10_000
RINGING_SHARE = 1e-3
RINGING_CYCLES = 20  # of the band's lower edge: long after any Butterworth filter of low order has died away


@dataclass(frozen=True)
class Standardised:
    """Windows as the encoder takes them: ``values * scale + offset`` is the filtered signal.

    `values` float32 [windows, samples]; `offset` and `scale` float32 [windows] in physical units.
    """

    values: NDArray[np.float32]
    offset: NDArray[np.float32]
    scale: NDArray[np.float32]


@dataclass(frozen=True)
class _Filter:
    """Second-order sections, and the samples by which a signal is continued beyond its ends before filtering."""

    sections: NDArray[np.float64]
    ringing: int


@lru_cache(maxsize=64)
def _filter(band: Band, fs_hz: float) -> _Filter:
    """Design a band-pass for a rate.

    The continuation (odd reflection) is as long as the filter rings: until its impulse response stays below a
    thousandth of its peak. scipy's own default is a few dozen samples, with which the first and last second of a
    ten-second window come out wrong by half a standard deviation and more.
    """
    sections = signal.butter(band.order, (band.low_hz, band.high_hz), "bandpass", fs=fs_hz, output="sos")
    impulse = np.zeros(int(RINGING_CYCLES * fs_hz / band.low_hz))
    impulse[0] = 1.0
    response = np.abs(signal.sosfilt(sections, impulse))
    return _Filter(sections, int(np.flatnonzero(response > RINGING_SHARE * response.max())[-1]))


def rate_is_enough(contract: InputContract, fs_hz: float) -> bool:
    """Tell whether a recording at `fs_hz` holds the band that the contract asks for."""
    return contract.band is None or fs_hz > 2 * contract.band.high_hz


def prepare(windows: NDArray[np.float32], *, fs_hz: float, contract: InputContract, window_s: float) -> Standardised:
    """Filter, resample and standardise windows of one rate.

    Parameters
    ----------
    windows
        float32 [windows, samples], finite, physical units.
    fs_hz
        Their rate; ratios such as 62.4725 Hz are resampled by the nearest fraction with a denominator up to 10,000.
    contract
        Of the encoder.
    window_s
        Length in seconds; the result has ``contract.length(window_s)`` samples.

    Notes
    -----
    Zero-phase Butterworth (forward and backward), then polyphase resampling, then z-score by the population standard
    deviation plus the contract's epsilon: the published order of AnyPPG's preprocessing (arXiv:2511.01747 and its
    code). The filter gives what ``mne.filter.filter_data(method="iir")`` gives with the same
    arguments. A window of constant value comes out as zeros with scale 0.
    """
    x = windows.astype(np.float64)
    if contract.band is not None:
        design = _filter(contract.band, fs_hz)
        x = signal.sosfiltfilt(design.sections, x, axis=-1, padlen=min(design.ringing, x.shape[-1] - 1))
    ratio = Fraction(contract.fs_hz / fs_hz).limit_denominator(RATIO_DENOMINATOR)
    if ratio != 1:
        x = signal.resample_poly(x, ratio.numerator, ratio.denominator, axis=-1)
    samples = contract.length(window_s)
    if x.shape[-1] < samples:
        x = np.pad(x, ((0, 0), (0, samples - x.shape[-1])), mode="edge")
    x = x[:, :samples]
    offset, scale = x.mean(-1), x.std(-1)
    values = (x - offset[:, None]) / (scale[:, None] + contract.epsilon)
    return Standardised(values.astype(np.float32), offset.astype(np.float32), scale.astype(np.float32))
