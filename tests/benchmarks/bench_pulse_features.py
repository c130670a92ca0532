"""pulse-features beside neurokit2 and heartpy: CPU seconds per ten-second segment, on heartpy's real recording.

Run: OMP_NUM_THREADS=1 python tests/benchmarks/bench_pulse_features.py
Needs neurokit2 and heartpy. Each rival measures what it offers for one window: heartpy its whole `process` (rate and
variability), neurokit2 cleaning, peaks and time-domain variability (no shapes), which is less than pulse-features does.
CPU seconds, so that a busy machine does not blur them. Each figure is the least of three passes.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable

import numpy as np

from phewas.encoders.pulse_features import WIDTH, pulse_features
from phewas.encoders.registry import PPG_125
from phewas.segments.filtering import prepare

FS_HZ, SECONDS = 125.0, 10.0


def recorded() -> np.ndarray:
    """Return float32 [windows, samples] of heartpy's third example, as the segment store holds them."""
    import heartpy

    values, times = heartpy.load_exampledata(2)
    fs_hz = heartpy.get_samplerate_datetime(times, timeformat="%Y-%m-%d %H:%M:%S.%f")
    samples = round(SECONDS * fs_hz)
    count = len(values) // samples
    raw = np.asarray(values[: count * samples], dtype=np.float32).reshape(count, samples)
    return prepare(raw, fs_hz=fs_hz, contract=PPG_125, window_s=SECONDS).values


def seconds(work: Callable[[], object], passes: int = 3) -> float:
    """Return the CPU seconds of the quickest pass."""
    least = np.inf
    for _ in range(passes):
        began = time.process_time()
        work()
        least = min(least, time.process_time() - began)
    return float(least)


def heartpy_one(window: np.ndarray) -> None:
    import heartpy

    try:
        heartpy.process(heartpy.scale_data(window), FS_HZ)
    except heartpy.exceptions.BadSignalWarning:
        return


def neurokit_one(window: np.ndarray) -> None:
    import neurokit2

    clean = neurokit2.ppg_clean(window, sampling_rate=FS_HZ)
    found = neurokit2.ppg_findpeaks(clean, sampling_rate=FS_HZ)
    neurokit2.hrv_time(found["PPG_Peaks"], sampling_rate=FS_HZ)


def main() -> None:
    warnings.filterwarnings("ignore")
    windows = recorded()
    many = np.tile(windows, (20, 1))
    ours = seconds(lambda: pulse_features(many, fs_hz=FS_HZ)) / len(many)
    print(f"pulse-features, {WIDTH} features: {1e6 * ours:.0f} us CPU per segment, {1 / ours:,.0f} segments/s")
    for name, one in (("heartpy", heartpy_one), ("neurokit2", neurokit_one)):
        each = seconds(lambda one=one: [one(w) for w in windows.astype(np.float64)]) / len(windows)  # type: ignore[misc]
        print(f"{name}: {1e6 * each:,.0f} us CPU per segment, {each / ours:.0f} times as long")


if __name__ == "__main__":
    main()
