"""The cells of the label matrix, block by block: which rule makes each 1, 0 or -1."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from scipy import sparse

from phewas.config import PhenotypeConfig
from phewas.mappings import onsets as timing
from phewas.mappings.coverage import Linked
from phewas.mappings.vocabulary import Vocabulary

Bools = np.ndarray[Any, np.dtype[np.bool_]]
Bytes = np.ndarray[Any, np.dtype[np.int8]]

#: Encounters per block: 2,048 x 1,817 cells are 4 MB per intermediate array.
_BLOCK = 2048


@dataclass(frozen=True, eq=False)
class Labeller:
    """All that one block of encounters needs.

    Attributes
    ----------
    rolled, unsure
        Onsets of confirmed and of uncertain diagnoses, by phenotype and those above it.
    own_rolled, own_unsure
        What counts for one encounter alone; see `phewas.mappings.onsets.own_codes`.
    cutoff
        int32 [encounters], last day of the label window.
    since
        int32 [encounters], last day before the window, where the window has a beginning (``future``); else None.
    short
        bool [encounters], followed up for less than the horizon; None where no follow-up is asked.
    patient, sex
        int32 and text [encounters].
    undated
        bool [encounters], no date to place the window.
    wrong_sex
        By the patient's sex, bool [phenotypes].
    related
        int32 CSR [related, phenotype], None without control exclusions.
    """

    rolled: timing.Onsets
    unsure: timing.Onsets
    own_rolled: pl.DataFrame
    own_unsure: pl.DataFrame
    cutoff: timing.Ints
    since: timing.Ints | None
    short: Bools | None
    patient: timing.Ints
    undated: Bools
    sex: Any
    wrong_sex: dict[str, Bools]
    related: Any
    n_phenotypes: int


@dataclass(frozen=True, eq=False)
class Block:
    """Labels of consecutive encounters (int8 [encounters, phenotypes]) and counts by phenotype (int64)."""

    labels: Bytes
    cases: timing.Ints
    excluded: dict[str, timing.Ints]
    cases_lost_to_sex: timing.Ints


def prepare(
    *,
    events: pl.DataFrame,
    visits: pl.DataFrame,
    linked: Linked,
    vocabulary: Vocabulary,
    config: PhenotypeConfig,
    min_code_days: int,
) -> Labeller:
    """Return all that `blocks` needs, from diagnoses in numbers.

    Parameters
    ----------
    events
        patient (int32), visit (int32, null unless the row was given for that encounter), day (int32, null where
        undated), code_id (int32), uncertain (bool).
    visits
        One row per encounter in label order: visit, patient, sex, index_day, end_day, follow_up_day (int32, null where
        unknown).
    linked
        What each code_id means.
    vocabulary
        Where it was looked up.
    config
        label_window, horizon_days, roll_up, control_exclusions, sex_rule.
    min_code_days
        Distinct days that a case needs.
    """
    n, window = vocabulary.phenotypes.height, config.label_window
    place = vocabulary.phenotypes.select(pl.col("phenotype").alias("name")).with_row_index("place")
    place = place.with_columns(pl.col("place").cast(pl.Int16))
    rollup = _places(vocabulary.rollup, place, "phenotype", "ancestor")
    meanings = linked.meanings
    if config.roll_up:
        # One code reaches a parent once, by however many children: made unique before any counting.
        above = meanings.join(rollup, on="phenotype")
        meanings = above.select("code_id", pl.col("ancestor").alias("phenotype")).unique()
    ends = visits.select("visit", "end_day")
    cutoff, since, short, undated = _window(visits, config)
    own = events.clear()
    if window == "any":
        # A row without a date has that of its encounter, if that has one.
        counted = (
            events.join(ends, on="visit", how="left").with_columns(
                pl.coalesce("day", "end_day", pl.lit(timing.UNDATED, pl.Int32)).alias("day")
            )
        ).drop("end_day")
    else:
        counted = events.filter(pl.col("day").is_not_null())
    if window in ("through_visit", "future"):
        linked_rows = events.filter(pl.col("visit").is_not_null()).join(ends, on="visit")
        inside = (pl.col("day") <= pl.col("end_day")).fill_null(value=False)
        own = linked_rows.filter(~inside).with_columns(
            pl.coalesce("day", "end_day", pl.lit(timing.UNDATED, pl.Int32)).alias("day")
        )
    sure, unsure = counted.filter(~pl.col("uncertain")), counted.filter("uncertain")
    own_sure, own_unsure = own.filter(~pl.col("uncertain")), own.filter("uncertain")
    n_patients = visits["patient"].n_unique()

    def keys(part: pl.DataFrame) -> timing.Ints:
        return timing.pack(events=part, meanings=meanings, n_phenotypes=n)

    def days(packed: timing.Ints, needed: int) -> timing.Onsets:
        return timing.onsets(packed, n_patients=n_patients, n_phenotypes=n, min_code_days=needed)

    def alone(part: pl.DataFrame, triples: timing.Ints, needed: int) -> pl.DataFrame:
        table = timing.unpack(triples, n_phenotypes=n)
        return timing.own_codes(events=part, meanings=meanings, triples=table, visits=ends, min_code_days=needed)

    packed, none = keys(sure), np.empty(0, np.int64)
    # Where the window begins after the visit, one code of the visit is enough to know of the disease.
    own_needed = 1 if window == "future" else min_code_days
    sexes = vocabulary.phenotypes["sex"].to_numpy()
    return Labeller(
        rolled=days(packed, min_code_days),
        unsure=days(keys(unsure), 1),
        own_rolled=alone(own_sure, packed if own_needed > 1 else none, own_needed),
        own_unsure=alone(own_unsure, none, 1),
        cutoff=cutoff,
        since=since,
        short=short,
        patient=visits["patient"].to_numpy(),
        undated=undated,
        sex=visits["sex"].to_numpy(),
        wrong_sex={sex: config.sex_rule & (sexes != "both") & (sexes != sex) for sex in ("F", "M", "U")},
        related=_related(vocabulary, place, config, rollup) if config.control_exclusions else None,
        n_phenotypes=n,
    )


def _window(
    visits: pl.DataFrame, config: PhenotypeConfig
) -> tuple[timing.Ints, timing.Ints | None, Bools | None, Bools]:
    """Return for each encounter the window's last day, the last day before it, too short a follow-up, and no date."""
    undated = np.zeros(visits.height, bool)
    if config.label_window == "any":
        return np.full(visits.height, timing.UNDATED, np.int32), None, None, undated
    if config.label_window == "history":
        undated = visits["index_day"].is_null().to_numpy()
        return _days(visits["index_day"] - 1), None, None, undated
    if config.label_window == "through_visit":
        return _days(visits["end_day"]), None, None, undated
    end, horizon = visits["end_day"], pl.col("end_day") + config.horizon_days
    # What is noted after the end of follow-up is not used: it was not looked for in everybody.
    last = pl.max_horizontal(pl.min_horizontal(horizon, "follow_up_day"), "end_day")
    short = (pl.col("follow_up_day") < horizon).fill_null(value=True)
    table = visits.select(last.alias("last"), short.alias("short"))
    return _days(table["last"]), _days(end), table["short"].to_numpy(), end.is_null().to_numpy()


def _days(series: pl.Series) -> timing.Ints:
    """Return days as int32; null becomes a day that nothing precedes."""
    return series.fill_null(timing.BEFORE_ALL).to_numpy().astype(np.int32)


def _places(pairs: pl.DataFrame, place: pl.DataFrame, left: str, right: str) -> pl.DataFrame:
    """Return pairs of names as pairs of places; pairs that name an undefined phenotype on the left fall away."""
    for column in (left, right):
        pairs = pairs.join(place, left_on=column, right_on="name").drop(column).rename({"place": column})
    return pairs


def _related(vocabulary: Vocabulary, place: pl.DataFrame, config: PhenotypeConfig, rollup: pl.DataFrame) -> Any:
    """Return int32 CSR [related, phenotype]: a code of the row's phenotype bars controls of the column's."""
    n = vocabulary.phenotypes.height
    pairs = _places(vocabulary.exclusions, place, "phenotype", "related").select("phenotype", "related")
    if not config.roll_up:
        # Nobody with a form of the disease is a control of the disease, even where that form makes no case of it.
        below = rollup.select(pl.col("ancestor").alias("phenotype"), pl.col("phenotype").alias("related"))
        pairs = pl.concat([pairs, below.filter(pl.col("phenotype") != pl.col("related"))]).unique()
    rows, columns = pairs["related"].to_numpy(), pairs["phenotype"].to_numpy()
    return sparse.csr_matrix((np.ones(len(rows), np.int32), (rows, columns)), shape=(n, n))


def blocks(made: Labeller) -> Iterator[Block]:
    """Yield the labels of each block of encounters, with counts."""
    bounds = {name: getattr(made, name)["visit"].to_numpy() for name in ("own_rolled", "own_unsure")}
    for start in range(0, len(made.cutoff), _BLOCK):
        part = slice(start, min(start + _BLOCK, len(made.cutoff)))
        own = {}
        for name, visits in bounds.items():
            low, high = np.searchsorted(visits, [part.start, part.stop])
            own[name] = getattr(made, name)[int(low) : int(high)]
        yield _label(made, part, own["own_rolled"], own["own_unsure"])


def _label(made: Labeller, part: slice, own: pl.DataFrame, own_unsure: pl.DataFrame) -> Block:
    """Return one block."""
    shape = (part.stop - part.start, made.n_phenotypes)
    patient, cutoff = made.patient[part], made.cutoff[part]
    some, case, unsure = (np.zeros(shape, bool) for _ in range(3))
    place, at = made.rolled.at(patient)
    phenotype, first = made.rolled.phenotype[at], made.rolled.first[at]
    some[place, phenotype] = first <= cutoff[place]
    case[place, phenotype] = made.rolled.complete[at] <= cutoff[place]
    place_unsure, at = made.unsure.at(patient)
    phenotype_unsure, first_unsure = made.unsure.phenotype[at], made.unsure.first[at]
    unsure[place_unsure, phenotype_unsure] = first_unsure <= cutoff[place_unsure]
    own_at = own["visit"].to_numpy() - part.start, own["phenotype"].to_numpy()
    own_unsure_at = own_unsure["visit"].to_numpy() - part.start, own_unsure["phenotype"].to_numpy()
    some[own_at], unsure[own_unsure_at] = True, True
    known: dict[str, Bools] = {}
    if made.since is None:
        case[own_at] |= own["case"].to_numpy()
    else:
        since = made.since[part]
        before, suspected = np.zeros(shape, bool), np.zeros(shape, bool)
        before[place, phenotype] = first <= since[place]
        suspected[place_unsure, phenotype_unsure] = first_unsure <= since[place_unsure]
        before[own_at], suspected[own_unsure_at] = True, True
        known = {"recorded_before": before, "suspected_before": suspected}
    reasons = {"sex": np.stack([made.wrong_sex[one] for one in made.sex[part]])}
    if made.undated[part].any():
        reasons["undated_encounter"] = np.broadcast_to(made.undated[part, None], shape)
    reasons |= known | {"too_few_days": some & ~case, "uncertain": unsure & ~case}
    if made.short is not None:
        reasons["follow_up"] = made.short[part, None] & ~case
    if made.related is not None:
        hit = (sparse.csr_matrix(some, dtype=np.int32) @ made.related).tocoo()
        related = np.zeros(shape, bool)
        related[hit.row, hit.col] = True
        reasons["related_code"] = related & ~case
    return _count(case, reasons)


def _count(case: Bools, reasons: dict[str, Bools]) -> Block:
    """Return labels and counts; a cell is counted under the first reason that holds."""
    wrong_sex = reasons["sex"]
    lost = case & wrong_sex
    for reason in ("undated_encounter", "recorded_before", "suspected_before"):
        if reason in reasons:
            lost &= ~reasons[reason]
    taken, counts = np.zeros(case.shape, bool), {}
    for reason, cells in reasons.items():
        counts[reason] = by_column(cells & ~taken)
        taken |= cells
    case = case & ~taken
    labels = case.astype(np.int8)
    labels[taken] = -1
    return Block(labels, by_column(case), counts, by_column(lost))


def by_column(cells: Bools) -> timing.Ints:
    """Return how many cells of each column are true (bool [n, columns], C order -> int64 [columns])."""
    # Sums of 255 rows at a time fit into a byte, and bytes are added ten times faster than wide integers.
    total = np.zeros(cells.shape[1], np.int64)
    for start in range(0, len(cells), 255):
        total += np.add.reduce(cells[start : start + 255].view(np.uint8), axis=0, dtype=np.uint8)
    return total
