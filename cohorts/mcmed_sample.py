"""A minute's look at an MC-MED folder: all visits, the head of pmh.csv, and the headers of a sample of folders."""

from __future__ import annotations

import time
from pathlib import Path

import polars as pl

from phewas.cohorts.base import Loss, losses
from phewas.cohorts.check import Finding, Sample
from phewas.cohorts.csvtext import TextTable, parse_number, read_table
from phewas.cohorts.mcmed import (
    PMH,
    SPLIT_FILES,
    TABLES,
    VISITS,
    check_ids,
    index_times,
    noted_codes,
    take_visits,
    visit_codes,
)
from phewas.cohorts.mcmed_waves import RATES_HZ, WAVEFORMS, compare_summary, to_recordings
from phewas.cohorts.numerics import NUMERICS, OTHER_TABLES, temperature_unit
from phewas.cohorts.peek import Peek, peek
from phewas.cohorts.wavescan import Scan, list_encounters, scan_suffix, scan_tree, suffix_folders
from phewas.cohorts.wavezip import encounters_in, find_archives, scan_archive
from phewas.schema import Rejects
from phewas.seeds import uniform

ENCOUNTERS = 500  # folders whose headers are read: a share of 5 % is known to 2 %
SCAN_S = 25.0
OTHER_BYTES = 2 * 2**20


def sample(base: Path, *, channel: str, seed: int) -> Sample:
    """Read as much of an MC-MED folder as a minute allows.

    Parameters
    ----------
    base
        The folder with visits.csv.
    channel
        The index channel.
    seed
        Of the choice of waveform folders.

    Raises
    ------
    CohortError
        The folder is no MC-MED tree, a needed column is missing, or identifiers cannot belong together.
    """
    visits = read_table(base / "visits.csv", needs=VISITS, table="encounters", others=True)
    head = peek(base / "pmh.csv")
    short = losses([Loss("diagnoses", "pmh", "short_row")] * head.n_short)
    pmh = TextTable(_numbered(head, PMH, base / "pmh.csv"), short, head.n_rows)
    check_ids(visits.rows, pmh.rows)
    encounters, patients, taken, rejects = take_visits(visits)
    began = time.monotonic()
    tree, n_folders, share = _headers(base, seed=seed)
    seconds = time.monotonic() - began
    recordings, lost = to_recordings(tree, encounters, visits.rows)
    if share == 1.0:
        lost += compare_summary(base / "waveform_summary.csv", tree)
    encounters = index_times(encounters, recordings, channel)
    of_visits, lost_visits = visit_codes(taken, encounters)
    noted, lost_noted = noted_codes(pmh, patients)
    names = (*TABLES, "waveform_summary.csv", *SPLIT_FILES, *OTHER_TABLES)
    there, findings = _tables(base, visits, head)
    return Sample(
        patients=patients,
        encounters=encounters,
        recordings=recordings,
        diagnoses=pl.concat([noted, of_visits]),
        rejects=pl.concat([Rejects.empty(), *rejects, *lost, *lost_visits, *lost_noted]),
        there=there,
        missing=[n for n in names if not (base / n).is_file()],
        n_folders=n_folders,
        scanned=tree.encounters,
        folder_share=share,
        diagnosis_share=1.0 if head.exact else len(head.rows) / max(head.n_rows, 1),
        header_per_s=tree.n_headers / seconds if seconds > 0.5 and tree.n_headers else None,
        findings=findings,
    )


def _numbered(head: Peek, needs: tuple[str, ...], path: Path) -> pl.DataFrame:
    if any(n not in head.columns for n in needs):
        read_table(path, needs=needs, table="diagnoses")  # tells which, with the nearest name
    return head.rows.select(needs).with_row_index("source_row", offset=1).with_columns(
        pl.col("source_row").cast(pl.Int64)
    )  # fmt: skip


def _headers(base: Path, *, seed: int) -> tuple[Scan, int, float]:
    """Return the headers of a hashed sample of folders, the number of folders, and the share that was looked at."""
    archives = [a.relative_to(base).as_posix() for a in find_archives(base, WAVEFORMS)]
    packed = set().union(*(encounters_in(base / a) for a in archives)) if archives else set()
    suffixes = suffix_folders(base, WAVEFORMS) if (base / WAVEFORMS).is_dir() else []
    unpacked = list_encounters(base, suffixes)
    names = packed | {e for held in unpacked.values() for e in held}
    if len(names) <= ENCOUNTERS:
        return scan_tree(base, WAVEFORMS, rates_hz=RATES_HZ, workers=1, archives=archives), len(names), 1.0
    out, began = Scan(), time.monotonic()
    share = ENCOUNTERS / len(names)
    for archive in archives:
        out.add(scan_archive(str(base), archive, rates_hz=RATES_HZ, only=lambda e: uniform(seed, "check", e) < share))
    # Unpacked folders come by suffix, whose digits are random; whole suffix folders in hashed order are a fair sample.
    wanted = ENCOUNTERS * (1 - len(packed) / len(names))
    for suffix in sorted(unpacked, key=lambda s: uniform(seed, "check", s)):
        if len(out.encounters) >= max(wanted, 1) or time.monotonic() - began > SCAN_S:
            break
        out.add(scan_suffix(str(base), suffix, rates_hz=RATES_HZ))
    out.encounters = sorted(set(out.encounters))
    out.found.sort(key=lambda f: (f.encounter_id, f.folder, f.number, f.place))
    return out, len(names), len(out.encounters) / len(names)


def _tables(base: Path, visits: TextTable, pmh: Peek) -> tuple[list[str], list[Finding]]:
    """Say which tables are there with their size, and what their columns and units show."""
    there = [f"visits.csv: {visits.n_rows:,} rows", f"pmh.csv: {_rows(pmh)}"]
    findings: list[Finding] = []
    heads: dict[str, Peek] = {}
    for name, columns in OTHER_TABLES.items():
        if not (base / name).is_file():
            continue
        heads[name] = peek(base / name, max_bytes=OTHER_BYTES)
        use = "vital signs before the signal" if name == NUMERICS else "not read by a run"
        there.append(f"{name}: {_rows(heads[name])} ({use})")
        lacks = [c for c in columns if c not in heads[name].columns]
        if lacks:
            findings.append(Finding("note", f"{name} lacks columns of the data dictionary", ", ".join(lacks)))
    there += [
        f"{name}: {_rows(peek(base / name, header=name not in SPLIT_FILES, max_bytes=OTHER_BYTES))}"
        for name in ("waveform_summary.csv", *SPLIT_FILES)
        if (base / name).is_file()
    ]
    if "Triage_Temp" in visits.rows.columns:
        findings += _temperature("Triage_Temp of visits.csv", visits.rows["Triage_Temp"])
    numerics = heads.get(NUMERICS)
    if numerics is not None and {"Measure", "Value"} <= set(numerics.columns):
        findings += _temperature("Temp of numerics.csv", numerics.rows.filter(Measure="Temp")["Value"])
    return there, findings


def _rows(head: Peek) -> str:
    return f"{head.n_rows:,} rows" if head.exact else f"about {head.n_rows / 1e6:,.2f} million rows"


def _temperature(what: str, text: pl.Series) -> list[Finding]:
    """Say in which unit temperatures are written, by their values."""
    values = text.to_frame("v").select(parse_number(pl.col("v")).alias("v")).drop_nulls()
    if not len(values):
        return []
    counts = dict(values.select(temperature_unit(pl.col("v")).alias("unit"))["unit"].value_counts().iter_rows())
    shares = {u: n / len(values) for u, n in counts.items()}
    words = ", ".join(
        f"{shares[u]:.1%} {w}" for u, w in (("C", "Celsius"), ("F", "Fahrenheit"), (None, "neither")) if u in shares
    )
    mixed = min(shares.get("C", 0.0), shares.get("F", 0.0)) > 0.001
    return [Finding("warning" if mixed else "ok", f"unit of {what}", f"by value: {words}",
                    "both units occur; each value is read by its size" if mixed else "")]  # fmt: skip
