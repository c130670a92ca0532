"""Counting in whole numbers: distinct days of each patient and phenotype, and the three states that follow.

A term is one spelling of a code in one code system; what it means was looked up once. Here only integers are left: the
patient's place, the term, the day. All counting is done on sorted 64-bit keys of patient, phenotype and day, so that it
does not depend on the order of the rows, on repeated rows or on how the patients are cut into blocks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

Ints = np.ndarray[Any, np.dtype[np.integer[Any]]]
Labels = np.ndarray[Any, np.dtype[np.int8]]

_DAY_BITS = 23
_DAY_OFFSET = 1 << (_DAY_BITS - 1)
_DAY_MASK = (1 << _DAY_BITS) - 1
#: Stands for "no date"; later than every date that is read.
UNDATED = _DAY_OFFSET - 1
#: Rows counted at a time, and patients labelled at a time: tens of megabytes each.
_ROWS = 1 << 19
_PATIENTS = 1024

#: Why a label is -1, in the order in which a cell is counted under the first that holds.
EXCLUDED_BY: dict[str, str] = {
    "sex": "phenotype of the other sex, or sex unknown",
    "too_few_days": "codes of the phenotype on fewer days than a case needs",
    "related_code": "a code of a related phenotype bars the person from the controls",
}


@dataclass(frozen=True, eq=False)
class Lists:
    """A list of numbers for each of n things.

    Attributes
    ----------
    start
        int64 [n + 1]; the numbers of thing i are ``values[start[i]:start[i + 1]]``.
    values
        int32.
    """

    start: Ints
    values: Ints

    @classmethod
    def make(cls, owner: Ints, values: Ints, *, n: int) -> Lists:
        """Return the lists of n owners from pairs in any order; a repeated pair counts once."""
        order = np.lexsort((values, owner))
        owner, values = owner[order], values[order]
        if len(owner):
            new = np.append(True, (owner[1:] != owner[:-1]) | (values[1:] != values[:-1]))
            owner, values = owner[new], values[new]
        return cls(np.searchsorted(owner, np.arange(n + 1)).astype(np.int64), values.astype(np.int32))

    def expand(self, owners: Ints) -> tuple[Ints, Ints]:
        """Return for each number of each of these owners the owner's index in `owners`, and the number."""
        start = self.start[owners]
        length = self.start[owners + 1] - start
        index = np.repeat(np.arange(len(owners), dtype=np.int32), length)
        shift = start - (np.cumsum(length) - length)
        return index, self.values[np.arange(len(index)) + shift[index]]


@dataclass(frozen=True, eq=False)
class Pairs:
    """Patients and phenotypes that have at least one code, by patient, then phenotype.

    Attributes
    ----------
    patient, phenotype
        int32 [pairs].
    days
        int32 [pairs], distinct days; 1 where no code has a date.
    first
        int32 [pairs], first day since 1970-01-01; `UNDATED` where no code has a date.
    """

    patient: Ints
    phenotype: Ints
    days: Ints
    first: Ints


def count_days(*, patient: Ints, term: Ints, day: Ints, meanings: Lists, n_phenotypes: int) -> Pairs:
    """Count the distinct days on which each patient has a code of each phenotype.

    Parameters
    ----------
    patient, term, day
        int32 [rows], in any order. A row without a date has day `UNDATED`: it is no distinct day beside dated rows,
        but one day where there is none.
    meanings
        The phenotypes of each term, ancestors included, each once: a code that reaches a parent by two ways is one.
    n_phenotypes
        Number of phenotypes.
    """
    # Cut by patients, so that the keys of a few hundred thousand rows stand in memory at a time.
    n_patients = int(patient.max()) + 1 if len(patient) else 0
    step = max(1, n_patients * _ROWS // max(len(patient), 1))
    columns: tuple[list[Ints], ...] = ([], [], [], [])
    for low in range(0, n_patients, step):
        some = np.flatnonzero((patient >= low) & (patient < low + step)) if step < n_patients else slice(None)
        keys = _keys(patient[some], term[some], day[some], meanings, n_phenotypes)
        for column, part in zip(columns, _pairs(keys, n_phenotypes) if len(keys) else (), strict=False):
            column.append(part)
        del keys
    joined = []
    for column in columns:
        joined.append(np.concatenate([*column, np.empty(0, np.int32)]))
        column.clear()
    return Pairs(*joined)


def _keys(patient: Ints, term: Ints, day: Ints, meanings: Lists, n_phenotypes: int) -> Ints:
    """Return the sorted keys of patient, phenotype and day; repeated ones stay."""
    at = meanings.start[term]
    left = meanings.start[term + 1] - at
    keys = np.empty(int(left.sum()), np.int64)
    base = patient.astype(np.int64) * (n_phenotypes << _DAY_BITS) + (day.astype(np.int64) + _DAY_OFFSET)
    shifted = meanings.values.astype(np.int64) << _DAY_BITS
    filled = 0
    while len(left):
        # One phenotype of every row that has one left: most codes have few, so the rows soon run out.
        more = np.flatnonzero(left > 0)
        if len(more) < len(left):
            at, left, base = at[more], left[more], base[more]
        np.add(base, shifted[at], out=keys[filled : filled + len(base)])
        filled += len(base)
        at, left = at + 1, left - 1
    keys.sort()
    return keys


def _pairs(keys: Ints, n_phenotypes: int) -> tuple[Ints, Ints, Ints, Ints]:
    """Return patient, phenotype, days and first day from sorted keys, at least one."""
    keys = keys[np.append(True, keys[1:] != keys[:-1])]
    pair = keys >> _DAY_BITS
    starts = np.flatnonzero(np.append(True, pair[1:] != pair[:-1]))
    stops = np.append(starts[1:], len(keys))
    days = (stops - starts).astype(np.int32)
    first = (keys[starts] & _DAY_MASK).astype(np.int32) - np.int32(_DAY_OFFSET)
    # Keys ascend, so a row without a date is the last of its pair.
    last = (keys[stops - 1] & _DAY_MASK) - _DAY_OFFSET
    days -= (last == UNDATED) & (days > 1)
    patient_of = pair[starts] // n_phenotypes
    phenotype_of = pair[starts] - patient_of * n_phenotypes
    return patient_of.astype(np.int32), phenotype_of.astype(np.int32), days, first


def count_people(*, patient: Ints, term: Ints, groups: Lists, n_groups: int) -> Ints:
    """Return int64 [n_groups]: the number of patients with a term of each group."""
    keep = groups.start[term + 1] > groups.start[term]
    patient, term = patient[keep], term[keep]
    index, group = groups.expand(term)
    pairs = np.unique(patient[index].astype(np.int64) * max(n_groups, 1) + group)
    return np.bincount(pairs % max(n_groups, 1), minlength=n_groups).astype(np.int64)


@dataclass(frozen=True, eq=False)
class Rules:
    """What makes a label.

    Attributes
    ----------
    min_days
        Distinct days that a case needs.
    related
        For each phenotype, those whose controls its codes bar; None: nobody is barred.
    wrong_sex
        bool [phenotypes] by sex (``F``, ``M``, ``U``): who cannot be labelled; None: sex is not known of anybody.
    """

    min_days: int
    related: Lists | None
    wrong_sex: dict[str, Any] | None


def label(
    *, pairs: Pairs, direct: tuple[Ints, Ints], sex: Any, rules: Rules, n_patients: int, n_phenotypes: int
) -> tuple[Labels, dict[str, int], int]:
    """Return the labels of a block of patients.

    Parameters
    ----------
    pairs
        From `count_days`; patients are numbered from 0 to `n_patients` - 1.
    direct
        Patients and phenotypes of their codes without ancestors: the codes that bar controls.
    sex
        Text [n_patients], ``F``, ``M`` or ``U``; not read where `rules` knows no sex.
    rules
        What makes a label.
    n_patients, n_phenotypes
        Size of the block.

    Returns
    -------
    labels, excluded_by, cases_lost_to_sex
        int8 [n_patients, n_phenotypes]: 1 case, 0 control, -1 neither; counts by the keys of `EXCLUDED_BY`, each cell
        once; and the cells that would be cases but for the sex.
    """
    labels = np.zeros((n_patients, n_phenotypes), np.int8)
    labels[pairs.patient, pairs.phenotype] = np.where(pairs.days >= rules.min_days, 1, -1)
    counts, lost = dict.fromkeys(EXCLUDED_BY, 0), 0
    bounds = np.searchsorted(direct[0], np.arange(0, n_patients + _PATIENTS, _PATIENTS))
    for block, low in enumerate(range(0, n_patients, _PATIENTS)):
        part = labels[low : low + _PATIENTS]
        few = part == -1
        if rules.wrong_sex is not None:
            wrong = np.stack([rules.wrong_sex[one] for one in sex[low : low + _PATIENTS]])
            lost += int((wrong & (part == 1)).sum())
            counts["sex"] += int(wrong.sum())
            few &= ~wrong
            part[wrong] = -1
        counts["too_few_days"] += int(few.sum())
        if rules.related is not None:
            own = slice(int(bounds[block]), int(bounds[block + 1]))
            index, barred = rules.related.expand(direct[1][own])
            hit = np.zeros(part.shape, bool)
            hit[direct[0][own][index] - low, barred] = True
            hit &= part == 0
            counts["related_code"] += int(hit.sum())
            part[hit] = -1
    return labels, counts, lost


def direct_pairs(*, patient: Ints, term: Ints, meanings: Lists, n_phenotypes: int) -> tuple[Ints, Ints]:
    """Return the distinct patients and phenotypes of the codes themselves, sorted by patient."""
    found = count_days(
        patient=patient, term=term, day=np.zeros(len(term), np.int32), meanings=meanings, n_phenotypes=n_phenotypes
    )
    return found.patient, found.phenotype
