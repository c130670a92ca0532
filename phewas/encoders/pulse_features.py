"""Classical measures of the pulse wave as an encoder: no weights, one number per documented feature.

The table `FEATURES` says what each is, in which unit and range, how much of a window it needs and who described it.

NaN means that the window does not show the feature: too few beats for a variability, no whole pulse for a shape, a
second derivative without the wave in question, or a value outside the stated range, which no pulse has and a fault of
detection would explain. An encounter's value is the mean over those of its windows that show it. The frozen heads put
the training median in place of what is still missing and add, per feature that was missing in training, a column that
says so (`phewas.learning.probe`).

The perfusion index is not among them: it is the pulse's share of the constant light, and the windows come filtered and
standardised, without the constant part. `height_cv` and `foot_wander` say how the pulse's size and base vary.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from phewas.encoders.pulse_features_beats import find_beats
from phewas.encoders.pulse_features_shape import amplitudes, moments, shapes, spectra, variability
from phewas.errors import EncoderError

if TYPE_CHECKING:
    from phewas.encoders.pulse_features_beats import Floats

BLOCK_WINDOWS = 256
SHORTEST_S = 1.0
SLOWEST_FS_HZ = 20.0

_TASK_FORCE = "Task Force of the ESC and NASPE, Circulation 93:1043 (1996)"
_BRENNAN = "Brennan et al., IEEE Trans Biomed Eng 48:1342 (2001)"
_ELGENDI = "Elgendi, Curr Cardiol Rev 8:14 (2012)"
_TAKAZAWA = "Takazawa et al., Hypertension 32:365 (1998)"
_MILLASSEAU = "Millasseau et al., Clin Sci 103:371 (2002)"
_AWAD = "Awad et al., J Clin Monit Comput 21:365 (2007)"
_SQI = "Elgendi, Bioengineering 3:21 (2016)"
_ALTY = "Alty et al., IEEE Trans Biomed Eng 54:2268 (2007)"
_INOUYE = "Inouye et al., Electroencephalogr Clin Neurophysiol 79:204 (1991)"
_LAKE = "Lake and Moorman, Am J Physiol Heart Circ Physiol 300:H319 (2011)"
_ORPHANIDOU = "Orphanidou et al., IEEE J Biomed Health Inform 19:832 (2015)"
_SHEREBRIN = "Sherebrin and Sherebrin, IEEE Trans Biomed Eng 37:313 (1990)"
_USUAL = "textbook"
_WANG = "Wang et al., Conf Proc IEEE Eng Med Biol Soc 2009:1343"
_DASH = "Dash et al., Ann Biomed Eng 37:1701 (2009)"


@dataclass(frozen=True)
class Feature:
    """One measure: its name, unit, the range outside which it is not believed, what it needs, and its source."""

    name: str
    unit: str
    low: float
    high: float
    needs: str
    meaning: str
    source: str


_I2, _I3, _I5, _P1, _P2 = "1 interval", "3 intervals", "5 intervals", "1 whole pulse", "2 whole pulses"

FEATURES = (
    Feature("rate", "1/min", 30, 200, _I2, "60 / mean interval between systolic peaks", _TASK_FORCE),
    Feature("rate_autocorrelation", "1/min", 30, 210, "2 periods", "first strong peak of the autocorrelation", _USUAL),
    Feature("sdnn", "ms", 0, 600, _I3, "standard deviation of the intervals", _TASK_FORCE),
    Feature("rmssd", "ms", 0, 1000, _I3, "root mean square of successive differences", _TASK_FORCE),
    Feature("pnn50", "share", 0, 1, _I3, "successive differences above 50 ms", _TASK_FORCE),
    Feature("cv_interval", "ratio", 0, 0.8, _I3, "sdnn / mean interval", _TASK_FORCE),
    Feature("nrmssd", "ratio", 0, 1.2, _I3, "rmssd / mean interval: irregularity free of the rate", _DASH),
    Feature("sd2", "ms", 0, 800, _I3, "Poincare plot: spread along the diagonal", _BRENNAN),
    Feature("sd1_sd2", "ratio", 0, 10, _I3, "Poincare plot: short against long axis", _BRENNAN),
    Feature("mad_interval", "ms", 0, 600, _I3, "mean absolute deviation of the intervals", _USUAL),
    Feature("interval_entropy", "nat", 0, 4, _I5, "Shannon entropy of the intervals in bins of 50 ms", _DASH),
    Feature("cosen", "nat", -6, 3, _I5, "coefficient of sample entropy, m = 1, r = 30 ms", _LAKE),
    Feature("turning", "share", 0, 1, _I5, "intervals longer or shorter than both neighbours", _DASH),
    Feature("height", "SD", 0.1, 12, _P1, "mean height of the pulse, foot to peak", _ELGENDI),
    Feature("height_cv", "ratio", 0, 2, "3 beats", "variation of the pulse height", _ELGENDI),
    Feature("foot_wander", "ratio", 0, 3, "3 beats", "standard deviation of the feet / mean height", _ELGENDI),
    Feature("rise_time", "ms", 30, 600, _P1, "crest time: foot to systolic peak", _ALTY),
    Feature("rise_share", "ratio", 0.03, 0.75, _P1, "crest time / period", _ALTY),
    Feature("width25", "ms", 40, 1800, _P1, "width at a quarter of the height", _AWAD),
    Feature("width50", "ms", 30, 1500, _P1, "width at half the height", _AWAD),
    Feature("width75", "ms", 15, 1200, _P1, "width at three quarters of the height", _AWAD),
    Feature("width50_share", "ratio", 0.03, 0.95, _P1, "width at half the height / period", _AWAD),
    Feature("fall_rise50", "ratio", 0.1, 20, _P1, "half width after the peak / before it", _ELGENDI),
    Feature("mean_height", "ratio", 0, 1, _P1, "area under the normalised pulse", _ELGENDI),
    Feature("upslope", "1/s", 0.5, 50, _P1, "steepest rise / height", _ELGENDI),
    Feature("downslope", "1/s", 0.2, 50, _P1, "steepest fall / height", _ELGENDI),
    Feature("b_a", "ratio", -3, 0.5, _P1, "second derivative, wave b / wave a: arterial stiffness", _TAKAZAWA),
    Feature("c_a", "ratio", -2, 2, "wave c", "second derivative, wave c / wave a", _TAKAZAWA),
    Feature("d_a", "ratio", -3, 1, "wave d", "second derivative, wave d / wave a: late systolic reflection", _TAKAZAWA),
    Feature("e_a", "ratio", -0.5, 3, "wave e", "second derivative, wave e / wave a", _TAKAZAWA),
    Feature("ageing", "ratio", -6, 4, "waves b to e", "(b - c - d - e) / a, the ageing index", _TAKAZAWA),
    Feature("ab_time", "ms", 10, 500, _P1, "from wave a to wave b", _TAKAZAWA),
    Feature("augmentation", "ratio", 0, 3, "wave d", "augmentation index: height at wave d / at wave b", _TAKAZAWA),
    Feature("notch_time", "ms", 80, 900, "wave e", "foot to dicrotic notch (wave e)", _ELGENDI),
    Feature("notch_height", "ratio", -0.3, 1.1, "wave e", "height of the notch / of the peak", _ELGENDI),
    Feature("reflection", "ratio", -0.3, 1.1, "wave e", "reflection index: diastolic wave / peak", _MILLASSEAU),
    Feature("delay", "ms", 60, 900, "wave e", "peak to diastolic wave (stiffness index: height / delay)", _MILLASSEAU),
    Feature("area_ratio", "ratio", 0, 10, "wave e", "inflection point area: after / before the notch", _WANG),
    Feature("fundamental", "share", 0, 1, "2 periods", "power within a quarter of the pulse rate", _USUAL),
    Feature("harmonic2", "ln ratio", -14, 14, "2 periods", "power at twice the pulse rate / at it", _SHEREBRIN),
    Feature("harmonic3", "ln ratio", -14, 14, "2 periods", "power at thrice the pulse rate / at it", _SHEREBRIN),
    Feature("spectral_entropy", "share", 0, 1, "any window", "entropy of the power / its largest", _INOUYE),
    Feature("centroid", "Hz", 0.4, 8, "any window", "mean frequency of the power from 0.4 to 8 Hz", _USUAL),
    Feature("pulse_power", "share", 0, 1, "any window", "quality: power from 1 to 2.25 Hz / from 0.4 to 8 Hz", _SQI),
    Feature("skewness", "ratio", -10, 10, "any window", "quality: third moment", _SQI),
    Feature("kurtosis", "ratio", 1, 60, "any window", "quality: fourth moment, 3 for a normal curve", _SQI),
    Feature("likeness", "ratio", -1, 1, _P2, "quality: mean correlation of the pulses with their mean", _ORPHANIDOU),
    Feature("periodicity", "ratio", 0, 1.5, "2 periods", "quality: autocorrelation at one period", _USUAL),
    Feature("covered", "share", 0, 1, "any window", "quality: share of the window in whole pulses", _USUAL),
)  # fmt: skip
NAMES = tuple(feature.name for feature in FEATURES)
WIDTH = len(FEATURES)
_LOW = np.array([feature.low for feature in FEATURES])
_HIGH = np.array([feature.high for feature in FEATURES])


def pulse_features(windows: NDArray[np.floating], *, fs_hz: float) -> NDArray[np.float32]:
    """Measure pulse waves.

    Parameters
    ----------
    windows
        float [windows, samples], finite, filtered to about 0.5 to 8 Hz, upright (systole upwards), any unit.
    fs_hz
        Samples per second, at least 20.

    Returns
    -------
    ndarray
        float32 [windows, len(FEATURES)], columns as in `FEATURES`. NaN: the window does not show the feature.

    Raises
    ------
    EncoderError
        Windows of less than a second, or sampled too slowly.

    Examples
    --------
    >>> t = np.arange(1250) / 125
    >>> values = pulse_features(np.sin(2 * np.pi * 1.2 * t)[None], fs_hz=125)
    >>> round(float(values[0, NAMES.index("rate")]), 1)
    72.0
    """
    if fs_hz < SLOWEST_FS_HZ or windows.shape[-1] < SHORTEST_S * fs_hz:
        raise EncoderError(
            f"pulse-features was given windows of {windows.shape[-1]} samples at {fs_hz:g} Hz",
            expected=f"at least {SHORTEST_S:g} s at {SLOWEST_FS_HZ:g} Hz or more",
            cure="longer windows: [segments] window_s in a --config file",
        )
    out = np.empty((len(windows), WIDTH), dtype=np.float32)
    for at in range(0, len(windows), BLOCK_WINDOWS):
        block = windows[at : at + BLOCK_WINDOWS].astype(np.float32)
        out[at : at + BLOCK_WINDOWS] = _measure(block, fs_hz)
    return out


def _measure(x: Floats, fs_hz: float) -> Floats:
    """Return float64 [windows, features] for one block."""
    n = len(x)
    x = x - x.mean(1, keepdims=True)
    spread = np.sqrt(np.einsum("ij,ij->i", x, x) / x.shape[1])[:, None]
    # A constant window has no pulse: it comes out as NaN throughout, not as the shape of rounding errors.
    x = x / np.where(spread > 1e-9, spread, np.inf).astype(x.dtype)
    beats, pulses = find_beats(x, fs_hz)
    found = {
        **variability(beats, n),
        **amplitudes(beats, n),
        **shapes(pulses),
        **spectra(x, fs_hz),
        **moments(x),
        "likeness": pulses.likeness,
        "covered": pulses.covered_s / (x.shape[1] / fs_hz),
    }
    values = np.full((n, WIDTH), np.nan)
    for column, name in enumerate(NAMES):
        if name in found:
            values[:, column] = found[name]
    values[spread[:, 0] <= 1e-9] = np.nan
    values[~((values >= _LOW) & (values <= _HIGH))] = np.nan
    return values


class PulseFeatures(nn.Module):
    """`pulse_features` in the form of an encoder: float [batch, 1, samples] to float32 [batch, len(FEATURES)].

    Parameters
    ----------
    fs_hz
        Samples per second of its input.
    """

    may_miss = True  # NaN is an answer here, not a fault
    batch_segments = BLOCK_WINDOWS
    feature_names = NAMES

    def __init__(self, *, fs_hz: float) -> None:
        super().__init__()
        self.fs_hz = fs_hz

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        """Measure on the processor, wherever `x` lies; no gradient passes."""
        values = pulse_features(x[:, 0].float().cpu().numpy(), fs_hz=self.fs_hz)
        return torch.from_numpy(values).to(x.device)


def build(*, fs_hz: float) -> PulseFeatures:
    """Return the features as a module; it has no weights."""
    return PulseFeatures(fs_hz=fs_hz)
