"""The cells of the label matrix, block by block: which rule makes each 1, 0 or -1."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from scipy import sparse

from phewas.mappings import onsets as timing
from phewas.mappings.coverage import Linked
from phewas.mappings.vocabulary import Vocabulary

Bools = np.ndarray[Any, np.dtype[np.bool_]]
Bytes = np.ndarray[Any, np.dtype[np.int8]]

#: Encounters per block: 2,048 x 1,817 cells are 4 MB per intermediate array.
_BLOCK = 2048

#: Why a cell is -1, in the order in which a cell is counted under the first that holds.
EXCLUDED_BY: dict[str, str] = {
    "sex": "phenotype of the other sex, or sex unknown",
    "undated_encounter": "the encounter has no date to place the label window",
    "too_few_days": "codes of the phenotype on fewer days than a case needs",
    "uncertain": "only uncertain diagnoses of the phenotype",
    "related_code": "a code of a related phenotype bars the person from the controls",
}


@dataclass(frozen=True, eq=False)
class Labeller:
    """All that one block of encounters needs."""

    rolled: timing.Onsets
    direct: timing.Onsets
    unsure: timing.Onsets
    own_rolled: pl.DataFrame
    own_direct: pl.DataFrame
    own_unsure: pl.DataFrame
    cutoff: timing.Ints
    patient: timing.Ints
    undated: Bools
    sex: Any
    wrong_sex: dict[str, Bools]
    related: Any
    n_phenotypes: int


def prepare(
    *,
    events: pl.DataFrame,
    visits: pl.DataFrame,
    linked: Linked,
    vocabulary: Vocabulary,
    order: pl.DataFrame,
    window: str,
    min_code_days: int,
    exclusions: bool,
) -> Labeller:
    """Return all that `blocks` needs, from diagnoses in numbers.

    Parameters
    ----------
    events
        patient (int32), visit (int32, null unless the row was given for that encounter), day (int32, null where
        undated), code_id (int32), uncertain (bool).
    visits
        One row per encounter in label order: visit, patient, sex, index_day, end_day (int32, null where unknown).
    linked
        What each code_id means.
    vocabulary, order
        The vocabulary, and its phenotypes with their place (column of the labels).
    window
        ``history``, ``through_visit`` or ``any``.
    min_code_days
        Distinct days that a case needs.
    exclusions
        Whether codes of related phenotypes bar controls.
    """
    n = order.height
    place = order.select(pl.col("phenotype").alias("name"), pl.col("place").cast(pl.Int16))
    rollup = _places(vocabulary.rollup, place, "phenotype", "ancestor")
    # One code reaches a parent once, by however many children: (code, phenotype) is made unique before any counting.
    rolled = (
        linked.meanings.join(rollup, on="phenotype").select("code_id", pl.col("ancestor").alias("phenotype")).unique()
    )
    direct = linked.meanings
    ends = visits.select("visit", "end_day")
    own = events.clear()
    if window == "any":
        # A row without a date has that of its encounter, if that has one.
        counted = (
            events.join(ends, on="visit", how="left").with_columns(
                pl.coalesce("day", "end_day", pl.lit(timing.UNDATED, pl.Int32)).alias("day")
            )
        ).drop("end_day")
        cutoff = np.full(visits.height, timing.UNDATED, np.int32)
        undated = np.zeros(visits.height, bool)
    else:
        counted = events.filter(pl.col("day").is_not_null())
        day = "index_day" if window == "history" else "end_day"
        limit = visits[day] - (1 if window == "history" else 0)
        cutoff = limit.fill_null(timing.BEFORE_ALL).to_numpy().astype(np.int32)
        undated = visits["index_day"].is_null().to_numpy() if window == "history" else np.zeros(visits.height, bool)
    if window == "through_visit":
        linked_rows = events.filter(pl.col("visit").is_not_null()).join(ends, on="visit")
        inside = (pl.col("day") <= pl.col("end_day")).fill_null(value=False)
        own = linked_rows.filter(~inside).with_columns(
            pl.coalesce("day", "end_day", pl.lit(timing.UNDATED, pl.Int32)).alias("day")
        )
    sure, unsure = counted.filter(~pl.col("uncertain")), counted.filter("uncertain")
    own_sure, own_unsure = own.filter(~pl.col("uncertain")), own.filter("uncertain")
    n_patients = visits["patient"].n_unique()

    def keys(part: pl.DataFrame, meanings: pl.DataFrame) -> timing.Ints:
        return timing.pack(events=part, meanings=meanings, n_phenotypes=n)

    def days(packed: timing.Ints, needed: int) -> timing.Onsets:
        return timing.onsets(packed, n_patients=n_patients, n_phenotypes=n, min_code_days=needed)

    def alone(part: pl.DataFrame, meanings: pl.DataFrame, triples: timing.Ints, needed: int) -> pl.DataFrame:
        table = timing.unpack(triples, n_phenotypes=n)
        return timing.own_codes(events=part, meanings=meanings, triples=table, visits=ends, min_code_days=needed)

    packed, none = keys(sure, rolled), np.empty(0, np.int64)
    sexes = vocabulary.phenotypes["sex"].to_numpy()
    return Labeller(
        rolled=days(packed, min_code_days),
        direct=days(keys(sure, direct), 1),
        unsure=days(keys(unsure, rolled), 1),
        own_rolled=alone(own_sure, rolled, packed if min_code_days > 1 else none, min_code_days),
        own_direct=alone(own_sure, direct, none, 1),
        own_unsure=alone(own_unsure, rolled, none, 1),
        cutoff=cutoff,
        patient=visits["patient"].to_numpy(),
        undated=undated,
        sex=visits["sex"].to_numpy(),
        wrong_sex={sex: (sexes != "both") & (sexes != sex) for sex in ("F", "M", "U")},
        related=_related(vocabulary, place, n) if exclusions else None,
        n_phenotypes=n,
    )


def _places(pairs: pl.DataFrame, place: pl.DataFrame, left: str, right: str) -> pl.DataFrame:
    """Return pairs of names as pairs of places; pairs that name an undefined phenotype on the left fall away."""
    for column in (left, right):
        pairs = pairs.join(place, left_on=column, right_on="name").drop(column).rename({"place": column})
    return pairs


def _related(vocabulary: Vocabulary, place: pl.DataFrame, n: int) -> Any:
    """Return int32 CSR [related, phenotype]: a code of the row's phenotype bars controls of the column's."""
    pairs = _places(vocabulary.exclusions, place, "phenotype", "related")
    rows, columns = pairs["related"].to_numpy(), pairs["phenotype"].to_numpy()
    return sparse.csr_matrix((np.ones(len(rows), np.int32), (rows, columns)), shape=(n, n))


def blocks(made: Labeller) -> Iterator[tuple[slice, Bytes, dict[str, int], int]]:
    """Yield for each block of encounters its labels, its exclusions by reason, and the cases lost to sex."""
    bounds = {name: getattr(made, name)["visit"].to_numpy() for name in ("own_rolled", "own_direct", "own_unsure")}
    for start in range(0, len(made.cutoff), _BLOCK):
        part = slice(start, min(start + _BLOCK, len(made.cutoff)))
        shape = (part.stop - part.start, made.n_phenotypes)
        patient, cutoff = made.patient[part], made.cutoff[part]
        some, case, code, unsure = (np.zeros(shape, bool) for _ in range(4))
        place, at = made.rolled.at(patient)
        some[place, made.rolled.phenotype[at]] = made.rolled.first[at] <= cutoff[place]
        case[place, made.rolled.phenotype[at]] = made.rolled.complete[at] <= cutoff[place]
        for target, source in ((code, made.direct), (unsure, made.unsure)):
            place, at = source.at(patient)
            target[place, source.phenotype[at]] = source.first[at] <= cutoff[place]
        for name, target in (("own_rolled", some), ("own_direct", code), ("own_unsure", unsure)):
            low, high = np.searchsorted(bounds[name], [part.start, part.stop])
            own = getattr(made, name)[int(low) : int(high)]
            visit, phenotype = own["visit"].to_numpy() - start, own["phenotype"].to_numpy()
            target[visit, phenotype] = True
            if target is some:
                case[visit, phenotype] |= own["case"].to_numpy()
        related = np.zeros(shape, bool)
        if made.related is not None:
            hit = (sparse.csr_matrix(code, dtype=np.int32) @ made.related).tocoo()
            related[hit.row, hit.col] = True
        sex = np.stack([made.wrong_sex[one] for one in made.sex[part]])
        late = np.broadcast_to(made.undated[part, None], shape)
        lost_to_sex = int((case & sex & ~late).sum())
        labels = np.zeros(shape, np.int8)
        labels[case] = 1
        reasons = {"sex": sex, "undated_encounter": late, "too_few_days": some & ~case}
        reasons |= {"uncertain": unsure & ~case, "related_code": related & ~case}
        taken, counts = np.zeros(shape, bool), {}
        for reason, cells in reasons.items():
            counts[reason] = int((cells & ~taken).sum())
            taken |= cells
        labels[taken] = -1
        yield part, labels, counts, lost_to_sex
