"""Any dataset in the Medical Event Data Standard (MEDS 0.4): events by subject and time, and a table of recordings.

Layout: ``data/**/*.parquet`` (subject_id, time, code), ``metadata/codes.parquet`` (for parent codes) and
``metadata/subject_splits.parquet``, both optional, and ``recordings.parquet`` or ``.csv`` beside ``data/``: subject_id,
path, and where they apply channel, signal, time, fs_hz, n_samples and a visit's identifier.

Source: Arnrich et al., Medical Event Data Standard, https://github.com/Medical-Event-Data-Standard/meds.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import polars as pl

from phewas.cohorts.anyfile import ABSENT, find_table, read_any, scan_parquet, text_of
from phewas.cohorts.assemble import (
    finish,
    sex_of,
    take_diagnoses,
    take_encounters,
    take_patients,
    to_encounters,
    told,
    years_since,
)
from phewas.cohorts.base import CohortCard, FolderSource, fingerprint_of, load_card, require_root
from phewas.cohorts.csvtext import TextTable, parse_time
from phewas.cohorts.heldout_rules import SPLIT_TABLE
from phewas.cohorts.listed import COLUMNS, take_recordings
from phewas.cohorts.meds_codes import DECLARED, Declared, Meaning, check_codes, meaning, read_declared
from phewas.errors import CohortError
from phewas.rundir import write_parquet
from phewas.schema import Recordings, Rejects

NEEDS = ("subject_id", "time", "code")
# Extra columns that name the visit of an event, in the order they are asked.
VISIT_IDS = ("hadm_id", "visit_occurrence_id", "visit_id", "encounter_id")
RECORDINGS = "recordings"
SPLITS = "metadata/subject_splits.parquet"


def shards_of(root: Path, card: CohortCard) -> list[Path]:
    """Return the data files by name.

    Raises
    ------
    CohortError
        There are none.
    """
    found = sorted((root / "data").rglob("*.parquet")) if (root / "data").is_dir() else []
    if not found:
        held = sorted(p.name for p in root.iterdir() if not p.name.startswith("."))
        raise CohortError(
            f"{root} is not a MEDS dataset: no Parquet file below data/. Found there: "
            f"{', '.join(held[:12]) or 'nothing'}",
            expected="data/*.parquet with subject_id, time and code",
            cure=card.obtain,
        )
    return found


def subject_splits(root: Path) -> pl.DataFrame | None:
    """Return the dataset's own split (patient_id; split: ``train``, ``tuning``, ``held_out``), or None without one.

    Raises
    ------
    CohortError
        The file cannot be read, a subject has two sides, or a side is unknown.
    """
    path = root / SPLITS
    if not path.is_file():
        return None
    rows = read_any(path, needs=("subject_id", "split"), table="splits").rows
    rows = rows.select(pl.col("subject_id").alias("patient_id"), "split").drop_nulls("patient_id").unique()
    odd = rows.filter(~pl.col("split").is_in(["train", "tuning", "held_out"]).fill_null(value=False))
    if len(odd) or rows["patient_id"].is_duplicated().any():
        what = f"the side {odd['split'][0]!r}" if len(odd) else "a subject with two sides"
        raise CohortError(f"{SPLITS} holds {what}", expected="one side each: train, tuning or held_out")
    return rows.sort("patient_id")


@dataclass(frozen=True)
class _Events:
    """The events that say something here (text columns), how many there were in all, and rows without a code."""

    rows: pl.DataFrame
    n_rows: int
    rejects: pl.DataFrame


@dataclass(frozen=True)
class Meds(FolderSource):
    """The source ``meds``."""

    def fingerprint(self, root: Path | None) -> str:
        """Hash every shard, the metadata and the recordings table byte by byte."""
        root = require_root(root, self.card)
        further = [root / DECLARED, root / SPLITS, root / "metadata" / "codes.parquet", find_table(root, RECORDINGS)]
        read = [*shards_of(root, self.card), *(p for p in further if p is not None and p.is_file())]
        return fingerprint_of(root, read=read, listed=[])

    def scan(self, root: Path | None) -> dict[str, Any]:
        """Count shards, events and recordings; visits are known only after reading."""
        root = require_root(root, self.card)
        shards = shards_of(root, self.card)
        events = sum(_length(p) for p in shards)
        listed = find_table(root, RECORDINGS)
        return {
            "files": [p.relative_to(root).as_posix() for p in shards[:20]],
            "missing": [] if listed else ["recordings.parquet"],
            "n_events": events,
            "n_shards": len(shards),
            "n_recordings": read_any(listed, needs=["path"], table="recordings").n_rows if listed else 0,
            "n_waveform_folders": 0,
        }

    def build(self, root: Path | None, run: Path, *, workers: int | None = None) -> None:
        """Write the six tables of the cohort below `run`.

        Raises
        ------
        CohortError
            There are no shards, a column is missing, the codes are damaged, the dataset's own split is no split, or
            there is neither a visit event nor a recording.
        """
        root = require_root(root, self.card)
        shards = shards_of(root, self.card)
        splits = subject_splits(root)
        declared = replace(read_declared(root), parents=_parents(root))
        events = _read(root, shards, declared)
        listed = _listed(root)
        visits, n_visits, rejects = _visits(events.rows)
        if not n_visits:
            listed = _named(listed)
            visits, n_visits = _visits_of_recordings(listed), listed.n_rows
        kept, lost = take_encounters(visits)
        rejects += [events.rejects, listed.rejects, *lost]
        patients, lost_people = _patients(events.rows, kept)
        births = events.rows.filter(pl.col("kind") == "birth")
        kept, unread = _ages(kept, births)
        encounters = to_encounters(kept)
        noted = events.rows.filter(pl.col("kind").is_in(["diagnosis", "concept"]))
        diagnoses, lost_codes = _diagnoses(noted, encounters, patients)
        rejects += [*lost_people, unread, *lost_codes]
        recordings = Recordings.empty()
        if listed.n_rows:
            recordings, lost_files = take_recordings(root, listed.rows, encounters=encounters, patients=patients)
            rejects += lost_files
        finish(
            run,
            patients=patients,
            encounters=encounters,
            recordings=recordings,
            diagnoses=diagnoses,
            rejects=rejects,
            channel=self.card.index_channel,
            n_read={"encounters": n_visits, "diagnoses": len(noted), "recordings": listed.n_rows},
            notes=[(events.n_rows, len(events.rows), "events with a code that is read here")],
        )
        # For the held-out rule official:file; none is left from an earlier build.
        if splits is None:
            (run / SPLIT_TABLE).unlink(missing_ok=True)
        else:
            write_parquet(splits, run / SPLIT_TABLE)


def _length(shard: Path) -> int:
    lazy, _ = scan_parquet(shard, needs=NEEDS)
    return int(lazy.select(pl.len()).collect().item())


def _parents(root: Path) -> dict[str, tuple[str, ...]]:
    """Return the parent codes of each code, from ``metadata/codes.parquet``."""
    path = root / "metadata" / "codes.parquet"
    if not path.is_file():
        return {}
    lazy, places = scan_parquet(path, needs=("code",))
    if "parent_codes" not in places:
        return {}
    try:
        frame = lazy.select(pl.col(places["code"]).cast(pl.String).alias("code"),
                            pl.col(places["parent_codes"]).cast(pl.List(pl.String)).alias("up")).collect()  # fmt: skip
    except (pl.exceptions.PolarsError, OSError) as error:
        raise CohortError("metadata/codes.parquet cannot be read", expected="code, and parent_codes as a list of text",
                          cure="extract the dataset again") from error  # fmt: skip
    rows = frame.drop_nulls().filter(pl.col("up").list.len() > 0)
    return {code: tuple(u for u in up if u is not None) for code, up in rows.iter_rows()}


def _read(root: Path, shards: list[Path], declared: Declared) -> _Events:
    """Return the events whose codes mean something here. Codes are judged once each, not once per event."""
    known: dict[str, Meaning] = {}
    parts, blanks, n_rows = [], [Rejects.empty()], 0
    for shard in shards:
        name = shard.relative_to(root / "data").as_posix().removesuffix(".parquet")
        lazy, places = scan_parquet(shard, needs=NEEDS)
        chosen = [pl.col(places[c]).alias(c) for c in NEEDS]
        ids = [c for c in VISIT_IDS if c in places]
        chosen += [pl.col(places[c]).alias(c) for c in ids]
        code = pl.col("code").cast(pl.String).str.strip_chars()
        lazy = lazy.select(chosen).with_columns(code.alias("code")).with_row_index("source_row", offset=1)
        try:
            codes = lazy.select(pl.col("code").unique()).collect()["code"].drop_nulls().to_list()
            n_rows += int(lazy.select(pl.len()).collect().item())
            empty = lazy.filter(pl.col("code").is_null() | (pl.col("code") == "")).select("source_row").collect()
            check_codes(codes)
            known |= {c: meaning(c, declared) for c in codes if c not in known}
            read = [c for c in codes if known[c].kind != "other"]
            frame = lazy.filter(pl.col("code").is_in(read)).collect()
        except (pl.exceptions.PolarsError, OSError) as error:
            raise CohortError(f"data/{name}.parquet cannot be read", expected="subject_id, time, code of plain types",
                              cure="extract the dataset again") from error  # fmt: skip
        text = text_of(frame)
        visit = pl.coalesce(ids) if ids else ABSENT
        parts.append(
            text.with_columns(pl.col("source_row").cast(pl.Int64), source=pl.lit(name)).select(
                "source", "source_row", pl.col("subject_id").alias("patient_id"), "time", "code",
                visit.alias("visit"),
            )
        )  # fmt: skip
        empty = empty.with_columns(pl.col("source_row").cast(pl.Int64), source=pl.lit(name))
        blanks.append(told(empty, table="diagnoses", reason="no_diagnosis", detail="an event without a code"))
    said = pl.DataFrame(
        [(c, m.kind, m.text, m.vocabulary) for c, m in known.items()],
        schema={"code": pl.String, "kind": pl.String, "text": pl.String, "vocabulary": pl.String}, orient="row",
    )  # fmt: skip
    rows = pl.concat(parts).join(said, on="code", how="left", maintain_order="left")
    return _Events(rows, n_rows, pl.concat(blanks))


def _listed(root: Path) -> TextTable:
    """Return the recordings table with the names used here; empty where there is none."""
    path = find_table(root, RECORDINGS)
    if path is None:
        empty = pl.DataFrame(schema={"source_row": pl.Int64} | dict.fromkeys(COLUMNS, pl.String))
        return TextTable(empty, Rejects.empty(), 0)
    got = read_any(path, needs=("subject_id", "path"), optional=(*VISIT_IDS, *COLUMNS, "time"), table="recordings")
    rows = got.rows.with_columns(
        pl.col("subject_id").alias("patient_id"), pl.coalesce(VISIT_IDS).alias("encounter_id"),
        pl.coalesce("start", "time").alias("start"),
    )  # fmt: skip
    return TextTable(rows.select("source_row", *COLUMNS), got.rejects, got.n_rows)


def _visits(events: pl.DataFrame) -> tuple[pl.DataFrame, int, list[pl.DataFrame]]:
    """Return one row per visit: its first event, and the end that the same visit, or the next ending event, gives."""
    # A visit of someone who cannot be told gets no made-up identifier: the row is a loss like any other.
    made = (pl.col("patient_id") + "@" + pl.col("time")).str.replace(r"\.0+$", "")
    starts = events.filter(pl.col("kind") == "visit_start").with_columns(
        pl.coalesce("visit", made).alias("encounter_id"), parse_time(pl.col("time")).alias("at")
    )
    ends = events.filter(pl.col("kind") == "visit_end").with_columns(parse_time(pl.col("time")).alias("at"))
    ends = ends.with_row_index("end_row")
    named = ends.filter(pl.col("visit").is_not_null())
    by_name = named.sort("at", nulls_last=False).group_by("visit").agg(pl.col("time").last().alias("named_end"))
    free = ends.filter(pl.col("visit").is_null() & pl.col("at").is_not_null() & pl.col("patient_id").is_not_null())
    open_ = starts.filter(pl.col("at").is_not_null() & pl.col("patient_id").is_not_null() & pl.col("visit").is_null())
    open_ = open_.sort("at", "source", "source_row").with_columns(
        pl.col("at").shift(-1).over("patient_id").alias("next")
    )
    followed = open_.join_asof(
        free.sort("at").select("patient_id", "at", pl.col("at").alias("left"), pl.col("time").alias("next_end"),
                               "end_row"),
        on="at", by="patient_id", strategy="forward", check_sortedness=False,
    ).filter(pl.col("left").is_not_null() & (pl.col("next").is_null() | (pl.col("left") <= pl.col("next")))
    )  # fmt: skip
    followed = followed.unique("end_row", keep="last", maintain_order=True)
    rows = (
        starts.join(by_name, on="visit", how="left", maintain_order="left")
        .join(followed.select("source", "source_row", "next_end"), on=["source", "source_row"], how="left",
              maintain_order="left")
        .with_columns(pl.col("time").alias("start"), pl.coalesce("named_end", "next_end").alias("end"))
    )  # fmt: skip
    used = ends.filter(
        pl.col("visit").is_in(starts["visit"].drop_nulls().unique().implode()).fill_null(value=False)
        | pl.col("end_row").is_in(followed["end_row"].implode())
    )
    unused = ends.join(used.select("end_row"), on="end_row", how="anti", maintain_order="left")
    rejects = [told(unused, table="encounters", reason="unknown_encounter", detail="an end without a beginning")]
    columns = ("source", "source_row", "encounter_id", "patient_id", "start", "end")
    return rows.select(columns), len(starts), rejects


def _named(listed: TextTable) -> TextTable:
    """Name each recording's encounter after subject and time, for a dataset without visit events."""
    made = pl.col("patient_id") + "@" + pl.coalesce("start", "path")
    rows = listed.rows.with_columns(pl.coalesce("encounter_id", made).alias("encounter_id"))
    return replace(listed, rows=rows)


def _visits_of_recordings(listed: TextTable) -> pl.DataFrame:
    """Return one encounter per recording; recordings of several channels that share one are one."""
    named = pl.col("encounter_id")
    rows = listed.rows.filter(named.is_null() | named.is_first_distinct())
    return rows.select(pl.lit(RECORDINGS).alias("source"), "source_row", "encounter_id", "patient_id", "start",
                       ABSENT.alias("end"))  # fmt: skip


def _patients(events: pl.DataFrame, kept: pl.DataFrame) -> tuple[pl.DataFrame, list[pl.DataFrame]]:
    """Return everybody with an event that is read or an encounter."""
    kind = pl.col("kind")
    told_of = events.select(
        "source", "source_row", "patient_id",
        pl.when(kind == "sex").then(pl.col("text")).alias("sex"),
        pl.when(kind == "race").then(pl.col("text")).alias("race"),
        pl.when(kind == "ethnicity").then(pl.col("text")).alias("ethnicity"),
        pl.when(kind == "birth").then(parse_time(pl.col("time")).dt.year()).cast(pl.Int32).alias("birth_year"),
        pl.col("kind"),
    )  # fmt: skip
    # Visits and diagnoses without a subject are told where they are judged.
    personal = told_of.filter(kind.is_in(["sex", "race", "ethnicity", "birth"]))
    others = told_of.filter(~kind.is_in(["sex", "race", "ethnicity", "birth"]) & pl.col("patient_id").is_not_null())
    seen = kept.select("source", "source_row", "patient_id").filter(
        ~pl.col("patient_id").is_in(events["patient_id"].drop_nulls().unique().implode())
    )
    rows = pl.concat([personal, others.unique("patient_id", maintain_order=True), seen], how="diagonal").drop("kind")
    return take_patients(rows.with_columns(sex_of(pl.col("sex")).alias("sex")), once=False)


def _ages(rows: pl.DataFrame, births: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Set the age at the start in years, from the birth event; null where it would be below 0 or above 130."""
    births = births.with_columns(parse_time(pl.col("time")).alias("born"))
    unread = told(births.filter(pl.col("born").is_null()), table="patients", reason="bad_time", detail="birth")
    of = births.drop_nulls(["patient_id", "born"]).unique("patient_id", keep="first", maintain_order=True)
    joined = rows.join(of.select("patient_id", "born"), on="patient_id", how="left", maintain_order="left")
    return joined.with_columns(years_since("born").alias("age")).drop("born"), unread


def _diagnoses(
    noted: pl.DataFrame, encounters: pl.DataFrame, patients: pl.DataFrame
) -> tuple[pl.DataFrame, list[pl.DataFrame]]:
    """Return the diagnoses, dated by their events; a static event has no date."""
    concept = noted.filter(pl.col("kind") == "concept")
    lost = [told(concept, table="diagnoses", reason="unknown_diagnosis",
                 detail="a concept number without an ICD code among its parents in metadata/codes.parquet"),
    ]  # fmt: skip
    rows = noted.filter(pl.col("kind") == "diagnosis").with_columns(
        pl.col("visit").alias("encounter_id"), pl.col("text").alias("cell"), pl.col("code").alias("system"),
        parse_time(pl.col("time")).dt.date().alias("recorded"),
    )  # fmt: skip
    diagnoses, rejects = take_diagnoses(rows, encounters=encounters, patients=patients, own_date=True)
    return diagnoses, [*lost, *rejects]


SOURCE = Meds(load_card(Path(__file__).with_name("meds.toml")))
