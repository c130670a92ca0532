"""The work of one shard: read the drawn windows of a run of encounters, judge them, prepare them, write them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from phewas.config import SegmentConfig
from phewas.encoders.registry import InputContract
from phewas.engine import reraise_passing
from phewas.errors import SignalError
from phewas.rundir import write_npy, write_parquet
from phewas.schema import Rejects, Windows
from phewas.segments import quality
from phewas.segments.filtering import prepare
from phewas.segments.readers import Recording, Samples, open_recording
from phewas.segments.windows import candidates

PARTS = ".parts"
DEATHS = 2  # of a worker with one recording open, after which that recording is left alone

# Columns of a shard's index beside those of the windows table.
MEASURED = ("q_invalid", "q_flat", "q_saturated", "q_rate_per_min", "offset", "scale")

@dataclass(frozen=True)
class Shard:
    """The work of one worker: a run of encounters, with everything it needs and no open file."""

    number: int
    folder: Path
    root: Path
    recordings: pl.DataFrame
    contract: InputContract
    config: SegmentConfig
    window_s: float
    seed: int


@dataclass
class Journal:
    """Which recording a worker has open, on disk, so that a death can be laid at its door; and which ones to avoid."""

    folder: Path
    number: int
    noted: str = ""

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


def blame(shard: Shard) -> None:
    """Note which recording a worker had open when it died."""
    journal = Journal(shard.folder, shard.number)
    if journal.current.is_file():
        name = journal.current.read_text(encoding="utf-8")
        with journal.deaths.open("a", encoding="utf-8") as handle:
            handle.write(name + "\n")


def extract_shard(shard: Shard) -> int:
    """Write one shard: its windows, their index and the counts of what was not kept; nothing if it is there already.

    Returns
    -------
    int
        Number of windows in the shard.
    """
    parts = shard.folder / PARTS
    index_file = parts / f"shard-{shard.number:05d}.parquet"
    if index_file.is_file():
        return int(pl.scan_parquet(index_file).select(pl.len()).collect().item())
    journal = Journal(shard.folder, shard.number)
    work = Work(shard, journal, journal.to_avoid())
    for _, group in shard.recordings.group_by("encounter_id", maintain_order=True):
        work.encounter(group)
    samples = shard.contract.length(shard.window_s)
    values = np.concatenate(work.blocks).astype(np.float16) if work.blocks else np.empty((0, samples), np.float16)
    index = pl.DataFrame(work.rows, schema=Windows.dtypes() | dict.fromkeys(MEASURED, pl.Float32), orient="row")
    lost = pl.DataFrame(
        {"reason": list(work.lost), "n": list(work.lost.values())}, schema={"reason": pl.String, "n": pl.Int64}
    )
    write_npy(values, shard.folder / shard.contract.channels[0] / f"shard-{shard.number:05d}.npy")
    write_parquet(lost, parts / f"lost-{shard.number:05d}.parquet")
    write_parquet(Rejects.check(Rejects.build(work.rejects)), parts / f"rejects-{shard.number:05d}.parquet")
    # The index comes last: its presence says that the shard is whole.
    write_parquet(index, index_file)
    return index.height


@dataclass(frozen=True)
class Kept:
    """A window that passed: its place in the draw, its recording (place in the group) and first sample."""

    draw: int
    which: int
    start: int
    raw: Samples
    quality: quality.Quality


@dataclass
class Work:
    """What a shard gathers, encounter by encounter."""

    shard: Shard
    journal: Journal
    avoided: set[str]
    rows: list[dict[str, object]] = field(default_factory=list)
    blocks: list[NDArray[np.float32]] = field(default_factory=list)
    lost: Counter[str] = field(default_factory=Counter)
    rejects: list[dict[str, object]] = field(default_factory=list)

    def encounter(self, group: pl.DataFrame) -> None:
        """Choose and prepare the windows of one encounter; `group` holds its recordings in order."""
        kept = self._choose(group)
        if len(kept) < self.shard.config.min_segments:
            return
        fs_hz = group.get_column("fs_hz").to_list()
        contract, window_s = self.shard.contract, self.shard.window_s
        values = np.empty((len(kept), contract.length(window_s)), np.float32)
        offset, scale = np.empty(len(kept), np.float32), np.empty(len(kept), np.float32)
        for rate in sorted({fs_hz[item.which] for item in kept}):
            places = [place for place, item in enumerate(kept) if fs_hz[item.which] == rate]
            raw = np.stack([kept[place].raw for place in places])
            done = prepare(raw, fs_hz=rate, contract=contract, window_s=window_s)
            values[places], offset[places], scale[places] = done.values, done.offset, done.scale
        self.blocks.append(values)
        records = group.to_dicts()
        for place, item in enumerate(kept):
            record = records[item.which]
            self.rows.append(
                {
                    "segment_id": f"{record['recording_id']}:{item.start}",
                    "encounter_id": record["encounter_id"],
                    "patient_id": record["patient_id"],
                    "recording_id": record["recording_id"],
                    "start_sample": item.start,
                    "draw": item.draw,
                    "q_invalid": item.quality.invalid,
                    "q_flat": item.quality.flat,
                    "q_saturated": item.quality.saturated,
                    "q_rate_per_min": item.quality.rate_per_min,
                    "offset": offset[place],
                    "scale": scale[place],
                }
            )

    def _choose(self, group: pl.DataFrame) -> list[Kept]:
        """Take windows in drawn order until there are enough good ones or none is left."""
        shard, records = self.shard, group.to_dicts()
        fs_hz = group.get_column("fs_hz").to_numpy()
        samples = np.maximum(1, np.round(shard.window_s * fs_hz)).astype(np.int64)
        lengths = group.get_column("n_samples").to_numpy()
        grid = candidates(lengths, samples, seed=shard.seed, encounter_id=records[0]["encounter_id"])
        opened: dict[int, Recording | None] = {}
        kept: list[Kept] = []
        for draw, (which, start) in enumerate(zip(grid.recording.tolist(), grid.start_sample.tolist(), strict=True)):
            if len(kept) == records[0]["limit"]:
                break
            if which not in opened:
                opened[which] = self._open(records[which])
            raw = self._read(opened, which, records[which], start, start + int(samples[which]))
            if raw is None:
                self.lost["unreadable"] += 1
                continue
            measured = quality.measure(raw, fs_hz=fs_hz[which], flat_rule=shard.config.flat_rule)
            reason = measured.reason(shard.config)
            if reason is not None:
                self.lost[reason] += 1
            else:
                kept.append(Kept(draw, which, start, quality.fill_gaps(raw), measured))
        return kept

    def _open(self, record: dict[str, Any]) -> Recording | None:
        """Open a recording; None, and a reject, if it cannot be opened or has ended workers before."""
        if record["recording_id"] in self.avoided:
            self._reject(record, f"ended the reading process {DEATHS} times")
            return None
        self.journal.opens(record["recording_id"])
        try:
            return open_row(self.shard.root, record)
        except (SignalError, OSError) as error:
            reraise_passing(error)
            self._reject(record, _words(error))
            return None

    def _read(
        self, opened: dict[int, Recording | None], which: int, record: dict[str, Any], start: int, stop: int
    ) -> Samples | None:
        """Return one raw window, or None if its recording cannot be read (rejected once, with the reason)."""
        recording = opened[which]
        if recording is None:
            return None
        self.journal.opens(record["recording_id"])
        try:
            return recording.read(start, stop)
        except (SignalError, OSError) as error:
            reraise_passing(error)
            opened[which] = None
            self._reject(record, _words(error))
            return None

    def _reject(self, record: dict[str, Any], detail: str) -> None:
        path = "/".join(str(record[part]) for part in ("path", "member") if record[part])
        self.rejects.append(
            {"table": "windows", "source": "recordings", "path": path, "reason": "read_failed", "detail": detail}
        )


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
