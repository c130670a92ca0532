"""The recordings of an encounter, opened when first asked for, with a note on disk of which one is open now."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from phewas.engine import reraise_passing
from phewas.errors import SignalError
from phewas.segments import quality
from phewas.segments.filtering import Whole, survey
from phewas.segments.readers import Recording, Samples, open_recording

PARTS = ".parts"
DEATHS = 2  # of a worker with one recording open, after which that recording is left alone


@dataclass
class Journal:
    """Which recording a worker has open, on disk, so that a death can be laid at its door; and which ones to avoid."""

    folder: Path
    number: int
    noted: str = ""

    @cached_property
    def avoided(self) -> set[str]:
        """The recordings to be left alone, as they were when first asked for."""
        return self.to_avoid()

    @property
    def current(self) -> Path:
        """File that holds the recording that is open now."""
        return self.folder / PARTS / f"open-{self.number:05d}.txt"

    @property
    def deaths(self) -> Path:
        """File with one line for each death of a worker: the recording that was open."""
        return self.folder / PARTS / f"deaths-{self.number:05d}.txt"

    def opens(self, recording_id: str) -> None:
        """Note that a recording is about to be read, unless it is the one noted last."""
        if recording_id != self.noted:
            self.current.parent.mkdir(parents=True, exist_ok=True)
            self.current.write_text(recording_id, encoding="utf-8")
            self.noted = recording_id

    def to_avoid(self) -> set[str]:
        """Return the recordings that were open in `DEATHS` deaths of a worker."""
        return {name for name, n in Counter(self.blamed()).items() if n >= DEATHS}

    def blamed(self) -> list[str]:
        """Return the recording that was open at each death of a worker."""
        return self.deaths.read_text(encoding="utf-8").splitlines() if self.deaths.is_file() else []


class Opened:
    """The recordings of one encounter, opened when first asked for, and what was learnt of them whole."""

    def __init__(
        self, root: Path, records: list[dict[str, Any]], journal: Journal, reject: Callable[[dict[str, Any], str], None]
    ) -> None:
        self._root, self._records, self._journal, self._reject = root, records, journal, reject
        self._open: dict[int, Recording | None] = {}
        self._surveys: dict[int, Whole] = {}

    def read(self, which: int, start: int, stop: int) -> Samples | None:
        """Return raw samples, or None if their recording cannot be read (rejected once, with the reason)."""
        record = self._records[which]
        if which not in self._open:
            self._open[which] = self._opened(record)
        recording = self._open[which]
        if recording is None:
            return None
        self._journal.opens(record["recording_id"])
        try:
            return recording.read(start, stop)
        except (SignalError, OSError) as error:
            reraise_passing(error)
            self._open[which] = None
            self._reject(record, _words(error))
            return None

    def _opened(self, record: dict[str, Any]) -> Recording | None:
        """Open a recording; None, and a reject, if it cannot be opened or has ended workers before."""
        if record["recording_id"] in self._journal.avoided:
            self._reject(record, f"ended the reading process {DEATHS} times")
            return None
        self._journal.opens(record["recording_id"])
        try:
            return open_row(self._root, record)
        except (SignalError, OSError) as error:
            reraise_passing(error)
            self._reject(record, _words(error))
            return None

    def with_context(self, which: int, start: int, samples: int, context_s: float) -> tuple[Samples, int]:
        """Return a window with what stands before and after it, gaps bridged, and how many samples stand before."""
        record = self._records[which]
        around = round(context_s * record["fs_hz"])
        before, after = min(start, around), min(around, max(0, record["n_samples"] - start - samples))
        values = self.read(which, start - before, start + samples + after)
        if values is None:
            raise SignalError(f"{record['path']} could be read a moment ago and cannot be now")
        return quality.fill_gaps(values), before

    def survey(self, which: int, *, polarity: bool) -> Whole:
        """Return what one pass over a recording tells, taken once; an ECG's polarity only where it is asked for."""
        if which not in self._surveys:
            recording = self._open[which]
            assert recording is not None
            is_ecg = self._records[which]["channel"].startswith("ECG")
            self._surveys[which] = survey(recording, polarity=polarity and is_ecg)
        return self._surveys[which]


def _words(error: Exception) -> str:
    return error.found if isinstance(error, SignalError) else type(error).__name__


def open_row(root: Path, record: Mapping[str, Any]) -> Recording:
    """Open the recording of a row of the recordings table; raises what `open_recording` raises."""
    return open_recording(
        root,
        record["path"],
        signal=record["signal"],
        fs_hz=record["fs_hz"],
        n_samples=record["n_samples"],
        member=record["member"],
    )
