"""What every source of patients offers: a card that describes it, and the functions that turn it into tables."""

from __future__ import annotations

import hashlib
import math
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import polars as pl

from phewas.errors import CohortError, ConfigError, nearest
from phewas.schema import REASONS, Diagnoses, Encounters, Flow, Patients, Recordings, Rejects


@dataclass(frozen=True, kw_only=True)
class CohortCard:
    """What a reader must know about a source, and the defaults a run takes from it.

    Parameters
    ----------
    name, title, description
        Short name (``mcmed``), name in words, and what the source is.
    obtain
        Where and how to get the data; for a source without data, that none is needed.
    citation, licence
        How to cite it, and on which terms it may be used.
    public
        True where small counts may be shown: nobody can be found out from them.
    needs_data
        False where the source makes its own data.
    index_channel
        The channel whose first recording sets an encounter's index time.
    mains_hz
        Mains frequency where the recordings were made, 50 or 60; None where that is not known or differs.
    window_s
        Window length in seconds that a run takes by default.
    min_code_days
        Distinct days with a code that make a case, by default.
    heldout, encoder, fit
        Default held-out rule (`phewas.cohorts.heldout`), encoder name, and ``finetune`` or ``probe``.
    pretraining_name
        Name under which encoders list this source among their pretraining data (several: separated by commas); empty
        where none can have met it; ``unknown`` where the card stands for anybody's patients.
    notes
        What a reader of the results must be told.
    covariates
        Columns of the source (without ``src_``) that are known when the signal begins. Only these may ever stand beside
        the encoder as covariates; a column that is not listed is taken to be known only afterwards.
    same_patients_as
        Other cohorts with the same patients under the same identifiers: whom a model has met there, it has met here.
    vitals, arrival
        Those of the covariates that are vital signs, and those that say how the patient arrived.
    settings
        Parts of `phewas.config.RunConfig` (``learn``, ``segments``, ...) that this source's runs start from; a run's
        own settings win.
    """

    name: str
    title: str
    description: str
    obtain: str
    citation: str
    licence: str
    public: bool
    needs_data: bool
    window_s: float
    min_code_days: int
    heldout: str
    encoder: str
    fit: str
    pretraining_name: str
    index_channel: str = "PPG"
    mains_hz: int | None = None
    notes: tuple[str, ...] = ()
    covariates: tuple[str, ...] = ()
    same_patients_as: tuple[str, ...] = ()
    vitals: tuple[str, ...] = ()
    arrival: tuple[str, ...] = ()
    settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


_KINDS: dict[str, tuple[type, ...]] = {"str": (str,), "bool": (bool,), "float": (int, float), "int": (int,)}


def load_card(path: Path) -> CohortCard:
    """Read a card from TOML.

    Raises
    ------
    ConfigError
        The file is missing or no TOML, a key is unknown or missing, or a value is of the wrong kind or impossible.
    """
    try:
        values: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"cohort card {path.name} cannot be read: {error}", expected="a TOML file") from error
    known = {f.name: f for f in fields(CohortCard)}
    for key in values:
        if key not in known:
            raise ConfigError(f"cohort card {path.name} has an unknown key {key!r}.{nearest(key, known)}",
                              expected=", ".join(known))  # fmt: skip
    missing = [n for n, f in known.items() if f.default is MISSING and f.default_factory is MISSING and n not in values]
    if missing:
        raise ConfigError(f"cohort card {path.name} lacks {', '.join(missing)}", expected=", ".join(known))
    for key, value in values.items():
        kind = str(known[key].type)
        if kind.startswith("Mapping"):
            good = isinstance(value, dict) and all(isinstance(v, dict) for v in value.values())
        elif kind.startswith("tuple"):
            good = isinstance(value, list) and all(isinstance(v, str) for v in value)
            values[key] = tuple(value) if good else value
        else:
            kind = kind.removesuffix(" | None")
            good = isinstance(value, _KINDS[kind]) and (kind == "bool" or not isinstance(value, bool))
        if not good:
            raise ConfigError(f"cohort card {path.name}: {key} is {value!r}", expected=kind)
    values["window_s"] = float(values["window_s"])
    card = CohortCard(**values)
    if not (card.window_s > 0 and math.isfinite(card.window_s)) or card.min_code_days < 1:
        raise ConfigError(f"cohort card {path.name}: window_s and min_code_days must be positive")
    if card.mains_hz not in (None, 50, 60):
        raise ConfigError(f"cohort card {path.name}: mains_hz is {card.mains_hz}", expected="50 or 60")
    late = [name for name in (*card.vitals, *card.arrival) if name not in card.covariates]
    if late:
        raise ConfigError(f"cohort card {path.name}: {', '.join(late)} is among vitals or arrival",
                          expected="columns that are covariates, too: known when the signal begins")  # fmt: skip
    if card.fit not in ("finetune", "probe"):
        raise ConfigError(f"cohort card {path.name}: fit is {card.fit!r}", expected="finetune or probe")
    return card


def covariates(encounters: pl.DataFrame, *, card: CohortCard) -> list[str]:
    """Return the ``src_`` columns of an encounters table that may be used as covariates, in the card's order.

    A list of what is allowed, not of what is forbidden: a column that a later release of the source adds is not
    offered before somebody has looked at it.
    """
    return [f"src_{name}" for name in card.covariates if f"src_{name}" in encounters.columns]


@runtime_checkable
class Source(Protocol):
    """A place that patients come from. `root` is the folder the user names; None where the card needs no data."""

    @property
    def card(self) -> CohortCard:
        """Return the card."""

    def fingerprint(self, root: Path | None) -> str:
        """Return a sha256 that changes when the data that `build` reads change."""

    def scan(self, root: Path | None) -> dict[str, Any]:
        """Return quick counts for a dry run: no table is parsed and no signal is opened."""

    def build(self, root: Path | None, run: Path, *, workers: int | None = None) -> None:
        """Write patients, encounters, recordings, diagnoses, rejects and flow below `run`."""

    def data_root(self, root: Path | None, run: Path) -> Path:
        """Return the folder that ``recordings.path`` is relative to."""


def require_root(root: Path | None, card: CohortCard) -> Path:
    """Return `root`, or tell the user that this source needs a folder.

    Raises
    ------
    CohortError
        No folder was given, or it is not there.
    """
    if root is None:
        raise CohortError(
            f"the cohort {card.name} needs its data folder, and none was given",
            expected=f"the folder of {card.title}",
            cure=f"phewas run --cohort {card.name} --data FOLDER   ({card.obtain})",
        )
    if not root.is_dir():
        what = "is a file" if root.exists() else "does not exist"
        raise CohortError(
            f"the data folder {root} {what}",
            expected=f"the folder of {card.title}",
            cure=f"check the path given with --data. {card.obtain}",
        )
    return root


@dataclass(frozen=True)
class FolderSource:
    """What sources that read the folder named by the user have in common."""

    card: CohortCard

    def data_root(self, root: Path | None, run: Path) -> Path:
        """Return `root`: paths of recordings are relative to the folder that the user named."""
        return require_root(root, self.card)


def hash_file(path: Path) -> str:
    """Return the sha256 of a file's bytes, as hexadecimal text."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def fingerprint_of(root: Path, *, read: Iterable[Path], listed: Iterable[tuple[str, int]]) -> str:
    """Return one sha256 over the bytes of the files `read` and over names and sizes of the files `listed`.

    Parameters
    ----------
    root
        Folder that the names are taken relative to, so that a moved tree keeps its fingerprint.
    read
        Files whose every byte counts.
    listed
        Relative path and size in bytes of files too large to read.
    """
    digest = hashlib.sha256()
    for path in sorted(read):
        digest.update(f"{path.relative_to(root).as_posix()}\0{hash_file(path)}\n".encode())
    for name, size in sorted(listed):
        digest.update(f"{name}\0{size}\n".encode())
    return digest.hexdigest()


@dataclass(frozen=True)
class Loss:
    """One row of the rejects table, before it is one; see `phewas.schema.Rejects`."""

    table: str
    source: str
    reason: str
    source_row: int | None = None
    path: str | None = None
    detail: str | None = None


def losses(rows: Iterable[Loss]) -> pl.DataFrame:
    """Return the rejects table of single losses."""
    return Rejects.build(vars(row) for row in rows)


def lose(
    rows: pl.DataFrame, *, table: str, source: str, reason: str, detail: pl.Expr | str | None = None
) -> pl.DataFrame:
    """Return one rejects row for each row of a frame that carries ``source_row``.

    Parameters
    ----------
    rows
        Frame with the Int64 column ``source_row``.
    detail
        What was found, as an expression over `rows` or a text; never an identifier.
    """
    what = detail if isinstance(detail, pl.Expr) else pl.lit(detail, dtype=pl.String)
    assert reason in REASONS, reason
    return rows.select(
        pl.lit(table).alias("table"),
        pl.lit(source).alias("source"),
        "source_row",
        pl.lit(None, dtype=pl.String).alias("path"),
        pl.lit(reason).alias("reason"),
        what.alias("detail"),
    )


@dataclass
class CohortTables:
    """The six tables of a built cohort, and the one way to write them."""

    patients: pl.DataFrame
    encounters: pl.DataFrame
    recordings: pl.DataFrame
    diagnoses: pl.DataFrame
    rejects: pl.DataFrame
    flow: pl.DataFrame

    def write(self, run: Path) -> None:
        """Sort every table by its natural order, check it, and write it below `run`.

        The order depends on identifiers and row numbers only, so that the same input gives the same bytes.
        """
        Patients.write(self.patients.sort("patient_id"), run)
        Encounters.write(self.encounters.sort("encounter_id"), run)
        Recordings.write(self.recordings, run)
        Diagnoses.write(self.diagnoses.sort("source", "source_row", "code", "code_raw", maintain_order=True), run)
        Rejects.write(
            self.rejects.sort("table", "source", "source_row", "path", "reason", "detail", maintain_order=True), run
        )
        Flow.write(self.flow, run)


def flow_row(
    unit: str, n_in: int, n_out: int, reason: str, *, step: str = "cohort", note: bool = False
) -> dict[str, Any]:
    """Return one row of the flow table; see `phewas.schema.Flow`.

    `reason` says what was taken away; for a `note`, what `n_out` of the `n_in` are.
    """
    kind = "note" if note else None
    return {"step": step, "unit": unit, "n_in": n_in, "n_out": n_out, "reason": reason, "kind": kind}
