"""Vocabularies of phenotypes: what there is, and the tables of one.

A vocabulary is five Parquet files in one folder, ``NAME.phenotypes.parquet`` and so on (`TABLES`).
Vocabularies come from three places: shipped with the package, stored by the user (`phewas.mappings.custom`), or read
from a file named in place of a vocabulary.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import polars as pl

from phewas.errors import VocabularyError, nearest

#: Names of the vocabularies shipped, with their family and version.
SHIPPED: dict[str, tuple[str, str]] = {
    "phecode1.2": ("phecode", "1.2"),
    "phecode1.2-who": ("phecode", "1.2-who"),
    "phecodeX1.0": ("phecodeX", "1.0"),
    "icd10-3": ("icd10", "3-digit"),
}

#: Short names, lower case; each stands for one fixed version.
ALIASES: dict[str, str] = {
    "phecode": "phecode1.2",
    "phecode12": "phecode1.2",
    "phecodes": "phecode1.2",
    "phecodewho": "phecode1.2-who",
    "phecodex": "phecodeX1.0",
    "phecodex10": "phecodeX1.0",
}

#: Endings of files that can stand in place of a vocabulary's name.
FILES = (".csv", ".tsv", ".txt", ".parquet")

# phecode 1.2 for the ICD-10 of the WHO is another map to the same phenotypes.
_SHARED = {"phecode1.2-who": "phecode1.2"}

#: The columns of the five tables; `Vocabulary` says what they mean.
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
    derive
        Where the map is a rule that knows more codes than a table can list: from keys (vocabulary, code) to their rows
        of the map (vocabulary, code, phenotype). Ask `map_for`, which minds it.
    notes
        Sentences on how the tables were read, for the user who brought them.
    """

    name: str
    version: str
    phenotypes: pl.DataFrame
    code_map: pl.DataFrame
    rollup: pl.DataFrame
    exclusions: pl.DataFrame
    chapters: pl.DataFrame
    derive: Callable[[pl.DataFrame], pl.DataFrame] | None = None
    notes: tuple[str, ...] = ()

    @property
    def label(self) -> str:
        """Name and version as tables and figures show them, for example ``phecode 1.2``."""
        return f"{self.name} {self.version}"

    @property
    def code_systems(self) -> tuple[str, ...]:
        """The code systems that the map covers, sorted."""
        return tuple(sorted(self.code_map["vocabulary"].unique()))

    @property
    def digest(self) -> str:
        """32 hex digits that name the contents of the tables; another file with the same contents has the same."""
        hashed = hashlib.blake2b(digest_size=16)
        for table in (self.phenotypes, self.code_map, self.rollup, self.exclusions, self.chapters):
            hashed.update(table.write_csv().encode())
        return hashed.hexdigest()

    def map_for(self, codes: pl.DataFrame) -> pl.DataFrame:
        """Return the map with every row that the given keys have, also those that only a rule gives.

        Parameters
        ----------
        codes
            vocabulary (code system), code (undotted key of `phewas.mappings.icd`).

        Returns
        -------
        polars.DataFrame
            vocabulary, code, phenotype: `code_map`, and the rows that `derive` adds for keys which it lacks.
        """
        if self.derive is None:
            return self.code_map
        new = codes.join(self.code_map, on=["vocabulary", "code"], how="anti")
        return pl.concat([self.code_map, self.derive(new).select(self.code_map.columns)])


def available() -> dict[str, str]:
    """Return the names that `load` knows, without aliases, and where each comes from: ``shipped`` or ``yours``."""
    from phewas.mappings import custom

    return dict.fromkeys(sorted(SHIPPED), "shipped") | dict.fromkeys(custom.stored(), "yours")


def resolve(name: str) -> str:
    """Return the full name of a vocabulary for a name or an alias, in any case, or the path of a vocabulary file.

    Blanks, hyphens and underscores in names do not matter. A name wins over a file of that name; ``./NAME`` is a path.

    Raises
    ------
    VocabularyError
        The name is unknown, with the nearest one; or the file is not there.
    """
    known = {squeeze(full): full for full in available()} | ALIASES
    if squeeze(name) in known:
        return known[squeeze(name)]
    if is_file_name(name):
        if not Path(name).is_file():
            raise VocabularyError(
                f"there is no vocabulary file {name}", expected="a CSV, TSV or Parquet file", cure="check the path"
            )
        return name
    raise VocabularyError(
        f"no vocabulary is called {name!r}.{nearest(squeeze(name), known)}",
        expected=", ".join([*available(), *sorted(ALIASES)]) + ", or a file (.csv, .tsv, .parquet)",
    )


def squeeze(name: str) -> str:
    """Return a vocabulary's name in the form in which names are compared."""
    return name.strip().lower().replace(" ", "").replace("_", "").replace("-", "")


def is_file_name(name: str) -> bool:
    """Tell whether a text in place of a vocabulary's name means a file."""
    return name.lower().endswith(FILES) or "/" in name or "\\" in name


def load(name: str) -> Vocabulary:
    """Return a vocabulary: a shipped one, one stored by the user, or the one in a file.

    Parameters
    ----------
    name
        A name of `available`, an alias (``phecode`` stands for ``phecode1.2``), or the path of a CSV, TSV or Parquet
        file with one row per code (`phewas.mappings.custom.read_file` says which columns).

    Raises
    ------
    VocabularyError
        The name is unknown, or a table is missing or malformed.

    Examples
    --------
    >>> load("phecode").label
    'phecode 1.2'
    >>> load("phecodeX").phenotypes.height
    3612
    """
    from phewas.mappings import categories, custom

    full = resolve(name)
    if full in custom.stored():
        return custom.load(full)
    if full not in SHIPPED:
        return custom.read_file(Path(full))
    family, version = SHIPPED[full]
    with resources.as_file(resources.files("phewas.mappings.data")) as found:
        folder = Path(found)
        if full == "icd10-3":
            maps = [_read(folder / f"{other}.map.parquet", TABLES["map"]) for other in SHIPPED if other != full]
            titles = _read(folder / f"{full}.titles.parquet", {"category": pl.String, "title": pl.String})
            return categories.make(known=pl.concat(maps), titles=titles)
        return read(folder, prefix=full, name=family, version=version, shared=_SHARED.get(full))


def read(folder: Path, *, prefix: str, name: str, version: str, shared: str | None = None) -> Vocabulary:
    """Read the five tables ``PREFIX.*.parquet`` of a folder and check them against each other.

    Parameters
    ----------
    folder, prefix
        Where the tables lie.
    name, version
        What the vocabulary is called.
    shared
        Prefix of all tables but the map, where they are those of another vocabulary.

    Raises
    ------
    VocabularyError
        A table is missing, lacks a column, holds nulls or repeated rows, or names a phenotype or chapter that is not
        defined; or the roll-up is incomplete.
    """
    tables = {
        table: _read(folder / f"{prefix if table == 'map' else shared or prefix}.{table}.parquet", columns)
        for table, columns in TABLES.items()
    }
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
