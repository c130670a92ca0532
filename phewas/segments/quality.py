"""Whether a raw window can be used, judged without knowing its unit or gain (except by the published rule)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import signal

from phewas.config import SegmentConfig

# A pulse at 30 beats a minute never rests on one value for a fifth of a second; a detached sensor does.
FLAT_RUN_S = 0.2
# The crest of a coarsely digitised pulse may rest on one value for a moment; a clipped one stays there for longer,
# but not longer than a beat.
CLIPPED_RUN_S, LONGEST_CLIP_S = 0.08, 1.0
# AnyPPG's rule: flat where the mean absolute difference over 0.1 s is below 0.001 in the record's own unit.
PUBLISHED_FLAT_S, PUBLISHED_FLAT_STEP = 0.1, 0.001
# Where a pulse rate is looked for, in Hz: 30 to 240 beats a minute.
PULSE_BAND_HZ = (0.5, 4.0)


@dataclass(frozen=True)
class Quality:
    """What one raw window is like.

    `invalid`, `flat` and `saturated` are shares of its samples, 0 to 1; `rate_per_min` is the pulse rate by
    autocorrelation, NaN where none stands out.
    """

    invalid: float
    flat: float
    saturated: float
    rate_per_min: float

    def reason(self, config: SegmentConfig) -> str | None:
        """Return why the window is not kept (a key of the extraction's reasons), or None if it is."""
        if self.invalid > config.max_invalid:
            return "invalid"
        if self.flat > config.max_flat:
            return "flat"
        if self.saturated > config.max_saturated:
            return "saturated"
        if config.rate_range_per_min is not None:
            low, high = config.rate_range_per_min
            if not low <= self.rate_per_min <= high:
                return "pulse_rate"
        return None


def measure(window: NDArray[np.float32], *, fs_hz: float, flat_rule: str = "same-value") -> Quality:
    """Measure one raw window.

    Parameters
    ----------
    window
        float32 [samples] in physical units; NaN and infinities are missing.
    fs_hz
        Samples per second.
    flat_rule
        ``same-value``: a flat run is at least `FLAT_RUN_S` of one and the same value, whatever gain and unit.
        ``anyppg``: the published rule (arXiv:2511.01747, preprocessing code), which depends on them.

    Notes
    -----
    Saturated are runs of `CLIPPED_RUN_S` to `LONGEST_CLIP_S` at the window's largest or smallest value; such runs are
    not counted as flat. Missing samples are neither flat nor saturated.
    """
    finite = np.isfinite(window)
    if not finite.any():
        return Quality(1.0, 0.0, 0.0, float("nan"))
    # Runs of equal neighbours lie between the places where a sample differs from the one before.
    breaks = np.flatnonzero(~((window[1:] == window[:-1]) & finite[1:] & finite[:-1]))
    edges = np.concatenate([[-1], breaks, [len(window) - 1]])
    runs, values = np.diff(edges), window[edges[1:]]
    low, high = float(window[finite].min()), float(window[finite].max())
    at_end = ((values == low) | (values == high)) & (high > low)
    clipped = at_end & (runs >= max(3, CLIPPED_RUN_S * fs_hz)) & (runs <= LONGEST_CLIP_S * fs_hz)
    long = (runs >= max(2, FLAT_RUN_S * fs_hz)) & ~clipped
    flat = published_flat(window, fs_hz=fs_hz) if flat_rule == "anyppg" else float(runs[long].sum() / len(window))
    return Quality(
        invalid=float(1 - finite.mean()),
        flat=flat,
        saturated=float(runs[clipped].sum() / len(window)),
        rate_per_min=pulse_rate(fill_gaps(window), fs_hz=fs_hz),
    )


def published_flat(window: NDArray[np.float32], *, fs_hz: float) -> float:
    """Return the share of the window that is flat by AnyPPG's rule, 0 to 1."""
    width = max(1, round(PUBLISHED_FLAT_S * fs_hz))
    steps = np.abs(np.diff(window, prepend=window[:1]))
    mean = np.convolve(np.nan_to_num(steps, nan=np.inf), np.full(width, 1 / width), mode="same")
    return float((mean < PUBLISHED_FLAT_STEP).mean())


def pulse_rate(window: NDArray[np.float32], *, fs_hz: float) -> float:
    """Return beats per minute by the first strong peak of the autocorrelation, NaN where there is none.

    Parameters
    ----------
    window
        float32 [samples], finite.
    """
    x = window.astype(np.float64) - window.mean()
    if not x.any() or fs_hz <= 2 * PULSE_BAND_HZ[1]:
        return float("nan")
    power = np.abs(np.fft.rfft(x, 2 * len(x))) ** 2
    hz = np.fft.rfftfreq(2 * len(x), 1 / fs_hz)
    power[(hz < PULSE_BAND_HZ[0]) | (hz > 2 * PULSE_BAND_HZ[1])] = 0
    correlation = np.fft.irfft(power)[: len(x)]
    if correlation[0] <= 0:
        return float("nan")
    # Fewer pairs overlap at longer lags; without this, slow pulses would never stand out.
    correlation = correlation / correlation[0] * (len(x) / np.arange(len(x), 0, -1))
    shortest, longest = round(fs_hz / PULSE_BAND_HZ[1]), min(round(fs_hz / PULSE_BAND_HZ[0]), len(x) // 2)
    peaks, _ = signal.find_peaks(correlation[: longest + 1], height=0.3)
    peaks = peaks[peaks >= shortest]
    if not len(peaks):
        return float("nan")
    tall = peaks[correlation[peaks] >= 0.85 * correlation[peaks].max()]
    return float(60 * fs_hz / tall[0])


def fill_gaps(window: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the window with missing samples replaced by straight lines between their neighbours (held at the ends)."""
    finite = np.isfinite(window)
    if finite.all():
        return window
    where = np.arange(len(window))
    return np.interp(where, where[finite], window[finite]).astype(np.float32)
