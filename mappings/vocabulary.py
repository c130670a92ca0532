"""Vocabularies of phenotypes: what there is, and the tables of one.

A vocabulary is five Parquet files in one folder, ``NAME.phenotypes.parquet`` and so on; `build.py` lists their columns.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import polars as pl

from phewas.errors import VocabularyError, nearest

#: Names of the vocabularies shipped, with their family and version.
SHIPPED: dict[str, tuple[str, str]] = {"phecode1.2": ("phecode", "1.2")}

#: Short names, lower case; each stands for one fixed version.
ALIASES: dict[str, str] = {"phecode": "phecode1.2", "phecode12": "phecode1.2", "phecodes": "phecode1.2"}

TABLES: dict[str, dict[str, Any]] = {
    "phenotypes": {
        "phenotype": pl.String,
        "description": pl.String,
        "chapter": pl.String,
        "chapter_order": pl.Int16,
        "sex": pl.String,
    },
    "map": {"vocabulary": pl.String, "code": pl.String, "phenotype": pl.String},
    "rollup": {"phenotype": pl.String, "ancestor": pl.String},
    "exclusions": {"phenotype": pl.String, "related": pl.String},
    "chapters": {"chapter": pl.String, "chapter_order": pl.Int16, "colour": pl.String},
}


@dataclass(frozen=True, eq=False)
class Vocabulary:
    """The tables of one vocabulary in one version.

    Attributes
    ----------
    name
        Family, for example ``phecode``.
    version
        Version, for example ``1.2``.
    phenotypes
        phenotype (text: ``008`` is not 8), description, chapter, chapter_order, sex (``both``/``F``/``M``); the order
        of the rows is the order of the vocabulary, parents before their children.
    code_map
        vocabulary (code system), code (undotted key of `phewas.mappings.icd`), phenotype. Direct: what the code itself
        means, without ancestors. It may name phenotypes that have no row in `phenotypes`; those are never labelled.
    rollup
        phenotype, ancestor; every phenotype is its own ancestor. Complete: no chain has to be followed.
    exclusions
        phenotype, related: a code that means ``related`` keeps a person out of the controls of ``phenotype``. One-way.
    chapters
        chapter, chapter_order, colour (``#RRGGBB``), in chapter order.
    """

    name: str
    version: str
    phenotypes: pl.DataFrame
    code_map: pl.DataFrame
    rollup: pl.DataFrame
    exclusions: pl.DataFrame
    chapters: pl.DataFrame

    @property
    def label(self) -> str:
        """Name and version as tables and figures show them, for example ``phecode 1.2``."""
        return f"{self.name} {self.version}"

    @property
    def code_systems(self) -> tuple[str, ...]:
        """The code systems that the map covers, sorted."""
        return tuple(sorted(self.code_map["vocabulary"].unique()))


def available() -> list[str]:
    """Return the names that `load` knows, without aliases."""
    return sorted(SHIPPED)


def resolve(name: str) -> str:
    """Return the full name of a vocabulary for a name or an alias, in any case.

    Raises
    ------
    VocabularyError
        The name is unknown; the message suggests the nearest.
    """
    plain = name.strip().lower().replace(" ", "").replace("_", "").replace("-", "")
    if plain in SHIPPED:
        return plain
    if plain in ALIASES:
        return ALIASES[plain]
    raise VocabularyError(
        f"no vocabulary is called {name!r}.{nearest(plain, [*SHIPPED, *ALIASES])}",
        expected=", ".join([*available(), *sorted(ALIASES)]),
    )


def load(name: str) -> Vocabulary:
    """Return a shipped vocabulary.

    Parameters
    ----------
    name
        A name of `available` or an alias (``phecode`` stands for ``phecode1.2``).

    Raises
    ------
    VocabularyError
        The name is unknown, or a table is missing or malformed.

    Examples
    --------
    >>> load("phecode").label
    'phecode 1.2'
    """
    full = resolve(name)
    family, version = SHIPPED[full]
    with resources.as_file(resources.files("phewas.mappings.data")) as folder:
        return read(Path(folder), prefix=full, name=family, version=version)


def read(folder: Path, *, prefix: str, name: str, version: str) -> Vocabulary:
    """Read the five tables ``PREFIX.*.parquet`` of a folder and check them against each other.

    Raises
    ------
    VocabularyError
        A table is missing, lacks a column, holds nulls or repeated rows, or names a phenotype or chapter that is not
        defined; or the roll-up is incomplete.
    """
    tables = {table: _read(folder / f"{prefix}.{table}.parquet", columns) for table, columns in TABLES.items()}
    vocabulary = Vocabulary(
        name=name,
        version=version,
        phenotypes=tables["phenotypes"],
        code_map=tables["map"],
        rollup=tables["rollup"],
        exclusions=tables["exclusions"],
        chapters=tables["chapters"],
    )
    check(vocabulary)
    return vocabulary


def _read(file: Path, columns: dict[str, Any]) -> pl.DataFrame:
    if not file.is_file():
        raise VocabularyError(f"{file.name} is missing", expected=f"a table with {', '.join(columns)}")
    try:
        frame = pl.read_parquet(file, hive_partitioning=False)
    except (pl.exceptions.PolarsError, OSError) as error:
        raise VocabularyError(f"{file.name} is no readable Parquet file: {error}") from None
    found = dict(frame.schema)
    wrong = [name for name, dtype in columns.items() if found.get(name) != dtype]
    if wrong:
        raise VocabularyError(f"{file.name} lacks {wrong}, or has them in another dtype", expected=str(columns))
    return frame.select(list(columns))


def check(vocabulary: Vocabulary) -> None:
    """Raise `VocabularyError` where the tables of a vocabulary contradict each other."""
    named = {
        "phenotypes": vocabulary.phenotypes,
        "map": vocabulary.code_map,
        "rollup": vocabulary.rollup,
        "exclusions": vocabulary.exclusions,
        "chapters": vocabulary.chapters,
    }
    for table, frame in named.items():
        if sum(frame.null_count().row(0)) if frame.height else 0:
            raise VocabularyError(f"table {table} of {vocabulary.label} has empty cells")
    for table, keys in (("phenotypes", ["phenotype"]), ("chapters", ["chapter"])):
        if named[table].select(keys).is_duplicated().any():
            raise VocabularyError(f"table {table} of {vocabulary.label} has several rows for one {keys[0]}")
    for table in ("map", "rollup", "exclusions"):
        if named[table].is_duplicated().any():
            raise VocabularyError(f"table {table} of {vocabulary.label} repeats a row", expected="each pair once")
    known = vocabulary.phenotypes["phenotype"].implode()
    for table, column in (("rollup", "ancestor"), ("exclusions", "phenotype"), ("exclusions", "related")):
        stray = named[table].filter(~pl.col(column).is_in(known)).height
        if stray:
            raise VocabularyError(f"{stray} rows of table {table} name a phenotype without a definition")
    own = vocabulary.rollup.filter(pl.col("phenotype") == pl.col("ancestor"))["phenotype"].implode()
    orphans = vocabulary.phenotypes.filter(~pl.col("phenotype").is_in(own)).height
    if orphans:
        raise VocabularyError(
            f"{orphans} phenotypes of {vocabulary.label} are missing from the roll-up", expected="each its own ancestor"
        )
    chapters = vocabulary.chapters.select("chapter", "chapter_order")
    if vocabulary.phenotypes.join(chapters, on=["chapter", "chapter_order"], how="anti").height:
        raise VocabularyError(f"a phenotype of {vocabulary.label} stands in a chapter that is not listed")
    if not set(vocabulary.phenotypes["sex"]) <= {"both", "F", "M"}:
        raise VocabularyError(f"table phenotypes of {vocabulary.label} has an unknown sex", expected="both / F / M")
