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
# A pulse wave never crosses nine tenths of its own range from one sample to the next, up and down again; a number that
# overflowed its bits does (and so do a square calibration wave and a spike that dwarfs the pulse).
WRAP_SHARE = 0.9
# Bands in which beats are found and compared, by template; an ECG's beats are found by their steep part.
FIND_HZ, COMPARE_HZ = {"PPG": (0.5, 8.0), "ECG": (5.0, 20.0)}, {"PPG": (0.5, 8.0), "ECG": (0.5, 40.0)}
FEWEST_BEATS = 3
# Where a pulse rate is looked for, in Hz: 30 to 240 beats a minute.
PULSE_BAND_HZ = (0.5, 4.0)


@dataclass(frozen=True)
class Quality:
    """What one raw window is like.

    `invalid`, `flat` and `saturated` are shares of its samples, 0 to 1; `rate_per_min` is the pulse rate by
    autocorrelation, NaN where none stands out; `gap_s` the longest run of missing samples in seconds; `wrapped` how
    often the signal jumps over `WRAP_SHARE` of its range at once (0 unless in both directions; not looked for in an
    ECG, whose spikes may be a pacemaker's); `template` the beats' mean correlation with their average
    (`template_correlation`), NaN where it was not asked for; `step` the smallest difference of neighbours that differ,
    in the record's unit: the step of its digitisation, in which the gain shows; NaN where none differ.
    """

    invalid: float
    flat: float
    saturated: float
    rate_per_min: float
    gap_s: float = 0.0
    wrapped: int = 0
    template: float = float("nan")
    step: float = float("nan")

    def reason(self, config: SegmentConfig) -> str | None:
        """Return why the window is not kept (a key of the extraction's reasons), or None if it is."""
        if self.invalid > config.max_invalid:
            return "invalid"
        if config.max_gap_s is not None and self.gap_s > config.max_gap_s:
            return "gap"
        if self.flat > config.max_flat:
            return "flat"
        if self.saturated > config.max_saturated:
            return "saturated"
        if self.wrapped and config.drop_wrapped:
            return "wrapped"
        if config.rate_range_per_min is not None:
            low, high = config.rate_range_per_min
            if not low <= self.rate_per_min <= high:
                return "pulse_rate"
        # NaN passes: a window of nothing but gaps has been left out above.
        if config.min_template is not None and self.template < config.min_template:
            return "template"
        return None


def measure(
    window: NDArray[np.float32], *, fs_hz: float, flat_rule: str = "same-value", channel: str = "PPG",
    template: bool = False,
) -> Quality:  # fmt: skip
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
    channel
        Names that begin with ``ECG`` are treated as an ECG, all others as a pulse wave.
    template
        Whether to compare the beats with their average, which takes longer than all else.

    Notes
    -----
    Saturated are runs of `CLIPPED_RUN_S` to `LONGEST_CLIP_S` at the window's largest or smallest value; such runs are
    not counted as flat. Missing samples are neither flat nor saturated.
    """
    finite = np.isfinite(window)
    if not finite.any():
        return Quality(1.0, 0.0, 0.0, float("nan"), len(window) / fs_hz)
    # Runs of equal neighbours lie between the places where a sample differs from the one before.
    breaks = np.flatnonzero(~((window[1:] == window[:-1]) & finite[1:] & finite[:-1]))
    edges = np.concatenate([[-1], breaks, [len(window) - 1]])
    runs, values = np.diff(edges), window[edges[1:]]
    low, high = float(window[finite].min()), float(window[finite].max())
    at_end = ((values == low) | (values == high)) & (high > low)
    clipped = at_end & (runs >= max(3, CLIPPED_RUN_S * fs_hz)) & (runs <= LONGEST_CLIP_S * fs_hz)
    long = (runs >= max(2, FLAT_RUN_S * fs_hz)) & ~clipped
    flat = published_flat(window, fs_hz=fs_hz) if flat_rule == "anyppg" else float(runs[long].sum() / len(window))
    whole = fill_gaps(window)
    return Quality(
        invalid=float(1 - finite.mean()),
        flat=flat,
        saturated=float(runs[clipped].sum() / len(window)),
        rate_per_min=pulse_rate(whole, fs_hz=fs_hz),
        gap_s=0.0 if finite.all() else _longest_gap(finite) / fs_hz,
        wrapped=0 if channel.startswith("ECG") else _wraps(window, high - low),
        template=template_correlation(whole, fs_hz=fs_hz, channel=channel) if template else float("nan"),
        step=_smallest_step(window),
    )


def _smallest_step(window: NDArray[np.float32]) -> float:
    """Return the smallest difference above 0 of neighbouring samples, NaN where there is none."""
    steps = np.abs(np.diff(window))
    steps = steps[(steps > 0) & np.isfinite(steps)]
    return float(steps.min()) if len(steps) else float("nan")


def _longest_gap(finite: NDArray[np.bool_]) -> int:
    """Return the length of the longest run of False."""
    edges = np.flatnonzero(np.concatenate([[True], finite, [True]]))
    return int(np.diff(edges).max() - 1)


def _wraps(window: NDArray[np.float32], span: float) -> int:
    """Return how many steps cross nearly the whole range, or 0 if all go the same way."""
    steps = np.diff(window)
    up, down = int((steps > WRAP_SHARE * span).sum()), int((steps < -WRAP_SHARE * span).sum())
    return up + down if span > 0 and up and down else 0


def template_correlation(window: NDArray[np.float32], *, fs_hz: float, channel: str) -> float:
    """Return the mean Pearson correlation of a window's beats with their average, -1 to 1.

    Parameters
    ----------
    window
        float32 [samples], finite.
    fs_hz
        Samples per second.
    channel
        Names that begin with ``ECG`` are treated as an ECG, all others as a pulse wave.

    Returns
    -------
    float
        0 where fewer than three whole beats are found, or where beats lie more than 3 s apart or so unevenly that the
        longest interval is over 2.2 times the shortest.

    References
    ----------
    Orphanidou et al., Signal-quality indices for the electrocardiogram and photoplethysmogram, IEEE J Biomed Health
    Inform 19(3):832-838, 2015: beats as wide as the median interval around each peak, and the two rules on intervals;
    published thresholds 0.66 for ECG and 0.86 for PPG. Their beat detectors are replaced by peaks of the band-passed
    signal.
    """
    kind = "ECG" if channel.startswith("ECG") else "PPG"
    find, compare = (_band(window, edges[kind], fs_hz) for edges in (FIND_HZ, COMPARE_HZ))
    tall = find**2 if kind == "ECG" else find
    # Peaks of at least 0.4 times the usual crest of a second, a third of a second apart.
    size = max(1, round(fs_hz))
    crests = tall[: len(tall) // size * size].reshape(-1, size).max(1) if len(tall) >= size else tall.max(keepdims=True)
    peaks, _ = signal.find_peaks(tall, height=0.4 * float(np.median(crests)), distance=max(1, round(0.33 * fs_hz)))
    if len(peaks) < FEWEST_BEATS:
        return 0.0
    intervals = np.diff(peaks)
    if intervals.max() > 3 * fs_hz or intervals.max() > 2.2 * intervals.min():
        return 0.0
    half = int(np.median(intervals)) // 2
    whole = peaks[(peaks >= half) & (peaks + half < len(window))]
    if len(whole) < FEWEST_BEATS:
        return 0.0
    beats = compare[whole[:, None] + np.arange(-half, half + 1)]
    beats = beats - beats.mean(1, keepdims=True)
    average = beats.mean(0)
    norm = np.linalg.norm(beats, axis=1) * np.linalg.norm(average)
    return float(np.divide(beats @ average, norm, out=np.zeros(len(beats)), where=norm > 0).mean())


def _band(window: NDArray[np.float32], edges_hz: tuple[float, float], fs_hz: float) -> NDArray[np.float64]:
    """Return the window between two frequencies, as far as its rate goes."""
    low, high = edges_hz[0], min(edges_hz[1], 0.45 * fs_hz)
    x = window.astype(np.float64) - window.mean()
    if high <= low:
        return np.asarray(x)
    sections = signal.butter(2, (low, high), "bandpass", fs=fs_hz, output="sos")
    return np.asarray(signal.sosfiltfilt(sections, x, padlen=min(len(x) - 1, int(fs_hz / low))))


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
