"""Measures of pulse waves from what `pulse_features_beats` finds: variability, shape, spectrum and quality."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import fft

from phewas.encoders.pulse_features_beats import FOOT_AT, GRID, INTERVAL_S, STEP, Beats, Floats, Pulses, per_row

Measures = dict[str, Floats]

COSEN_RADIUS_S = 0.03  # Lake and Moorman 2011: tolerance for matching intervals
ENTROPY_BIN_S = 0.05
RATE_HZ = (0.5, 3.5)  # 30 to 210 beats a minute
BAND_HZ = (0.4, 8.0)
SLOW_HZ = 40.0  # enough for a band of 8 Hz; spectra are taken at about this rate


def variability(beats: Beats, n: int) -> Measures:
    """Return rate and beat-to-beat measures, each float64 [n] with NaN below the intervals that it needs."""
    same = np.diff(beats.row) == 0
    between = np.diff(beats.peak_s)
    row = beats.row[1:][same]
    gap = between[same]
    gap = np.where((gap >= INTERVAL_S[0]) & (gap <= INTERVAL_S[1]), gap, np.nan)
    table = per_row(row, gap, n)
    if table.shape[1] < 3:
        table = np.pad(table, ((0, 0), (0, 3 - table.shape[1])), constant_values=np.nan)
    count = np.isfinite(table).sum(1)
    mean = _mean(table)
    change = np.diff(table, axis=1)
    changes = np.isfinite(change).sum(1)
    sdnn = np.where(count >= 3, _sd(table), np.nan)
    rmssd = np.where(changes >= 2, np.sqrt(_mean(np.square(change))), np.nan)
    enough = changes >= 2
    sd1, sd2 = (np.where(enough, _sd(pair) / np.sqrt(2), np.nan) for pair in (change, table[:, 1:] + table[:, :-1]))
    middle = _mean(np.abs(table - mean[:, None]))
    return {
        "rate": 60 / mean,
        "sdnn": 1000 * sdnn,
        "rmssd": 1000 * rmssd,
        "pnn50": np.where(changes >= 2, _share(np.abs(change) > 0.05, change), np.nan),
        "cv_interval": sdnn / mean,
        "nrmssd": rmssd / mean,
        "sd2": 1000 * sd2,
        "sd1_sd2": sd1 / np.where(sd2 > 1e-6, sd2, np.nan),
        "mad_interval": np.where(count >= 3, 1000 * middle, np.nan),
        "interval_entropy": np.where(count >= 5, _binned_entropy(table), np.nan),
        "cosen": np.where(count >= 5, _cosen(table, mean), np.nan),
        "turning": np.where(count >= 5, _turning(change), np.nan),
    }


def amplitudes(beats: Beats, n: int) -> Measures:
    """Return measures of the heights and feet of the beats; heights are in standard deviations of the window."""
    height, foot = per_row(beats.row, beats.height, n), per_row(beats.row, beats.foot, n)
    mean, count = _mean(height), np.isfinite(height).sum(1)
    enough = count >= 3
    return {
        "height": mean,
        "height_cv": np.where(enough, _sd(height) / mean, np.nan),
        "foot_wander": np.where(enough, _sd(foot) / mean, np.nan),
    }


def shapes(pulses: Pulses) -> Measures:
    """Return measures of the mean pulse, each float64 [windows]; NaN without a whole pulse or the wave in question."""
    some = np.flatnonzero(np.isfinite(pulses.shape).all(1))
    names: Measures = {}
    if not len(some):
        return names
    s, period = pulses.shape[some], pulses.period_s[some]
    d1 = (_shift(s, 1) - _shift(s, -1)) / (2 * STEP)
    d2 = (_shift(d1, 1) - _shift(d1, -1)) / (2 * STEP)
    column = np.arange(s.shape[1])
    rows = np.arange(len(s))
    peak = np.argmax(np.where((column > FOOT_AT) & (GRID < 0.75), s, -np.inf), axis=1)
    top = s[rows, peak]
    rise = GRID[peak] + _offset(s, peak) * STEP
    out: Measures = {"rise_time": 1000 * rise * period, "rise_share": rise}
    for level in (25, 50, 75):
        up, down = _crossings(s, peak, level / 100 * top)
        out[f"width{level}"] = 1000 * (down - up) * period
        if level == 50:
            out["width50_share"] = down - up
            out["fall_rise50"] = (down - rise) / np.maximum(rise - up, STEP)
    body = (column >= FOOT_AT) & (column < s.shape[1])
    out["mean_height"] = (s * body).sum(1) / body.sum() / top
    after = column[None, :] > peak[:, None]
    out["upslope"] = np.where(~after, d1, 0).max(1) / period / top
    out["downslope"] = -np.where(after, d1, 0).min(1) / period / top
    # a: steepest bend upwards on the rise; b: downwards around the peak; e: upwards after it, at the dicrotic notch.
    a = _extreme(d2, (column >= 2) & (column <= peak[:, None]))
    from_peak = GRID - GRID[peak][:, None]
    b = _extreme(-d2, (column > a[:, None]) & (from_peak <= 0.1))
    late = (from_peak > 0.06) & (GRID < 0.8)
    e = _extreme(d2, late & _is_top(d2))
    a2 = _at(d2, a)
    a2 = np.where(a2 > 0, a2, np.nan)
    c = _extreme(d2, (column > b[:, None]) & (column < e[:, None]) & _is_top(d2))
    d = _extreme(-d2, (column > c[:, None]) & (column < e[:, None]) & (c >= 0)[:, None])
    for name, wave in (("b", b), ("c", c), ("d", d), ("e", e)):
        out[f"{name}_a"] = _at(d2, wave) / a2
    out["ageing"] = out["b_a"] - out["c_a"] - out["d_a"] - out["e_a"]
    out["ab_time"] = np.where(b >= 0, 1000 * (GRID[b] - GRID[a]) * period, np.nan)
    out["augmentation"] = _at(s, d) / _at(s, b)
    out["notch_time"] = np.where(e >= 0, 1000 * GRID[e] * period, np.nan)
    out["notch_height"] = _at(s, e) / top
    # The diastolic wave: a peak after the notch, or else where the fall pauses.
    pause = _extreme(d1, (column >= e[:, None]) & (column <= e[:, None] + 12) & (e >= 0)[:, None])
    crest = _extreme(s, (column >= pause[:, None]) & (column <= e[:, None] + 15) & _is_top(s) & (pause >= 0)[:, None])
    wave = np.where(crest >= 0, crest, pause)
    out["reflection"] = _at(s, wave) / top
    out["delay"] = np.where(wave >= 0, 1000 * (GRID[wave] - rise) * period, np.nan)
    total = np.cumsum(s * body, axis=1)
    before = _at(total, e)
    out["area_ratio"] = (total[:, -1] - before) / np.where(before > 0, before, np.nan)
    for name, values in out.items():
        names[name] = np.full(len(pulses.shape), np.nan)
        names[name][some] = values
    return names


def spectra(x: Floats, fs_hz: float) -> Measures:
    """Return measures of the power spectrum and the autocorrelation, each float64 [windows]."""
    factor = max(1, int(fs_hz / SLOW_HZ))
    length = x.shape[1] // factor
    slow, fs = x[:, : length * factor].reshape(len(x), length, factor).mean(2), fs_hz / factor
    size = fft.next_fast_len(2 * length, real=True)
    hz = fft.rfftfreq(size, 1 / fs)
    slow = slow - slow.mean(1, keepdims=True)
    power = np.square(np.abs(fft.rfft(slow * np.hanning(length).astype(x.dtype), size, axis=1)))
    low, high = np.searchsorted(hz, BAND_HZ[0]), np.searchsorted(hz, BAND_HZ[1], side="right")
    hz, share = hz[low:high], power[:, low:high]
    total = share.sum(1)
    share = share / np.where(total > 0, total, np.nan).astype(x.dtype)[:, None]
    raw = np.square(np.abs(fft.rfft(slow, size, axis=1)))
    first, last = max(2, int(fs / RATE_HZ[1])), min(int(np.ceil(fs / RATE_HZ[0])), length // 2)
    correlation = fft.irfft(raw, size, axis=1)[:, : last + 2]
    correlation = correlation / np.where(correlation[:, :1] > 0, correlation[:, :1], np.nan)
    # Fewer pairs overlap at longer lags; without this, slow pulses would never stand out.
    correlation = correlation * (length / (length - np.arange(correlation.shape[1])))
    lags = np.arange(correlation.shape[1])
    tops = _is_top(correlation) & (lags >= first) & (lags <= last)
    tallest = np.where(tops, correlation, -np.inf).max(1)
    lag = np.argmax(tops & (correlation >= 0.85 * tallest[:, None]) & (tallest > 0)[:, None], axis=1)
    found = lag > 0
    rate_hz = np.where(found, fs / np.maximum(lag + _offset(correlation, np.maximum(lag, 1)), 1), np.nan)
    summed = np.pad(np.cumsum(share, axis=1), ((0, 0), (1, 0)))
    near = [_around(summed, hz, k * rate_hz, 0.25 * rate_hz) for k in (1, 2, 3)]
    return {
        "rate_autocorrelation": 60 * rate_hz,
        "periodicity": np.where(found, _at(correlation, lag), np.nan),
        "fundamental": near[0],
        "harmonic2": np.log(np.maximum(near[1], 1e-6) / np.maximum(near[0], 1e-6)),
        "harmonic3": np.log(np.maximum(near[2], 1e-6) / np.maximum(near[0], 1e-6)),
        "spectral_entropy": -np.einsum("ij,ij->i", share, np.log(np.maximum(share, 1e-12))) / np.log(len(hz)),
        "centroid": share @ hz.astype(x.dtype),
        "pulse_power": share[:, (hz >= 1) & (hz <= 2.25)].sum(1),
    }


def moments(x: Floats) -> Measures:
    """Return skewness and kurtosis (3 for a normal curve) of each window."""
    z = x - x.mean(1, keepdims=True)
    square = z * z
    variance = square.mean(1)
    variance = np.where(variance > 1e-12, variance, np.nan)
    return {
        "skewness": np.einsum("ij,ij->i", square, z) / z.shape[1] / variance**1.5,
        "kurtosis": np.einsum("ij,ij->i", square, square) / z.shape[1] / variance**2,
    }


def _mean(table: Floats) -> Floats:
    """Return the mean of each row's finite values, NaN where there is none."""
    known = np.isfinite(table)
    count = known.sum(1)
    return np.where(count > 0, np.where(known, table, 0).sum(1) / np.maximum(count, 1), np.nan)


def _sd(table: Floats) -> Floats:
    """Return the sample standard deviation of each row's finite values, NaN below two."""
    known = np.isfinite(table)
    count = known.sum(1)
    squares = np.where(known, np.square(table - _mean(table)[:, None]), 0).sum(1)
    return np.where(count > 1, np.sqrt(squares / np.maximum(count - 1, 1)), np.nan)


def _share(true: NDArray[np.bool_], table: Floats) -> Floats:
    """Return the share of a row's finite values that are marked."""
    known = np.isfinite(table)
    return np.asarray((true & known).sum(1) / np.maximum(known.sum(1), 1))


def _binned_entropy(table: Floats) -> Floats:
    """Return the Shannon entropy of the intervals in bins of 50 ms, in nats."""
    bins = np.floor(table / ENTROPY_BIN_S)
    known = np.isfinite(table)
    count = known.sum(1)
    # Each interval adds -log(share of its own bin) / count: no histogram is needed.
    alike = (bins[:, :, None] == bins[:, None, :]).sum(2)
    own = -np.log(np.maximum(alike, 1) / np.maximum(count, 1)[:, None])
    return np.asarray(np.where(known, own, 0).sum(1) / np.maximum(count, 1))


def _cosen(table: Floats, mean: Floats) -> Floats:
    """Return the coefficient of sample entropy (m = 1) of each row's intervals; NaN where nothing matches."""
    near = np.abs(table[:, :, None] - table[:, None, :]) <= COSEN_RADIUS_S
    later = np.triu(np.ones(near.shape[1:], dtype=bool), 1)
    # A row's last interval has no successor and begins no pair, wherever the table ends.
    followed = np.isfinite(table)[:, 1:]
    one = (near & later)[:, :-1, :-1] & followed[:, :, None] & followed[:, None, :]
    two = one & near[:, 1:, 1:]
    matched, both = one.sum((1, 2)), two.sum((1, 2))
    good = both > 0
    entropy = np.log(np.where(good, matched, 1) / np.where(good, both, 1))
    return np.where(good, entropy + np.log(2 * COSEN_RADIUS_S) - np.log(mean), np.nan)


def _turning(change: Floats) -> Floats:
    """Return the share of intervals that are longer, or shorter, than both of their neighbours."""
    product = change[:, 1:] * change[:, :-1]
    return _share(product < 0, product)


def _shift(x: Floats, steps: int) -> Floats:
    """Return x[k + steps] along each row, the ends held."""
    return np.asarray(x[:, np.clip(np.arange(x.shape[1]) + steps, 0, x.shape[1] - 1)])


def _is_top(x: Floats) -> NDArray[np.bool_]:
    top = np.zeros(x.shape, dtype=bool)
    top[:, 1:-1] = (x[:, 1:-1] > x[:, :-2]) & (x[:, 1:-1] >= x[:, 2:])
    return top


def _extreme(x: Floats, allowed: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Return each row's largest allowed value's column, -1 where none is allowed."""
    allowed = np.broadcast_to(allowed, x.shape)
    return np.where(allowed.any(1), np.argmax(np.where(allowed, x, -np.inf), axis=1), -1)


def _at(x: Floats, column: NDArray[np.int64]) -> Floats:
    """Return one value a row, NaN where the column is -1."""
    return np.where(column >= 0, x[np.arange(len(x)), column], np.nan)


def _offset(x: Floats, column: NDArray[np.int64]) -> Floats:
    """Return by how much an extremum lies beside its column, -0.5 to 0.5."""
    rows = np.arange(len(x))
    left, right = np.maximum(column - 1, 0), np.minimum(column + 1, x.shape[1] - 1)
    before, here, after = x[rows, left], x[rows, column], x[rows, right]
    bend = before - 2 * here + after
    return np.clip(np.where(np.abs(bend) > 1e-15, 0.5 * (before - after) / np.where(bend == 0, 1, bend), 0), -0.5, 0.5)


def _crossings(s: Floats, peak: NDArray[np.int64], level: Floats) -> tuple[Floats, Floats]:
    """Return where the pulse last rises through a level before the peak and first falls through it after."""
    column = np.arange(s.shape[1])
    rows = np.arange(len(s))
    below = s < level[:, None]
    rising = below & (column < peak[:, None])
    i = s.shape[1] - 1 - np.argmax(rising[:, ::-1], axis=1)
    falling = below & (column > peak[:, None])
    j = np.argmax(falling, axis=1)
    i, j = np.minimum(i, s.shape[1] - 2), np.maximum(j, 1)
    up = GRID[i] + STEP * (level - s[rows, i]) / np.where(s[rows, i + 1] != s[rows, i], s[rows, i + 1] - s[rows, i], 1)
    fall = s[rows, j] - s[rows, j - 1]
    down = GRID[j - 1] + STEP * (level - s[rows, j - 1]) / np.where(fall != 0, fall, 1)
    return np.where(rising.any(1), up, np.nan), np.where(falling.any(1), down, np.nan)


def _around(summed: Floats, hz: Floats, centre: Floats, half: Floats) -> Floats:
    """Return the power between centre - half and centre + half, NaN where the centre is unknown."""
    rows = np.arange(len(summed))
    known = np.where(np.isfinite(centre), centre, 0.0)
    first, last = (np.searchsorted(hz, known + side * half) for side in (-1, 1))
    return np.where(np.isfinite(centre), summed[rows, last] - summed[rows, first], np.nan)
