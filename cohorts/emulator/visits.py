"""visits.csv of the emulated hospital: one row per visit, 33 columns in the order of the data dictionary."""

from __future__ import annotations

import numpy as np
import polars as pl

from phewas.cohorts.emulator.codes import code_pool
from phewas.cohorts.emulator.draws import Ints
from phewas.cohorts.emulator.headers import VISIT_COLUMNS
from phewas.cohorts.emulator.hospital import MALE, SEXES, Block, Hospital
from phewas.cohorts.emulator.planted import COMPLAINTS
from phewas.cohorts.emulator.text import blank, instead, number, stamps, take

# Shares among the named: the first three as published, the others [A] within the published rest.
RACES = {
    "White": 0.4025, "Other": 0.3385, "Asian": 0.1646, "Black or African American": 0.064,
    "Native Hawaiian or Other Pacific Islander": 0.012, "Declines to State": 0.009, "Unknown": 0.006,
    "American Indian or Alaska Native": 0.0034,
}  # fmt: skip
ETHNICITIES = {"Non-Hispanic/Non-Latino": 0.70, "Hispanic/Latino": 0.27, "Declines to State": 0.015, "Unknown": 0.015}
ACUITY = {
    "1-Resuscitation": 0.011, "2-Emergent": 0.266, "3-Urgent": 0.679, "4-Semi-Urgent": 0.042, "5-Non-Urgent": 0.002,
}  # fmt: skip
DISPO = {"Discharge": 0.540, "Inpatient": 0.282, "Observation": 0.151, "ICU": 0.027}
# Label counts among 83,623 visits with waveforms, blanks left out; the three last fill the rest [A].
LEAVING = {
    "Home/Work (includes foster care)": 69_001, "Home Health": 4_707, "Skilled Nursing Facility": 3_347, "Hospice": 721,
    "Left Against Medical Advice": 506, "Rehab Facility": 281, "ED Only - Left Without Being Seen": 400,
    "ED Only - Erroneous Registration": 60, "Other": 237,
}  # fmt: skip
SERVICES = ("Emergency Medicine", "General Medicine", "Surgery")
EXPIRED_SHARE = 659 / 79_919
# Which time comes too early: rooming, decision, departure; in the proportion in which a public script met them.
GAP_KINDS = (14, 518, 574)
CODED_SHARE = 0.12  # chance that a visit is coded for a condition that the patient has
COMPLAINT_SHARE = 0.45  # of the other visits


def visit_rows(hospital: Hospital, block: Block) -> pl.DataFrame:
    """Return the block's rows of visits.csv as text, null for a blank cell.

    Vital signs at triage, acuity and disposition are independent of everything planted.
    """
    o, d = hospital.options, hospital.draws
    of, place = block.index[block.person], block.number
    n = len(of)
    sex = take(SEXES, block.sex[block.person])
    roomed, dispo, departure = _gaps(hospital, block)
    disposition = d.pick(list(DISPO.values()), "disposition", of, place)
    admitted = disposition > 0
    last = place == block.counts[block.person]
    following = np.where(last, np.arange(n), np.minimum(np.arange(n) + 1, n - 1))
    gap_h = (block.arrival_s[following] - block.departure_s) / 3600
    leaving = take(list(LEAVING), d.pick(list(LEAVING.values()), "leaving", of, place))
    # Nobody comes back who has died, so the deaths of all visits fall on the last ones.
    leaving = instead(leaving, last & d.happens(min(EXPIRED_SHARE * o.visits_mean, 1.0), "death", of, place), "Expired")
    dispo_cell = blank(stamps(dispo), admitted & d.happens(0.5, "decision blank", of, place))
    mean, spread = (36.8, 88, 18, 97.5, 135, 78), (0.5, 16, 3, 1.8, 20, 12)
    most = (1e9, 1e9, 1e9, 100, 1e9, 1e9)
    vitals = [
        number(np.minimum(mean[k] + spread[k] * d.normal("triage", of, place, k), most[k]), 0 if k else 1)
        for k in range(6)
    ]
    if o.decimal_commas:
        comma = d.happens(o.decimal_commas, "decimal comma", of, place)
        vitals[0] = instead(vitals[0], comma, vitals[0].str.replace(".", ",", literal=True))
    codes10, codes9, name, complaint = _diagnoses(hospital, block)
    if o.cell_newlines:
        broken = d.happens(o.cell_newlines, "line break", of, place)
        complaint = instead(complaint, broken, complaint + "\nSEE \"NOTE\"")
    race = take(list(RACES), d.pick(list(RACES.values()), "race", of))
    acuity = take(list(ACUITY), d.pick(list(ACUITY.values()), "acuity", of, place))
    service = take(SERVICES, d.pick((0.5, 0.35, 0.15), "service", of, place))
    columns = {
        "MRN": pl.Series(block.mrn[block.person]),
        "CSN": pl.Series(block.csn),
        "Visit_no": pl.Series(place),
        "Visits": pl.Series(block.counts[block.person]),
        "Age": pl.Series(block.years),
        "Gender": sex,
        "Race": blank(race, d.happens(o.race_blank, "race blank", of, place)),
        "Ethnicity": take(list(ETHNICITIES), d.pick(list(ETHNICITIES.values()), "ethnicity", of)),
        "Means_of_arrival": take(("Self", "EMS", None), d.pick((0.7491, 0.25, 0.0009), "means of arrival", of, place)),
        "Triage_Temp": vitals[0],
        "Triage_HR": vitals[1],
        "Triage_RR": vitals[2],
        "Triage_SpO2": vitals[3],
        "Triage_SBP": vitals[4],
        "Triage_DBP": vitals[5],
        "Triage_acuity": blank(acuity, d.happens(o.acuity_blank, "acuity blank", of, place)),
        "CC": complaint,
        "ED_dispo": take(list(DISPO), disposition),
        "Hours_to_next_visit": blank(number(gap_h, 1), last),
        "Dispo_class_next_visit": blank(take(list(DISPO), disposition[following]), last),
        "ED_LOS": number((block.departure_s - block.arrival_s) / 3600, 2),
        "Hosp_LOS": blank(number(3.5 * d.exponential("days in hospital", of, place), 1), ~admitted),
        "DC_dispo": blank(leaving, d.happens(o.dc_blank, "leaving blank", of, place)),
        "Payor_class": take((None, "Medicare", "Medicaid"), d.pick((0.61, 0.24, 0.15), "payor", of)),
        "Admit_service": blank(service, ~admitted),
        "Dx_ICD9": codes9,
        "Dx_ICD10": codes10,
        "Dx_name": name,
        "Arrival_time": stamps(block.arrival_s),
        "Roomed_time": stamps(roomed),
        "Dispo_time": dispo_cell,
        "Admit_time": blank(stamps(dispo), ~admitted),
        "Departure_time": stamps(departure),
    }  # fmt: skip
    frame = pl.DataFrame({name: columns[name] for name in VISIT_COLUMNS})
    if o.repeated_visits:
        times = 1 + d.happens(o.repeated_visits, "visit listed twice", of, place).astype(np.int64)
        frame = frame[np.repeat(np.arange(n), times)]
    return frame


def _gaps(hospital: Hospital, block: Block) -> tuple[Ints, Ints, Ints]:
    """Return rooming, decision and departure as written: some visits have one of them too early."""
    d, of, place = hospital.draws, block.index[block.person], block.number
    wrong = d.happens(hospital.options.negative_gaps, "negative gap", of, place)
    kind = d.pick(GAP_KINDS, "kind of negative gap", of, place)
    early_s = 60 * d.integers(1, 31, "minutes too early", of, place)
    roomed = np.where(wrong & (kind == 0), block.arrival_s - early_s, block.roomed_s)
    dispo = np.where(wrong & (kind == 1), block.roomed_s - early_s, block.dispo_s)
    # A fourth of the early departures lie before the arrival, which an adapter must not take for the visit's end.
    before = np.where(d.happens(0.25, "before arrival", of, place), block.arrival_s, block.dispo_s)
    departure = np.where(wrong & (kind == 2), before - early_s, block.departure_s)
    return roomed, dispo, departure


def _diagnoses(hospital: Hospital, block: Block) -> tuple[pl.Series, pl.Series, pl.Series, pl.Series]:
    """Return Dx_ICD10, Dx_ICD9, Dx_name and CC: dotted codes, one to three a cell."""
    o, d, pool = hospital.options, hospital.draws, code_pool()
    of, place = block.index[block.person], block.number
    n, size = len(of), len(pool.table)
    reason = d.integers(0, len(COMPLAINTS), "reason", of, place)
    male = block.sex[block.person] == MALE
    first = np.where(
        d.happens(COMPLAINT_SHARE, "complaint coded", of, place),
        size + reason,
        pool.draw(d, "code of the visit", male, of, place),
    )
    begun = block.begun()
    u = d.uniform("coded at the visit", of[:, None], place[:, None], np.arange(begun.shape[1])[None, :])
    u = np.where(begun & (u < CODED_SHARE), u, 1.0)
    best = u.argmin(axis=1)
    first = np.where(u[np.arange(n), best] < 1, best, first)
    others = [size + (reason + k) % len(COMPLAINTS) for k in (1, 2)]
    how_many = d.uniform("codes in the cell", of, place)
    none = how_many < o.dx_blank
    three = (how_many >= o.dx_blank) & (how_many < o.dx_blank + o.dx_three)
    two = three | ((how_many >= o.dx_blank + o.dx_three) & (how_many < o.dx_blank + o.dx_three + o.dx_two))
    cells = []
    for column, k in (("code10", 0), ("code9", 1)):
        words = pl.concat([pool.table[column], pl.Series(column, [c[k] for c in COMPLAINTS])])
        parts = [take(words, first), blank(take(words, others[0]), ~two), blank(take(words, others[1]), ~three)]
        joined = pl.select(pl.concat_str(parts, separator=", ", ignore_nulls=True)).to_series()
        cells.append(blank(joined, none))
    names = pl.concat([pool.table["name"], pl.Series("name", [c[2] for c in COMPLAINTS])])
    return cells[0], cells[1], blank(take(names, first), none), take([c[3] for c in COMPLAINTS], reason)
