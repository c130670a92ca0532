"""Beats of many pulse waves at once: systolic peaks, feet, and the mean pulse of each window.

Found places lie in flat arrays, ordered by window and then by time. Loops over samples are compiled, the rest is NumPy
over all windows at once.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from phewas.encoders import pulse_features_kernel

Floats = NDArray[np.floating]
Places = NDArray[np.int64]

# Elgendi's two moving averages and his offset (PLoS ONE 8:e76585, 2013), and the shortest interval between beats.
PEAK_S, BEAT_S, OFFSET, REFRACTORY_S = 0.111, 0.667, 0.02, 0.3
INTERVAL_S = (0.3, 2.0)  # 30 to 200 beats a minute
# A peak that rises by less than this share of the window's median pulse is a diastolic wave or noise.
SMALL = 0.4
# The mean pulse is drawn over time as a share of its period, from a little before the foot.
GRID = np.linspace(-0.1, 1.0, 56, dtype=np.float32)
STEP, FOOT_AT = 0.02, 5
ALIKE = 0.25  # pulses whose period differs by more from the window's median are left out of the mean pulse


@dataclass(frozen=True)
class Beats:
    """Beats of all windows, flat.

    `row` int64 [beats], which window; `peak_s` float64 [beats], time of the systolic peak; `foot_s`, `foot` float64
    [beats], time and value of the foot before it (NaN where the window begins later); `height` float64 [beats], peak
    minus foot.
    """

    row: Places
    peak_s: Floats
    foot_s: Floats
    foot: Floats
    height: Floats


@dataclass(frozen=True)
class Pulses:
    """The mean pulse of each window.

    `shape` float64 [windows, len(GRID)]: foot 0, peak about 1, NaN without a whole pulse; `period_s` float64 [windows];
    `count` int64 [windows], pulses in the mean; `likeness` float64 [windows], mean correlation of the pulses with it
    (NaN below two); `covered_s` float64 [windows], length of the whole pulses together.
    """

    shape: Floats
    period_s: Floats
    count: Places
    likeness: Floats
    covered_s: Floats


def per_row(row: Places, values: Floats, n_rows: int) -> Floats:
    """Return float64 [n_rows, most]: each window's values in order, NaN after the last."""
    counts = np.bincount(row, minlength=n_rows)
    out = np.full((n_rows, int(counts.max(initial=0))), np.nan)
    out[row, np.arange(len(row)) - np.repeat(np.cumsum(counts) - counts, counts)] = values
    return out


def median_by_row(table: Floats) -> Floats:
    """Return the median of each row's finite values, NaN where there is none."""
    ordered = np.sort(table, axis=1)  # NaN last
    count = np.isfinite(table).sum(1)
    if not table.shape[1]:
        return np.full(len(table), np.nan)
    rows = np.arange(len(table))
    low, high = ordered[rows, np.maximum(count - 1, 0) // 2], ordered[rows, np.minimum(count // 2, table.shape[1] - 1)]
    return np.asarray((low + high) / 2)


def find_peaks(x: Floats, fs_hz: float) -> tuple[Places, Places]:
    """Return window and sample of each systolic peak.

    Parameters
    ----------
    x
        float32 [windows, samples], filtered to about 0.5 to 8 Hz, upright (systole upwards).
    fs_hz
        Samples per second.

    Notes
    -----
    Elgendi et al. 2013: where a short moving average of the squared positive wave exceeds a long one, a beat is near;
    its peak is the highest local maximum there.
    """
    short, long = (2 * round(s * fs_hz / 2) + 1 for s in (PEAK_S, BEAT_S))
    most = x.shape[1] // short + 1  # every stretch with a peak is that long at least
    rows, places = (np.empty(len(x) * most, dtype=np.int64) for _ in range(2))
    count = pulse_features_kernel.peaks(x, short, long, OFFSET, REFRACTORY_S * fs_hz, rows, places)
    return rows[:count], places[:count]


def _vertex(x: Floats, row: Places, place: Places) -> Floats:
    """Return the place of an extremum between samples, by the parabola through three of them."""
    before, here, after = x[row, place - 1], x[row, place], x[row, place + 1]
    bend = before - 2 * here + after
    shift = np.where(bend == 0, 0.0, 0.5 * (before - after) / np.where(bend == 0, 1.0, bend))
    return np.asarray(place + np.clip(shift, -0.5, 0.5))


def find_beats(x: Floats, fs_hz: float) -> tuple[Beats, Pulses]:
    """Find beats and feet, and average the whole pulses of each window.

    Parameters
    ----------
    x
        float32 [windows, samples], as for `find_peaks`.
    fs_hz
        Samples per second.
    """
    n = len(x)
    row, place = find_peaks(x, fs_hz)
    foot, after = _feet(x, row, place)
    height = np.where(foot >= 0, x[row, place] - x[row, foot], np.nan)
    real = ~(height < SMALL * median_by_row(per_row(row, height, n))[row])
    if not real.all():
        row, place = row[real], place[real]
        foot, after = _feet(x, row, place)
        height = np.where(foot >= 0, x[row, place] - x[row, foot], np.nan)
    known = foot >= 0
    foot_at = np.full(len(foot), np.nan)
    foot_at[known] = _vertex(x, row[known], foot[known])
    beats = Beats(
        row=row,
        peak_s=_vertex(x, row, place) / fs_hz,
        foot_s=foot_at / fs_hz,
        foot=np.where(known, x[row, foot], np.nan),
        height=height,
    )
    # The foot after the last peak counts if the wave has come down as far as it does in the other beats.
    fall = np.where(after >= 0, x[row, place] - x[row, after], np.nan)
    typical = median_by_row(per_row(row, np.fmin(height, fall), n))[row]
    ends = np.full(len(after), np.nan)
    down = (after >= 0) & (fall > 0.7 * typical)
    ends[down] = _vertex(x, row[down], after[down])
    return beats, _mean_pulse(x, row, foot_at, ends, fs_hz)


def _feet(x: Floats, row: Places, place: Places) -> tuple[Places, Places]:
    """Return the lowest local minimum before each peak and after it (up to the next peak), -1 for none."""
    before, after = np.empty(len(row), dtype=np.int64), np.empty(len(row), dtype=np.int64)
    pulse_features_kernel.feet(x, row, place, before, after)
    return before, after


def _mean_pulse(x: Floats, row: Places, foot: Floats, end: Floats, fs_hz: float) -> Pulses:
    """Average the whole pulses (foot to foot) of each window over time as a share of the period."""
    n = len(x)
    period = end - foot
    whole = (period >= INTERVAL_S[0] * fs_hz) & (period <= INTERVAL_S[1] * fs_hz)
    row, foot, period = row[whole], foot[whole], period[whole]
    middle = median_by_row(per_row(row, period, n))
    covered = np.bincount(row, weights=period, minlength=n) / fs_hz
    alike = np.abs(period / middle[row] - 1) <= ALIKE
    row, foot, period = row[alike], foot[alike], period[alike]
    pulses = np.empty((len(row), len(GRID)), dtype=np.float32)
    pulse_features_kernel.drawn(x, row, foot.astype(np.float32), period.astype(np.float32), GRID, pulses)
    # The line from foot to foot is taken away: slow drift is no part of a pulse.
    start, stop = pulses[:, FOOT_AT, None], pulses[:, -1, None]
    pulses = pulses - start - (stop - start) * GRID
    pulses /= np.maximum(pulses.max(1, keepdims=True), 1e-12)
    count = np.bincount(row, minlength=n)
    shape = np.full((n, len(GRID)), np.nan)
    some = np.flatnonzero(count)
    if len(some):
        first = (np.cumsum(count) - count)[some]
        shape[some] = np.add.reduceat(pulses, first, axis=0) / count[some, None]
    own, mean = pulses, shape.astype(np.float32)[row]
    moments = [np.einsum("ij,ij->i", a, b) / len(GRID) for a, b in ((own, mean), (own, own), (mean, mean))]
    a, b = own.mean(1), mean.mean(1)
    spread = (moments[1] - a * a) * (moments[2] - b * b)
    likeness = np.clip((moments[0] - a * b) / np.sqrt(np.maximum(spread, 1e-12)), -1, 1)
    total = np.bincount(row, weights=likeness, minlength=n)
    seconds = np.bincount(row, weights=period, minlength=n) / np.maximum(count, 1) / fs_hz
    return Pulses(
        shape=shape,
        period_s=np.where(count > 0, seconds, np.nan),
        count=count,
        likeness=np.where(count > 1, total / np.maximum(count, 1), np.nan),
        covered_s=covered,
    )
