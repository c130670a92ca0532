"""From raw windows to what an encoder's input contract asks for: filter, resample, standardise, in its own order."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage, signal

from phewas.encoders.registry import Band, InputContract, Notch, resampling_ratio
from phewas.segments.readers import Recording

RINGING_SHARE = 1e-3
RINGING_CYCLES = 20  # of the lowest edge: long after any filter of low order has died away
BLOCK_SAMPLES = 2**18  # of a recording that is read whole, a piece at a time
EXTREMES_S, PIECE_S = 2.0, 10.0  # AnyPPG's polarity rule: extremes of 2-s stretches, 10-s pieces

Windows = NDArray[np.float64]


@dataclass(frozen=True)
class Standardised:
    """Windows for the store, each standardised by itself so that two bytes a sample are enough.

    `values` float32 [windows, channels, samples]; `offset` and `scale` float32 [windows, channels], so that
    ``values * scale + offset`` is the signal before that. Where the contract itself ends with the z-score of the window
    (`InputContract.standardised`), `values` is what the network is given, and offset and scale give back physical
    units; otherwise the network is given ``values * scale + offset``.
    """

    values: NDArray[np.float32]
    offset: NDArray[np.float32]
    scale: NDArray[np.float32]


@dataclass(frozen=True)
class Whole:
    """What one pass over a recording tells: mean and population SD of its finite samples, and whether it is inverted.

    `mean` and `sd` are NaN for a recording without a finite sample.
    """

    mean: float
    sd: float
    n: int
    inverted: bool


@dataclass(frozen=True)
class _Filter:
    """A filter for one rate, and the samples by which a signal is continued beyond its ends before filtering."""

    run: Callable[[Windows, int], Windows]
    padding: int


def _ringing(response: Windows) -> int:
    """Return after how many samples an impulse response stays below a thousandth of its peak."""
    size = np.abs(response)
    return int(np.flatnonzero(size > RINGING_SHARE * size.max())[-1])


def _sections(sections: Windows, padding: int) -> _Filter:
    return _Filter(lambda x, n: np.asarray(signal.sosfiltfilt(sections, x, axis=-1, padlen=n)), padding)


def _taps(taps: Windows, padding: int) -> _Filter:
    return _Filter(lambda x, n: np.asarray(signal.filtfilt(taps, 1.0, x, axis=-1, padlen=n)), padding)


def _impulse(fs_hz: float, lowest_hz: float) -> Windows:
    impulse = np.zeros(int(RINGING_CYCLES * fs_hz / lowest_hz))
    impulse[0] = 1.0
    return impulse


@lru_cache(maxsize=128)
def _band_filter(band: Band, fs_hz: float) -> _Filter | None:
    """Design a band's filter for a rate; None where the rate leaves nothing to filter away.

    The continuation (odd reflection) is as long as the filter rings: until its impulse response stays below a
    thousandth of its peak. scipy's own default is a few dozen samples, with which the first and last second of a
    ten-second window come out wrong by half a standard deviation and more; encoders that were trained so say so.
    An upper edge that the rate does not reach is left out: there is nothing above it.
    """
    low, high = band.low_hz, band.high_hz if band.high_hz is not None and band.high_hz < fs_hz / 2 else None
    if low is not None and low >= fs_hz / 2:
        low = None
    if low is None and high is None:
        return None
    edge, kind = ((low, high), "bandpass") if low and high else (low or high, "highpass" if low else "lowpass")
    if band.kind == "fir":
        n_taps = band.order + 1 + band.order % 2
        taps = signal.firwin(n_taps, edge, pass_zero=kind, fs=fs_hz)
        return _taps(taps, 3 * n_taps)
    if band.kind == "cheby2":
        sections = signal.cheby2(band.order, band.attenuation_db, edge, kind, fs=fs_hz, output="sos")
    else:
        sections = signal.butter(band.order, edge, kind, fs=fs_hz, output="sos")
    if band.edges == "scipy":
        return _sections(sections, 3 * ((2 if kind == "bandpass" else 1) * band.order + 1))
    lowest = low or high
    assert lowest is not None
    return _sections(sections, _ringing(signal.sosfilt(sections, _impulse(fs_hz, lowest))))


@lru_cache(maxsize=32)
def _notch_filter(notch: Notch, fs_hz: float) -> _Filter | None:
    """Design a notch for a rate; None where the rate does not reach it."""
    if notch.hz == "site" or notch.hz >= fs_hz / 2:
        return None
    sections = signal.tf2sos(*signal.iirnotch(notch.hz, notch.q, fs=fs_hz))
    if notch.edges == "scipy":
        return _sections(sections, 9)
    return _sections(sections, _ringing(signal.sosfilt(sections, _impulse(fs_hz, notch.hz / notch.q))))


def _filtered(x: Windows, design: _Filter | None) -> Windows:
    return x if design is None else design.run(x, min(design.padding, x.shape[-1] - 1))


def holds_band(contract: InputContract, channel: str, fs_hz: float) -> bool:
    """Tell whether a recording at `fs_hz` holds the channel's band up to its upper edge."""
    band = contract.band_of(channel)
    return band is None or band.high_hz is None or fs_hz > 2 * band.high_hz


def upside_down(windows: NDArray[np.floating], *, fs_hz: float) -> NDArray[np.bool_]:
    """Tell of each window whether its largest excursions go down: AnyPPG's polarity rule for an ECG.

    Parameters
    ----------
    windows
        Numbers [windows, samples]; NaN is missing.

    Notes
    -----
    Of each 2-s stretch, the excursion from the window's median that is largest in size; the window is upside down
    where the median of these is negative (arXiv:2511.01747, preprocessing code).
    """
    size = max(1, min(round(EXTREMES_S * fs_hz), windows.shape[-1]))
    n = windows.shape[-1] // size
    x = np.nan_to_num(windows - np.nanmedian(windows, axis=-1, keepdims=True))
    pieces = x[:, : n * size].reshape(len(x), n, size)
    largest = np.take_along_axis(pieces, np.abs(pieces).argmax(-1)[..., None], axis=-1)[..., 0]
    return np.asarray(np.median(largest, axis=-1) < 0)


def survey(recording: Recording, *, polarity: bool) -> Whole:
    """Read a recording once, a piece at a time, for its mean, standard deviation and polarity.

    Parameters
    ----------
    recording
        Of any length; at most `BLOCK_SAMPLES` of it are in memory.
    polarity
        Whether to judge it, which is slow; otherwise `Whole.inverted` is False.
    """
    piece = max(1, round(PIECE_S * recording.fs_hz))
    block = max(1, BLOCK_SAMPLES // piece) * piece
    n, mean, squares, votes, pieces = 0, 0.0, 0.0, 0, 0
    for start in range(0, recording.n_samples, block):
        values = recording.read(start, min(start + block, recording.n_samples)).astype(np.float64)
        finite = values[np.isfinite(values)]
        if len(finite):
            # Chan's rule for joining two means and sums of squares.
            centre = float(finite.mean())
            delta, total = centre - mean, n + len(finite)
            squares += float(((finite - centre) ** 2).sum()) + delta**2 * n * len(finite) / total
            mean += delta * len(finite) / total
            n = total
        if polarity and len(values) >= piece:
            whole = values[: len(values) // piece * piece].reshape(-1, piece)
            whole = whole[np.isfinite(whole).all(-1)]
            votes, pieces = votes + int(upside_down(whole, fs_hz=recording.fs_hz).sum()), pieces + len(whole)
    if not n:
        return Whole(float("nan"), float("nan"), 0, inverted=False)
    return Whole(mean, float(np.sqrt(squares / n)), n, inverted=2 * votes > pieces)


def condition(
    windows: NDArray[np.float32], *, fs_hz: float, contract: InputContract, channel: str, window_s: float,
    before: int = 0, whole: list[Whole] | None = None,
) -> Windows:  # fmt: skip
    """Take windows of one channel and rate through the contract's steps.

    Parameters
    ----------
    windows
        float32 [windows, samples], finite, physical units; may hold context on both sides.
    fs_hz
        Their rate.
    contract, channel
        Whose steps, and which of its channels. What `standardise` does as the last step is left to it.
    window_s
        Length in seconds.
    before
        Samples of context that stand before each window.
    whole
        Of each window's recording, where the contract standardises or turns by it.

    Returns
    -------
    numpy.ndarray
        float64 [windows, ``round(window_s * contract.fs_hz)``].

    Raises
    ------
    EncoderError
        The rates are no ratio that can be resampled.
    """
    x = windows.astype(np.float64)
    inside, rate, centred = round(window_s * fs_hz), fs_hz, False
    is_ecg = channel.startswith("ECG")
    for step in contract.steps:
        match step:
            case "polarity" if is_ecg and contract.polarity != "as_recorded":
                judged = (
                    upside_down(x[:, before : before + inside], fs_hz=fs_hz)
                    if contract.polarity == "window"
                    else np.array([one.inverted for one in whole or []])
                )
                x = np.where(judged[:, None], -x, x)
            case "notch" if is_ecg and contract.notch is not None:
                x = _filtered(x, _notch_filter(contract.notch, rate))
            case "band":
                band = contract.band_of(channel)
                x = x if band is None else _filtered(x, _band_filter(band, rate))
                centred = centred or (band is not None and band.low_hz is not None)
            case "smooth" if contract.smooth_s and rate >= contract.smooth_min_fs_hz:
                taps = max(1, round(rate * contract.smooth_s))
                x = _filtered(x, _taps(np.full(taps, 1 / taps), 3 * taps))
            case "baseline" if contract.baseline_s:
                size = int(contract.baseline_s * rate) + 1
                size += 1 - size % 2
                # Row by row: scipy is thirty times faster in one dimension.
                x = x - np.stack([ndimage.median_filter(row, size=size, mode="constant") for row in x])
            case "resample":
                x = _resampled(x[:, before : before + inside], rate, contract, window_s, centred=centred)
                before, rate, inside = 0, contract.fs_hz, x.shape[-1]
            case "normalise" if contract.normalise_over == "channel" and not contract.standardised:
                x = _normalised(x, contract, whole)
                centred = True
    return x


def _resampled(x: Windows, fs_hz: float, contract: InputContract, window_s: float, *, centred: bool) -> Windows:
    """Resample to the contract's rate and to the window's exact number of samples."""
    samples = round(window_s * contract.fs_hz)
    ratio = resampling_ratio(fs_hz, contract.fs_hz, window_s=window_s)
    if ratio != 1:
        # Beyond the ends lie zeros, which a signal with an offset would fall to.
        offset = 0.0 if centred else x.mean(-1, keepdims=True)
        x = x - offset
        if contract.resampling == "fourier":
            x = signal.resample(x, samples, axis=-1)
        elif contract.resampling == "decimate" and ratio.numerator == 1:
            x = signal.decimate(x, ratio.denominator, axis=-1)
        else:
            x = signal.resample_poly(x, ratio.numerator, ratio.denominator, axis=-1)
        x = x + offset
    if x.shape[-1] < samples:
        x = np.pad(x, ((0, 0), (0, samples - x.shape[-1])), mode="edge")
    return x[:, :samples]


def _normalised(x: Windows, contract: InputContract, whole: list[Whole] | None) -> Windows:
    """Standardise each window by itself, or by its recording."""
    if contract.normalise_scope == "none":
        return x
    if contract.normalise_scope == "recording":
        assert whole is not None
        mean = np.array([one.mean for one in whole])[:, None]
        bessel = [one.n / max(1, one.n - 1) if contract.ddof else 1.0 for one in whole]
        spread = np.array([one.sd for one in whole]) * np.sqrt(bessel)
        # A sign that was turned before turns the recording's mean as well.
        if contract.polarity == "recording" and "polarity" in contract.steps[: contract.steps.index("normalise")]:
            mean = mean * np.where([one.inverted for one in whole], -1.0, 1.0)[:, None]
        return _divided(x - mean, spread[:, None] + contract.epsilon)
    if contract.normalise_by == "minmax":
        low, high = x.min(-1, keepdims=True), x.max(-1, keepdims=True)
        return _divided(2 * x - low - high, high - low + contract.epsilon)
    return _divided(x - x.mean(-1, keepdims=True), x.std(-1, ddof=contract.ddof, keepdims=True) + contract.epsilon)


def _divided(x: Windows, by: Windows) -> Windows:
    """Divide, and give zeros where the divisor is zero: a constant signal has no shape."""
    return np.divide(x, by, out=np.zeros_like(x), where=by > 0)


def standardise(x: NDArray[np.float64], contract: InputContract) -> Standardised:
    """Standardise conditioned windows for the store, and pad them where the contract says so.

    Parameters
    ----------
    x
        float64 [windows, channels, samples] from `condition`, channel by channel.
    """
    if contract.normalise_over == "all" and "normalise" in contract.steps:
        x = _normalised(x.reshape(len(x), -1), contract, None).reshape(x.shape)
    short = round(contract.pad_to_s * contract.fs_hz) - x.shape[-1]
    padding = ((0, 0), (0, 0), (max(0, short // 2), max(0, short - short // 2)))
    if contract.standardised:
        offset, scale = x.mean(-1), x.std(-1, ddof=contract.ddof)
        values = np.pad(_divided(x - offset[..., None], scale[..., None] + contract.epsilon), padding)
    else:
        x = np.pad(x, padding)
        offset, scale = x.mean(-1), x.std(-1)
        values = _divided(x - offset[..., None], scale[..., None])
    return Standardised(values.astype(np.float32), offset.astype(np.float32), scale.astype(np.float32))


def prepare(
    windows: NDArray[np.float32], *, fs_hz: float, contract: InputContract, window_s: float,
    whole: list[Whole] | None = None,
) -> Standardised:  # fmt: skip
    """Take windows of one rate through a contract of one channel: `condition`, then `standardise`.

    Parameters
    ----------
    windows
        float32 [windows, samples], finite, physical units.
    fs_hz, contract, window_s, whole
        As of `condition`.

    Returns
    -------
    Standardised
        Without the axis of channels: values [windows, samples], offset and scale [windows].

    Notes
    -----
    With `PPG_125`, AnyPPG's published order (arXiv:2511.01747 and its code): zero-phase Butterworth as
    ``mne.filter.filter_data(method="iir")`` has it, polyphase resampling, z-score by the population standard
    deviation plus epsilon. A window of constant value comes out as zeros with scale 0.
    """
    x = condition(windows, fs_hz=fs_hz, contract=contract, channel=contract.channels[0], window_s=window_s, whole=whole)
    done = standardise(x[:, None], contract)
    return Standardised(done.values[:, 0], done.offset[:, 0], done.scale[:, 0])


def survey_of(window: NDArray[np.float32], *, fs_hz: float, contract: InputContract) -> Whole:
    """Return of a signal in memory, float32 [samples] and finite, what `survey` returns of a recording."""
    def read(start: int, stop: int) -> NDArray[np.float32]:
        return window[start:stop]

    turns = contract.polarity == "recording" and contract.channels[0].startswith("ECG")
    return survey(Recording(fs_hz, len(window), read), polarity=turns)


def as_given(done: Standardised, contract: InputContract) -> NDArray[np.float16] | NDArray[np.float32]:
    """Return what the network is given of windows from `prepare`, [windows, samples].

    In half precision as the segment store keeps it, so that a window has one embedding whichever way it comes.
    """
    stored = done.values.astype(np.float16)
    if contract.standardised:
        return stored
    return stored.astype(np.float32) * done.scale[:, None] + done.offset[:, None]
