"""When a person's codes of a phenotype count: the first day, and the day that completes a case.

A label window is a cut-off per encounter. So it is enough to know, for each patient and phenotype, the first day with a
code and the day of the n-th distinct one; an encounter whose cut-off lies on or after that day is a case. Only the rows
that count for one encounter alone (its own diagnoses, undated or noted after it ended) are kept per encounter.

Days are whole days since 1970-01-01. All tables are sorted integer arrays, because 3.5 million diagnoses are about
seven million (patient, phenotype, day) triples, which fit into one 64-bit key each.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

Ints = np.ndarray[Any, np.dtype[np.integer[Any]]]

_DAY_BITS = 23
_DAY_OFFSET = 1 << (_DAY_BITS - 1)
#: Stands for "no date"; later than any date that is read (year 13,450), so that only the window `any` reaches it.
UNDATED = _DAY_OFFSET - 1
#: Later than every cut-off.
NEVER = np.iinfo(np.int32).max
#: Earlier than every day: the cut-off of an encounter that no day can precede.
BEFORE_ALL = -_DAY_OFFSET - 1


@dataclass(frozen=True, eq=False)
class Onsets:
    """First and completing day of each (patient, phenotype), grouped by patient.

    Attributes
    ----------
    pointer
        int64 [patients + 1]; the entries of patient i are ``pointer[i]:pointer[i + 1]``.
    phenotype
        int16 [entries], ascending inside a patient.
    first
        int32 [entries], first day with a code; `UNDATED` where no code has a date.
    complete
        int32 [entries], day on which the n-th distinct day was reached; `NEVER` where it was not. An undated code is no
        distinct day beside dated ones, but it is one day where one is asked.
    """

    pointer: Ints
    phenotype: Ints
    first: Ints
    complete: Ints

    def at(self, patients: Ints) -> tuple[Ints, Ints]:
        """Return for each entry of these patients its place among `patients` and its index in the arrays."""
        start, stop = self.pointer[patients], self.pointer[patients + 1]
        length = stop - start
        place = np.repeat(np.arange(len(patients)), length)
        shift = np.repeat(start - (np.cumsum(length) - length), length)
        return place, np.arange(len(place)) + shift


def pack(*, events: pl.DataFrame, meanings: pl.DataFrame, n_phenotypes: int) -> Ints:
    """Return the distinct (patient, phenotype, day) triples as one sorted int64 key each.

    Parameters
    ----------
    events
        patient (int32), day (int32), code_id (int32).
    meanings
        code_id, phenotype (int16): each phenotype a code counts for, once.
    n_phenotypes
        Number of phenotypes of the vocabulary.
    """
    key = pl.col("patient").cast(pl.Int64) * n_phenotypes + pl.col("phenotype")
    day = pl.col("day").clip(-_DAY_OFFSET, UNDATED).cast(pl.Int64) + _DAY_OFFSET
    frame = (
        events.lazy()
        .select("patient", "day", "code_id")
        .unique()
        .join(meanings.lazy(), on="code_id")
        .select((key * (1 << _DAY_BITS) + day).alias("key"))
        .collect()
    )
    keys = frame["key"].to_numpy(writable=True)
    keys.sort()
    return keys[np.concatenate(([True], keys[1:] != keys[:-1]))] if len(keys) else keys


def unpack(keys: Ints, *, n_phenotypes: int) -> pl.DataFrame:
    """Return the triples of `pack` as a table: patient (int32), phenotype (int16), day (int32)."""
    pair = keys >> _DAY_BITS
    return pl.DataFrame(
        {
            "patient": (pair // n_phenotypes).astype(np.int32),
            "phenotype": (pair % n_phenotypes).astype(np.int16),
            "day": ((keys & ((1 << _DAY_BITS) - 1)) - _DAY_OFFSET).astype(np.int32),
        }
    )


def onsets(keys: Ints, *, n_patients: int, n_phenotypes: int, min_code_days: int) -> Onsets:
    """Return first and completing days from the keys of `pack`."""
    pair, day = keys >> _DAY_BITS, ((keys & ((1 << _DAY_BITS) - 1)) - _DAY_OFFSET).astype(np.int32)
    starts = np.flatnonzero(np.concatenate(([True], pair[1:] != pair[:-1]))) if len(keys) else np.empty(0, np.int64)
    stops = np.append(starts[1:], len(keys))
    # Keys ascend, so the undated triple, if any, is the last of its pair.
    dated = stops - starts - (day[stops - 1] == UNDATED) if len(keys) else np.empty(0, np.int64)
    first = day[starts]
    complete = np.full(len(starts), NEVER, np.int32)
    enough = dated >= min_code_days
    complete[enough] = day[starts[enough] + min_code_days - 1]
    if min_code_days == 1:
        complete = first.copy()
    patient, phenotype = np.divmod(pair[starts], n_phenotypes)
    pointer = np.searchsorted(patient, np.arange(n_patients + 1))
    return Onsets(pointer, phenotype.astype(np.int16), first, complete)


def own_codes(
    *, events: pl.DataFrame, meanings: pl.DataFrame, triples: pl.DataFrame, visits: pl.DataFrame, min_code_days: int
) -> pl.DataFrame:
    """Return what counts for one encounter alone: its own rows that are undated or noted after it ended.

    An undated row of an encounter counts as noted on the day the encounter ended, so that it is no further day beside
    a dated row of that day. Where the encounter has no date either, all its undated rows are one day if no other row
    gives one.

    Parameters
    ----------
    events
        visit (int32), patient (int32), day (int32, `UNDATED` where none), code_id (int32).
    meanings
        code_id, phenotype.
    triples
        patient, phenotype, day: the patient's dated codes, of all encounters.
    visits
        visit (int32), end_day (int32, null where the encounter has no date).
    min_code_days
        Distinct days that a case needs.

    Returns
    -------
    polars.DataFrame
        visit (int32), phenotype (int16), case (bool: enough distinct days with these rows), sorted.
    """
    own = (
        events.select("visit", "patient", "day", "code_id")
        .unique()
        .join(meanings, on="code_id")
        .select("visit", "patient", "phenotype", "day")
        .unique()
    )
    pairs = own.select("visit", "patient", "phenotype").unique()
    if min_code_days == 1:
        return pairs.select("visit", "phenotype", pl.lit(value=True).alias("case")).sort("visit", "phenotype")
    earlier = (
        pairs.join(visits.select("visit", "end_day"), on="visit")
        .join(triples, on=["patient", "phenotype"])
        .filter(pl.col("day") <= pl.col("end_day"))
        .select("visit", "patient", "phenotype", "day")
    )
    days = pl.concat([own.filter(pl.col("day") < UNDATED), earlier]).unique()
    counted = days.group_by("visit", "phenotype").agg((pl.len() >= min_code_days).alias("case"))
    return (
        pairs.join(counted, on=["visit", "phenotype"], how="left")
        .select("visit", "phenotype", pl.col("case").fill_null(value=False))
        .sort("visit", "phenotype")
    )
