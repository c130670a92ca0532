"""Any three tables: encounters, diagnoses and recordings, described in a ``cohort.toml`` beside them.

The description says which file and column is which, the code system, the formats of times and the channel; `template`
returns one to fill in. Everything else is as for the sources that have a name.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import polars as pl

from phewas.cohorts.anyfile import SUFFIXES, read_any
from phewas.cohorts.assemble import (
    ReadTime,
    finish,
    read_dates,
    take_diagnoses,
    take_encounters,
    take_patients,
    to_encounters,
)
from phewas.cohorts.base import CohortCard, FolderSource, fingerprint_of, load_card, require_root
from phewas.cohorts.csvtext import TextTable, parse_number, parse_time
from phewas.cohorts.listed import COLUMNS as RECORDING_COLUMNS
from phewas.cohorts.listed import take_recordings
from phewas.cohorts.records import CHANNELS
from phewas.errors import CohortError, ConfigError, SignalError, nearest
from phewas.mappings.icd import CODE_SYSTEMS
from phewas.schema import DATETIME, Recordings
from phewas.segments.readers import confine

DESCRIPTION = "cohort.toml"
ENCOUNTER_COLUMNS = ("encounter_id", "patient_id", "start", "end", "age", "sex", "birth_year", "race", "ethnicity")
DIAGNOSIS_COLUMNS = ("patient_id", "encounter_id", "code", "code_system", "recorded")
# section -> (keys with a text, tables of words, columns, columns that must be named)
_SECTIONS: dict[str, tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...], tuple[str, ...]]] = {
    "encounters": (("file", "time_format"), (), ENCOUNTER_COLUMNS, ("encounter_id", "patient_id")),
    "diagnoses": (("file", "time_format", "code_system"), ("code_systems",), DIAGNOSIS_COLUMNS, ("code",)),
    "recordings": (("file", "time_format", "channel", "signal", "fs_hz"), ("channels",), RECORDING_COLUMNS, ("path",)),
}
# Columns of the encounters that are known when the signal begins: ours = "theirs", kept under our names.
_BEFORE = ("vitals", "arrival")
_TOP = ("title", "channel", "public", "mains_hz", *_SECTIONS)
SEE = "phewas cohorts show tables   prints a description to fill in"


def template() -> str:
    """Return a ``cohort.toml`` to fill in, as text."""
    return Path(__file__).with_name("tables_template.toml").read_text(encoding="utf-8")


@dataclass(frozen=True)
class Section:
    """One table of the description: its file, our column names with theirs, constants and words.

    `before` has our names of the columns that are known when the signal begins, under vitals and arrival; they are
    among `columns`.
    """

    file: Path
    columns: Mapping[str, str]
    constants: Mapping[str, str]
    words: Mapping[str, str]
    time_format: str | None
    before: Mapping[str, tuple[str, ...]]

    @property
    def read_time(self) -> ReadTime:
        """Return the reader of this table's times."""
        if self.time_format is None:
            return parse_time
        pattern = self.time_format
        return lambda text: text.str.to_datetime(pattern, time_unit="us", strict=False, exact=True).cast(DATETIME)


@dataclass(frozen=True)
class Description:
    """A checked ``cohort.toml``."""

    title: str
    channel: str
    public: bool
    mains_hz: int | None
    encounters: Section
    diagnoses: Section
    recordings: Section | None


def describe(root: Path) -> Description:
    """Read and check the description in a folder.

    Raises
    ------
    ConfigError
        It is missing or no TOML, a key is unknown, missing or of the wrong kind, a file is missing or outside the
        folder, or a code system or time format cannot be.
    """
    path = root / DESCRIPTION
    if not path.is_file():
        raise ConfigError(f"{root} holds no {DESCRIPTION}", expected="a description of its tables", cure=SEE)
    try:
        values: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{DESCRIPTION} cannot be read: {error}", expected="a TOML file", cure=SEE) from error
    _known(values, _TOP, "")
    for name in ("encounters", "diagnoses"):
        if name not in values:
            raise ConfigError(f"{DESCRIPTION} has no section [{name}]", expected=", ".join(_SECTIONS), cure=SEE)
    public = values.get("public", False)
    if not isinstance(public, bool):
        raise ConfigError(f"{DESCRIPTION}: public is {public!r}", expected="true or false")
    mains_hz = values.get("mains_hz")
    if mains_hz not in (None, 50, 60) or isinstance(mains_hz, bool):
        raise ConfigError(f"{DESCRIPTION}: mains_hz is {mains_hz!r}", expected="50 or 60")
    return Description(
        title=_text(values, "title", "") or "Tables of one's own",
        channel=_text(values, "channel", "") or "PPG",
        public=public,
        mains_hz=None if mains_hz is None else int(mains_hz),
        encounters=_section(root, values, "encounters"),
        diagnoses=_section(root, values, "diagnoses"),
        recordings=_section(root, values, "recordings") if "recordings" in values else None,
    )


def _known(values: Mapping[str, Any], known: tuple[str, ...], where: str) -> None:
    for key in values:
        if key not in known:
            raise ConfigError(f"{DESCRIPTION} has an unknown key {f'{where}.{key}'.strip('.')!r}.{nearest(key, known)}",
                              expected=", ".join(known), cure=SEE)  # fmt: skip


def _text(values: Mapping[str, Any], key: str, where: str) -> str | None:
    value = values.get(key)
    if value is None:
        return None
    if not isinstance(value, str) or not value.strip():
        raise ConfigError(f"{DESCRIPTION}: {f'{where}.{key}'.strip('.')} is {value!r}", expected="a text", cure=SEE)
    return value.strip()


def _words(values: Mapping[str, Any], key: str, where: str) -> dict[str, str]:
    table = values.get(key, {})
    if not isinstance(table, dict) or not all(isinstance(v, str) and v.strip() for v in table.values()):
        raise ConfigError(f"{DESCRIPTION}: [{where}.{key}] is {table!r}", expected='lines such as a = "b"', cure=SEE)
    return {k: v.strip() for k, v in table.items()}


def _section(root: Path, values: Mapping[str, Any], name: str) -> Section:
    body = values[name]
    if not isinstance(body, dict):
        raise ConfigError(f"{DESCRIPTION}: {name} is {body!r}", expected=f"a section [{name}]", cure=SEE)
    texts, word_tables, columns, needed = _SECTIONS[name]
    before = _BEFORE if name == "encounters" else ()
    _known(body, (*texts, *word_tables, *before, "columns"), name)
    file = _text(body, "file", name)
    if file is None:
        raise ConfigError(f"{DESCRIPTION}: [{name}] names no file", expected='file = "..."', cure=SEE)
    try:
        path = root / confine(root, file).relative_to(root.resolve())
    except (SignalError, ValueError) as error:
        raise ConfigError(f"{DESCRIPTION}: {name}.file leaves the folder", expected="a file in the folder") from error
    if not path.is_file() or not path.name.lower().endswith(SUFFIXES):
        what = "is not there" if not path.is_file() else "is of a kind that is not read"
        raise ConfigError(f"{DESCRIPTION}: the file {file} of [{name}] {what}",
                          expected=f"a file in the folder that ends in {', '.join(SUFFIXES)}")  # fmt: skip
    named = _words(body, "columns", name)
    _known(named, columns, f"{name}.columns")
    missing = [c for c in needed if c not in named]
    if missing or (name != "encounters" and not {"patient_id", "encounter_id"} & set(named)):
        raise ConfigError(f"{DESCRIPTION}: [{name}.columns] lacks {', '.join(missing) or 'patient_id or encounter_id'}",
                          expected=", ".join(columns), cure=SEE)  # fmt: skip
    told = {kind: _words(body, kind, name) for kind in before}
    for kind, added in told.items():
        odd = [k for k in added if not re.fullmatch(r"[A-Za-z]\w*", k) or k in columns or k in named]
        if odd:
            raise ConfigError(f"{DESCRIPTION}: [{name}.{kind}] names {', '.join(odd)}", cure=SEE,
                              expected="a name of its own, of letters, digits and _, for each column")  # fmt: skip
        named |= added
    words = {k.lower(): v for t in word_tables for k, v in _words(body, t, name).items()}
    constants = {k: v for k in texts if k not in ("file", "time_format", "fs_hz") and (v := _text(body, k, name))}
    if "fs_hz" in body:
        rate = body["fs_hz"]
        if isinstance(rate, bool) or not isinstance(rate, (int, float)) or not 0 < rate < 1e6:
            raise ConfigError(f"{DESCRIPTION}: {name}.fs_hz is {rate!r}", expected="samples per second, above 0")
        constants["fs_hz"] = repr(float(rate))
    if name == "diagnoses":
        _check_systems(constants, named, words)
    time_format = _text(body, "time_format", name)
    if time_format is not None and not re.search(r"%[Yy]", time_format):
        raise ConfigError(f"{DESCRIPTION}: {name}.time_format is {time_format!r}",
                          expected="a format with a year, such as %d.%m.%Y %H:%M")  # fmt: skip
    return Section(path, named, constants, words, time_format, {kind: tuple(added) for kind, added in told.items()})


def _check_systems(constants: Mapping[str, str], named: Mapping[str, str], words: Mapping[str, str]) -> None:
    if ("code_system" in constants) == ("code_system" in named):
        raise ConfigError(f"{DESCRIPTION}: [diagnoses] names {'two' if 'code_system' in named else 'no'} code systems",
                          expected='either code_system = "ICD10CM" or a column code_system', cure=SEE)  # fmt: skip
    for system in (*words.values(), *([constants["code_system"]] if "code_system" in constants else [])):
        if system not in CODE_SYSTEMS:
            raise ConfigError(f"{DESCRIPTION}: {system!r} is no code system.{nearest(system.upper(), CODE_SYSTEMS)}",
                              expected=", ".join(CODE_SYSTEMS))  # fmt: skip


def read_section(section: Section, columns: tuple[str, ...], *, table: str) -> TextTable:
    """Return a table with our column names, constants filled in, and null where the description says nothing.

    Raises
    ------
    CohortError
        A named column is not in the file.
    """
    theirs = {ours: name.lower() for ours, name in section.columns.items()}
    got = read_any(section.file, needs=list(dict.fromkeys(theirs.values())), table=table, source=table)

    def one(name: str) -> pl.Expr:
        if name in theirs:
            return pl.col(theirs[name]).alias(name)
        return pl.lit(section.constants.get(name), dtype=pl.String).alias(name)

    return TextTable(got.rows.select("source_row", *map(one, columns)), got.rejects, got.n_rows)


@dataclass(frozen=True)
class Tables(FolderSource):
    """The source ``tables``."""

    def card_for(self, root: Path) -> CohortCard:
        """Return the card with what the description in `root` says: title, channel, publicity, mains, covariates."""
        said = describe(root)
        vitals, arrival = (said.encounters.before[kind] for kind in _BEFORE)
        return replace(
            self.card, title=said.title, index_channel=said.channel, public=said.public, mains_hz=said.mains_hz,
            covariates=(*vitals, *arrival), vitals=vitals, arrival=arrival,
        )

    def fingerprint(self, root: Path | None) -> str:
        """Hash the description, the tables, and name and size of each file that the recordings name."""
        root = require_root(root, self.card)
        said = describe(root)
        read = [root / DESCRIPTION, said.encounters.file, said.diagnoses.file]
        listed: dict[str, int] = {}
        if said.recordings is not None:
            read.append(said.recordings.file)
            named = read_section(said.recordings, ("path",), table="recordings").rows["path"].drop_nulls()
            for path in named.unique():
                listed[path] = _size(root, path)
        return fingerprint_of(root, read=set(read), listed=listed.items())

    def scan(self, root: Path | None) -> dict[str, Any]:
        """Count the rows of the three tables."""
        said = describe(require_root(root, self.card))
        parts = {"encounters": said.encounters, "diagnoses": said.diagnoses, "recordings": said.recordings}
        rows = {n: read_section(s, (), table=n).n_rows if s is not None else 0 for n, s in parts.items()}
        return {
            "files": [s.file.name for s in parts.values() if s is not None],
            "missing": [n for n, s in parts.items() if s is None],
            "n_encounters": rows["encounters"],
            "n_diagnoses": rows["diagnoses"],
            "n_recordings": rows["recordings"],
            "n_waveform_folders": 0,
        }

    def build(self, root: Path | None, run: Path, *, workers: int | None = None) -> None:
        """Write the six tables of the cohort below `run`.

        Raises
        ------
        ConfigError
            The description is wrong; see `describe`.
        CohortError
            A table lacks a column or is damaged, or no encounter can be taken.
        """
        root = require_root(root, self.card)
        said = describe(root)
        own = tuple(name for names in said.encounters.before.values() for name in names)
        visits = read_section(said.encounters, (*ENCOUNTER_COLUMNS, *own), table="encounters")
        noted = read_section(said.diagnoses, DIAGNOSIS_COLUMNS, table="diagnoses")
        _check_ids(visits, noted)
        kept, rejects = take_encounters(
            visits.rows.with_columns(source=pl.lit("encounters")), read_time=said.encounters.read_time, day_end=True
        )
        years = kept.with_columns(parse_number(pl.col("birth_year")).cast(pl.Int32, strict=False).alias("birth_year"))
        patients, lost = take_patients(years.sort("start", "source_row", nulls_last=False), once=False)
        encounters = to_encounters(kept, keep=own)
        diagnoses, lost_codes = self._diagnoses(said.diagnoses, noted, encounters, patients)
        rejects += [visits.rejects, noted.rejects, *lost, *lost_codes]
        recordings, n_files = Recordings.empty(), 0
        if said.recordings is not None:
            listed = read_section(said.recordings, RECORDING_COLUMNS, table="recordings")
            n_files = listed.n_rows
            recordings, lost_files = take_recordings(
                root, listed.rows, encounters=encounters, patients=patients,
                channels=CHANNELS | dict(said.recordings.words), read_time=said.recordings.read_time,
            )  # fmt: skip
            rejects += [listed.rejects, *lost_files]
        finish(
            run,
            patients=patients,
            encounters=encounters,
            recordings=recordings,
            diagnoses=diagnoses,
            rejects=rejects,
            channel=said.channel,
            n_read={"encounters": visits.n_rows, "diagnoses": noted.n_rows, "recordings": n_files},
        )

    def _diagnoses(
        self, section: Section, noted: TextTable, encounters: pl.DataFrame, patients: pl.DataFrame
    ) -> tuple[pl.DataFrame, list[pl.DataFrame]]:
        systems = {s.lower(): s for s in CODE_SYSTEMS} | dict(section.words)
        rows = noted.rows.with_columns(
            pl.lit("diagnoses").alias("source"), pl.col("code").alias("cell"), pl.col("code_system").alias("system"),
            pl.col("code_system").str.to_lowercase()
            .replace_strict(systems, default="unknown", return_dtype=pl.String).fill_null("unknown")
            .alias("vocabulary"),
        )  # fmt: skip
        rows, unread = read_dates(
            rows.rename({"recorded": "day"}), "day", called="recorded", read_time=section.read_time
        )
        diagnoses, lost = take_diagnoses(
            rows, encounters=encounters, patients=patients, own_date="recorded" in section.columns
        )
        return diagnoses, [unread, *lost]


def _size(root: Path, path: str) -> int:
    """Return a named file's size in bytes, -1 where it is not there or not below the root."""
    try:
        return confine(root, path.replace("\\", "/")).stat().st_size
    except (SignalError, OSError, ValueError):
        return -1


def _check_ids(visits: TextTable, noted: TextTable) -> None:
    """Refuse identifiers that cannot belong together: a wrong join would find nobody and say nothing."""
    n_encounters, n_patients = (visits.rows[c].drop_nulls().n_unique() for c in ("encounter_id", "patient_id"))
    if n_encounters < n_patients:
        raise CohortError(
            f"encounter_id and patient_id look swapped: {n_encounters} encounters of {n_patients} patients",
            expected="an encounter belongs to one patient, and a patient may have several",
            cure=f"swap the two names in [encounters.columns] of {DESCRIPTION}",
        )
    for column in ("patient_id", "encounter_id"):
        named = noted.rows[column].drop_nulls().unique()
        if len(named) and not named.is_in(visits.rows[column].drop_nulls().unique().implode()).any():
            raise CohortError(
                f"none of the {len(named)} values of {column} in the diagnoses is one of the encounters table",
                expected=f"the same {column} in both tables",
                cure=f"check [diagnoses.columns] in {DESCRIPTION}, and that leading zeros were not lost",
            )


SOURCE = Tables(load_card(Path(__file__).with_name("tables.toml")))
