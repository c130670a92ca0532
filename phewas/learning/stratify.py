"""Patients divided so that every phenotype's cases are spread in proportion: iterative stratification."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from phewas.seeds import generator


def patient_labels(
    labels: NDArray[np.int8], patients: NDArray[np.int64]
) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
    """Return which phenotypes each patient is ever a case of, and each row's place among the patients.

    Parameters
    ----------
    labels
        int8 [encounters, phenotypes].
    patients
        int64 [encounters].

    Returns
    -------
    cases, place
        bool [patients, phenotypes], in ascending order of patient; int64 [encounters].
    """
    unique, place = np.unique(patients, return_inverse=True)
    cases = np.zeros((len(unique), labels.shape[1]), dtype=bool)
    np.logical_or.at(cases, place, labels == 1)
    return cases, place.astype(np.int64)


def iterative_stratification(cases: NDArray[np.bool_], shares: NDArray[np.float64], *, seed: int) -> NDArray[np.int64]:
    """Divide patients into parts in which every phenotype has its share of the cases, as nearly as can be.

    Parameters
    ----------
    cases
        bool [patients, phenotypes].
    shares
        float64 [parts], of all patients; they add up to 1.
    seed
        Decides among equals.

    Returns
    -------
    ndarray
        int64 [patients]: the part of each.

    Notes
    -----
    Sechidis, Tsoumakas and Vlahavas (ECML PKDD 2011): the phenotype with the fewest cases left goes first, each of its
    patients to the part that lacks most of its cases, then to the part that lacks most patients.
    """
    rng = generator("stratify", seed)
    n = len(cases)
    order = rng.permutation(n)
    left = cases[order]
    part = np.full(n, -1, dtype=np.int64)
    room = shares * n
    lacking = shares[:, None] * cases.sum(0)
    remaining = left.sum(0)
    free = np.ones(n, dtype=bool)
    while remaining.any():
        rarest = int(np.argmin(np.where(remaining > 0, remaining, n + 1)))
        for place in np.flatnonzero(free & left[:, rarest]):
            best = np.flatnonzero(lacking[:, rarest] >= lacking[:, rarest].max() - 1e-9)
            best = best[room[best] >= room[best].max() - 1e-9]
            chosen = int(best[rng.integers(len(best))])
            part[order[place]], free[place] = chosen, False
            room[chosen] -= 1
            lacking[chosen, left[place]] -= 1
            remaining = remaining - left[place]
    for place in np.flatnonzero(free):
        chosen = int(np.argmax(room))
        part[order[place]] = chosen
        room[chosen] -= 1
    return part
