"""Tables of one's own in place of a vocabulary's: map, roll-up, control exclusions, sex; each by itself.

The names of the columns are those of `phewas.mappings.vocabulary`; those of the R package PheWAS (its arguments
``vocabulary.map``, ``rollup.map`` and ``exclusion.map``) are understood as well, so that a table written there can be
given as it is.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import polars as pl

from phewas.errors import VocabularyError, nearest
from phewas.mappings import icd
from phewas.mappings.vocabulary import Vocabulary

Given = pl.DataFrame | Path

#: Columns of each table that can be replaced.
COLUMNS: dict[str, tuple[str, ...]] = {
    "map": ("vocabulary", "code", "phenotype"),
    "rollup": ("phenotype", "ancestor"),
    "exclusions": ("phenotype", "related"),
    "sex": ("phenotype", "sex"),
}
# The same columns in R PheWAS.
_IN_R: dict[str, tuple[str, ...]] = {
    "map": ("vocabulary_id", "code", "phecode"),
    "rollup": ("code", "phecode_unrolled"),
    "exclusions": ("code", "exclusion_criteria"),
}


def replace(vocabulary: Vocabulary, tables: Mapping[str, Given]) -> Vocabulary:
    """Return the vocabulary with some of its tables replaced; its version says which.

    Parameters
    ----------
    vocabulary
        From `phewas.mappings.vocabulary.load`.
    tables
        By name, a frame or a file (``.csv``, ``.tsv`` or ``.parquet``); all columns text, further columns are not read.

        ``map``
            vocabulary, code (dotted or not), phenotype: what each code means, without ancestors.
        ``rollup``
            phenotype, ancestor. A phenotype is its own ancestor and that of what lies below its children, whether
            the table says so or not.
        ``exclusions``
            phenotype, related: a code of ``related`` makes a non-case of ``phenotype`` no control. One-way.
        ``sex``
            phenotype, sex (``both``/``F``/``M``); phenotypes that are not listed are for both.

    Raises
    ------
    VocabularyError
        The table's name or form is unknown, a column is missing or not text, or a row is blank, repeated, names an
        unknown phenotype, code system or sex, or rolls a phenotype up in a circle; the message names the row, counted
        from 1 without the header.
    """
    unknown = [name for name in tables if name not in COLUMNS]
    if unknown:
        raise VocabularyError(
            f"no table of a vocabulary is called {unknown[0]!r}.{nearest(unknown[0], COLUMNS)}",
            expected=", ".join(COLUMNS),
        )
    made = vocabulary
    for name in COLUMNS:
        if name in tables:
            title, frame = _read(name, tables[name])
            _check_phenotypes(title, frame, vocabulary)
            made = _put(made, name, title, frame)
    own = [name for name in COLUMNS if name in tables]
    version = f"{vocabulary.version} with own {' and '.join(own)}" if own else vocabulary.version
    return dataclasses.replace(made, version=version)


def _put(vocabulary: Vocabulary, name: str, title: str, frame: pl.DataFrame) -> Vocabulary:
    if name == "map":
        return dataclasses.replace(vocabulary, code_map=_keyed(title, frame), derive=None)
    if name == "rollup":
        return dataclasses.replace(vocabulary, rollup=_complete(title, frame, vocabulary))
    key = ("phenotype",) if name == "sex" else COLUMNS[name]
    _refuse(title, frame, frame.select(key).is_duplicated(), "is repeated")
    if name == "exclusions":
        return dataclasses.replace(vocabulary, exclusions=frame.drop("row"))
    _refuse(title, frame, ~frame["sex"].is_in(["both", "F", "M"]), "has an unknown sex", expected="both / F / M")
    sexes = vocabulary.phenotypes.drop("sex").join(
        frame.drop("row"), on="phenotype", how="left", maintain_order="left"
    )
    sexes = sexes.with_columns(pl.col("sex").fill_null("both")).select(vocabulary.phenotypes.columns)
    return dataclasses.replace(vocabulary, phenotypes=sexes)


def _read(name: str, given: Given) -> tuple[str, pl.DataFrame]:
    """Return what the table is called in messages, and its columns as trimmed text with a row number."""
    if isinstance(given, pl.DataFrame):
        title, frame = f"table {name}", given
    else:
        title, frame = f"{given.name} (table {name})", _read_file(given)
    wanted = COLUMNS[name]
    for names in (wanted, _IN_R.get(name, wanted)):
        if set(names) <= set(frame.columns):
            frame = frame.select(pl.col(old).alias(new) for old, new in zip(names, wanted, strict=True))
            break
    else:
        missing = [column for column in wanted if column not in frame.columns]
        raise VocabularyError(f"{title} lacks {', '.join(missing)}", expected=f"the columns {', '.join(wanted)}")
    for column, dtype in frame.schema.items():
        if dtype != pl.String:
            raise VocabularyError(
                f"{title}: column {column} holds {dtype}, not text",
                expected="text, because 008 is not 8 and 250.0 is not 250",
                cure="write the column as text",
            )
    frame = frame.with_columns(pl.all().str.strip_chars()).with_row_index("row", offset=1)
    blank = frame.select(pl.any_horizontal((pl.col(c).is_null() | (pl.col(c) == "")) for c in wanted)).to_series()
    _refuse(title, frame, blank, "has a blank cell", show=False)
    return title, frame


def _read_file(path: Path) -> pl.DataFrame:
    separators = {".csv": ",", ".tsv": "\t", ".txt": "\t"}
    suffix = path.suffix.lower()
    if suffix != ".parquet" and suffix not in separators:
        raise VocabularyError(f"{path.name} is no table that is read here", expected="a .csv, .tsv or .parquet file")
    try:
        if suffix == ".parquet":
            return pl.read_parquet(path, hive_partitioning=False)
        return pl.read_csv(path, separator=separators[suffix], infer_schema=False, encoding="utf8")
    except FileNotFoundError:
        raise VocabularyError(f"there is no file {path}", cure="check the path") from None
    except (pl.exceptions.PolarsError, OSError) as error:
        raise VocabularyError(f"{path.name} cannot be read: {str(error).splitlines()[0]}") from None


def _refuse(
    title: str, frame: pl.DataFrame, bad: pl.Series, what: str, *, expected: str = "", show: bool = True
) -> None:
    """Raise with the first row of those marked, and say how many they are."""
    rows = frame.filter(bad)
    if rows.height:
        first = rows.row(0, named=True)
        number = first.pop("row")
        more = f" (and {rows.height - 1} more such rows)" if rows.height > 1 else ""
        shown = f" ({', '.join(f'{k} {v}' for k, v in first.items() if k != 'key')})" if show else ""
        raise VocabularyError(
            f"{title}, row {number}{shown}: {what}{more}", expected=expected, cure="mend or delete the row"
        )


def _check_phenotypes(title: str, frame: pl.DataFrame, vocabulary: Vocabulary) -> None:
    """Refuse names that the vocabulary does not define: such a row would be without effect."""
    known = vocabulary.phenotypes["phenotype"]
    for column in frame.columns:
        if column in ("phenotype", "ancestor", "related"):
            stray = ~frame[column].is_in(known.implode())
            if stray.any():
                name = str(frame.filter(stray)[column][0])
                what = f"{column} {name!r} is not in {vocabulary.label}.{nearest(name, known)}"
                _refuse(title, frame, stray, what, show=False)


def _keyed(title: str, frame: pl.DataFrame) -> pl.DataFrame:
    """Return the map with the codes as join keys."""
    systems = [name for name in icd.CODE_SYSTEMS if name != "unknown"]
    _refuse(title, frame, ~frame["vocabulary"].is_in(systems), "has an unknown code system",
            expected=" / ".join(systems))  # fmt: skip
    code, system = pl.col("code"), pl.col("vocabulary")
    frame = frame.with_columns(icd.undotted(code, system).alias("key"), icd.looks_like(code, system).alias("odd"))
    _refuse(title, frame.drop("odd"), frame["odd"].is_not_null(), "has no code of its code system")
    frame = frame.drop("odd")
    _refuse(title, frame, frame.select("vocabulary", "key", "phenotype").is_duplicated(), "is repeated")
    return frame.select("vocabulary", pl.col("key").alias("code"), "phenotype")


def _complete(title: str, frame: pl.DataFrame, vocabulary: Vocabulary) -> pl.DataFrame:
    """Return the roll-up with every phenotype its own ancestor and every chain followed to its end."""
    _refuse(title, frame, frame.select("phenotype", "ancestor").is_duplicated(), "is repeated")
    pairs = frame.select("phenotype", "ancestor").filter(pl.col("phenotype") != pl.col("ancestor"))
    step = pairs.rename({"phenotype": "ancestor", "ancestor": "above"})
    while True:
        longer = pairs.join(step, on="ancestor").select("phenotype", pl.col("above").alias("ancestor"))
        grown = pl.concat([pairs, longer]).unique()
        if grown.height == pairs.height:
            break
        pairs = grown
    circle = pairs.filter(pl.col("phenotype") == pl.col("ancestor"))["phenotype"].implode()
    inside = frame["phenotype"].is_in(circle) & frame["ancestor"].is_in(circle)
    _refuse(title, frame, inside & (frame["phenotype"] != frame["ancestor"]), "rolls a phenotype up to itself")
    itself = vocabulary.phenotypes.select("phenotype", pl.col("phenotype").alias("ancestor"))
    return pl.concat([itself, pairs]).sort("phenotype", "ancestor")
