"""An emulated hospital of any size in the layout of MC-MED: tables and waveforms, in blocks of patients.

Nothing inside the tree says that it is emulated; ``emulated.json`` beside it does, and holds what was planted.
"""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import polars as pl

from phewas import engine
from phewas.cohorts.emulator.charts import lab_rows, numeric_rows, order_rows, radiology_rows
from phewas.cohorts.emulator.headers import SUMMARY_COLUMNS
from phewas.cohorts.emulator.history import history_rows, medication_rows
from phewas.cohorts.emulator.hospital import OPENS_DAY, Block, Hospital
from phewas.cohorts.emulator.options import Options
from phewas.cohorts.emulator.planted import PLANTED_HOSPITAL
from phewas.cohorts.emulator.text import append
from phewas.cohorts.emulator.traces import RATES_HZ, write_block
from phewas.cohorts.emulator.visits import visit_rows
from phewas.errors import CohortError
from phewas.progress import progress
from phewas.rundir import atomic, write_json

MARKER = "emulated.json"
BLOCK_PATIENTS = 1_000
SHARD_PATIENTS = 50
SIDES = ("train", "val", "test")
TABLES: dict[str, Callable[[Hospital, Block], pl.DataFrame]] = {
    "visits": visit_rows,
    "pmh": history_rows,
    "meds": medication_rows,
    "orders": order_rows,
    "labs": lab_rows,
    "rads": radiology_rows,
    "numerics": numeric_rows,
}
# Measured: bytes of the tables per patient without and with numerics.csv.
TABLE_BYTES, NUMERIC_BYTES = 9_000, 16_000


@dataclass(frozen=True)
class Emulated:
    """What was written.

    Parameters
    ----------
    root, marker
        The tree, and the file beside it that says what it is.
    rows
        Data rows by table (name without ``.csv``).
    n_visits, n_monitored_visits
        Visits, and those with waveforms (0 where none were written).
    """

    root: Path
    marker: Path
    rows: dict[str, int]
    n_visits: int
    n_monitored_visits: int


def emulate_mcmed(
    root: Path, *, options: Options, seed: int = 0, workers: int | None = None, block_patients: int = BLOCK_PATIENTS
) -> Emulated:
    """Write an emulated MC-MED tree to `root`, and the truth to ``emulated.json`` beside it.

    Parameters
    ----------
    root
        Folder to write; it must not exist, or be empty. It appears under this name only when it is complete.
    options
        Size, shares and traps; `phewas.cohorts.emulator.options.options` makes them from a preset.
    seed
        The same seed and options give the same bytes, for any number of workers and any size of block. The first
        patients do not depend on how many there are.
    workers
        Processes that write waveforms; None takes one per processor.
    block_patients
        Patients made at a time; it bounds the memory (about 100 MB for 1,000).

    Returns
    -------
    Emulated
        Numbers of rows, for comparison with what a reader finds.

    Raises
    ------
    CohortError
        `root` holds files, its disk is too small, or a truth file of another tree lies beside it under both names.
    """
    root = root.absolute()
    marker = _claim(root)
    o = options.effective()
    _check_space(root, o)
    hospital = Hospital(o, seed=seed)
    growing = root.with_name(f".{root.name}.growing")
    shutil.rmtree(growing, ignore_errors=True)
    growing.mkdir(parents=True)
    try:
        truth, rows = _write_tables(growing, hospital, block_patients)
        (growing / "waveforms").mkdir()
        rows["waveform_summary"] = _write_waveforms(growing, hospital, workers)
        if o.waveforms and o.zip:
            pack(growing)
        write_json(_describe(root.name, hospital, options, truth, rows), marker)
        if root.is_dir():
            root.rmdir()
        growing.rename(root)
    finally:
        shutil.rmtree(growing, ignore_errors=True)
    n_monitored = truth["n_monitored_visits"] if o.waveforms else 0
    return Emulated(root, marker, rows, hospital.n_visits, n_monitored)


def _claim(root: Path) -> Path:
    """Return where the truth goes, after a look at what is there already."""
    if root.exists() and (not root.is_dir() or any(root.iterdir())):
        raise CohortError(
            f"{root} exists already and is not an empty folder",
            expected="a new or an empty folder",
            cure="give another folder, or remove this one",
        )
    for name in (MARKER, f"{root.name}.{MARKER}"):
        file = root.parent / name
        if not file.exists() or f'"tree": "{root.name}"' in file.read_text(encoding="utf-8", errors="replace"):
            return file
    raise CohortError(f"{MARKER} and {root.name}.{MARKER} in {root.parent} belong to other trees",
                      cure="give a folder elsewhere")  # fmt: skip


def size_bytes(o: Options) -> int:
    """Return about how many bytes a tree takes; lengths are heavy-tailed, so it may well be off by a third."""
    total = o.patients * (TABLE_BYTES + (NUMERIC_BYTES if o.numerics else 0))
    if not o.waveforms:
        return int(total)
    rng = np.random.default_rng(0)
    z = rng.standard_normal((2, 4_000))
    spread = np.log(o.segments_p99 / o.segments_median) / 2.3263
    count = np.clip((o.segments_median + 0.5) * np.exp(spread * z[0]), 1, o.segments_max).mean()
    lengths_s = np.minimum(o.segment_median_s * np.exp(o.segment_sigma * z[1]), o.segment_max_s)
    seconds = lengths_s.mean() * o.duration_scale
    stay_s = o.los_median_h * 3600
    per_channel = min(count * max(seconds, 2.0) + o.long_overlap * o.long_overlap_s * o.duration_scale, stay_s)
    with_channel = {"II": o.both_channels + o.ecg_only, "Pleth": o.both_channels + o.ppg_only, "Resp": o.resp_share}
    bytes_per_s = 2 * sum(RATES_HZ[name] * share for name, share in with_channel.items())
    return int(total + o.patients * o.visits_mean * o.monitored * per_channel * bytes_per_s)


def _check_space(root: Path, o: Options) -> None:
    parent = root.parent
    while not parent.is_dir():
        parent = parent.parent
    needed, free = size_bytes(o), shutil.disk_usage(parent).free
    if needed > free:
        raise CohortError(
            f"the emulated tree needs about {needed / 1e9:.1f} GB, and {parent} has {free / 1e9:.1f} GB",
            cure="give fewer --patients, --no-waveforms, or --set duration_scale=0.05",
        )


def _write_tables(growing: Path, hospital: Hospital, block_patients: int) -> tuple[dict[str, Any], dict[str, int]]:
    """Write all tables but waveform_summary.csv, block by block; return counts for the truth, and rows by table."""
    o = hospital.options
    names = [name for name in TABLES if name != "numerics" or o.numerics]
    rows = dict.fromkeys(names, 0)
    n_planted = len(PLANTED_HOSPITAL)
    patients, visits, monitored = np.zeros(n_planted, int), np.zeros(n_planted, int), 0
    with contextlib.ExitStack() as stack:
        files: dict[str, IO[Any]] = {n: stack.enter_context(atomic(growing / f"{n}.csv")) for n in names}
        splits = {
            (kind, side): stack.enter_context(atomic(growing / f"split_{kind}_{name}.csv"))
            for kind in ("random", "chrono")
            for side, name in enumerate(SIDES)
        }
        advance = stack.enter_context(progress("tables", total=o.patients, unit="patients"))
        for block in _blocks(hospital, block_patients):
            for name in names:
                rows[name] += append(files[name], TABLES[name](hospital, block), header=int(block.index[0]) == 0)
            first_day = block.opening_day - block.shift_days - OPENS_DAY
            for kind in ("random", "chrono"):
                sides = hospital.split_side(kind, block.index, first_day)[block.person]
                for side in range(3):
                    splits[kind, side].write("".join(f"{csn}\n" for csn in block.csn[sides == side].tolist()).encode())
            patients += (~np.isnan(block.onsets)).sum(axis=0)
            visits += block.begun()[block.monitored].sum(axis=0)
            monitored += int(block.monitored.sum())
            advance(len(block.index), "")
    truth = {"n_case_patients": patients, "n_monitored_case_visits": visits, "n_monitored_visits": monitored}
    return truth, rows


def _blocks(hospital: Hospital, size: int) -> Iterator[Block]:
    for first in range(0, hospital.options.patients, size):
        yield hospital.block(first, min(first + size, hospital.options.patients))


@dataclass(frozen=True)
class _Shard:
    """One worker's share: patients `first` to `stop - 1`."""

    root: str | None
    options: Options
    seed: int
    first: int
    stop: int


_made: dict[tuple[Options, int], Hospital] = {}


def _write_shard(shard: _Shard) -> list[tuple[int, str, int, float]]:
    """Write the waveforms of a shard; the hospital is made once per process."""
    key = (shard.options, shard.seed)
    if key not in _made:
        _made.clear()
        _made[key] = Hospital(shard.options, seed=shard.seed)
    return write_block(Path(shard.root) if shard.root else None, _made[key], _made[key].block(shard.first, shard.stop))


def _write_waveforms(growing: Path, hospital: Hospital, workers: int | None) -> int:
    """Write the waveform tree, unless it is not asked for, and its summary table; return the rows of the summary."""
    o = hospital.options
    root, size = (str(growing.absolute() / "waveforms"), SHARD_PATIENTS) if o.waveforms else (None, BLOCK_PATIENTS)
    shards = [
        _Shard(root, o, hospital.seed, first, min(first + size, o.patients)) for first in range(0, o.patients, size)
    ]
    # Starting processes takes longer than some hundred visits.
    count = (workers or engine.default_workers()) if len(shards) > 8 else 1
    task = "waveforms" if o.waveforms else "summary"
    parts = engine.map_shards(_write_shard, shards, task=task, unit="blocks", workers=count)
    rows = [row for part in parts for row in part]
    lines = [",".join(SUMMARY_COLUMNS), *(f"{csn},{kind},{n},{seconds:.3f}" for csn, kind, n, seconds in rows)]
    with atomic(growing / "waveform_summary.csv", "w") as handle:
        handle.write("\n".join(lines) + "\n")
    return len(rows)


def pack(root: Path) -> list[Path]:
    """Pack ``root/waveforms`` into ten archives by the first digit of the suffix folder, and remove the folder.

    Returns
    -------
    list of Path
        ``waveforms_0xx.zip`` to ``waveforms_9xx.zip``; members are named ``waveforms/<suffix>/<CSN>/...``, sorted, with
        one fixed time, so that the same tree gives the same bytes.
    """
    made = []
    with progress("archives", total=10, unit="archives") as advance:
        for digit in "0123456789":
            target = root / f"waveforms_{digit}xx.zip"
            with atomic(target) as handle, zipfile.ZipFile(handle, "w") as archive:
                for folder in sorted((root / "waveforms").glob(f"{digit}*")):
                    for file in sorted(folder.rglob("*")):
                        if file.is_file():
                            member = zipfile.ZipInfo(file.relative_to(root).as_posix(), (2025, 9, 1, 0, 0, 0))
                            member.compress_type = zipfile.ZIP_DEFLATED
                            member.external_attr = 0o644 << 16
                            archive.writestr(member, file.read_bytes(), compresslevel=1)
                    shutil.rmtree(folder)
            made.append(target)
            advance(1, "")
    (root / "waveforms").rmdir()
    return made


def _describe(
    tree: str, hospital: Hospital, asked: Options, counts: dict[str, Any], rows: dict[str, int]
) -> dict[str, Any]:
    """Return the truth as it is written beside the tree."""
    o, monitored = hospital.options, counts["n_monitored_visits"]
    planted = [
        {
            "code": p.code,
            "phecode": p.phecode,
            "kind": p.kind,
            "carries": p.carries or None,
            "follows_age": p.kind == "age" or p.older,
            "sex": p.sex or "both",
            "share_of_patients": round(int(n) / o.patients, 4),
            "share_of_monitored_visits": round(int(v) / max(monitored, 1), 4),
            "n_case_patients": int(n),
        }
        for p, n, v in zip(PLANTED_HOSPITAL, counts["n_case_patients"], counts["n_monitored_case_visits"], strict=True)
    ]
    return {
        "emulated": True,
        "tree": tree,
        "meaning": "Made-up patients and signals in the file layout of MC-MED; no figure describes a real person.",
        "assumptions": "Shares and lengths without a published source are ours: [A] in the text of the options.",
        "seed": hospital.seed,
        "options": dataclasses.asdict(asked),
        "n_patients": o.patients,
        "n_visits": hospital.n_visits,
        "n_monitored_visits": monitored,
        "rows": rows,
        "planted": planted,
        "nulls": "every code that is not listed depends on nothing but sex, and that only where its phenotype does",
    }

