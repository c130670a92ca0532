"""EDF and EDF+ recordings through ``edfio`` (extra ``phewas[edf]``), read stretch by stretch; windows written as EDF+.

References
----------
Kemp et al. 1992, the European Data Format; Kemp and Olivan 2003, EDF+.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from phewas.errors import SignalError


def edf_reader(file: Path, path: str, signal: str) -> Callable[[int, int], NDArray[np.float32]]:
    """Return a reader for one signal of an EDF file.

    Parameters
    ----------
    file, path
        The file, and what to call it in a message.
    signal
        Label of the signal; blanks around it and case do not matter.

    Returns
    -------
    callable
        ``read(start, stop)``: float32 [stop - start] in physical units; shorter past the end.

    Raises
    ------
    SignalError
        ``edfio`` is not installed, the file is no EDF or is discontinuous, or no single signal has the label.
    """
    try:
        import edfio
    except ImportError as error:
        raise SignalError(
            f"{path} is an EDF file, and edfio is not installed", cure="pip install 'phewas[edf]'"
        ) from error
    try:
        content = edfio.read_edf(file, lazy_load_data=True)
    except Exception as error:
        raise SignalError(f"{path} is not a readable EDF file: {type(error).__name__}") from error
    if str(content.reserved).startswith("EDF+D"):
        raise SignalError(f"{path} is a discontinuous EDF+ file", expected="EDF, or EDF+ without gaps (EDF+C)")
    wanted = signal.strip().casefold()
    found = [s for s in content.signals if s.label.strip().casefold() == wanted]
    if len(found) != 1:
        labels = [s.label.strip() for s in content.signals]
        raise SignalError(f"{path} has {len(found)} signals {signal!r}", expected=f"exactly one; it has {labels}")
    one = found[0]
    n_samples = content.num_data_records * one.samples_per_data_record
    gain = (one.physical_max - one.physical_min) / (one.digital_max - one.digital_min)

    def read(start: int, stop: int) -> NDArray[np.float32]:
        end = min(stop, n_samples)
        if end <= start:
            return np.empty(0, dtype=np.float32)
        rate = one.sampling_frequency
        digital = one.get_digital_slice(start / rate, end / rate)
        # In float first: the difference of two 16-bit numbers does not fit 16 bits.
        return ((digital.astype(np.float64) - one.digital_min) * gain + one.physical_min).astype(np.float32)

    return read


def write_windows(values: NDArray[np.floating], file: Path, *, fs_hz: float, channels: tuple[str, ...]) -> None:
    """Write windows end to end as EDF+, one data record a window, each annotated with its row number.

    Parameters
    ----------
    values
        Numbers [windows, channels, samples]; EDF keeps 65,536 steps between the smallest and the largest.
    file
        Written atomically.
    fs_hz, channels
        Samples per second, and the labels.

    Raises
    ------
    SignalError
        ``edfio`` is not installed.
    """
    try:
        import edfio
    except ImportError as error:
        raise SignalError("EDF needs edfio, which is not installed", cure="pip install 'phewas[edf]'") from error
    from phewas.rundir import atomic

    seconds = values.shape[2] / fs_hz
    signals = []
    for i, channel in enumerate(channels):
        end_to_end = np.ascontiguousarray(values[:, i], dtype=np.float64).reshape(-1)
        largest = max(1e-6, float(np.abs(end_to_end).max()))
        largest = float(np.ceil(largest * 1000) / 1000)  # eight characters hold it
        signals.append(edfio.EdfSignal(end_to_end, fs_hz, label=channel[:16], physical_range=(-largest, largest)))
    notes = [edfio.EdfAnnotation(row * seconds, seconds, str(row)) for row in range(len(values))]
    content = edfio.Edf(signals, annotations=notes, data_record_duration=seconds)
    with atomic(file) as handle:
        handle.write(content.to_bytes())
