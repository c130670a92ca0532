"""Which windows of an encounter are taken: a grid over its recordings, and an order drawn by hash."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from phewas.seeds import generator


@dataclass(frozen=True)
class Candidates:
    """The windows on the grid, in the encounter's drawn order.

    Both arrays int64 [candidates] where one channel is wanted, [candidates, channels] where several are.
    """

    recording: NDArray[np.int64]
    start_sample: NDArray[np.int64]


def candidates(
    lengths: NDArray[np.int64], window_samples: NDArray[np.int64], *, seed: int, encounter_id: str
) -> Candidates:
    """Lay the grid over an encounter's recordings of one channel and draw its order.

    Parameters
    ----------
    lengths
        int64 [recordings], samples of each recording.
    window_samples
        int64 [recordings], samples of one window at that recording's rate.
    seed, encounter_id
        All that the order depends on, besides the grid itself.

    Returns
    -------
    Candidates
        Every window that fits, without overlap, each once, in drawn order. A window that fails quality is replaced by
        the next.
    """
    counts = lengths // window_samples
    recording = np.repeat(np.arange(len(lengths)), counts)
    within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    start = within * window_samples[recording]
    order = generator("windows", seed, encounter_id).permutation(len(start))
    return Candidates(recording[order], start[order])


@dataclass(frozen=True)
class Stretch:
    """A time in which every channel is recorded.

    `which` names a recording of each channel (its place among the encounter's), `offset_s` says how far into it the
    stretch begins, and `seconds` how long it lasts.
    """

    which: tuple[int, ...]
    offset_s: tuple[float, ...]
    seconds: float


def stretches(records: Sequence[Mapping[str, Any]], channels: Sequence[str]) -> list[Stretch]:
    """Find the times in which all channels are recorded.

    Parameters
    ----------
    records
        Rows of the recordings table of one encounter, in order.
    channels
        The first leads: stretches come in the order of its recordings.

    Notes
    -----
    Two recordings lie on one clock where both have a start, or where they are signals of one file. Where recordings of
    a further channel overlap each other, the time they share is taken from the earlier one, so that no time comes
    twice.
    """
    lasts = [record["n_samples"] / record["fs_hz"] for record in records]
    places = {channel: [i for i, record in enumerate(records) if record["channel"] == channel] for channel in channels}
    clocks = [_Clock(records, places[channel], lasts) for channel in channels[1:]]
    found: list[Stretch] = []
    for first in places[channels[0]]:
        # Of each piece: the recordings, the shift of each against the first, begin and end on the first's clock.
        pieces: list[tuple[tuple[int, ...], tuple[float, ...], float, float]] = [((first,), (0.0,), 0.0, lasts[first])]
        for clock in clocks:
            longer = []
            for which, shifts, begin, end in pieces:
                covered = begin
                for other, shift in clock.beside(records[first], lasts[first]):
                    lo, hi = max(begin, shift, covered), min(end, shift + lasts[other])
                    if hi > lo:
                        longer.append(((*which, other), (*shifts, shift), lo, hi))
                        covered = hi
            pieces = longer
        found += [
            Stretch(which, tuple(begin - shift for shift in shifts), end - begin)
            for which, shifts, begin, end in pieces
        ]
    return found


class _Clock:
    """The recordings of one channel, findable by time or by file."""

    def __init__(self, records: Sequence[Mapping[str, Any]], places: list[int], lasts: list[float]) -> None:
        dated = sorted((i for i in places if records[i]["start"] is not None), key=lambda i: records[i]["start"])
        self._dated, self._starts = dated, np.array([records[i]["start"] for i in dated], dtype="datetime64[us]")
        self._longest_s = max((lasts[i] for i in dated), default=0.0)
        self._by_file: dict[tuple[str, str | None], list[int]] = {}
        for i in places:
            self._by_file.setdefault((records[i]["path"], records[i]["member"]), []).append(i)

    def beside(self, first: Mapping[str, Any], seconds: float) -> list[tuple[int, float]]:
        """Return the recordings that may overlap `first`, with their start in seconds after its own."""
        if first["start"] is None:
            return [(i, 0.0) for i in self._by_file.get((first["path"], first["member"]), [])]
        start = np.datetime64(first["start"], "us")
        longest, end = np.timedelta64(int(self._longest_s * 1e6) + 1, "us"), np.timedelta64(int(seconds * 1e6), "us")
        lo, hi = np.searchsorted(self._starts, np.array([start - longest, start + end]))
        shifts = (self._starts[lo:hi] - start) / np.timedelta64(1, "s")
        return list(zip(self._dated[lo:hi], shifts.tolist(), strict=True))


def matched_candidates(
    records: Sequence[Mapping[str, Any]], channels: Sequence[str], *, window_s: float, seed: int, encounter_id: str
) -> Candidates:
    """Lay the grid over the times in which all channels are recorded, and draw its order.

    Parameters
    ----------
    records, channels
        As of `stretches`.
    window_s
        Window length in seconds.
    seed, encounter_id
        As of `candidates`, whose order this is.

    Returns
    -------
    Candidates
        Of each window the recording and first sample of each channel, [candidates, channels]: the samples nearest to
        the same moment, so that channels are apart by half a sample of each at most.
    """
    which, start = [], []
    for stretch in stretches(records, channels):
        fs_hz = np.array([records[i]["fs_hz"] for i in stretch.which])
        n_samples = np.array([records[i]["n_samples"] for i in stretch.which])
        moments = np.arange(int(stretch.seconds / window_s + 1e-9)) * window_s
        first = np.round((moments[:, None] + np.array(stretch.offset_s)) * fs_hz).astype(np.int64)
        samples = np.maximum(1, np.round(window_s * fs_hz)).astype(np.int64)
        # The last window may end a rounding beyond the file: it begins that much earlier.
        first = np.where(first - (n_samples - samples) == 1, first - 1, first)
        fits = ((first >= 0) & (first + samples <= n_samples)).all(1)
        start.append(first[fits])
        which.append(np.tile(stretch.which, (int(fits.sum()), 1)))
    empty = np.empty((0, len(channels)), dtype=np.int64)
    recording, begins = (np.concatenate([empty, *parts]) for parts in (which, start))
    order = generator("windows", seed, encounter_id).permutation(len(begins))
    return Candidates(recording[order], begins[order])
