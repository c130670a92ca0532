"""The work of one shard: read the drawn windows of a run of encounters, judge them, prepare them, write them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from phewas.config import SegmentConfig
from phewas.encoders.registry import InputContract
from phewas.errors import SignalError
from phewas.rundir import write_parquet
from phewas.schema import Rejects, Windows
from phewas.segments import quality
from phewas.segments.filtering import condition, standardise
from phewas.segments.opened import PARTS, Journal, Opened
from phewas.segments.readers import Samples
from phewas.segments.store import QUALITY, ShardWriter, of_channel
from phewas.segments.windows import candidates, matched_candidates

BATCH_WINDOWS, BATCH_ROWS = 64, 50_000  # prepared at a time; kept as Python objects


@dataclass(frozen=True)
class Shard:
    """The work of one worker: a run of encounters, with everything it needs and no open file.

    `chosen` holds the windows of these encounters where they were chosen before.
    """

    number: int
    folder: Path
    root: Path
    recordings: pl.DataFrame
    contract: InputContract
    config: SegmentConfig
    window_s: float
    seed: int
    chosen: pl.DataFrame | None = None


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
    samples, channels = shard.contract.length(shard.window_s), shard.contract.channels
    files = [shard.folder / channel / f"shard-{shard.number:05d}.npy" for channel in channels]
    with ShardWriter(files, samples=samples) as writer:
        work = Work(shard, journal, writer)
        for _, group in shard.recordings.group_by("encounter_id", maintain_order=True):
            work.encounter(group)
    index = work.index()
    lost = pl.DataFrame(
        {"reason": list(work.lost), "n": list(work.lost.values())}, schema={"reason": pl.String, "n": pl.Int64}
    )
    write_parquet(lost, parts / f"lost-{shard.number:05d}.parquet")
    write_parquet(Rejects.check(Rejects.build(work.rejects)), parts / f"rejects-{shard.number:05d}.parquet")
    # The index comes last: its presence says that the shard is whole.
    write_parquet(index, index_file)
    return index.height


@dataclass(frozen=True)
class Kept:
    """A window that passed.

    Its place in the draw, and of each channel its recording (place among the encounter's), first sample, raw samples
    and quality columns.
    """

    draw: int
    which: tuple[int, ...]
    start: tuple[int, ...]
    raw: tuple[Samples, ...]
    quality: tuple[dict[str, float], ...]


@dataclass
class Work:
    """What a shard gathers, encounter by encounter. Windows go to disk in batches, whatever their number."""

    shard: Shard
    journal: Journal
    writer: ShardWriter
    rows: list[dict[str, object]] = field(default_factory=list)
    tables: list[pl.DataFrame] = field(default_factory=list)
    lost: Counter[str] = field(default_factory=Counter)
    rejects: list[dict[str, object]] = field(default_factory=list)

    @property
    def schema(self) -> dict[str, Any]:
        """Columns of the shard's index."""
        channels = self.shard.contract.channels
        more = {
            of_channel(name, channels, channel): dtype
            for channel in channels
            for name, dtype in (("recording_id", pl.String), ("start_sample", pl.Int64))
        }
        measured = {
            of_channel(name, channels, channel): pl.Float32
            for channel in channels
            for name in (*QUALITY, "offset", "scale")
        }
        return Windows.dtypes() | more | measured

    def index(self) -> pl.DataFrame:
        """Return the rows gathered so far as a table."""
        return pl.concat([*self.tables, pl.DataFrame(self.rows, schema=self.schema, orient="row")])

    def encounter(self, group: pl.DataFrame) -> None:
        """Choose and prepare the windows of one encounter; `group` holds its recordings in order."""
        records = group.to_dicts()
        opened = Opened(self.shard.root, records, self.journal, self.reject)
        least, at, n_rows = self.shard.config.min_segments, self.writer.rows, len(self.rows)
        chosen = self.shard.chosen
        kept = self._choose(records, opened) if chosen is None else self._reread(records, opened, chosen)
        batch: list[Kept] = []
        for item in kept:
            batch.append(item)
            if len(batch) == BATCH_WINDOWS:
                self._write(batch, records, opened)
                batch = []
        self._write(batch, records, opened)
        if chosen is None and self.writer.rows - at < least:
            self.writer.truncate(at)
            del self.rows[n_rows:]
        if len(self.rows) > BATCH_ROWS:
            self.tables.append(pl.DataFrame(self.rows, schema=self.schema, orient="row"))
            self.rows = []

    def _write(self, batch: list[Kept], records: list[dict[str, Any]], opened: Opened) -> None:
        """Prepare windows, append them to the shard's files and note their rows."""
        if not batch:
            return
        contract, window_s = self.shard.contract, self.shard.window_s
        x = np.empty((len(batch), len(contract.channels), round(window_s * contract.fs_hz)))
        for j, channel in enumerate(contract.channels):
            alike: dict[tuple[float, int, int], list[tuple[int, Samples]]] = {}
            for place, item in enumerate(batch):
                raw, before = item.raw[j], 0
                if contract.context_s:
                    raw, before = opened.with_context(item.which[j], item.start[j], len(raw), contract.context_s)
                alike.setdefault((records[item.which[j]]["fs_hz"], before, len(raw)), []).append((place, raw))
            for (fs_hz, before, _), members in sorted(alike.items(), key=lambda pair: pair[0]):
                places = [place for place, _ in members]
                whole = None
                if needs_survey(contract):
                    turned = contract.polarity == "recording"
                    whole = [opened.survey(batch[place].which[j], polarity=turned) for place in places]
                x[places, j] = condition(
                    np.stack([raw for _, raw in members]), fs_hz=fs_hz, contract=contract, channel=channel,
                    window_s=window_s, before=before, whole=whole,
                )  # fmt: skip
        done = standardise(x, contract)
        self.writer.append(done.values)
        for place, item in enumerate(batch):
            self.rows.append(self._row(item, records, done.offset[place], done.scale[place]))

    def _row(
        self, item: Kept, records: list[dict[str, Any]], offset: NDArray[np.float32], scale: NDArray[np.float32]
    ) -> dict[str, object]:
        """Return a window's row of the index."""
        channels, first = self.shard.contract.channels, records[item.which[0]]
        row: dict[str, object] = {
            "segment_id": f"{first['recording_id']}:{item.start[0]}",
            "encounter_id": first["encounter_id"],
            "patient_id": first["patient_id"],
            "draw": item.draw,
        }
        for j, channel in enumerate(channels):
            values: dict[str, object] = {
                "recording_id": records[item.which[j]]["recording_id"],
                "start_sample": item.start[j],
                "offset": offset[j],
                "scale": scale[j],
            }
            values |= item.quality[j]
            row |= {of_channel(name, channels, channel): value for name, value in values.items()}
        return row

    def _choose(self, records: list[dict[str, Any]], opened: Opened) -> Iterator[Kept]:
        """Yield windows in drawn order until there are enough good ones or none is left."""
        shard, n_kept = self.shard, 0
        recording, start, samples = drawn(records, shard)
        for draw, (which, begins) in enumerate(zip(recording, start, strict=True)):
            if n_kept == records[0]["limit"]:
                break
            raw, measured, reason = [], [], None
            for i, begin, channel in zip(which, begins, shard.contract.channels, strict=True):
                values = opened.read(i, begin, begin + int(samples[i]))
                if values is None:
                    reason = "unreadable"
                    break
                one = quality.measure(
                    values, fs_hz=records[i]["fs_hz"], flat_rule=shard.config.flat_rule,
                    channel=channel, template=shard.config.min_template is not None,
                )  # fmt: skip
                reason = one.reason(shard.config)
                if reason is not None:
                    break
                raw.append(quality.fill_gaps(values))
                measured.append(
                    {
                        "q_invalid": one.invalid,
                        "q_flat": one.flat,
                        "q_saturated": one.saturated,
                        "q_rate_per_min": one.rate_per_min,
                        "q_wrapped": float(one.wrapped),
                        "q_template": one.template,
                        "q_step": one.step,
                    }
                )
            if reason is not None:
                self.lost[reason] += 1
                continue
            n_kept += 1
            yield Kept(draw, tuple(which), tuple(begins), tuple(raw), tuple(measured))

    def _reread(self, records: list[dict[str, Any]], opened: Opened, chosen: pl.DataFrame) -> Iterator[Kept]:
        """Yield the windows that were chosen before.

        Raises
        ------
        SignalError
            One of them can no longer be read.
        """
        places = {record["recording_id"]: i for i, record in enumerate(records)}
        channels = self.shard.contract.channels
        for row in chosen.filter(pl.col("encounter_id") == records[0]["encounter_id"]).iter_rows(named=True):
            which, begins, raw, measured = [], [], [], []
            for channel in channels:
                i = places[row[of_channel("recording_id", channels, channel)]]
                begin = row[of_channel("start_sample", channels, channel)]
                values = opened.read(i, begin, begin + window_samples(records[i], self.shard.window_s))
                if values is None or not np.isfinite(values).any():
                    raise SignalError(
                        f"a window that was chosen before, of {records[i]['path']}, can no longer be read",
                        cure="give the command without --from, or with another --out, so that windows are drawn anew",
                    )
                which.append(i)
                begins.append(begin)
                raw.append(quality.fill_gaps(values))
                measured.append({name: row.get(of_channel(name, channels, channel), float("nan")) for name in QUALITY})
            yield Kept(row["draw"], tuple(which), tuple(begins), tuple(raw), tuple(measured))

    def reject(self, record: dict[str, Any], detail: str) -> None:
        """Note that a recording could not be read."""
        path = "/".join(str(record[part]) for part in ("path", "member") if record[part])
        self.rejects.append(
            {"table": "windows", "source": "recordings", "path": path, "reason": "read_failed", "detail": detail}
        )


def window_samples(record: Mapping[str, Any], window_s: float) -> int:
    """Return the samples of one window of a recording."""
    return max(1, round(window_s * float(record["fs_hz"])))


def drawn(
    records: list[dict[str, Any]], shard: Shard
) -> tuple[list[list[int]], list[list[int]], NDArray[np.int64]]:
    """Return an encounter's windows in drawn order (recordings and first samples by channel), and their lengths."""
    samples = np.array([window_samples(record, shard.window_s) for record in records], dtype=np.int64)
    encounter_id, channels = records[0]["encounter_id"], shard.contract.channels
    if len(channels) > 1:
        grid = matched_candidates(
            records, channels, window_s=shard.window_s, seed=shard.seed, encounter_id=encounter_id
        )
        return grid.recording.tolist(), grid.start_sample.tolist(), samples
    lengths = np.array([record["n_samples"] for record in records], dtype=np.int64)
    grid = candidates(lengths, samples, seed=shard.seed, encounter_id=encounter_id)
    return grid.recording[:, None].tolist(), grid.start_sample[:, None].tolist(), samples


def needs_survey(contract: InputContract) -> bool:
    """Tell whether a contract asks something of whole recordings."""
    return "recording" in (contract.normalise_scope, contract.polarity)
