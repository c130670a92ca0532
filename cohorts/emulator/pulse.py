"""The traits of a made-up pulse wave, which diseases of the emulated hospital shift, and the WFDB files of signals.

References
----------
WFDB header and signal specification, https://physionet.org/physiotools/wag/.
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
