"""The segments step: draw windows first, read only those, and write the store shard by shard."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl
import polars.selectors as cs

from phewas.config import SegmentConfig
from phewas.encoders.registry import InputContract
from phewas.engine import ShardsFailedError, map_shards
from phewas.errors import SchemaError, SignalError
from phewas.rundir import digest_of, write_json, write_parquet
from phewas.schema import Encounters, Flow, Recordings, Rejects, Splits, Windows
from phewas.segments.cutting import Shard, blame, extract_shard
from phewas.segments.filtering import holds_band
from phewas.segments.opened import PARTS, Journal
from phewas.segments.store import choice_file, contract_folder, of_channel, windows_file

FLOW_FILE = "segments/flow.parquet"
REJECTS_FILE = "segments/rejects.parquet"
FAILED_FILE = "segments/failed.parquet"
ALL = 2**31  # more windows than any encounter has

# Why a drawn window was not kept, in the words of the flow table.
WINDOW_REASONS = {
    "invalid": "windows with too many missing samples",
    "flat": "windows with flat stretches",
    "saturated": "windows with clipped crests or troughs",
    "wrapped": "windows with numbers that overflowed",
    "gap": "windows with a gap too long to be bridged",
    "template": "windows whose beats are unlike their average",
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
        The encoder's input. Of several channels, windows are cut where all are recorded at the same time.
    config, window_s, seed
        Which windows.
    workers
        Processes; the result does not depend on their number.
    fingerprint
        Names the folder of unfinished work, so that a killed run goes on and another configuration starts anew.

    Raises
    ------
    EncoderError
        The contract insists on another window length, or a rate cannot be resampled to its own.
    SignalError
        A channel is not in the cohort, no encounter has a usable window, or one that was chosen before is gone.
    ShardsFailedError
        Some shards ended or stalled their worker again and again, even without the recordings that did it twice.

    Notes
    -----
    ``segments/failed.parquet``, where there is one, names the recordings that were left out because they ended or
    stalled their worker (``why`` is ``recording``), and those of shards that could not be finished (``shard``), with
    the number of ``deaths`` of a worker that had the recording open.

    The choice of windows does not depend on the encoder beyond its channels. Where the run directory holds the table of
    windows that this very choice made (of another contract's extraction), it is used again, in the same row order.
    """
    contract.check_window(window_s)
    recordings = _with_limits(_ordered(run, contract.channels), run, config)
    depends = {"config": chosen_by(config), "window_s": window_s, "seed": seed, "recordings": _hash_of(recordings)}
    choice = digest_of(depends)
    chosen, counted = _chosen_before(run, contract, window_s, choice)
    folder = run / "segments" / f".work-{fingerprint[:16]}"
    for stale in (run / "segments").glob(".work-*"):
        if stale != folder:
            shutil.rmtree(stale)
    encounters = recordings.get_column("encounter_id").unique(maintain_order=True)
    if counted is None:
        (run / REJECTS_FILE).unlink(missing_ok=True)
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
            chosen=None
            if chosen is None
            else chosen.filter(pl.col("encounter_id").is_in(encounters[at : at + size].to_list())),
        )
        for at in range(0, len(encounters), size)
    ]
    try:
        map_shards(extract_shard, shards, task="segments", unit="shards", workers=workers, on_death=blame)
    except ShardsFailedError as error:
        _name_failed(run, recordings, shards, [shards[number] for number in error.failed])
        raise
    _name_failed(run, recordings, shards, [], keep=counted is not None)
    index = _joined(folder / PARTS, "shard", len(shards))
    if counted is None:
        lost = _joined(folder / PARTS, "lost", len(shards)).group_by("reason").agg(pl.col("n").sum())
        counted = {"choice": choice, "encounters": encounters.len(), "lost": dict(sorted(lost.iter_rows()))}
        write_parquet(Rejects.check(_joined(folder / PARTS, "rejects", len(shards))), run / REJECTS_FILE)
    _publish(run, folder, index, counted, contract, config, window_s)


def _name_failed(
    run: Path, recordings: pl.DataFrame, shards: Sequence[Shard], failed: Sequence[Shard], *, keep: bool = False
) -> None:
    """Name in a table what was left out: recordings that ended workers, and all of shards that were given up.

    With `keep`, what the table names already stays: the windows that are cut were chosen without those recordings.
    """
    journals = [Journal(shard.folder, shard.number) for shard in shards]
    deaths = [name for journal in journals for name in journal.blamed()]
    avoided = [name for journal in journals for name in journal.to_avoid()]
    given_up = [name for shard in failed for name in shard.recordings.get_column("recording_id")]
    before = pl.read_parquet(run / FAILED_FILE) if keep and (run / FAILED_FILE).is_file() else None
    (run / FAILED_FILE).unlink(missing_ok=True)
    if not avoided and not given_up:
        if before is not None:
            write_parquet(before, run / FAILED_FILE)
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
    if before is not None:
        table = pl.concat([before.filter(~names.is_in(avoided + given_up)), table])
    write_parquet(table, run / FAILED_FILE)


def chosen_by(config: SegmentConfig) -> dict[str, object]:
    """Return the settings that the choice of windows depends on, JSON-ready."""
    return config.model_dump(mode="json", exclude={"window_s", "channels", "mains_hz", "shard_encounters"})


def _hash_of(recordings: pl.DataFrame) -> str:
    """Return a hash of what the choice of windows depends on in the table of recordings."""
    columns = ("recording_id", "encounter_id", "channel", "fs_hz", "n_samples", "start", "limit")
    return hashlib.blake2b(recordings.select(columns).write_csv().encode(), digest_size=16).hexdigest()


def _chosen_before(
    run: Path, contract: InputContract, window_s: float, choice: str
) -> tuple[pl.DataFrame | None, dict[str, Any] | None]:
    """Return the windows that lie in the run directory, and what was counted, if this very choice made them."""
    table = windows_file(run, window_s=window_s, channels=contract.channels)
    record = choice_file(run, window_s=window_s, channels=contract.channels)
    if not (table.is_file() and record.is_file() and (run / REJECTS_FILE).is_file()):
        return None, None
    try:
        counted: dict[str, Any] = json.loads(record.read_text(encoding="utf-8"))
        windows = Windows.check(pl.read_parquet(table, hive_partitioning=False))
    except (ValueError, pl.exceptions.PolarsError, SchemaError):
        return None, None
    return (windows, counted) if counted.get("choice") == choice else (None, None)


def _ordered(run: Path, channels: tuple[str, ...]) -> pl.DataFrame:
    """Return the channels' recordings with their patients, by encounter, then start, then id.

    Of several channels, only of encounters that have a recording of each.
    """
    everything = Recordings.read(run)
    recordings = everything.filter(pl.col("channel").is_in(list(channels)))
    missing = [c for c in channels if not (recordings.get_column("channel") == c).any()]
    if missing:
        others = sorted(everything.get_column("channel").unique().to_list())
        raise SignalError(
            f"the cohort has no {' and no '.join(missing)} recording",
            expected=f"recordings of {'+'.join(channels)}; there are {', '.join(others) or 'none'}",
            cure="an encoder of another channel (phewas encoders); another lead in its place, where there is one "
            f'([segments] channels = {{{missing[0]} = "RECORDED"}} in a --config file); or look at '
            "cohort/rejects.parquet for the reasons",
        )
    if len(channels) > 1:
        complete = recordings.group_by("encounter_id").agg(pl.col("channel").n_unique().alias("n"))
        complete = complete.filter(pl.col("n") == len(channels))
        recordings = recordings.join(complete, on="encounter_id", how="semi", maintain_order="left")
        if not recordings.height:
            raise SignalError(f"no encounter has recordings of {' and '.join(channels)}",
                              cure="an encoder of one channel: phewas encoders")  # fmt: skip
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
    run: Path, folder: Path, index: pl.DataFrame, counted: dict[str, Any], contract: InputContract,
    config: SegmentConfig, window_s: float,
) -> None:  # fmt: skip
    """Write the tables that describe the finished shards, then rename their folder to its place in one go."""
    names = "+".join(contract.channels)
    if not index.height:
        together = " recorded at the same time" if len(contract.channels) > 1 else ""
        raise SignalError(
            f"no {names} recording has a usable window of {window_s:g} s{together}",
            expected=f"at least {config.min_segments} clean window(s) in some encounter",
            cure="look at cohort/rejects.parquet; shorter windows: [segments] window_s in a --config file",
        )
    windows = Windows.check(index.drop(cs.matches("^(offset|scale)($|_)")))
    counts: dict[str, int] = counted["lost"]
    per_encounter = index.group_by("encounter_id").len()
    drawn = index.height + sum(counts.values())
    words = f"fewer than {config.min_segments} usable {window_s:g}-s windows"
    if len(contract.channels) > 1:
        words += f" with {' and '.join(contract.channels)} recorded at the same time"
    flow = [("encounters", int(counted["encounters"]), per_encounter.height, words)]
    for reason, words in WINDOW_REASONS.items():
        if counts.get(reason):
            flow.append(("segments", drawn, drawn - counts[reason], words))
            drawn -= counts[reason]
    columns = ("unit", "n_in", "n_out", "reason")
    rows: list[dict[str, object]] = [{"step": "segments"} | dict(zip(columns, row, strict=True)) for row in flow]
    if config.n_segments != "all":
        short = per_encounter.filter(pl.col("len") < config.n_segments).height
        words = f"with fewer than {config.n_segments} windows, kept with what they have"
        note = {"unit": "encounters", "n_in": per_encounter.height, "n_out": short, "reason": words, "kind": "note"}
        rows.append({"step": "segments"} | note)
    slow = _slow(index, run, contract)
    if slow:
        words = "sampled too slowly for all of the encoder's band, kept"
        note = {"unit": "segments", "n_in": index.height, "n_out": slow, "reason": words, "kind": "note"}
        rows.append({"step": "segments"} | note)
    write_parquet(Flow.check(Flow.build(rows)), run / FLOW_FILE)
    write_json(counted, choice_file(run, window_s=window_s, channels=contract.channels))
    write_parquet(windows, windows_file(run, window_s=window_s, channels=contract.channels))
    write_parquet(index, folder / "index.parquet")
    for left in folder.rglob(".*.tmp"):
        left.unlink(missing_ok=True)  # of a worker that was killed while it wrote
    target = contract_folder(run, contract)
    if target.exists():
        shutil.rmtree(target)
    folder.rename(target)
    shutil.rmtree(target / PARTS)


def _slow(index: pl.DataFrame, run: Path, contract: InputContract) -> int:
    """Return how many windows come from recordings whose rate does not hold the contract's band."""
    rates = Recordings.read(run).select("recording_id", "fs_hz", "channel").filter(
        pl.col("channel").is_in(list(contract.channels))
    )  # fmt: skip
    slow = [name for name, fs_hz, channel in rates.iter_rows() if not holds_band(contract, channel, fs_hz)]
    columns = [of_channel("recording_id", contract.channels, channel) for channel in contract.channels]
    return index.filter(pl.any_horizontal(pl.col(c).is_in(slow) for c in columns)).height if slow else 0


def _joined(parts: Path, name: str, n_shards: int) -> pl.DataFrame:
    """Return the shards' tables of one kind as one."""
    return pl.concat([pl.read_parquet(parts / f"{name}-{i:05d}.parquet") for i in range(n_shards)])
