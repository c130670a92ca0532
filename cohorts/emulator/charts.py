"""orders.csv, labs.csv, rads.csv and numerics.csv of the emulated hospital.

Columns follow the data dictionary; how many rows a visit has, and their values, are assumptions,
independent of everything planted. They are there so that a reader of the tables meets the real
shapes: long tables by visit, results as text, cells with commas, quotes and line breaks.
"""

from __future__ import annotations

import numpy as np
import polars as pl

from phewas.cohorts.emulator.draws import Ints, runs
from phewas.cohorts.emulator.headers import LAB_COLUMNS, NUMERIC_COLUMNS, ORDER_COLUMNS, RAD_COLUMNS
from phewas.cohorts.emulator.hospital import Block, Hospital
from phewas.cohorts.emulator.text import blank, instead, number, stamps, take

ORDERS = (
    ("Lab", "CBC with Differential"), ("Lab", "Metabolic Panel, Comprehensive"), ("Imaging", "XR CHEST 1 VIEW"),
    ("Medication", "sodium chloride 0.9 % bolus"), ("Medication", "ondansetron (ZOFRAN) injection"),
    ("ECG", "ECG 12-LEAD"), ("Nursing", "INSERT PERIPHERAL IV"), ("Consult", "CONSULT TO SOCIAL WORK"),
)  # fmt: skip
# Panel, component, unit, mean, standard deviation, normal range.
COMPONENTS = (
    ("CBC with Differential", "WBC", "K/uL", 8.5, 3.0, 4.0, 11.0),
    ("CBC with Differential", "Hemoglobin", "g/dL", 13.2, 1.9, 11.7, 15.7),
    ("CBC with Differential", "Platelet count", "K/uL", 245.0, 75.0, 150.0, 400.0),
    ("Metabolic Panel, Comprehensive", "Sodium, Ser/Plas", "mmol/L", 138.0, 3.5, 135.0, 145.0),
    ("Metabolic Panel, Comprehensive", "Potassium, Ser/Plas", "mmol/L", 4.1, 0.5, 3.5, 5.5),
    ("Metabolic Panel, Comprehensive", "Creatinine, Ser/Plas", "mg/dL", 1.0, 0.4, 0.55, 1.1),
    ("Metabolic Panel, Comprehensive", "Glucose, Ser/Plas", "mg/dL", 118.0, 35.0, 70.0, 140.0),
    ("Lactate, Whole Blood", "Lactate, whole blood", "mmol/L", 1.6, 0.7, 0.5, 2.2),
)
STUDIES = ("XR CHEST 1 VIEW", "CT HEAD WITHOUT IV CONTRAST", "CT ABDOMEN AND PELVIS WITH IV CONTRAST",
           "US ABDOMEN LIMITED")  # fmt: skip
IMPRESSIONS = (
    "1. No acute cardiopulmonary process.\n2. Stable, mild cardiomegaly.",
    'No acute finding. Compared with the prior study, "unchanged".',
    "1. No evidence of bowel obstruction, free air or abscess.",
    "Normal study.",
)
# Measure, mean, standard deviation, digits; temperatures of the monitor are in Fahrenheit, those at triage in Celsius.
MEASURES = (
    ("HR", 84.0, 15.0, 0), ("RR", 18.0, 3.5, 0), ("SpO2", 97.0, 1.8, 1), ("Perf", 2.1, 1.0, 2), ("SBP", 131.0, 20.0, 0),
    ("DBP", 76.0, 12.0, 0), ("MAP", 94.0, 13.0, 0), ("Temp", 98.2, 0.8, 1),
)  # fmt: skip
NUMERIC_EVERY_S = 600
LONGEST_NUMERIC_S = 12 * 3600


def _times(hospital: Hospital, block: Block, counts: Ints, table: str) -> tuple[Ints, Ints, Ints, Ints]:
    """Return, per row: place of the visit in the block, patient, a number unique in the patient, and a time.

    The time lies between rooming and departure, in seconds since 1970.
    """
    visit, place = runs(counts)
    who = block.index[block.person[visit]]
    row = block.number[visit] * 100_000 + place
    span = (block.departure_s - block.roomed_s)[visit]
    time = block.roomed_s[visit] + (span * 0.7 * hospital.draws.uniform(f"{table}: time", who, row)).astype(np.int64)
    return visit, who, row, time


def order_rows(hospital: Hospital, block: Block) -> pl.DataFrame:
    """Return the block's rows of orders.csv as text: about seven a visit."""
    d = hospital.draws
    of, number_ = block.index[block.person], block.number
    counts = np.clip(np.rint(6 * np.exp(0.7 * d.normal("orders", of, number_))), 0, 80).astype(np.int64)
    visit, who, row, time = _times(hospital, block, counts, "orders")
    what = d.integers(0, len(ORDERS), "order", who, row)
    given = np.isin(what, [k for k, o in enumerate(ORDERS) if o[0] == "Medication"])
    result = np.isin(what, [k for k, o in enumerate(ORDERS) if o[0] in ("Lab", "Imaging", "ECG")])
    later = time + (3000 * d.exponential("order: later", who, row)).astype(np.int64)
    return pl.DataFrame(
        {
            "CSN": block.csn[visit],
            "Order_time": stamps(time),
            "Order_type": take([o[0] for o in ORDERS], what),
            "Procedure_name": take([o[1] for o in ORDERS], what),
            "Procedure_ID": 4_000 + what * 113,
            "First_admin_time": blank(stamps(later), ~given),
            "Result_time": blank(stamps(later), ~result),
        }
    ).select(ORDER_COLUMNS)


def lab_rows(hospital: Hospital, block: Block) -> pl.DataFrame:
    """Return the block's rows of labs.csv as text: eight components for two visits in three, some twice."""
    o, d = hospital.options, hospital.draws
    of, number_ = block.index[block.person], block.number
    sets = d.pick((0.35, 0.5, 0.15), "sets of labs", of, number_)
    visit, who, row, _ = _times(hospital, block, sets * len(COMPONENTS), "labs")
    what, which = row % 100_000 % len(COMPONENTS), row // len(COMPONENTS)
    panels = [c[0] for c in COMPONENTS]
    panel = np.array([panels.index(p) for p in panels])[what]
    span = (block.departure_s - block.roomed_s)[visit]
    time = block.roomed_s[visit] + (span * 0.7 * d.uniform("labs: order", who, which, panel)).astype(np.int64)
    mean, spread, low, high = (np.array([c[k] for c in COMPONENTS])[what] for k in (3, 4, 5, 6))
    value = np.maximum(mean + spread * d.normal("lab value", who, row), 0.1)
    text = number(value, 1)
    flag = take(("", "Low", "High"), np.where(value < low, 1, np.where(value > high, 2, 0)))
    odd = d.happens(o.lab_newlines, "lab comment", who, row)
    result = instead(text, odd, 'SEE NOTE\nHEMOLYZED, "recollect" advised')
    return pl.DataFrame(
        {
            "CSN": block.csn[visit],
            "Order_time": stamps(time),
            "Result_time": stamps(time + 1200 + (1500 * d.exponential("lab result", who, which)).astype(np.int64)),
            "Display_name": take(panels, what),
            "Abnormal": blank(take(("Abnormal",), np.zeros(len(who), dtype=np.int64)), flag.is_null().to_numpy()),
            "Component_name": take([c[1] for c in COMPONENTS], what),
            "Component_result": result,
            "Component_value": blank(text, odd),
            "Component_units": take([c[2] for c in COMPONENTS], what),
            "Component_abnormal": flag,
            "Component_nml_low": take([f"{c[5]:g}" for c in COMPONENTS], what),
            "Component_nml_high": take([f"{c[6]:g}" for c in COMPONENTS], what),
        }
    ).select(LAB_COLUMNS)


def radiology_rows(hospital: Hospital, block: Block) -> pl.DataFrame:
    """Return the block's rows of rads.csv as text: a study for every other visit, with an impression of some lines."""
    d = hospital.draws
    counts = d.pick((0.55, 0.33, 0.12), "studies", block.index[block.person], block.number)
    visit, who, row, time = _times(hospital, block, counts, "rads")
    what = d.integers(0, len(STUDIES), "study", who, row)
    return pl.DataFrame(
        {
            "CSN": block.csn[visit],
            "Order_time": stamps(time),
            "Result_time": stamps(time + 1800 + (3000 * d.exponential("study read", who, row)).astype(np.int64)),
            "Study": take(STUDIES, what),
            "Impression": take(IMPRESSIONS, d.integers(0, len(IMPRESSIONS), "impression", who, row)),
        }
    ).select(RAD_COLUMNS)


def numeric_rows(hospital: Hospital, block: Block) -> pl.DataFrame:
    """Return the block's rows of numerics.csv as text.

    From the monitor every ten minutes of the stay's first twelve hours, from the chart every hour where there is none.
    """
    d = hospital.draws
    stay_s = np.minimum(block.dispo_s - block.roomed_s, LONGEST_NUMERIC_S)
    every = np.where(block.monitored, NUMERIC_EVERY_S, 6 * NUMERIC_EVERY_S)
    counts = (1 + stay_s // every) * len(MEASURES)
    visit, place = runs(counts)
    who = block.index[block.person[visit]]
    row = block.number[visit] * 100_000 + place
    what, turn = place % len(MEASURES), place // len(MEASURES)
    own = d.normal("numerics of the visit", who, block.number[visit], what)
    mean, spread = (np.array([m[k] for m in MEASURES])[what] for k in (1, 2))
    value = np.maximum(mean + spread * (0.8 * own + 0.6 * d.normal("numerics", who, row)), 0)
    value = np.where(what == 2, np.minimum(value, 100), value)
    digits = np.array([m[3] for m in MEASURES])[what]
    texts = [number(value, k) for k in range(3)]
    text = instead(instead(texts[0], digits == 1, texts[1]), digits == 2, texts[2])
    return pl.DataFrame(
        {
            "CSN": block.csn[visit],
            "Source": take(("Chart", "Monitor"), block.monitored[visit].astype(np.int64)),
            "Measure": take([m[0] for m in MEASURES], what),
            "Value": text,
            "Time": stamps((block.roomed_s[visit] + turn * every[visit]) // 60 * 60),
        }
    ).select(NUMERIC_COLUMNS)
