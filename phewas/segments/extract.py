"""The segments step: draw windows first, read only those, and write the store shard by shard."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import polars as pl

from phewas.config import SegmentConfig
from phewas.encoders.registry import InputContract
from phewas.engine import ShardsFailedError, map_shards
from phewas.errors import EncoderError, SignalError
from phewas.rundir import write_parquet
from phewas.schema import Encounters, Flow, Recordings, Rejects, Splits, Windows
from phewas.segments.cutting import PARTS, Journal, Shard, blame, extract_shard
from phewas.segments.store import contract_folder, windows_file

FLOW_FILE = "segments/flow.parquet"
REJECTS_FILE = "segments/rejects.parquet"
FAILED_FILE = "segments/failed.parquet"
ALL = 2**31  # more windows than any encounter has

# Why a drawn window was not kept, in the words of the flow table.
WINDOW_REASONS = {
    "invalid": "windows with too many missing samples",
    "flat": "windows with flat stretches",
    "saturated": "windows with clipped crests or troughs",
    "pulse_rate": "windows with a pulse rate out of range or none",
    "unreadable": "windows that could not be read",
}


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
    ShardsFailedError
        Some shards ended or stalled their worker again and again, even without the recordings that did it twice.

    Notes
    -----
    ``segments/failed.parquet``, where there is one, names the recordings that were left out because they ended or
    stalled their worker (``why`` is ``recording``), and those of shards that could not be finished (``shard``), with
    the number of ``deaths`` of a worker that had the recording open.
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
            folder=folder.absolute(),  # a worker may have another working folder
            root=root.absolute(),
            recordings=recordings.filter(pl.col("encounter_id").is_in(encounters[at : at + size].to_list())),
            contract=contract,
            config=config,
            window_s=window_s,
            seed=seed,
        )
        for at in range(0, len(encounters), size)
    ]
    try:
        map_shards(extract_shard, shards, task="segments", unit="shards", workers=workers, on_death=blame)
    except ShardsFailedError as error:
        _name_failed(run, recordings, shards, [shards[number] for number in error.failed])
        raise
    _name_failed(run, recordings, shards, [])
    _publish(run, folder, len(shards), contract, config, window_s, encounters.len())


def _name_failed(run: Path, recordings: pl.DataFrame, shards: Sequence[Shard], failed: Sequence[Shard]) -> None:
    """Name in a table what was left out: recordings that ended workers, and all of shards that were given up."""
    journals = [Journal(shard.folder, shard.number) for shard in shards]
    deaths = [name for journal in journals for name in journal.blamed()]
    avoided = [name for journal in journals for name in journal.to_avoid()]
    given_up = [name for shard in failed for name in shard.recordings.get_column("recording_id")]
    (run / FAILED_FILE).unlink(missing_ok=True)
    if not avoided and not given_up:
        return
    counted = pl.DataFrame({"recording_id": deaths}, schema={"recording_id": pl.String})
    names = pl.col("recording_id")
    table = (
        recordings.filter(names.is_in(avoided + given_up))
        .join(counted.group_by("recording_id").agg(pl.len().cast(pl.Int64).alias("deaths")), on="recording_id",
              how="left", maintain_order="left")
        .select(
            "recording_id", "path", "member", pl.col("deaths").fill_null(0),
            why=pl.when(names.is_in(avoided)).then(pl.lit("recording")).otherwise(pl.lit("shard")),
        )
    )  # fmt: skip
    write_parquet(table, run / FAILED_FILE)


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
