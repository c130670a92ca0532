"""Made-up pulse waves, ECG and breathing for the emulated cohort, and the WFDB files that hold them.

The pulse is a sum of two Gaussian waves over each beat (the main wave and the dicrotic wave), the usual minimal model
of a photoplethysmogram; breathing modulates amplitude, baseline and beat intervals. Diseases of the emulated cohort
shift the traits below.

References
----------
Rubins, Med Biol Eng Comput 46:1271 (2008), for Gaussian decomposition of the pulse wave.
WFDB header and signal specification, https://physionet.org/physiotools/wag/, for the files.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Wave = NDArray[np.float64]


@dataclass(frozen=True)
class Traits:
    """What sets one encounter's pulse apart.

    Parameters
    ----------
    rate_per_min
        Mean heart rate.
    rr_cv
        Random variation of beat intervals, as a share of their mean.
    irregular
        Whether a beat's height follows the interval before it, as in atrial fibrillation.
    amplitude_cv
        Random variation of beat heights.
    rise
        Place of the main wave in the beat (0 to 1).
    notch
        Height of the dicrotic wave, as a share of the main wave.
    breath_depth
        Depth of the breathing modulation, as a share of the pulse.
    breath_per_min
        Breathing rate.
    noise
        Standard deviation of white noise, as a share of the pulse.
    """

    rate_per_min: float
    rr_cv: float
    irregular: bool
    amplitude_cv: float
    rise: float
    notch: float
    breath_depth: float
    breath_per_min: float
    noise: float


def _beats(rng: np.random.Generator, duration_s: float, traits: Traits) -> tuple[Wave, Wave]:
    """Return onset times in seconds and beat intervals in seconds, from before 0 to after the end."""
    mean_s = 60.0 / traits.rate_per_min
    count = int(duration_s / mean_s * 1.5) + 12
    breath = np.sin(2 * np.pi * traits.breath_per_min / 60 * mean_s * np.arange(count) + rng.uniform(0, 2 * np.pi))
    sway = 0.0 if traits.irregular else 0.02
    rr = mean_s * np.maximum(1 + sway * breath + traits.rr_cv * rng.standard_normal(count), 0.45)
    onsets = np.cumsum(rr) - rr - rng.uniform() * rr[0]
    return onsets, rr


def pulse(rng: np.random.Generator, *, n_samples: int, fs_hz: float, traits: Traits) -> Wave:
    """Return a pulse wave, float64 [n_samples], about 1 high, around 0.5."""
    t = np.arange(n_samples) / fs_hz
    onsets, rr = _beats(rng, n_samples / fs_hz, traits)
    beat = np.searchsorted(onsets, t, side="right") - 1
    phase = (t - onsets[beat]) / rr[beat]
    height = 1 + traits.amplitude_cv * rng.standard_normal(len(rr))
    if traits.irregular:
        height += 0.7 * (np.roll(rr, 1) / rr.mean() - 1)
    breath = np.sin(2 * np.pi * traits.breath_per_min / 60 * t + rng.uniform(0, 2 * np.pi))
    shape = np.exp(-0.5 * ((phase - traits.rise) / (0.42 * traits.rise)) ** 2)
    shape += traits.notch * np.exp(-0.5 * ((phase - traits.rise - 0.30) / 0.09) ** 2)
    drift = 0.05 * np.sin(2 * np.pi * rng.uniform(0.01, 0.04) * t + rng.uniform(0, 2 * np.pi))
    wave = np.clip(height[beat], 0.2, 2.0) * (1 + traits.breath_depth * breath) * shape
    return np.asarray(wave + traits.breath_depth * breath + drift + traits.noise * rng.standard_normal(n_samples))


def ecg(rng: np.random.Generator, *, n_samples: int, fs_hz: float, traits: Traits) -> Wave:
    """Return an ECG in millivolts, float64 [n_samples]: P, QRS and T as Gaussians, with mains hum."""
    t = np.arange(n_samples) / fs_hz
    onsets, _ = _beats(rng, n_samples / fs_hz, traits)
    beat = np.searchsorted(onsets, t, side="right") - 1
    since_s = t - onsets[beat]
    wave = np.zeros(n_samples)
    for centre_s, width_s, height in (
        (0.08, 0.02, 0.12),
        (0.19, 0.008, -0.1),
        (0.21, 0.009, 1.0),
        (0.23, 0.009, -0.2),
        (0.42, 0.045, 0.28),
    ):
        wave += height * np.exp(-0.5 * ((since_s - centre_s) / width_s) ** 2)
    return np.asarray(wave + 0.02 * np.sin(2 * np.pi * 60 * t) + 0.02 * rng.standard_normal(n_samples))


def breathing(rng: np.random.Generator, *, n_samples: int, fs_hz: float, traits: Traits) -> Wave:
    """Return a breathing wave in ohm, float64 [n_samples]."""
    t = np.arange(n_samples) / fs_hz
    wave = np.sin(2 * np.pi * traits.breath_per_min / 60 * t + rng.uniform(0, 2 * np.pi))
    return np.asarray(wave + 0.05 * rng.standard_normal(n_samples))


# Full scale of a stored sample, by format; the code below the smallest value stands for a missing sample.
FULL_SCALE = {"16": 2**15 - 1, "212": 2**11 - 1, "24": 2**23 - 1, "32": 2**31 - 1}


@dataclass(frozen=True)
class Storage:
    """How samples are stored: WFDB format, ADC units per physical unit, ADC value of physical zero, and the unit."""

    fmt: str
    gain: float
    baseline: int
    units: str


def storage_for(rng: np.random.Generator, *, fmt: str, units: str) -> Storage:
    """Return a storage whose range holds about -2 to 3 units, with a gain that is no whole number."""
    full = FULL_SCALE[fmt]
    gain = round(full / 3.5 * rng.uniform(0.7, 0.95), 3)
    return Storage(fmt, gain, int(rng.integers(-full // 40, full // 40)), units)


def encode(values: Wave, storage: Storage) -> tuple[bytes, NDArray[np.int64]]:
    """Return the bytes of a signal file, and its ADC values (int64); NaN becomes the format's missing code."""
    full = FULL_SCALE[storage.fmt]
    gaps = np.isnan(values)
    adc = np.rint(np.where(gaps, 0.0, values) * storage.gain + storage.baseline).clip(-full, full).astype(np.int64)
    adc[gaps] = -full - 1
    if storage.fmt == "16":
        return adc.astype("<i2").tobytes(), adc
    if storage.fmt == "32":
        return adc.astype("<i4").tobytes(), adc
    if storage.fmt == "24":
        return adc.astype("<i4").view(np.uint8).reshape(-1, 4)[:, :3].tobytes(), adc
    pairs = np.append(adc, 0) if len(adc) % 2 else adc
    first, second = pairs[0::2] & 0xFFF, pairs[1::2] & 0xFFF
    packed = np.stack([first & 0xFF, (first >> 8) | ((second >> 8) << 4), second & 0xFF], axis=1).astype(np.uint8)
    # An odd last sample takes two bytes; the third one of its pair would be made up.
    return packed.tobytes()[: (3 * len(adc) + 1) // 2], adc


def write_record(
    folder: Path,
    name: str,
    values: Wave,
    *,
    signal: str,
    fs_hz: float,
    storage: Storage,
    start: dt.datetime,
    fraction: str,
) -> None:
    """Write ``name.hea`` and ``name.dat``, one signal, six tokens in the record line.

    Parameters
    ----------
    fraction
        Format of the seconds: ``milliseconds`` or ``none``.
    """
    data, adc = encode(values, storage)
    time = start.strftime("%H:%M:%S") + (f".{start.microsecond // 1000:03d}" if fraction == "milliseconds" else "")
    checksum = int(((adc.sum() + 2**15) % 2**16) - 2**15)
    bits = {"16": 16, "212": 12, "24": 24, "32": 32}[storage.fmt]
    first = int(adc[0]) if len(adc) else 0
    scale = f"{storage.gain}({storage.baseline})/{storage.units}"
    lines = (
        f"{name} 1 {fs_hz:g} {len(adc)} {time} {start.strftime('%d/%m/%Y')}\n"
        f"{name}.dat {storage.fmt} {scale} {bits} 0 {first} {checksum} 0 {signal}\n"
    )
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.dat").write_bytes(data)
    (folder / f"{name}.hea").write_text(lines, encoding="ascii")
