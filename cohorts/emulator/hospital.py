"""Patients and visits of the emulated hospital, block by block, as columns.

Every column is a hash of the seed and of the patient's and visit's number (`phewas.cohorts.emulator.draws`): the first
patients are the same in a hospital of any size, and blocks of any size give the same patients.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtri
from scipy.stats import nbinom

from phewas.cohorts.emulator.draws import Draws, Floats, Ints, runs
from phewas.cohorts.emulator.options import Options
from phewas.cohorts.emulator.planted import PLANTED, Planted
from phewas.seeds import generator

LOWEST_ID, HIGHEST_ID = 98_870_000, 99_999_999
MOST_VISITS = 80
PERIOD_DAYS = 730  # the hospital's two years, which open on 2020-09-01
OPENS_DAY = 18_506  # of 1970
DAY_S = 86_400
YEAR_DAYS = 365.2425
SEXES = ("F", "M", "U")
FEMALE, MALE = 0, 1
# A normal age of this spread has standard deviation 1 after clipping to 18-90, around the default mean and spread.
CLIPPED_SPREAD = 1.0986


@dataclass(frozen=True)
class Block:
    """Patients `first` to `first + len(mrn) - 1`, and their visits in order.

    Parameters
    ----------
    index, mrn, sex, age, counts, rows, shift_days
        Per patient: number from 0, identifier, place in `SEXES`, years at the first visit, visits, rows of pmh.csv (0:
        no history), days added to all dates.
    opening_day
        Per patient: day of the first visit, days since 1970, shifted.
    onsets
        float64 [patients, planted]: day on which a condition begins, days since 1970, shifted; NaN where it never does.
    person, number, csn
        Per visit: place of the patient in this block, 1-based number of the visit, identifier.
    arrival_s, roomed_s, dispo_s, departure_s
        Per visit: true times in seconds since 1970, shifted; arrival < roomed < dispo < departure.
    years
        Per visit: age as written.
    monitored
        Per visit: whether there are waveforms.
    """

    index: Ints
    mrn: Ints
    sex: Ints
    age: Floats
    counts: Ints
    rows: Ints
    shift_days: Ints
    opening_day: Ints
    onsets: Floats
    person: Ints
    number: Ints
    csn: Ints
    arrival_s: Ints
    roomed_s: Ints
    dispo_s: Ints
    departure_s: Ints
    years: Ints
    monitored: NDArray[np.bool_]

    def begun(self) -> NDArray[np.bool_]:
        """Return bool [visits, planted]: the condition has begun by the day on which the visit ends."""
        return np.asarray(self.onsets[self.person] <= (self.departure_s // DAY_S)[:, None])


class Hospital:
    """All that an emulated hospital holds, made on demand.

    Parameters
    ----------
    options
        The options in force (`Options.effective`).
    seed
        Another seed is another hospital.
    """

    def __init__(self, options: Options, *, seed: int) -> None:
        self.options, self.seed, self.draws = options, seed, Draws(seed)
        self.counts = self._visit_counts(np.arange(options.patients))
        self._before = np.concatenate([[0], np.cumsum(self.counts)])
        self._numbers = _identifiers(seed)
        if options.patients + int(self._before[-1]) > len(self._numbers):
            raise AssertionError("more patients and visits than identifiers")

    @property
    def n_visits(self) -> int:
        """Number of visits of all patients."""
        return int(self._before[-1])

    def _visit_counts(self, index: Ints) -> Ints:
        """Return visits per patient: one and a negative binomial, with a few frequent attenders."""
        o, d = self.options, self.draws
        rest = (o.visits_mean - 1 - o.frequent_share * o.frequent_mean) / (1 - o.frequent_share)
        size = 0.6
        steps = nbinom.cdf(np.arange(MOST_VISITS), size, size / (size + max(rest, 1e-9)))
        further = np.searchsorted(steps, d.uniform("visits", index))
        often = np.floor(d.exponential("visits of a frequent attender", index) * o.frequent_mean + 0.5).astype(np.int64)
        more = np.where(d.happens(o.frequent_share, "frequent attender", index), often, further)
        return np.asarray(np.minimum(1 + more, MOST_VISITS), dtype=np.int64)

    def block(self, first: int, stop: int) -> Block:
        """Return patients `first` to `stop - 1`."""
        o, d = self.options, self.draws
        index = np.arange(first, stop, dtype=np.int64)
        counts = self.counts[first:stop]
        mrn = self._numbers[first:stop] - (0 if o.shared_ids else 50_000_000)
        sex = np.where(d.happens(o.female_share, "sex", index), FEMALE, MALE)
        sex = np.where(d.happens(o.unknown_sex, "sex unknown", index), 2, sex).astype(np.int64)
        age = np.clip(o.age_mean + CLIPPED_SPREAD * o.age_sd * d.normal("age", index), 18, 90)
        years = d.integers(185, 272, "shift", index) - (0 if o.late_years else 100)
        shift_days = np.rint(years * YEAR_DAYS).astype(np.int64)
        person, place = runs(counts)
        of = index[person]
        arrival_day = self._arrival_days(of, person, place, counts)
        arrival_s = (arrival_day * DAY_S).astype(np.int64) + (OPENS_DAY + shift_days[person]) * DAY_S
        opening_day = arrival_s[np.cumsum(counts) - counts] // DAY_S
        stay_s = self._stay_s(of, place)
        roomed_s = arrival_s + (stay_s * (0.02 + 0.2 * d.uniform("roomed", of, place))).astype(np.int64)
        dispo_s = arrival_s + (stay_s * (0.6 + 0.37 * d.uniform("decision", of, place))).astype(np.int64)
        since = (arrival_s - (opening_day * DAY_S)[person]) / DAY_S / YEAR_DAYS
        jitter = d.integers(-o.age_jitter, o.age_jitter + 1, "age jitter", of, place)
        before = int(self._before[first])
        rows = self._history_rows(index)
        return Block(
            index=index, mrn=mrn, sex=sex, age=age, counts=counts, rows=rows, shift_days=shift_days,
            opening_day=opening_day, onsets=self._onsets(index, sex, age, rows, opening_day),
            person=person, number=place + 1,
            # Visits are numbered from the other end of the same range, so that they never meet the patients.
            csn=self._numbers[::-1][before : before + len(person)].copy(),
            arrival_s=arrival_s, roomed_s=roomed_s, dispo_s=dispo_s, departure_s=arrival_s + stay_s,
            years=np.clip(np.floor(age[person] + since).astype(np.int64) + jitter, 18, 90),
            monitored=self._monitored(of, place, age[person]),
        )  # fmt: skip

    def _arrival_days(self, of: Ints, person: Ints, place: Ints, counts: Ints) -> Floats:
        """Return unshifted arrivals in days of the period, ascending per patient and at least two days apart."""
        u = self.draws.uniform("arrival", of, place)
        u = u[np.lexsort((u, person))]
        hour = self.draws.uniform("hour of arrival", of, place)
        return np.floor(u * (PERIOD_DAYS - 3 * counts[person])) + 3 * place + hour

    def _stay_s(self, of: Ints, place: Ints) -> Ints:
        o = self.options
        sigma = np.log(o.los_p95_h / o.los_median_h) / ndtri(0.95)
        hours = o.los_median_h * np.exp(sigma * self.draws.normal("length of stay", of, place))
        return np.asarray(np.clip(hours, 0.5, 60) * 3600).astype(np.int64)

    def _history_rows(self, index: Ints) -> Ints:
        o, d = self.options, self.draws
        sigma = np.log(o.history_p99 / o.history_median) / ndtri(0.99)
        rows = np.rint(o.history_median * np.exp(sigma * d.normal("history rows", index)))
        rows = np.clip(rows, 1, o.history_max).astype(np.int64)
        return np.where(d.happens(o.no_history, "no history", index), 0, rows)

    def days_from_opening(self, purpose: str, *keys: ArrayLike) -> Ints:
        """Return days from the first visit to a note: mostly years before it, some on the day, some after it."""
        o, d = self.options, self.draws
        kind = d.uniform(f"{purpose}: side", *keys)
        # Most of twelve years back, thinning out: the truncated exponential of mean three years.
        u = d.uniform(f"{purpose}: day", *keys)
        back = 1 + np.floor(-1095 * np.log1p(-u * (1 - np.exp(-4380 / 1095))))
        ahead = 1 + np.floor(u * 730)
        days = np.where(kind < o.history_after, ahead, -back)
        return np.where(kind > 1 - o.history_same_day, 0, days).astype(np.int64)

    def _onsets(self, index: Ints, sex: Ints, age: Floats, rows: Ints, opening_day: Ints) -> Floats:
        """Return the days on which planted conditions begin; patients without history have none."""
        out = np.full((len(index), len(PLANTED)), np.nan)
        for k, planted in enumerate(PLANTED):
            chance = chances(planted, self.options, age=age, sex=sex)
            has = self.draws.happens(chance, "condition", index, k) & (rows > 0)
            days: Ints = opening_day + self.days_from_opening("onset", index, k)
            out[has, k] = days[has]
        return out

    def _monitored(self, of: Ints, place: Ints, age: Floats) -> NDArray[np.bool_]:
        """Return which visits have waveforms: a normal threshold model with age and a patient's own tendency."""
        o, d = self.options, self.draws
        if o.monitored in (0.0, 1.0):
            return np.full(len(of), o.monitored == 1.0)
        slope, rho = o.monitored_age_slope, min(o.monitored_within_patient, 0.99)
        own, visit = d.normal("monitored patient", of), d.normal("monitored visit", of, place)
        tendency = slope * (age - o.age_mean) / 20 + np.sqrt(rho) * own + np.sqrt(1 - rho) * visit
        spread = np.sqrt(1 + (slope * o.age_sd / 20) ** 2)
        return np.asarray(tendency > -ndtri(o.monitored) * spread)

    def split_side(self, kind: str, index: Ints, first_day: Ints) -> Ints:
        """Return 0 (train), 1 (val) or 2 (test) per patient; `first_day` is the unshifted day of the first visit.

        The chronological thresholds give 78, 11 and 11 % of the visits, because patients with many visits come early.
        """
        if kind == "random":
            u = self.draws.uniform("random split", index)
            return (u >= 0.8).astype(np.int64) + (u >= 0.9)
        return (first_day >= CHRONO_DAYS[0]).astype(np.int64) + (first_day >= CHRONO_DAYS[1])


CHRONO_DAYS = (419, 548)


def chances(planted: Planted, options: Options, *, age: Floats, sex: Ints) -> Floats:
    """Return the probability per patient of ever having a condition."""
    most = planted.share if planted.kind == "rare" else max(planted.share, options.least_share)
    share = np.full(len(age), most)
    if planted.kind == "age" or (planted.older and options.effects_follow_age):
        share = most / (1 + np.exp(-(age - 62) / 7))
    if planted.sex:
        share = np.where(sex == SEXES.index(planted.sex), share, 0.0)
    return share


@lru_cache(maxsize=2)
def _identifiers(seed: int) -> Ints:
    """Return all identifiers in the seed's order; patients take them from the front, visits from the back."""
    return generator(seed, "identifiers").permutation(np.arange(LOWEST_ID, HIGHEST_ID + 1, dtype=np.int64))
