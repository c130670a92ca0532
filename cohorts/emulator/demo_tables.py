"""The tables of the demo's emulated cohort, column by column as the data dictionary of MC-MED has them."""

from __future__ import annotations

import csv
import datetime as dt
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from phewas.cohorts.emulator.demo_people import Person, Visit
from phewas.cohorts.emulator.demo_waves import Summary
from phewas.cohorts.emulator.headers import PMH_COLUMNS, SUMMARY_COLUMNS, VISIT_COLUMNS
from phewas.cohorts.emulator.planted import COMPLAINTS, MALFORMED, PLANTED
from phewas.rundir import atomic, write_text
from phewas.seeds import generator

ACUITY = ("1-Resuscitation", "2-Emergent", "3-Urgent", "4-Semi-Urgent", "5-Non-Urgent", "")
ACUITY_SHARES = np.array([0.011, 0.266, 0.669, 0.042, 0.002, 0.010])
DISPO = ("Discharge", "Inpatient", "Observation", "ICU")


def stamp(time: dt.datetime) -> str:
    """Return a time as the source writes it."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ")


def write_tables(root: Path, persons: Sequence[Person], written: Mapping[int, Summary], *, seed: int) -> None:
    """Write visits.csv, pmh.csv, waveform_summary.csv and the six split files below `root`."""
    visits = [row for person in persons for row in _visit_rows(person, seed)]
    damage = generator(seed, "damaged rows")
    # A visit that is listed twice, and one that leaves before it comes.
    visits.append(list(visits[int(damage.integers(len(visits)))]))
    _write_csv(root / "visits.csv", VISIT_COLUMNS, visits)
    noted = [row for person in persons for row in _noted_rows(person, seed)]
    # A patient whom no visit knows, a row without patient, a row cut short.
    noted += [
        ["11111111", "2231-01-01T00:00:00Z", "Dx10", "I10", "", "", ""],
        ["", "2231-01-01T00:00:00Z", "Dx10", "I10", "", "", ""],
    ]
    noted.append([str(persons[0].mrn), "2231-01-01T00:00:00Z", "Dx10"])
    _write_csv(root / "pmh.csv", PMH_COLUMNS, noted)
    summary = [
        [str(csn), kind, str(n), f"{seconds:g}"] for csn, rows in sorted(written.items()) for kind, n, seconds in rows
    ]
    _write_csv(root / "waveform_summary.csv", SUMMARY_COLUMNS, summary)
    for kind, train, val in (("random", 0.8, 0.9), ("chrono", 0.78, 0.89)):
        parts: dict[str, list[str]] = {"train": [], "val": [], "test": []}
        for person in persons:
            u = float(generator(seed, "split", kind, person.index).random())
            side = "train" if u < train else "val" if u < val else "test"
            parts[side] += [str(v.csn) for v in person.visits]
        for side, csns in parts.items():
            write_text("".join(f"{csn}\n" for csn in csns), root / f"split_{kind}_{side}.csv")


def _write_csv(path: Path, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    with atomic(path, "w") as handle:
        writer = csv.writer(handle, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(rows)


def _visit_rows(person: Person, seed: int) -> list[list[str]]:
    return [_visit_row(person, visit, i, seed) for i, visit in enumerate(person.visits)]


def _visit_row(person: Person, visit: Visit, place: int, seed: int) -> list[str]:
    """Return one row of visits.csv. Vital signs at triage are independent of everything planted."""
    rng = generator(seed, "row", visit.csn)
    dispo = DISPO[int(rng.choice(4, p=[0.54, 0.282, 0.151, 0.027]))]
    departure = visit.departure
    if rng.random() < 0.005:
        departure = visit.arrival - dt.timedelta(minutes=int(rng.integers(1, 30)))
    gap_h = ""
    if place + 1 < len(person.visits):
        gap_h = f"{(person.visits[place + 1].arrival - visit.departure).total_seconds() / 3600:.1f}"
    icd10, icd9, name, complaint = COMPLAINTS[visit.reason]
    codes10 = [PLANTED[k].code for k in visit.coded] or [icd10]
    codes9 = [PLANTED[k].icd9 for k in visit.coded] or [icd9]
    if rng.random() < 0.08:
        codes10.append("R07.9")
        codes9.append("786.50")
    blank = not visit.coded and rng.random() < 0.03
    vitals = rng.normal([36.8, 88, 18, 97, 135, 78], [0.5, 16, 3, 2, 20, 12])
    row = {
        "MRN": str(person.mrn),
        "CSN": str(visit.csn),
        "Visit_no": str(visit.number),
        "Visits": str(len(person.visits)),
        "Age": str(visit.age),
        "Gender": person.sex,
        "Race": person.race,
        "Ethnicity": person.ethnicity,
        "Means_of_arrival": "EMS" if rng.random() < 0.25 else "Self",
        "Triage_Temp": f"{vitals[0]:.1f}",
        "Triage_HR": f"{vitals[1]:.0f}",
        "Triage_RR": f"{vitals[2]:.0f}",
        "Triage_SpO2": f"{min(vitals[3], 100):.0f}",
        "Triage_SBP": f"{vitals[4]:.0f}",
        "Triage_DBP": f"{vitals[5]:.0f}",
        "Triage_acuity": ACUITY[int(rng.choice(6, p=ACUITY_SHARES))],
        "CC": complaint,
        "ED_dispo": dispo,
        "Hours_to_next_visit": gap_h,
        "Dispo_class_next_visit": "Discharge" if gap_h else "",
        "ED_LOS": f"{(visit.departure - visit.arrival).total_seconds() / 3600:.2f}",
        "Hosp_LOS": f"{rng.exponential(3):.1f}" if dispo != "Discharge" else "",
        "DC_dispo": "" if rng.random() < 0.044 else "Home/Work (includes foster care)",
        "Payor_class": ("", "Medicare", "Medicaid")[int(rng.choice(3, p=[0.6, 0.25, 0.15]))],
        "Admit_service": "" if dispo == "Discharge" else "Emergency Medicine",
        "Dx_ICD9": "" if blank else ", ".join(codes9),
        "Dx_ICD10": "" if blank else ", ".join(codes10),
        "Dx_name": "" if blank else name,
        "Arrival_time": stamp(visit.arrival),
        "Roomed_time": stamp(visit.roomed),
        "Dispo_time": stamp(visit.departure - dt.timedelta(minutes=15)),
        "Admit_time": "" if dispo == "Discharge" else stamp(visit.departure - dt.timedelta(minutes=15)),
        "Departure_time": stamp(departure),
    }
    return [row[c] for c in VISIT_COLUMNS]


def _noted_rows(person: Person, seed: int) -> list[list[str]]:
    """Return a patient's rows of pmh.csv: each condition from its onset on, with repeats and untidy cells."""
    rng = generator(seed, "noted", person.index)
    mrn, rows = str(person.mrn), []
    for k, onset in sorted(person.onsets.items()):
        planted = PLANTED[k]
        days = [
            onset,
            *(onset + dt.timedelta(days=int(d)) for d in rng.integers(20, 500, int(rng.geometric(0.65)) - 1)),
        ]
        for day in days:
            old = bool(planted.icd9) and rng.random() < 0.04
            code = (planted.icd9 if old else planted.code).replace(".", "")
            # Untidy, but the same code: the dot kept, lower case, a blank behind.
            untidy = rng.random()
            if untidy < 0.01:
                code = planted.icd9 if old else planted.code
            elif untidy < 0.02:
                code = code.lower()
            elif untidy < 0.03:
                code += " "
            rows.append(
                [
                    mrn,
                    f"{day.isoformat()}T00:00:00Z",
                    "Dx9" if old else "Dx10",
                    code,
                    f"Condition {planted.code}",
                    "",
                    "",
                ]
            )
            if rng.random() < 0.02:
                rows.append(list(rows[-1]))
    for _ in range(int(rng.poisson(2.0))):
        icd10, _, name, _ = COMPLAINTS[int(rng.integers(len(COMPLAINTS)))]
        day = person.visits[0].arrival.date() + dt.timedelta(days=int(rng.integers(-3000, 700)))
        rows.append([mrn, f"{day.isoformat()}T00:00:00Z", "Dx10", icd10.replace(".", ""), name, "259.0",
                     "Residual codes; unclassified"])  # fmt: skip
    if rng.random() < 0.06:
        kind, code = MALFORMED[int(rng.integers(len(MALFORMED)))]
        day = person.visits[0].arrival.date()
        date = "" if rng.random() < 0.1 else "soon" if rng.random() < 0.1 else f"{day.isoformat()}T00:00:00Z"
        rows.append([mrn, date, kind, code, "", "", ""])
    return rows
