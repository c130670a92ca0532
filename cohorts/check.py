"""A one-minute look at a source before a run of many hours: what is there, what will be lost, and what looks wrong.

A source that is large offers a method ``sample(root, *, seed)`` that reads a part of itself (`Sample`); any other is
built into a scratch folder, if it is small. Either way the same questions are put to the same tables: how much can a
run expect, and is one of the three misunderstandings at work that ruin a study without an error: identifiers that do
not belong together, codes of another system than their label, clocks or units that differ.
"""

from __future__ import annotations

import math
import os
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import polars as pl

from phewas.cohorts import get
from phewas.cohorts.base import CohortCard
from phewas.encoders import registry
from phewas.errors import PhewasError
from phewas.mappings.icd import looks_like
from phewas.schema import Diagnoses, Encounters, Patients, Recordings, Rejects
from phewas.seeds import uniform
from phewas.segments.readers import open_recording

Level = Literal["ok", "note", "warning"]
BUILD_BYTES, BUILD_FILES = 2 * 2**30, 40_000  # a source up to this size is built to be looked at
WINDOWS_READ, WINDOWS_S = 60, 10.0
ENOUGH = 20  # rows below which a share says nothing


@dataclass(frozen=True)
class Finding:
    """One thing worth knowing: what was asked, what was seen, and what to do."""

    level: Level
    title: str
    evidence: str
    cure: str = ""


@dataclass(frozen=True)
class Sample:
    """What was read of a source.

    Attributes
    ----------
    patients, encounters, recordings, diagnoses, rejects
        As in `phewas.schema`; encounters and patients whole, the others perhaps in part.
    there, missing
        What the folder holds, a line each, and the names of files that are not there.
    n_folders, scanned
        Encounters with signal files in the whole source, and those whose headers were read.
    folder_share, diagnosis_share
        Share of the folders and of the diagnosis rows that were read, in (0, 1]; 1 is everything.
    header_per_s
        Speed at which headers were read; None where it took too short a time to tell.
    findings
        What the source itself noticed.
    """

    patients: pl.DataFrame
    encounters: pl.DataFrame
    recordings: pl.DataFrame
    diagnoses: pl.DataFrame
    rejects: pl.DataFrame
    there: list[str]
    missing: list[str]
    n_folders: int
    scanned: list[str]
    folder_share: float = 1.0
    diagnosis_share: float = 1.0
    header_per_s: float | None = None
    findings: list[Finding] = field(default_factory=list)


@dataclass(frozen=True)
class Report:
    """The outcome of `check`. `expect` and `cost` map words to words, in order; `losses` are (table, reason, n)."""

    card: CohortCard
    root: Path | None
    there: list[str]
    missing: list[str]
    expect: dict[str, str]
    losses: list[tuple[str, str, int]]
    cost: dict[str, str]
    findings: list[Finding]
    sampled: bool


def check(
    name: str, *, root: Path | None, seed: int = 0, n_segments: int = 20, window_s: float | None = None
) -> Report:
    """Look at a source for about a minute.

    Parameters
    ----------
    name
        The cohort.
    root
        Its data folder; None where it needs none.
    seed
        Of the hashed sample of waveform folders.
    n_segments, window_s
        Windows per encounter and their length in seconds that a run would take; None takes the card's length.

    Raises
    ------
    ConfigError
        There is no such cohort.
    CohortError
        The folder cannot be read as this cohort at all: the message says why.
    """
    source = get(name)
    card = source.card
    window = window_s or card.window_s
    own = getattr(source, "sample", None)
    if own is not None:
        found: Sample = own(root, seed=seed)
        return _report(found, card, root, root, n_segments, window, seed)
    size, files = _size(root)
    if size > BUILD_BYTES or files > BUILD_FILES:
        counts = {k.removeprefix("n_").replace("_", " "): f"{v:,}" for k, v in source.scan(root).items()
                  if k.startswith("n_")}  # fmt: skip
        words = f"more than {size / 1e9:.1f} GB or {files:,} files: only listed"
        more = Finding("note", "this source is too large to be built for a look", words,
                       f"phewas run --cohort {name} --until cohort writes its tables, rejects and flow")  # fmt: skip
        missing = list(source.scan(root).get("missing", []))
        return Report(card=card, root=root, there=[words], missing=missing, expect=counts, losses=[], cost={},
                      findings=[more], sampled=True)  # fmt: skip
    with tempfile.TemporaryDirectory(prefix="phewas-check-") as scratch:
        run = Path(scratch)
        source.build(root, run, workers=1)
        recordings = Recordings.read(run)
        held = recordings["encounter_id"].unique().sort().to_list()
        diagnoses = Diagnoses.read(run)
        encounters = Encounters.read(run)
        there = [f"{len(t):,} {w}" for t, w in ((encounters, "encounters"), (recordings, "recordings"),
                                               (diagnoses, "diagnosis rows"))]  # fmt: skip
        found = Sample(
            patients=Patients.read(run), encounters=encounters, recordings=recordings, diagnoses=diagnoses,
            rejects=Rejects.read(run), there=there, missing=list(source.scan(root).get("missing", [])),
            n_folders=len(held), scanned=held,
        )  # fmt: skip
        return _report(found, card, root, source.data_root(root, run), n_segments, window, seed)


def _size(root: Path | None) -> tuple[int, int]:
    """Return bytes and number of files below a folder; counting stops where it is too much to build."""
    size = files = 0
    if root is None or not root.is_dir():
        return 0, 0
    for folder, _, names in os.walk(root):
        for name in names:
            with_size = Path(folder) / name
            size += with_size.stat().st_size if with_size.exists() else 0
            files += 1
            if size > BUILD_BYTES or files > BUILD_FILES:
                return size, files
    return size, files


def _report(
    found: Sample, card: CohortCard, root: Path | None, base: Path | None, n_segments: int, window_s: float, seed: int
) -> Report:
    if base is not None and len(found.recordings) and not (base / str(found.recordings["path"][0])).exists():
        base = base / "data"  # the layout may lie one folder below what was named
    of_channel = found.recordings.filter(channel=card.index_channel)
    windows = of_channel.with_columns(
        (pl.col("n_samples") / pl.col("fs_hz") / window_s + 1e-9).floor().alias("w")
    ).group_by("encounter_id").agg(pl.col("w").sum())  # fmt: skip
    usable = windows.filter(pl.col("w") >= 1)
    scale = 1 / found.folder_share if found.folder_share else 0.0
    n_usable = round(len(usable) * scale)
    per = float(usable["w"].clip(upper_bound=n_segments).mean() or 0.0)  # type: ignore[arg-type]
    n_windows = round(n_usable * per)
    of = found.encounters.select("encounter_id", "patient_id")
    if found.folder_share == 1.0:
        n_patients = of.join(usable, on="encounter_id")["patient_id"].n_unique()
    else:
        share = min(n_usable / max(len(of), 1), 1.0)
        visits = of.group_by("patient_id").len()["len"].to_numpy()
        n_patients = round(float((1 - (1 - share) ** visits).sum()))
    about = "" if found.folder_share == 1.0 else "about "
    expect = {
        "patients": f"{len(found.patients):,}",
        "encounters": f"{len(found.encounters):,}",
        "encounters with signal files": f"{found.n_folders:,}",
        f"encounters with a {window_s:g}-s {card.index_channel} window": f"{about}{n_usable:,}",
        "patients with one": f"{about}{n_patients:,}",
        f"windows (up to {n_segments} an encounter)": f"{about}{n_windows:,}",
    }
    read = _read_windows(of_channel, base, window_s, seed)
    findings = [_ids(found), *_codes(found), *_clock(found), *_ages(found), *found.findings, *read.findings]
    if not len(usable):
        channels = ", ".join(found.recordings["channel"].unique().sort().to_list()) or "none"
        findings.append(Finding("warning", "signals", f"no {card.index_channel} recording of {window_s:g} s was found; "
                                f"channels found: {channels}", "without it only the tables can be made"))  # fmt: skip
    return Report(
        card=card, root=root, there=found.there, missing=found.missing, expect=expect,
        losses=_losses(found), cost=_cost(found, card, n_windows, window_s, read.window_s), findings=findings,
        sampled=found.folder_share < 1 or found.diagnosis_share < 1,
    )  # fmt: skip


def _losses(found: Sample) -> list[tuple[str, str, int]]:
    """Return what will be lost or mended by table and reason, extrapolated to the whole source, most first."""
    counts = found.rejects.group_by("table", "source", "reason").len()
    total: dict[tuple[str, str], float] = {}
    for table, source, reason, n in counts.iter_rows():
        share = found.folder_share if source == "waveforms" else 1.0
        share = found.diagnosis_share if table == "diagnoses" and source != "visits" else share
        total[table, reason] = total.get((table, reason), 0.0) + n / share
    return sorted(((t, r, round(n)) for (t, r), n in total.items()), key=lambda row: (-row[2], row))


def _cost(found: Sample, card: CohortCard, n_windows: int, window_s: float, read_s: float | None) -> dict[str, str]:
    """Return disk and time that the first steps of a run would take."""
    spec = registry.get(card.encoder)
    out = {"segment store": _bytes(n_windows * spec.contract.length(window_s) * 2) + f" for {spec.name}"}
    if found.header_per_s:
        headers = len(found.recordings) / found.folder_share
        out["reading headers"] = _time(headers / found.header_per_s) + " on one core"
    if read_s is not None:
        # Filtering and resampling take about as long again as reading from a local disk does.
        out["cutting segments"] = _time(n_windows * (read_s + 0.0007)) + " on one core"
    return out | {"learning": f"phewas run --cohort {card.name} ... --dry-run estimates it for your device"}


def _bytes(n: int) -> str:
    return f"{n / 1e9:.1f} GB" if n >= 1e8 else f"{n / 1e6:.1f} MB"


def _time(seconds: float) -> str:
    if seconds < 90:
        return f"about {max(1, math.ceil(seconds))} s"
    return f"about {seconds / 60:.0f} min" if seconds < 5400 else f"about {seconds / 3600:.1f} h"


def _ids(found: Sample) -> Finding:
    """Ask whether diagnoses, encounters and signals name the same people."""
    lost = found.rejects.group_by("reason").len()
    n = dict(lost.iter_rows())
    known = found.diagnoses.filter(pl.col("source") != "visits")
    rows = known["source_row"].n_unique() if len(known) else 0
    strangers, folders = n.get("unknown_patient", 0), len(found.scanned)
    names = set(found.encounters["encounter_id"].to_list())
    seen = sum(e in names for e in found.scanned)
    both = len(names & set(found.patients["patient_id"].to_list()))
    share = strangers / (strangers + rows) if strangers + rows else 0.0
    words = []
    if rows + strangers:
        words.append(f"{1 - share:.1%} of {rows + strangers:,} diagnosis rows name a patient of the encounter table")
    if folders:
        words.append(f"{seen / folders:.1%} of {folders:,} encounters with signals are in it")
    words.append(f"{both:,} numbers occur both as an encounter and as a patient")
    bad = share > 0.2 or (folders >= ENOUGH and seen / folders < 0.8)
    twice = both > max(10, 0.05 * len(names)) and len(names) > found.patients.height
    return Finding("warning" if bad or twice else "ok", "swapped identifiers", "; ".join(words),
                   "check which column is the patient and which the encounter, and that all files are of one release"
                   if bad or twice else "")  # fmt: skip


def _codes(found: Sample) -> Iterator[Finding]:
    """Ask whether codes have the shape of the system that their label names."""
    for (source, vocabulary), rows in sorted(found.diagnoses.group_by("source", "vocabulary"), key=lambda g: str(g[0])):
        if vocabulary == "unknown":
            share = len(rows) / max(found.diagnoses.filter(source=source).height, 1)
            level: Level = "warning" if share > 0.05 else "note"
            yield Finding(level, f"code system of {source}", f"{share:.1%} of its rows name no known code system",
                          "see which code types the table holds")  # fmt: skip
            continue
        why = rows.select(looks_like(pl.col("code"), pl.col("vocabulary")).alias("why"))["why"]
        other, fit = int((why == "other_code_system").sum()), why.null_count()
        words = f"{fit / len(rows):.1%} of {len(rows):,} codes labelled {vocabulary} have its shape"
        if other:
            words += f", {other / len(rows):.1%} that of another ICD revision"
        bad = len(rows) >= ENOUGH and (other / len(rows) > 0.05 or fit / len(rows) < 0.8)
        cure = "check the code type column: the labels of ICD-9 and ICD-10 may be swapped" if bad else ""
        odd = len(rows) < ENOUGH and fit < len(rows)
        yield Finding("warning" if bad else "note" if odd else "ok", f"code system of {source}", words, cure)


def _clock(found: Sample) -> Iterator[Finding]:
    """Ask whether signals lie within their encounters, and which shift in whole hours would put them there."""
    times = found.recordings.drop_nulls("start").join(
        found.encounters.select("encounter_id", begin="start", end="end"), on="encounter_id", how="inner"
    ).drop_nulls(["begin", "end"])  # fmt: skip
    if len(times) >= ENOUGH:
        hour = 3_600_000_000
        at, begin, end = (times[c].dt.epoch("us").to_numpy() for c in ("start", "begin", "end"))
        slack = hour // 4
        inside = {h: float(((at + h * hour >= begin - slack) & (at + h * hour <= end + slack)).mean())
                  for h in sorted(range(-14, 15), key=abs)}  # fmt: skip
        best = max(inside, key=lambda h: inside[h])  # the smallest shift among equals
        words = f"{inside[0]:.1%} of {len(times):,} dated recordings begin during their encounter"
        bad = inside[0] < 0.8
        if bad and best and inside[best] > inside[0] + 0.1:
            words += f"; shifted by {best:+d} h it would be {inside[best]:.1%}"
        cure = "the clocks of signals and encounters differ (time zone?): labels by date would be off" if bad else ""
        yield Finding("warning" if bad else "ok", "time zone", words, cure)
    undated = found.recordings["start"].null_count() / max(len(found.recordings), 1)
    if undated > 0.05:
        yield Finding("note", "time zone", f"{undated:.1%} of the recordings have no date")
    rate = found.rejects.filter(reason="unexpected_rate").height / max(len(found.recordings), 1)
    if len(found.recordings):
        words = f"{rate:.1%} of {len(found.recordings):,} headers name another sampling rate than is usual"
        yield Finding("warning" if rate > 0.05 else "ok", "unit of time in the signals", words)
    dated = found.diagnoses.drop_nulls("recorded").join(
        found.encounters.group_by("patient_id").agg(pl.coalesce("end", "start").max().dt.date().alias("last")),
        on="patient_id",
    ).drop_nulls("last")  # fmt: skip
    if len(dated) >= ENOUGH:
        years = (dated["recorded"] - dated["last"]).dt.total_days().to_numpy() / 365.25
        far = float((np.abs(years) > 120).mean())
        later = float((years > 0).mean())
        words = f"{later:.1%} of {len(dated):,} dated diagnoses are noted after the patient's last encounter"
        bad = far > 0.01
        if bad:
            words += f"; {far:.1%} lie more than 120 years from it"
        cure = "dates of diagnoses and encounters are shifted differently: labels by date would be wrong" if bad else ""
        yield Finding("warning" if bad else "ok", "dates of diagnoses", words, cure)


def _ages(found: Sample) -> Iterator[Finding]:
    """Ask whether ages are years."""
    ages = found.encounters["age"].drop_nulls()
    if len(ages) < ENOUGH:
        return
    low, middle, high = (float(ages.quantile(q) or 0.0) for q in (0.01, 0.5, 0.99))
    bad_rows = found.rejects.filter(reason="bad_number").height
    bad = high < 3 or bad_rows > 0.05 * len(found.encounters)
    words = f"1 % below {low:g}, half below {middle:g}, 99 % below {high:g}; {bad_rows:,} rows hold no possible age"
    yield Finding("warning" if bad else "ok", "unit of age", words, "ages must be in years" if bad else "")


@dataclass(frozen=True)
class _Windows:
    window_s: float | None
    findings: list[Finding]


def _read_windows(recordings: pl.DataFrame, base: Path | None, window_s: float, seed: int) -> _Windows:
    """Read one window from the middle of some recordings, chosen by hash; take the time it needs."""
    rows: list[dict[str, Any]] = recordings.filter(pl.col("n_samples") >= window_s * pl.col("fs_hz")).to_dicts()
    rows = sorted(rows, key=lambda r: uniform(seed, "look", r["recording_id"]))[:WINDOWS_READ]
    if not rows or base is None:
        return _Windows(None, [])
    began, unread, missing, still, done = time.monotonic(), 0, 0, 0, 0
    each: list[float] = []
    for row in rows:
        one = time.monotonic()
        if one - began > WINDOWS_S:
            break
        length = max(round(window_s * row["fs_hz"]), 2)
        start = (row["n_samples"] - length) // 2
        done += 1
        try:
            opened = open_recording(base, row["path"], member=row["member"], signal=row["signal"],
                                    fs_hz=row["fs_hz"], n_samples=row["n_samples"])  # fmt: skip
            values = opened.read(start, start + length)
        except (PhewasError, OSError):
            unread += 1
            continue
        each.append(time.monotonic() - one)
        finite = values[np.isfinite(values)]
        missing += len(finite) < 0.75 * length
        still += len(finite) >= 0.75 * length and len(np.unique(finite)) < 5
    spent = float(np.median(each)) if each else None  # the first reading of a kind imports a library
    words = f"of {done} windows read, {unread} cannot be read, {missing} lack samples, {still} hardly move"
    bad = unread > 0.1 * done or still > 0.3 * done
    cure = "look at these recordings before a long run" if bad else ""
    return _Windows(spent, [Finding("warning" if bad else "ok", "signals", words, cure)])
