"""What an encoder wants to be fed: channels, rate, and each step between the raw window and the network, in order.

A contract is data: it is compared, hashed and stored beside a model. `phewas.segments.filtering` carries it out. The
steps are taken in the order that `InputContract.steps` gives, because published encoders differ in it (PaPaGei
standardises the recording and then filters; AnyPPG filters the window and then standardises).

References
----------
The constants follow the preprocessing that was published with each encoder: AnyPPG (arXiv:2511.01747 and its code),
PaPaGei (Pillai et al., arXiv:2410.20542, with pyPPG's filter), Pulse-PPG (Saha et al., arXiv:2502.01108), ECGFounder
(Li et al., arXiv:2410.04133), HuBERT-ECG (Coppola et al., medRxiv 2024.11.14.24317328), ECG-FM (McKeen et al.,
arXiv:2408.05178), SiamQuality (Ding et al., 2024), CSFM (Gu et al., 2026).
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import MISSING, asdict, dataclass, fields, replace
from fractions import Fraction
from typing import Literal

from phewas.errors import EncoderError

Step = Literal["polarity", "notch", "band", "smooth", "baseline", "resample", "normalise"]
STEPS: tuple[Step, ...] = ("polarity", "notch", "band", "smooth", "baseline", "resample", "normalise")

# Resampling by a fraction may move the last sample of a window by this share of a sample at most.
RATIO_DENOMINATOR, DRIFT_SAMPLES = 10_000, 0.01


@dataclass(frozen=True)
class Band:
    """A zero-phase filter (forward and backward), applied at the rate that the signal has at that step.

    Parameters
    ----------
    kind
        ``butter``, ``cheby2``, or ``fir`` (windowed sinc, Hamming).
    order
        Of the one-way filter; for ``fir`` the number of taps less one.
    low_hz, high_hz
        Edges; None for a low-pass or a high-pass. Of ``cheby2`` they are the edges of the stop band, as in scipy.
    attenuation_db
        Of the stop band, ``cheby2`` only.
    edges
        How the signal is continued beyond its ends. ``ringing``: odd reflection for as long as the filter rings, as
        ``mne.filter.filter_data`` does; ``scipy``: odd reflection over the few samples that ``scipy.signal.filtfilt``
        takes by itself, for encoders that were trained so.
    """

    kind: Literal["butter", "cheby2", "fir"]
    order: int
    low_hz: float | None
    high_hz: float | None
    attenuation_db: float = 0.0
    edges: Literal["ringing", "scipy"] = "ringing"

    def __post_init__(self) -> None:
        low, high = self.low_hz or 0.0, self.high_hz or float("inf")
        if (self.low_hz is None and self.high_hz is None) or not 0 <= low < high or self.order < 1:
            raise EncoderError(f"{self.low_hz} to {self.high_hz} Hz is no band", expected="0 < low < high, order >= 1")
        if self.kind == "cheby2" and self.attenuation_db <= 0:
            raise EncoderError("a Chebyshev II filter needs its attenuation", cure="attenuation_db = 20")

    def words(self) -> str:
        """Return the edges for a person: ``0.5-8 Hz``, ``above 0.5 Hz``."""
        if self.low_hz is None:
            return f"below {self.high_hz:g} Hz"
        return f"above {self.low_hz:g} Hz" if self.high_hz is None else f"{self.low_hz:g}-{self.high_hz:g} Hz"


@dataclass(frozen=True)
class Notch:
    """A zero-phase notch of ECG channels at the mains frequency.

    Parameters
    ----------
    hz
        50, 60, or ``site``: what the cohort's card or ``[segments] mains_hz`` says; without either there is no notch.
    q
        Quality factor: centre divided by width.
    edges
        As of `Band`.
    """

    hz: float | Literal["site"]
    q: float = 30.0
    edges: Literal["ringing", "scipy"] = "ringing"


@dataclass(frozen=True)
class InputContract:
    """What an encoder wants to be fed. Two encoders with the same contract share one segment store.

    Parameters
    ----------
    channels
        Channel names of the recordings table, in the order of the model's input channels. Several are cut where all
        are recorded at the same time.
    fs_hz
        Samples per second after resampling, the same for all channels.
    band
        Filter; None for none; a tuple for one each channel.
    epsilon
        Added to the standard deviation when a signal is standardised.
    steps
        Their order. A step that the other fields do not ask for does nothing.
    normalise_scope
        Over what mean and standard deviation are taken: the ``window``, the whole ``recording`` (one pass over it), or
        ``none`` where the network standardises by itself or wants physical units.
    normalise_over
        ``channel``, or ``all`` channels of the window together.
    normalise_by
        ``zscore``, or ``minmax`` to the range -1 to 1 (window scope only; a constant window becomes zeros).
    ddof
        0 for the population standard deviation, 1 for the sample's.
    notch
        Of ECG channels; None for none.
    smooth_s
        Length of a zero-phase moving average in seconds; 0 for none. Left out below `smooth_min_fs_hz`.
    baseline_s
        Length of a running median that is subtracted, in seconds; 0 for none. One sample longer, and made odd; beyond
        the ends lie zeros, as in ``scipy.signal.medfilt``.
    polarity
        ``as_recorded``; or ECG channels are turned over when they lie upside down, judged by the ``window`` or by the
        whole ``recording`` (AnyPPG's rule: the median of the extremes of its 2-s pieces is negative, of most 10-s
        pieces of a recording).
    resampling
        ``polyphase`` (an exact fraction), ``fourier`` or ``decimate`` (an eighth-order Chebyshev I filter, whole
        divisors only), as in scipy.signal.
    context_s
        Up to so many seconds before and after the window are read with it, pass through the steps before
        ``resample``, and are cut off: for encoders whose recordings were filtered whole.
    window_s
        Length that the encoder insists on, in seconds; None for any.
    pad_to_s
        Shorter windows are padded with zeros at both ends to this length, after all steps; 0 for never.
    """

    channels: tuple[str, ...]
    fs_hz: float
    band: Band | tuple[Band | None, ...] | None = None
    epsilon: float = 1e-5
    steps: tuple[Step, ...] = STEPS
    normalise_scope: Literal["window", "recording", "none"] = "window"
    normalise_over: Literal["channel", "all"] = "channel"
    normalise_by: Literal["zscore", "minmax"] = "zscore"
    ddof: int = 0
    notch: Notch | None = None
    smooth_s: float = 0.0
    smooth_min_fs_hz: float = 0.0
    baseline_s: float = 0.0
    polarity: Literal["as_recorded", "window", "recording"] = "as_recorded"
    resampling: Literal["polyphase", "fourier", "decimate"] = "polyphase"
    context_s: float = 0.0
    window_s: float | None = None
    pad_to_s: float = 0.0

    def __post_init__(self) -> None:
        if not self.channels or len(set(self.channels)) < len(self.channels):
            raise EncoderError(f"the channels {list(self.channels)} are none, or name one twice")
        if not self.fs_hz > 0:
            raise EncoderError(f"a rate of {self.fs_hz} Hz is impossible", expected="fs_hz > 0")
        if isinstance(self.band, tuple) and len(self.band) != len(self.channels):
            raise EncoderError(f"{len(self.band)} filters for {len(self.channels)} channels", expected="one for each")
        if len(set(self.steps)) < len(self.steps) or not set(self.steps) <= set(STEPS) or "resample" not in self.steps:
            raise EncoderError(f"the steps {list(self.steps)} are no order", expected="some of " + ", ".join(STEPS))
        if self.normalise_scope == "recording" and (self.normalise_by, self.normalise_over) != ("zscore", "channel"):
            raise EncoderError("over a whole recording only the z-score of one channel can be taken")
        if self.normalise_over == "all" and self.steps[-1] != "normalise":
            raise EncoderError("channels are standardised together as the last step only")

    @property
    def digest(self) -> str:
        """Eight hex digits that name the contract's folder in the segment store; defaults do not enter it."""
        defaults = {f.name: f.default for f in fields(self) if f.default is not MISSING}
        said = {name: value for name, value in asdict(self).items() if getattr(self, name) != defaults.get(name)}
        return hashlib.blake2b(json.dumps(said, sort_keys=True).encode(), digest_size=4).hexdigest()

    @property
    def standardised(self) -> bool:
        """Whether the last step is the z-score of each channel of the window."""
        kind = (self.normalise_scope, self.normalise_by, self.normalise_over)
        return self.steps[-1] == "normalise" and kind == ("window", "zscore", "channel")

    def length(self, window_s: float) -> int:
        """Return the samples of a window of `window_s` seconds, rounded to the nearest (padding included)."""
        return round(max(window_s, self.pad_to_s) * self.fs_hz)

    def band_of(self, channel: str) -> Band | None:
        """Return the filter of one channel."""
        return self.band[self.channels.index(channel)] if isinstance(self.band, tuple) else self.band

    def at_site(self, mains_hz: float | None) -> InputContract:
        """Return the contract with the mains frequency of a site in place of ``site``; None takes the notch out."""
        if self.notch is None or self.notch.hz != "site":
            return self
        return replace(self, notch=None if mains_hz is None else replace(self.notch, hz=float(mains_hz)))

    def check_window(self, window_s: float) -> None:
        """Raise EncoderError where windows of `window_s` seconds are not what the encoder insists on."""
        if self.window_s is not None and round(window_s * self.fs_hz) != round(self.window_s * self.fs_hz):
            raise EncoderError(
                f"the encoder takes windows of {self.window_s:g} s, and {window_s:g} s were asked for",
                cure=f"leave window_s out, or [segments] window_s = {self.window_s:g} in a --config file",
            )

    def words(self) -> str:
        """Return the contract for a person, in one line."""
        bands = self.band if isinstance(self.band, tuple) else (self.band,)
        parts = [f"{'+'.join(self.channels)} at {self.fs_hz:g} Hz"]
        parts += dict.fromkeys(band.words() for band in bands if band is not None)
        if self.notch is not None:
            parts.append("notch at the mains frequency" if self.notch.hz == "site" else f"notch {self.notch.hz:g} Hz")
        kind = "z-score" if self.normalise_by == "zscore" else "-1 to 1"
        parts.append("as recorded" if self.normalise_scope == "none" else f"{kind} by {self.normalise_scope}")
        return ", ".join(parts)


def resampling_ratio(fs_hz: float, to_hz: float, *, window_s: float) -> Fraction:
    """Return `to_hz` / `fs_hz` as a fraction with a denominator up to 10,000.

    Whole and half rates come out exact. Others (62.4725 Hz) come out so near that the last sample of a window of
    `window_s` seconds lies within 0.01 samples of its place.

    Raises
    ------
    EncoderError
        It would not; the window is too long for so odd a rate.
    """
    exact = Fraction(to_hz) / Fraction(fs_hz)
    near = exact.limit_denominator(RATIO_DENOMINATOR)
    drift = abs(near / exact - 1) * Fraction(window_s * to_hz)
    if near == 0 or drift > DRIFT_SAMPLES:
        raise EncoderError(
            f"{window_s:g}-s windows at {fs_hz!r} Hz cannot be resampled to {to_hz:g} Hz without drift",
            expected="a rate that is a ratio of small numbers, or shorter windows",
        )
    return near


PPG_125 = InputContract(("PPG",), 125.0, Band("butter", 3, 0.5, 8.0))
"""AnyPPG: Butterworth 0.5-8 Hz of order 3, then resampling, then z-score of the window."""

_PAPAGEI = Band("cheby2", 4, 0.5, 12.0, attenuation_db=20.0)
PAPAGEI_125 = InputContract(
    ("PPG",),
    125.0,
    _PAPAGEI,
    epsilon=0.0,
    steps=("normalise", "band", "smooth", "resample"),
    normalise_scope="recording",
    smooth_s=0.05,
    smooth_min_fs_hz=75.0,
    context_s=10.0,
    pad_to_s=10.0,
)
"""PaPaGei: z-score of the recording, Chebyshev II 0.5-12 Hz (order 4, 20 dB), 50-ms moving average, resampling."""

PPG_50 = InputContract(
    ("PPG",), 50.0, _PAPAGEI, epsilon=0.0, steps=("band", "resample"), normalise_scope="none", context_s=10.0
)
"""Pulse-PPG: Chebyshev II 0.5-12 Hz and resampling; the network standardises each window, so that no scale matters."""

PPG_40 = InputContract(("PPG",), 40.0, None, steps=("resample", "normalise"), window_s=30.0)
"""SiamQuality: 30 s at 40 Hz. Its preprocessing was not published; the z-score of the window is our choice."""

PPG_125_PLAIN = InputContract(("PPG",), 125.0, None, steps=("resample",), normalise_scope="none")
"""Time-series models that standardise by themselves (MOMENT, Chronos-2): resampled, otherwise as recorded."""

LEADS = tuple(f"ECG_{lead}" for lead in ("I", "II", "III", "aVR", "aVL", "aVF", "V1", "V2", "V3", "V4", "V5", "V6"))

ECG_500 = InputContract(
    ("ECG_II",), 500.0, Band("butter", 5, 0.5, 40.0), epsilon=1e-8, notch=Notch("site"), polarity="recording",
    steps=("polarity", "band", "notch", "resample", "normalise"),
)  # fmt: skip
"""The ECG beside AnyPPG: polarity of the recording, Butterworth 0.5-40 Hz of order 5, mains notch, z-score."""

ECG_1LEAD_500 = InputContract(
    ("ECG_I",),
    500.0,
    Band("butter", 4, 0.67, 40.0, edges="scipy"),
    epsilon=1e-8,
    steps=("resample", "notch", "band", "baseline", "normalise"),
    normalise_over="all",
    notch=Notch(50.0, 30.0, edges="scipy"),
    baseline_s=0.4,
)
"""ECGFounder: notch at 50 Hz, Butterworth 0.67-40 Hz of order 4, less a running median of 0.4 s, z-score."""

ECG_12LEAD_500 = replace(ECG_1LEAD_500, channels=LEADS)
"""ECGFounder, 12 leads: the same, standardised over all leads together."""

ECG_FM_500 = InputContract(LEADS, 500.0, None, steps=("resample", "normalise"), window_s=5.0)
"""ECG-FM: 12 leads, 5 s at 500 Hz, each lead standardised."""

ECG_12LEAD_100 = InputContract(
    LEADS, 100.0, Band("butter", 4, 0.05, 47.0), steps=("band", "resample", "normalise"), normalise_by="minmax",
    normalise_over="all", epsilon=0.0, resampling="decimate", window_s=5.0,
)  # fmt: skip
"""HuBERT-ECG: 0.05-47 Hz, 5 s, to 100 Hz, to the range -1 to 1. The filter's kind is not stated where we could read."""

_NEUROKIT_PPG, _NEUROKIT_ECG = Band("butter", 3, 0.5, 8.0, edges="scipy"), Band("butter", 5, 0.5, None, edges="scipy")
PPG_ECG_125 = InputContract(
    ("PPG", "ECG_II"), 125.0, (Band("butter", 3, 0.5, 8.0), Band("butter", 3, 0.5, 40.0)), notch=Notch("site")
)
"""PPG with the ECG of the same ten seconds, each in its band, standardised window by window."""

PPG_ECG_250 = InputContract(
    ("PPG", "ECG_II"), 250.0, (_NEUROKIT_PPG, _NEUROKIT_ECG), steps=("resample", "band", "notch", "normalise"),
    notch=Notch("site"), resampling="fourier", window_s=10.0,
)  # fmt: skip
"""CSFM: to 250 Hz, then the bands of neurokit2's cleaning (PPG 0.5-8 Hz, ECG above 0.5 Hz), z-score."""
