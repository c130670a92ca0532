"""From a table of codes to phenotypes, without a cohort: counts, labels, and what was dropped.

For those who have one table of patients, codes and dates and want phenotypes. The rules are those of the labels of a
study (`phewas.mappings.phenotypes`, label window ``any``) with the patient in the place of the encounter: a code counts
for its phenotypes and their ancestors, once a day; a case has codes on so many distinct days; one with fewer is neither
case nor control, and so is, where the vocabulary lists exclusions, one with a code of a related phenotype.
Denny et al., Nat Biotechnol 2013;31:1102.
"""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from phewas.errors import ConfigError, SchemaError
from phewas.mappings import columns as naming
from phewas.mappings import coverage, tally
from phewas.mappings.columns import Columns
from phewas.mappings.encoding import Encoded, encode
from phewas.mappings.plaintext import Numbered
from phewas.mappings.vocabulary import Vocabulary

#: Files up to this size (bytes of text or of packed Parquet), and frames up to this many rows, are read into memory.
SMALL_BYTES = {"text": 256_000_000, "parquet": 48_000_000}
SMALL_ROWS = 5_000_000

#: Distinct days that a case needs where there are dates (Denny 2013), and where there are none to count.
MIN_DAYS, MIN_DAYS_WITHOUT_DATES = 2, 1


@dataclass(frozen=True)
class Options:
    """How codes become phenotypes.

    Attributes
    ----------
    code_system
        A code system for all rows, ``by_date``, or None: the table's column.
    min_days
        Distinct days that a case needs; None: `MIN_DAYS` with dates, `MIN_DAYS_WITHOUT_DATES` without.
    control_exclusions
        Whether codes of related phenotypes bar controls, where the vocabulary lists any.
    walk_up
        Whether a code that is not in the map counts as its nearest parent that is.
    restore_zeros
        Whether ICD-9-CM codes that have lost their leading zeros are mended where only one code fits.
    date_format
        Format of dates in text; None: year-month-day.
    """

    code_system: str | None = None
    min_days: int | None = None
    control_exclusions: bool = True
    walk_up: bool = False
    restore_zeros: bool = False
    date_format: str | None = None


@dataclass(frozen=True, eq=False)
class Mapped:
    """Phenotypes of the patients of a table.

    Attributes
    ----------
    counts
        patient_id (String), phenotype (String), distinct_days (Int32, at least 1; 1 where no row has a date),
        first_date (Date, null where no row has a date); sorted by patient_id and the vocabulary's order. Ancestors have
        rows of their own. Not filtered by the sex rule or by the number of days.
    labels
        patient_id and one Int8 column per phenotype: 1 case, 0 control, -1 neither; one row per patient of the table,
        sorted. None where not asked for.
    phenotypes
        phenotype, description, chapter, sex, n_patients (with a code), n_cases_1_day (patients with a code on one day
        or more, no other rule applied), n_days_enough (with as many days as a case needs), and, where labels were
        made, n_cases, n_controls, n_excluded; null otherwise.
    unmapped
        The columns of `phewas.schema.Unmapped`: code, vocabulary, n_rows, n_patients, reason; most frequent first.
    by_note
        The same columns for codes mapped by their parent or with zeros put back, with that as reason.
    summary
        JSON-ready numbers: rows, coverage, cases; see `phewas.mappings.mapsummary`.
    """

    counts: pl.DataFrame
    labels: pl.DataFrame | None
    phenotypes: pl.DataFrame
    unmapped: pl.DataFrame
    by_note: pl.DataFrame
    summary: dict[str, Any]


def map_codes(
    codes: pl.DataFrame | pl.LazyFrame,
    *,
    vocabulary: Vocabulary,
    columns: Columns | None = None,
    options: Options | None = None,
    labels: bool = True,
) -> Mapped:
    """Map a table of codes to phenotypes.

    Parameters
    ----------
    codes
        One row per code, in any order; repeated rows change nothing. A lazy frame is read as a stream, so that only its
        distinct texts and a few bytes per row are kept.
    vocabulary
        From `phewas.mappings.vocabulary.load`.
    columns
        Names of the columns; those left out are looked for by their usual spellings.
    options
        How codes become phenotypes.
    labels
        Whether the wide labels are made.

    Returns
    -------
    Mapped
        Counts, labels, phenotypes, unmapped codes and a summary. The same for any order and cutting of the rows.

    Raises
    ------
    SchemaError
        A column is missing, codes are numbers, or no date can be read.
    ConfigError
        Nothing says the code system, or an option does not fit the table.

    Examples
    --------
    >>> import polars as pl
    >>> from phewas.mappings.vocabulary import load
    >>> rows = [("p1", "E11.9", "2020-01-01"), ("p1", "e119", "2020-02-01"), ("p2", "I10", "2020-01-01")]
    >>> table = pl.DataFrame(rows, schema=["patient", "code", "date"], orient="row")
    >>> made = map_codes(table, vocabulary=load("phecode1.2"), options=Options(code_system="ICD10CM"))
    >>> made.counts.select("patient_id", "phenotype", "distinct_days").rows()
    [('p1', '250', 2), ('p1', '250.2', 2), ('p2', '401', 1), ('p2', '401.1', 1)]
    """
    options = options or Options()
    lazy = codes.lazy()
    named = naming.find(lazy.collect_schema().names(), columns or Columns())
    rows = naming.as_text(lazy, named)
    with tempfile.TemporaryDirectory(prefix="phewas-map-") as scratch:
        small = isinstance(codes, pl.DataFrame) and codes.height <= SMALL_ROWS
        work = start(rows, vocabulary, options, columns=named, scratch=None if small else Path(scratch))
        parts = list(work.blocks(labels=labels))
    made = [wide for _, wide in parts if wide is not None]
    return Mapped(
        counts=pl.concat(pl.collect_all([counts for counts, _ in parts])) if parts else empty_counts(),
        labels=(pl.concat(made) if made else empty_labels(vocabulary)) if labels else None,
        phenotypes=work.phenotypes(),
        unmapped=work.unmapped(),
        by_note=work.by_note(),
        summary=work.summary(),
    )


def empty_counts() -> pl.DataFrame:
    """Return the counts of nobody."""
    schema = {"patient_id": pl.String, "phenotype": pl.String, "distinct_days": pl.Int32, "first_date": pl.Date}
    return pl.DataFrame(schema=schema)


def empty_labels(vocabulary: Vocabulary) -> pl.DataFrame:
    """Return the labels of nobody."""
    names = vocabulary.phenotypes["phenotype"].to_list()
    return pl.DataFrame(schema={"patient_id": pl.String} | dict.fromkeys(names, pl.Int8))


def start(
    rows: pl.LazyFrame,
    vocabulary: Vocabulary,
    options: Options,
    *,
    columns: Columns,
    scratch: Path | None,
    plain: Numbered | None = None,
) -> Work:
    """Read a table and look its codes up; the counting itself is done block by block by `Work.blocks`."""
    if options.min_days is not None and options.min_days < 1:
        raise ConfigError(f"min_days is {options.min_days}", expected="at least 1", cure="set it to 1 or 2")
    if options.min_days is not None and options.min_days > 1 and columns.date is None:
        raise ConfigError(
            f"a case needs {options.min_days} distinct days, but the table has no date column",
            cure="name the column: --date COLUMN, or count without dates: --min-days 1",
        )
    try:
        encoded = encode(
            rows, code_system=options.code_system, date_format=options.date_format, scratch=scratch, plain=plain
        )
    except (pl.exceptions.PolarsError, OSError) as error:
        words = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise SchemaError(f"the table cannot be read: {words}", expected="a whole CSV, TSV or Parquet file") from None
    resolved = coverage.resolve(
        encoded.terms, vocabulary=vocabulary, walk_up=options.walk_up, restore_zeros=options.restore_zeros
    )
    return Work(encoded, resolved, vocabulary, options)


class Work:
    """A table whose codes are looked up, and what was counted so far."""

    def __init__(self, encoded: Encoded, resolved: coverage.Resolved, vocabulary: Vocabulary, options: Options) -> None:
        self.encoded, self.resolved, self.vocabulary, self.options = encoded, resolved, vocabulary, options
        default = MIN_DAYS if encoded.has_dates else MIN_DAYS_WITHOUT_DATES
        self.min_days = options.min_days or default
        self.n = vocabulary.phenotypes.height
        self.names = vocabulary.phenotypes["phenotype"]
        n_terms = 1 + max(encoded.terms["term"].to_numpy(), default=0)
        spelled = resolved.spelled
        meant = (
            spelled.filter(pl.col("reason").is_null())
            .select("term", "vocabulary", "key")
            .join(resolved.meanings.drop_nulls("place"), on=["vocabulary", "key"])
            .select("term", pl.col("place").cast(pl.Int32))
        )
        place = vocabulary.phenotypes.select("phenotype").with_row_index("place")
        above = (
            vocabulary.rollup.join(place, on="phenotype")
            .join(place.rename({"phenotype": "ancestor", "place": "above"}), on="ancestor")
            .select(pl.col("place").cast(pl.Int32), pl.col("above").cast(pl.Int32))
        )
        rolled = meant.join(above, on="place").select("term", "above")
        self.direct = _lists(meant, n_terms)
        self.rolled = _lists(rolled, n_terms)
        # Spellings of one code are one line of the lists.
        self.lost, self.lost_terms = _grouped(spelled.filter(pl.col("reason").is_not_null()), "reason", n_terms)
        noted = spelled.filter(pl.col("reason").is_null() & pl.col("note").is_not_null())
        self.noted, self.noted_terms = _grouped(noted, "note", n_terms)
        self.lost_people = np.zeros(self.lost.height, np.int64)
        self.noted_people = np.zeros(self.noted.height, np.int64)
        self.per_phenotype = np.zeros((5, self.n), np.int64)
        self.excluded_by = dict.fromkeys(tally.EXCLUDED_BY, 0)
        self.cases_lost_to_sex = self.patients_mapped = self.n_counts = 0
        self.labelled = False

    def blocks(self, *, labels: bool) -> Iterator[tuple[pl.LazyFrame, pl.DataFrame | None]]:
        """Yield counts and labels (None where not asked for) of one block of patients after the other.

        The counts are lazy, so that they can be written without their texts ever standing in memory all at once.
        """
        self.labelled = labels
        rules = self._rules()
        for low, high, patient, term, day in self.encoded.blocks():
            pairs = tally.count_days(patient=patient, term=term, day=day, meanings=self.rolled, n_phenotypes=self.n)
            self.per_phenotype[0] += np.bincount(pairs.phenotype, minlength=self.n)
            self.per_phenotype[1] += np.bincount(pairs.phenotype[pairs.days >= self.min_days], minlength=self.n)
            self.patients_mapped += int(np.count_nonzero(np.diff(pairs.patient))) + (len(pairs.patient) > 0)
            self.n_counts += len(pairs.patient)
            for people, groups in ((self.lost_people, self.lost_terms), (self.noted_people, self.noted_terms)):
                if len(people):
                    people += tally.count_people(patient=patient, term=term, groups=groups, n_groups=len(people))
            names = self.encoded.patients.slice(low, high - low)
            counts = pl.DataFrame(
                {
                    "patient_id": pairs.patient,
                    "phenotype": pairs.phenotype,
                    "distinct_days": pairs.days,
                    "first_date": pairs.first,
                }
            ).lazy()
            named = functools.partial(_named, patients=names, phenotypes=self.names)
            counts = counts.map_batches(named, streamable=True, schema=empty_counts().schema)
            yield counts, self._labels(names, low, high, pairs, patient, term, rules) if labels else None

    def _rules(self) -> tally.Rules:
        sexes, related, wrong = self.vocabulary.phenotypes["sex"].to_numpy(), None, None
        if self.options.control_exclusions and self.vocabulary.exclusions.height:
            place = {name: i for i, name in enumerate(self.names)}
            pairs = self.vocabulary.exclusions
            owner, barred = (
                pairs[name].replace_strict(place, return_dtype=pl.Int32).to_numpy() for name in ("related", "phenotype")
            )
            related = tally.Lists.make(owner, barred, n=self.n)
        if self.encoded.sex is not None:
            wrong = {sex: (sexes != "both") & (sexes != sex) for sex in ("F", "M", "U")}
        return tally.Rules(self.min_days, related, wrong)

    def _labels(
        self, names: pl.Series, low: int, high: int, pairs: tally.Pairs, patient: Any, term: Any, rules: tally.Rules
    ) -> pl.DataFrame:
        direct = (pairs.patient[:0], pairs.phenotype[:0])
        if rules.related is not None:
            direct = tally.direct_pairs(patient=patient, term=term, meanings=self.direct, n_phenotypes=self.n)
        sex = None if self.encoded.sex is None else self.encoded.sex[low:high]
        made, counts, lost = tally.label(
            pairs=pairs, direct=direct, sex=sex, rules=rules, n_patients=high - low, n_phenotypes=self.n
        )
        for row, value in ((2, 1), (3, 0), (4, -1)):
            self.per_phenotype[row] += np.count_nonzero(made == value, axis=0)
        for reason, number in counts.items():
            self.excluded_by[reason] += number
        self.cases_lost_to_sex += lost
        wide = pl.from_numpy(np.asfortranarray(made), schema=self.names.to_list())
        return wide.insert_column(0, names.alias("patient_id"))

    def phenotypes(self) -> pl.DataFrame:
        """Return the phenotypes with their numbers of patients; see `Mapped`."""
        table = self.vocabulary.phenotypes.select("phenotype", "description", "chapter", "sex")
        names = ("n_patients", "n_days_enough", "n_cases", "n_controls", "n_excluded")
        columns = [
            pl.Series(name, self.per_phenotype[row] if row < 2 or self.labelled else [None] * self.n, dtype=pl.Int64)
            for row, name in enumerate(names)
        ]
        return table.with_columns(columns)

    def unmapped(self) -> pl.DataFrame:
        """Return the codes that reached no phenotype, most frequent first."""
        return _ordered(self.lost, self.lost_people)

    def by_note(self) -> pl.DataFrame:
        """Return the codes that reached the map by their parent or with zeros put back, most frequent first."""
        return _ordered(self.noted, self.noted_people)

    def summary(self) -> dict[str, Any]:
        """Return what was read, mapped and counted, in numbers that JSON takes."""
        from phewas.mappings.mapsummary import summarise

        return summarise(self)


def _named(numbers: pl.DataFrame, *, patients: pl.Series, phenotypes: pl.Series) -> pl.DataFrame:
    """Return counts with the names of patients and phenotypes in the place of their numbers."""
    first = pl.when(pl.col("first_date") != tally.UNDATED).then("first_date").cast(pl.Date)
    return numbers.select(
        patients.gather(numbers["patient_id"]).alias("patient_id"),
        phenotypes.gather(numbers["phenotype"]).alias("phenotype"),
        "distinct_days",
        first.alias("first_date"),
    )


def _lists(pairs: pl.DataFrame, n_terms: int) -> tally.Lists:
    term, place = (pairs.to_series(i).to_numpy() for i in (0, 1))
    return tally.Lists.make(term, place, n=n_terms)


def _grouped(spelled: pl.DataFrame, why: str, n_terms: int) -> tuple[pl.DataFrame, tally.Lists]:
    """Return one line per code and reason, with its rows, and the line of each term."""
    keys = ["normal", "vocabulary", why]
    lines = spelled.group_by(keys).agg(pl.col("n_rows").sum()).sort(keys).with_row_index("line")
    terms = spelled.select("term", *keys).join(lines, on=keys).select("term", pl.col("line").cast(pl.Int32))
    return lines.rename({why: "reason"}), _lists(terms, n_terms)


def _ordered(lines: pl.DataFrame, people: Any) -> pl.DataFrame:
    table = lines.with_columns(pl.Series("n_patients", people, dtype=pl.Int64))
    return table.sort("n_rows", "vocabulary", "normal", descending=[True, False, False]).select(
        pl.col("normal").alias("code"), "vocabulary", "n_rows", "n_patients", "reason"
    )
