"""pmh.csv and meds.csv of the emulated hospital: what was noted about a patient, with repeats and untidy cells."""

from __future__ import annotations

import numpy as np
import polars as pl
from numpy.typing import NDArray

from phewas.cohorts.emulator.codes import code_pool
from phewas.cohorts.emulator.draws import Ints, runs
from phewas.cohorts.emulator.headers import MED_COLUMNS, PMH_COLUMNS
from phewas.cohorts.emulator.hospital import MALE, Block, Hospital
from phewas.cohorts.emulator.text import CUT, Flags, blank, instead, midnights, take

UNKNOWN_MRN = "11111111"  # outside the range of the identifiers
KINDS = ("dot", "lower", "trailing", "x_kept", "x_lost", "category", "not_billable", "pcs", "cpt", "no_code",
         "wrong_type", "no_type", "two_codes")  # fmt: skip
# Set so that distinct codes are 45 % of the rows, chance repeats and planned ones together.
PROBLEMS_PER_ROW = 1.1
NO_CODE = ("IMO0001", "NA", "")
# (name, generic name, class, subclass); made-up frequencies, independent of everything planted.
DRUGS = (
    ("METFORMIN 500 MG TABLET", "Metformin HCl", "Antihyperglycemics", "Biguanides"),
    ("LISINOPRIL 10 MG TABLET", "Lisinopril", "Cardiovascular", "ACE inhibitors"),
    ("ATORVASTATIN 40 MG TABLET", "Atorvastatin Calcium", "Antihyperlipidemics", "Statins"),
    ("ALBUTEROL SULFATE HFA 90 MCG/ACTUATION AEROSOL INHALER", "Albuterol Sulfate", "Antiasthmatics", "Beta agonists"),
    ("ACETAMINOPHEN 325 MG TABLET", "Acetaminophen", "Analgesics", "Analgesics, non-opioid"),
    ("CHOLECALCIFEROL (VITAMIN D3) 1,000 UNIT TABLET", "Cholecalciferol", "Vitamins", "Vitamin D"),
    ("IBUPROFEN 600 MG TABLET", "Ibuprofen", "Analgesics", "NSAIDs"),
    ("OMEPRAZOLE 20 MG CAPSULE, DELAYED RELEASE", "Omeprazole", "Gastrointestinal", "Proton pump inhibitors"),
)


def history_rows(hospital: Hospital, block: Block) -> pl.DataFrame:
    """Return the block's rows of pmh.csv as text, patient by patient in a hashed order.

    Planted conditions are noted on the day they begin and sometimes again; the other rows up to the patient's number
    are drawn from the pool of codes that carry nothing.
    """
    o, d, pool = hospital.options, hospital.draws, code_pool()
    owner, row, code, day = _planted(hospital, block)
    planted_rows = np.bincount(owner, minlength=len(block.index))
    others = _background(hospital, block, np.maximum(block.rows - planted_rows, 0))
    # Planted rows have numbers from 1,000,000 on, so that no two rows of a patient share a number.
    source = np.concatenate([row, others[4]])
    owner, row, code, day = (np.concatenate(pair) for pair in zip((owner, row, code, day), others[:4], strict=True))
    who = block.index[owner]
    # An old record keeper: half the rows of a few patients are in ICD-9, as few visits with many such rows suggest.
    old = d.happens(min(2 * o.icd9_share, 1.0), "old records", who) & d.happens(0.5, "old code", who, source)
    system = instead(take(("Dx10",), np.zeros(len(who), dtype=np.int64)), old, "Dx9")
    dotted = instead(take(pool.table["code10"], code), old, take(pool.table["code9"], code))
    cell = dotted.str.replace_all(".", "", literal=True)
    bad = d.happens(o.malformed, "malformed", who, source)
    if bad.any():
        cell, system = _spoil(hospital, who, source, bad, dotted, cell, system)
    mrn = pl.Series(block.mrn[owner]).cast(pl.String)
    if o.unknown_patients:
        mrn = instead(mrn, d.happens(o.unknown_patients, "unknown patient", who, row), UNKNOWN_MRN)
    if o.blank_mrn:
        mrn = blank(mrn, d.happens(o.blank_mrn, "blank MRN", who, row))
    if o.short_rows:
        cell = instead(cell, d.happens(o.short_rows, "short row", who, row), CUT)
    frame = pl.DataFrame(
        {
            "MRN": mrn,
            "Noted_date": midnights(day),
            "CodeType": system,
            "Code": cell,
            "Desc10": take(pool.table["name"], code),
            "CCS": take((pool.table["number"].cast(pl.String) + ".0"), code),
            "DescCCS": take(pool.table["chapter"], code),
        }
    ).select(PMH_COLUMNS)
    # Two draws may agree by chance; a row stands twice only where that was drawn.
    same = pl.struct("who", "Noted_date", "CodeType", "Code")
    first = frame.with_columns(pl.Series("who", who)).select(same.is_first_distinct()).to_series().to_numpy()
    kept = np.flatnonzero(first | (row != source))
    order = np.lexsort((d.words("place in the file", who[kept], row[kept]), who[kept]))
    return frame[kept[order]]


def _planted(hospital: Hospital, block: Block) -> tuple[Ints, Ints, Ints, Ints]:
    """Return owner, row number, code and day of the rows of planted conditions."""
    d = hospital.draws
    patient, kind = (a.astype(np.int64) for a in np.nonzero(~np.isnan(block.onsets)))
    index = block.index[patient]
    further = np.floor(d.exponential("further notes", index, kind) / -np.log(0.35)).astype(np.int64)
    which, place = runs(1 + np.minimum(further, 8))
    patient, kind, index = patient[which], kind[which], index[which]
    first = block.onsets[patient, kind].astype(np.int64)
    later = d.integers(20, 500, "days to a further note", index, kind, place)
    day = np.where(place == 0, first, np.minimum(first + later, block.opening_day[patient] + 730))
    return patient, 1_000_000 + kind * 10 + place, kind, day


def _background(hospital: Hospital, block: Block, counts: Ints) -> tuple[Ints, Ints, Ints, Ints, Ints]:
    """Return owner, row number, code, day and the number of the row that a full duplicate repeats."""
    o, d = hospital.options, hospital.draws
    owner, place = runs(counts)
    who = block.index[owner]
    u = d.uniform("kind of row", who, place)
    twice = (place > 0) & (u < o.exact_duplicates)
    again = (place > 0) & ~twice & (u < o.exact_duplicates + o.history_repeats)
    start = np.arange(len(who)) - place
    earlier = start + d.integers(0, place, "which row", who, place)
    here = np.arange(len(who))
    code_from = _follow(np.where(twice | again, earlier, here))
    day_from = _follow(np.where(twice, earlier, here))
    # Each patient has a stock of problems, larger than the number of rows that draw from it.
    problem = d.integers(0, np.ceil(PROBLEMS_PER_ROW * counts[owner]), "problem", who, place)
    code = code_pool().draw(d, "code", block.sex[owner] == MALE, who, problem)[code_from]
    day = block.opening_day[owner] + hospital.days_from_opening("note", who, place)[day_from]
    return owner, place, code, day, place[day_from]


def _follow(pointers: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return where each chain of pointers to earlier rows ends."""
    while True:
        further = pointers[pointers]
        if np.array_equal(further, pointers):
            return pointers
        pointers = further


def _spoil(
    hospital: Hospital, who: Ints, source: Ints, bad: Flags, dotted: pl.Series, cell: pl.Series, system: pl.Series
) -> tuple[pl.Series, pl.Series]:
    """Return cells and code types with the malformed rows spoilt, each in one way."""
    d = hospital.draws
    kind = np.where(bad, d.integers(0, len(KINDS), "kind of malformation", who, source), -1)
    no_code = take(NO_CODE, d.integers(0, len(NO_CODE), "text for no code", who, source))
    frame = pl.DataFrame({"kind": kind, "dotted": dotted, "cell": cell, "system": system, "no_code": no_code})
    is_kind = {name: pl.col("kind") == k for k, name in enumerate(KINDS)}
    spoilt = frame.select(
        pl.when(is_kind["dot"]).then(pl.col("dotted"))
        .when(is_kind["lower"]).then(pl.col("cell").str.to_lowercase())
        .when(is_kind["trailing"]).then(pl.col("cell") + " ")
        .when(is_kind["x_kept"]).then(pl.lit("T402X5A"))
        .when(is_kind["x_lost"]).then(pl.lit("T4025A"))
        .when(is_kind["category"]).then(pl.col("cell").str.slice(0, 3))
        .when(is_kind["not_billable"]).then(pl.col("cell").str.head(-1))
        .when(is_kind["pcs"]).then(pl.lit("0DTJ4ZZ"))
        .when(is_kind["cpt"]).then(pl.lit("99284"))
        .when(is_kind["no_code"]).then(pl.col("no_code"))
        .when(is_kind["two_codes"]).then(pl.lit("Z87891, Z8739"))
        .otherwise(pl.col("cell")).alias("cell"),
        pl.when(is_kind["wrong_type"] & (pl.col("system") == "Dx9")).then(pl.lit("Dx10"))
        .when(is_kind["wrong_type"]).then(pl.lit("Dx9"))
        .when(is_kind["no_type"]).then(None)
        .otherwise(pl.col("system")).alias("system"),
    )  # fmt: skip
    return spoilt["cell"], spoilt["system"]


def medication_rows(hospital: Hospital, block: Block) -> pl.DataFrame:
    """Return the block's rows of meds.csv (medication at home) as text; number and kind are assumptions."""
    d = hospital.draws
    some = d.happens(0.75, "any medication", block.index)
    counts = np.where(some, np.clip(np.rint(5 * np.exp(0.8 * d.normal("medications", block.index))), 1, 60), 0)
    owner, place = runs(counts.astype(np.int64))
    who = block.index[owner]
    drug = d.integers(0, len(DRUGS), "drug", who, place)
    entry = block.opening_day[owner] + d.integers(-400, 1, "entry", who, place)
    begin = entry - d.integers(0, 1500, "begin", who, place)
    ended = d.happens(0.3, "ended", who, place)
    columns = {
        "MRN": pl.Series(block.mrn[owner]),
        "Med_ID": pl.Series(10_000 + drug * 37),
        "NDC": pl.Series(d.integers(10_000_000, 99_999_999, "NDC", drug)).cast(pl.String).str.zfill(11),
        "Active": take(("Y",), np.zeros(len(who), dtype=np.int64)),
        "Entry_date": midnights(entry),
        "Start_date": midnights(begin),
        "End_date": blank(midnights(entry + d.integers(1, 300, "end", who, place)), ~ended),
    }
    for k, name in enumerate(("Name", "Generic_name", "Med_class", "Med_subclass")):
        columns[name] = take([row[k] for row in DRUGS], drug)
    return pl.DataFrame(columns).select(MED_COLUMNS)
