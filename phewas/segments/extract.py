"""The segments step: draw windows first, read only those, and write the store shard by shard."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from phewas.config import SegmentConfig
from phewas.encoders.registry import InputContract
from phewas.engine import map_shards
from phewas.errors import EncoderError, SignalError
from phewas.rundir import write_npy, write_parquet
from phewas.schema import Encounters, Flow, Recordings, Rejects, Splits, Windows
from phewas.segments import quality
from phewas.segments.filtering import prepare, rate_is_enough
from phewas.segments.readers import Recording, open_recording
from phewas.segments.store import contract_folder, windows_file
from phewas.segments.windows import candidates

FLOW_FILE = "segments/flow.parquet"
REJECTS_FILE = "segments/rejects.parquet"
PARTS = ".parts"
ALL = 2**31  # more windows than any encounter has

# Why a drawn window was not kept, in the words of the flow table.
WINDOW_REASONS = {
    "invalid": "windows with too many missing samples",
    "flat": "windows with flat stretches",
    "saturated": "windows with clipped crests or troughs",
    "pulse_rate": "windows with a pulse rate out of range or none",
    "rate": "windows of recordings sampled too slowly for the encoder's band",
    "unreadable": "windows that could not be read",
}


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


def extract(
    run: Path, *, root: Path, contract: InputContract, config: SegmentConfig, window_s: float, seed: int, workers: int,
    fingerprint: str,
) -> None:  # fmt: skip
    """Choose windows for every encounter and write them standardised.

    Parameters
    ----------
    run
        Run directory; reads the cohort tables, writes ``segments/``.
    root
        Data root that the recordings' paths are relative to.
    contract
        The encoder's input; only its first channel's recordings are cut, so it must name one channel.
    config, window_s, seed
        Which windows.
    workers
        Processes; the result does not depend on their number.
    fingerprint
        Names the folder of unfinished work, so that a killed run goes on and another configuration starts anew.

    Raises
    ------
    EncoderError
        The contract asks for more than one channel.
    SignalError
        No encounter has a usable window.
    """
    if len(contract.channels) != 1:
        raise EncoderError(
            f"the encoder wants the channels {', '.join(contract.channels)} together",
            expected="an encoder of one channel; windows matched over channels are not cut yet",
        )
    channel = contract.channels[0]
    recordings = _with_limits(_ordered(run, channel), run, config)
    folder = run / "segments" / f".work-{fingerprint[:16]}"
    for stale in (run / "segments").glob(".work-*"):
        if stale != folder:
            shutil.rmtree(stale)
    encounters = recordings.get_column("encounter_id").unique(maintain_order=True)
    size = config.shard_encounters
    shards = [
        Shard(
            number=at // size,
            folder=folder,
            root=root,
            recordings=recordings.filter(pl.col("encounter_id").is_in(encounters[at : at + size].to_list())),
            contract=contract,
            config=config,
            window_s=window_s,
            seed=seed,
        )
        for at in range(0, len(encounters), size)
    ]
    map_shards(extract_shard, shards, task="segments", unit="shards", workers=workers)
    _publish(run, folder, len(shards), contract, config, window_s, encounters.len())


def _ordered(run: Path, channel: str) -> pl.DataFrame:
    """Return the channel's recordings with their patients, by encounter, then start, then id."""
    recordings = Recordings.read(run).filter(pl.col("channel") == channel)
    if not recordings.height:
        raise SignalError(
            f"the cohort has no {channel} recording", cure="look at cohort/rejects.parquet for the reasons"
        )
    patients = Encounters.read(run).select("encounter_id", "patient_id")
    joined = recordings.join(patients, on="encounter_id", how="left", maintain_order="left")
    return joined.sort("encounter_id", "start", "recording_id", nulls_last=True)


def _with_limits(recordings: pl.DataFrame, run: Path, config: SegmentConfig) -> pl.DataFrame:
    """Add how many windows each encounter may keep: `n_segments`, or `pool` for training patients."""
    usual = pl.lit(ALL if config.n_segments == "all" else config.n_segments, dtype=pl.Int64)
    if config.pool is None:
        return recordings.with_columns(usual.alias("limit"))
    sides = Splits.read(run).select("patient_id", "split")
    larger = pl.when(pl.col("split") == "train").then(pl.max_horizontal(usual, pl.lit(config.pool))).otherwise(usual)
    joined = recordings.join(sides, on="patient_id", how="left", maintain_order="left")
    return joined.with_columns(larger.alias("limit"))


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
    rows: list[dict[str, object]] = []
    blocks: list[np.ndarray] = []
    lost: Counter[str] = Counter()
    rejects: list[dict[str, object]] = []
    for _, group in shard.recordings.group_by("encounter_id", maintain_order=True):
        _encounter(group, shard, rows, blocks, lost, rejects)
    samples = shard.contract.length(shard.window_s)
    values = np.concatenate(blocks).astype(np.float16) if blocks else np.empty((0, samples), np.float16)
    index = pl.DataFrame(
        rows,
        schema=Windows.dtypes()
        | dict.fromkeys(("q_invalid", "q_flat", "q_saturated", "q_rate_per_min", "offset", "scale"), pl.Float32),
        orient="row",
    )
    write_npy(values, shard.folder / shard.contract.channels[0] / f"shard-{shard.number:05d}.npy")
    write_parquet(
        pl.DataFrame({"reason": list(lost), "n": list(lost.values())}, schema={"reason": pl.String, "n": pl.Int64}),
        parts / f"lost-{shard.number:05d}.parquet",
    )
    write_parquet(Rejects.check(Rejects.build(rejects)), parts / f"rejects-{shard.number:05d}.parquet")
    # The index comes last: its presence says that the shard is whole.
    write_parquet(index, index_file)
    return index.height


def _encounter(
    group: pl.DataFrame,
    shard: Shard,
    rows: list[dict[str, object]],
    blocks: list[np.ndarray],
    lost: Counter[str],
    rejects: list[dict[str, object]],
) -> None:
    """Choose and prepare the windows of one encounter."""
    records = group.to_dicts()
    fs = group.get_column("fs_hz").to_numpy()
    window = np.maximum(1, np.round(shard.window_s * fs)).astype(np.int64)
    grid = candidates(
        group.get_column("n_samples").to_numpy(), window, seed=shard.seed, encounter_id=records[0]["encounter_id"]
    )
    opened: dict[int, Recording | None] = {}
    kept: list[tuple[int, int, int, np.ndarray, quality.Quality]] = []
    for draw, (which, start) in enumerate(zip(grid.recording.tolist(), grid.start_sample.tolist(), strict=True)):
        if len(kept) == records[0]["limit"]:
            break
        if not rate_is_enough(shard.contract, fs[which]):
            lost["rate"] += 1
            continue
        raw = _read(which, start, start + int(window[which]), records, shard, opened, rejects)
        if raw is None:
            lost["unreadable"] += 1
            continue
        measured = quality.measure(raw, fs_hz=fs[which], flat_rule=shard.config.flat_rule)
        reason = measured.reason(shard.config)
        if reason is not None:
            lost[reason] += 1
        else:
            kept.append((draw, which, start, quality.fill_gaps(raw), measured))
    if len(kept) < shard.config.min_segments:
        return
    order = {id(item): place for place, item in enumerate(kept)}
    values = np.empty((len(kept), shard.contract.length(shard.window_s)), np.float32)
    offset, scale = np.empty(len(kept), np.float32), np.empty(len(kept), np.float32)
    for rate in sorted({fs[item[1]] for item in kept}):
        same = [item for item in kept if fs[item[1]] == rate]
        done = prepare(
            np.stack([item[3] for item in same]), fs_hz=rate, contract=shard.contract, window_s=shard.window_s
        )
        places = [order[id(item)] for item in same]
        values[places], offset[places], scale[places] = done.values, done.offset, done.scale
    blocks.append(values)
    for place, (draw, which, start, _, measured) in enumerate(kept):
        record = records[which]
        rows.append(
            {
                "segment_id": f"{record['recording_id']}:{start}",
                "encounter_id": record["encounter_id"],
                "patient_id": record["patient_id"],
                "recording_id": record["recording_id"],
                "start_sample": start,
                "draw": draw,
                "q_invalid": measured.invalid,
                "q_flat": measured.flat,
                "q_saturated": measured.saturated,
                "q_rate_per_min": measured.rate_per_min,
                "offset": offset[place],
                "scale": scale[place],
            }
        )


def _read(
    which: int,
    start: int,
    stop: int,
    records: list[dict[str, object]],
    shard: Shard,
    opened: dict[int, Recording | None],
    rejects: list[dict[str, object]],
) -> np.ndarray | None:
    """Return one raw window, or None if its recording cannot be read (rejected once, with the reason)."""
    record = records[which]
    try:
        if which not in opened:
            opened[which] = open_row(shard.root, record)
        recording = opened[which]
        return None if recording is None else recording.read(start, stop)
    except (SignalError, OSError) as error:
        opened[which] = None
        detail = error.found if isinstance(error, SignalError) else type(error).__name__
        rejects.append(
            {
                "table": "windows",
                "source": "recordings",
                "path": "/".join(str(record[part]) for part in ("path", "member") if record[part]),
                "reason": "read_failed",
                "detail": detail,
            }
        )
        return None


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


def _publish(
    run: Path, folder: Path, n_shards: int, contract: InputContract, config: SegmentConfig, window_s: float, n_in: int
) -> None:
    """Write the tables that describe the finished shards, then rename their folder to its place in one go."""
    parts = folder / PARTS
    index = _joined(parts, "shard", n_shards)
    if not index.height:
        raise SignalError(
            f"no {contract.channels[0]} recording has a usable window of {window_s:g} s",
            expected=f"at least {config.min_segments} clean window(s) in some encounter",
            cure="look at cohort/rejects.parquet; shorter windows: [segments] window_s in a --config file",
        )
    windows = Windows.check(index.drop("offset", "scale"))
    counts = dict(_joined(parts, "lost", n_shards).group_by("reason").agg(pl.col("n").sum()).iter_rows())
    per_encounter = index.group_by("encounter_id").len()
    drawn = index.height + sum(counts.values())
    flow = [
        ("encounters", n_in, per_encounter.height, f"fewer than {config.min_segments} usable {window_s:g}-s windows")
    ]
    for reason, words in WINDOW_REASONS.items():
        if counts.get(reason):
            flow.append(("segments", drawn, drawn - counts[reason], words))
            drawn -= counts[reason]
    names = ("unit", "n_in", "n_out", "reason")
    rows: list[dict[str, object]] = [{"step": "segments"} | dict(zip(names, row, strict=True)) for row in flow]
    if config.n_segments != "all":
        short = per_encounter.filter(pl.col("len") < config.n_segments).height
        words = f"with fewer than {config.n_segments} windows, kept with what they have"
        note = {"unit": "encounters", "n_in": per_encounter.height, "n_out": short, "reason": words, "kind": "note"}
        rows.append({"step": "segments"} | note)
    write_parquet(Flow.check(Flow.build(rows)), run / FLOW_FILE)
    write_parquet(Rejects.check(_joined(parts, "rejects", n_shards)), run / REJECTS_FILE)
    write_parquet(windows, windows_file(run, window_s=window_s, channels=contract.channels))
    write_parquet(index, folder / "index.parquet")
    target = contract_folder(run, contract)
    if target.exists():
        shutil.rmtree(target)
    folder.rename(target)
    shutil.rmtree(target / PARTS)


def _joined(parts: Path, name: str, n_shards: int) -> pl.DataFrame:
    """Return the shards' tables of one kind as one."""
    return pl.concat([pl.read_parquet(parts / f"{name}-{i:05d}.parquet") for i in range(n_shards)])
