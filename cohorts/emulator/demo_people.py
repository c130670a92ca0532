"""The people of the demo's emulated cohort: who they are, what they have and when they come.

Every value derives from the seed and a patient's or visit's number by hashing, so that a larger cohort begins with the
same patients as a smaller one.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass, replace

import numpy as np

from phewas.cohorts.emulator.planted import COMPLAINTS, PLANTED, Planted
from phewas.seeds import generator

LOWEST_ID, HIGHEST_ID = 98_870_000, 99_999_999  # patients and visits share one range, as in the original


@dataclass(frozen=True)
class Visit:
    """One visit: `reason` is an index into `COMPLAINTS`, `coded` the planted conditions coded at this visit."""

    number: int
    csn: int
    arrival: dt.datetime
    roomed: dt.datetime
    departure: dt.datetime
    age: int
    reason: int
    coded: tuple[int, ...]
    monitored: bool


@dataclass(frozen=True)
class Person:
    """One patient. `onsets` maps the index of a planted condition to the day it begins."""

    index: int
    mrn: int
    sex: str
    race: str
    ethnicity: str
    latent: dict[str, float]
    onsets: dict[int, dt.date]
    visits: tuple[Visit, ...] = ()

    def has(self, code: str, day: dt.date) -> bool:
        """Whether the condition with ICD-10-CM code `code` has begun by `day`."""
        return any(PLANTED[k].code == code and onset <= day for k, onset in self.onsets.items())


RACES = ("White", "Other", "Asian", "Black or African American", "Declines to State", "Unknown", "")
RACE_SHARES = np.array([0.402, 0.338, 0.165, 0.07, 0.012, 0.01, 0.003])
ETHNICITIES = ("Non-Hispanic/Non-Latino", "Hispanic/Latino", "Declines to State", "Unknown", "")
ETHNICITY_SHARES = np.array([0.68, 0.27, 0.02, 0.02, 0.01])
LATENTS = ("rate", "rise", "notch", "breath", "breath_rate", "rr", "amplitude", "noise")


def people(*, patients: int, seed: int) -> list[Person]:
    """Return the emulated patients with their visits.

    Parameters
    ----------
    patients
        How many, 1 to 300,000.
    seed
        The same seed gives the same patients; the first ones do not depend on how many there are.
    """
    numbers = generator(seed, "ids").permutation(HIGHEST_ID - LOWEST_ID + 1) + LOWEST_ID
    out, next_visit = [], 0
    for index in range(patients):
        person = _person(index, int(numbers[index]), seed)
        rng = generator(seed, "visits", index)
        count = min(1 + int(rng.negative_binomial(0.6, 0.47)), 60)
        visits, age = [], _age(index, seed)
        arrival = dt.datetime(int(rng.integers(2210, 2292)), 1, 1) + dt.timedelta(minutes=int(rng.integers(0, 525_600)))
        first = arrival
        person = _with_onsets(person, first.date(), age, seed)
        for number in range(1, count + 1):
            # Visit identifiers are taken from the other end, so that they never meet the patients'.
            csn = int(numbers[-1 - next_visit])
            next_visit += 1
            visits.append(_visit(person, number, csn, arrival, age + (arrival - first).days / 365.25, seed))
            arrival = arrival + dt.timedelta(minutes=int(rng.exponential(180 * 1440 / count)) + 2880)
        out.append(replace(person, visits=tuple(visits)))
    return out


def _age(index: int, seed: int) -> float:
    return float(np.clip(generator(seed, "age", index).normal(55, 20), 18, 90))


def _person(index: int, mrn: int, seed: int) -> Person:
    rng = generator(seed, "person", index)
    sex = "U" if rng.random() < 0.0003 else ("F" if rng.random() < 0.543 else "M")
    race = RACES[int(rng.choice(len(RACES), p=RACE_SHARES / RACE_SHARES.sum()))]
    ethnicity = ETHNICITIES[int(rng.choice(len(ETHNICITIES), p=ETHNICITY_SHARES / ETHNICITY_SHARES.sum()))]
    latent = dict(zip(LATENTS, rng.standard_normal(len(LATENTS)).tolist(), strict=True))
    return Person(index, mrn, sex, race, ethnicity, latent, {})


def _with_onsets(person: Person, first_visit: dt.date, age: float, seed: int) -> Person:
    """Draw which conditions the patient gets, and from which day on."""
    rng = generator(seed, "conditions", person.index)
    draws, timing = rng.random(len(PLANTED)), rng.random(len(PLANTED))
    days = rng.exponential(700.0, len(PLANTED))
    onsets = {}
    for k, planted in enumerate(PLANTED):
        if draws[k] >= chance(planted, age=age, sex=person.sex):
            continue
        # Mostly before the first visit; some on its day, some up to two years after it, so that label windows matter.
        offset = (
            -30 - int(min(days[k], 4300)) if timing[k] < 0.82 else 0 if timing[k] < 0.86 else 2 + int(days[k] % 700)
        )
        onsets[k] = first_visit + dt.timedelta(days=offset)
    return replace(person, onsets=onsets)


def chance(planted: Planted, *, age: float, sex: str) -> float:
    """Return the probability that a patient of this age (years) and sex ever gets a condition."""
    if planted.sex and planted.sex != sex:
        return 0.0
    if planted.kind == "age":
        return planted.share / (1 + float(np.exp(-(age - 62) / 7)))
    return planted.share


def _visit(person: Person, number: int, csn: int, arrival: dt.datetime, age: float, seed: int) -> Visit:
    rng = generator(seed, "visit", person.index, number)
    wait = dt.timedelta(minutes=2 + int(rng.exponential(20)))
    stay = dt.timedelta(minutes=90 + int(rng.lognormal(np.log(210), 0.8)))
    day = (arrival + wait + stay).date()
    present = [k for k, onset in sorted(person.onsets.items()) if onset <= day]
    coded = tuple(k for k in present if rng.random() < 0.12)[:2]
    return Visit(
        number=number,
        csn=csn,
        arrival=arrival,
        roomed=arrival + wait,
        departure=arrival + wait + stay,
        age=int(np.clip(round(age) + int(rng.integers(-2, 3)), 18, 90)),
        reason=int(rng.integers(len(COMPLAINTS))),
        coded=coded,
        # First visits nearly always have a signal, later ones less often: about 1.3 visits with signal a patient.
        monitored=bool(rng.random() < (0.96 if number == 1 else 0.5)),
    )
