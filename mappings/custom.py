"""Vocabularies that users bring: read from one file, checked row by row, and stored for good where they wish.

The file has one row per code (`read_file` lists the columns). A stored vocabulary lies in the user's own folder as the
same five tables as the shipped ones, with ``about.json`` beside them.
"""

from __future__ import annotations

import dataclasses
import io
import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import polars as pl

from phewas.errors import VocabularyError, nearest
from phewas.mappings import hierarchy, icd
from phewas.mappings.vocabulary import ALIASES, FILES, SHIPPED, TABLES, Vocabulary, available, check, read, squeeze
from phewas.rundir import sha256_of, write_json, write_parquet

REQUIRED = ("code", "vocabulary", "phenotype")
OPTIONAL = ("description", "chapter", "sex", "parents", "exclusions")

#: Column names that published lists use, in lower case, and what they are here.
SYNONYMS: dict[str, str] = {
    "icd": "code",
    "icd_code": "code",
    "vocabulary_id": "vocabulary",
    "code_system": "vocabulary",
    "phecode": "phenotype",
    "phenotype_id": "phenotype",
    "phecode_string": "description",
    "phecode_category": "chapter",
    "category": "chapter",
    "parent": "parents",
    "exclude": "exclusions",
}

_SYSTEMS = {"icd9cm": "ICD9CM", "icd10cm": "ICD10CM", "icd10": "ICD10", "icd10who": "ICD10"}
_SEXES = {"": "both", "both": "both", "f": "F", "female": "F", "m": "M", "male": "M"}
_BLANK_CHAPTER = "other"
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9._-]{0,39}")

# Alternately dark and light, told apart in print and by most colour-blind readers; repeated where chapters are many.
_COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#6A3D9A", "#56B4E9", "#D55E00", "#B2A000", "#444444")


def read_file(file: Path, *, labels: Path | None = None, name: str | None = None) -> Vocabulary:
    """Return the vocabulary in a CSV, TSV or Parquet file.

    Parameters
    ----------
    file
        One row per code and phenotype. Columns, in any order and case: ``code`` (dotted or not), ``vocabulary`` (its
        code system: ICD9CM, ICD10CM or ICD10), ``phenotype``; and, where wanted, ``description``, ``chapter``, ``sex``
        (both, F, M; blank: both), ``parents`` and ``exclusions`` (phenotypes joined by ``|``). The usual names of
        published lists (`SYNONYMS`: ICD, vocabulary_id, phecode, phecode_string, ...) are understood. A row with blank
        code and vocabulary defines a phenotype that has no codes of its own, only children. What describes a phenotype
        may stand in one of its rows or in all of them, but not differ. Text may be UTF-8, UTF-16 or Latin-1. A list
        that names every ancestor of a code in a row of its own needs no ``parents``.
    labels
        A second file that describes the phenotypes, one row each: ``phenotype`` and any of the optional columns.
        Phenotypes and chapters then stand in its order.
    name
        What the vocabulary is called; default: the file's name without its ending.

    Returns
    -------
    Vocabulary
        Its version is the beginning of a hash of its contents, so that a report names the very tables that were used.
        Chapters are numbered in the order of the file; parents stand before their children. ``notes`` says what was
        met: repeated rows, columns that are not used, text that is not UTF-8.

    Raises
    ------
    VocabularyError
        With the row (1 is the first below the header) and what to do: a required column or cell is missing, a column
        of codes holds numbers, a code has not the shape of its code system, a parent or an excluded phenotype is not
        defined, parents form a circle, or two rows describe one phenotype differently.
    """
    rows, notes = _rows(file, needed=REQUIRED)
    if labels is not None:
        described, more = _rows(labels, needed=("phenotype",))
        rows, notes = pl.concat([described, rows], how="diagonal").fill_null(""), notes + more
    _refuse(rows, pl.col("phenotype") == "", "the phenotype is blank", cure="fill it in, or delete the row")
    codes = _codes(rows)
    phenotypes, chapters = _definitions(rows)
    names = phenotypes["phenotype"].to_list()
    parents = _listed(rows, "parents", known=names)
    exclusions = _listed(rows, "exclusions", known=names).rename({"other": "related"})
    rollup = hierarchy.ancestors(names, parents.rows())
    repeated = rows.height - rows.drop("row", "file").n_unique()
    if repeated:
        notes.append(f"{repeated:,} rows repeat another row and were taken once.")
    made = Vocabulary(
        name=name or file.stem,
        version="",
        phenotypes=hierarchy.parents_first(phenotypes, rollup),
        code_map=codes,
        rollup=rollup,
        exclusions=exclusions.sort("phenotype", "related"),
        chapters=chapters,
        notes=tuple(notes),
    )
    check(made)
    return dataclasses.replace(made, version=made.digest[:8])


def _rows(file: Path, *, needed: tuple[str, ...]) -> tuple[pl.DataFrame, list[str]]:
    """Return the rows of a file with the columns known here, trimmed, the row number and the file's name."""
    found, notes = _read_table(file)
    rows, more = _columns(found, file, needed=needed)
    rows = rows.with_columns(pl.all().fill_null("").str.strip_chars(" \t\r\n\u00a0\ufeff"))
    filled = pl.any_horizontal(pl.all() != "")
    rows = rows.with_columns(filled.alias("filled")).with_row_index("row", 1).filter("filled").drop("filled")
    if not rows.height:
        raise VocabularyError(f"{file} has no rows below its header", expected="one row per code")
    return rows.with_columns(pl.lit(file.name).alias("file")), notes + more


def _read_table(file: Path) -> tuple[pl.DataFrame, list[str]]:
    """Return a file's cells as text, and what there is to say about it."""
    try:
        content = file.read_bytes()
    except OSError as error:
        raise VocabularyError(f"{file} cannot be read: {error.strerror}", cure="check the path") from None
    try:
        if file.suffix.lower() == ".parquet":
            return _texts(pl.read_parquet(io.BytesIO(content), hive_partitioning=False), file), []
        text, notes = _decoded(content, file)
        header = text.split("\n", 1)[0]
        separator = max("\t,;", key=header.count)
        frame = pl.read_csv(io.StringIO(text), separator=separator, infer_schema=False)
    except pl.exceptions.PolarsError as error:
        reason = str(error).split("\n", 1)[0]
        raise VocabularyError(f"{file} cannot be read as a table: {reason}", expected="CSV, TSV or Parquet") from None
    return frame, notes


def _decoded(content: bytes, file: Path) -> tuple[str, list[str]]:
    """Return the text of a file in UTF-8, UTF-16 with its mark, or else Latin-1, in which every byte is a letter."""
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        return content.decode("utf-16", errors="replace"), []
    if b"\0" in content:
        raise VocabularyError(f"{file} is no text", expected="CSV, TSV or Parquet")
    try:
        return content.decode("utf-8-sig"), []
    except UnicodeDecodeError as error:
        row = content.count(b"\n", 0, error.start)
        return content.decode("cp1252", errors="replace"), [
            f"{file.name} is not UTF-8 (first seen in row {row}); it was read as Latin-1 (Windows-1252)."
        ]


def _texts(frame: pl.DataFrame, file: Path) -> pl.DataFrame:
    """Refuse columns of numbers that must be text, and return the rest as text."""
    for column, dtype in frame.schema.items():
        if _meaning(column) in (*REQUIRED, "parents", "exclusions") and dtype.is_numeric():
            raise VocabularyError(
                f"column {column} of {file} holds numbers ({dtype})",
                expected="text: as numbers 250, 250.0 and 250.00 are one, and 008 becomes 8",
                cure="write the column as text, from a source that still has its zeros",
            )
    flat = [c for c, dtype in frame.schema.items() if not dtype.is_nested()]
    return frame.select(pl.col(flat).cast(pl.String, strict=False))


def _meaning(column: str) -> str:
    plain = column.strip().lower().replace(" ", "_")
    return SYNONYMS.get(plain, plain)


def _columns(frame: pl.DataFrame, file: Path, *, needed: tuple[str, ...]) -> tuple[pl.DataFrame, list[str]]:
    meant: dict[str, list[str]] = {}
    for column in frame.columns:
        meant.setdefault(_meaning(column), []).append(column)
    for wanted in needed:
        if wanted not in meant:
            raise VocabularyError(
                f"{file} has no column {wanted}.{nearest(wanted, frame.columns)}",
                expected=f"{', '.join(needed)} and, where wanted, {', '.join(OPTIONAL)}",
                cure=f"rename the column that holds the {wanted}",
            )
    for wanted in (*REQUIRED, *OPTIONAL):
        if len(meant.get(wanted, [])) > 1:
            raise VocabularyError(
                f"{file} has {len(meant[wanted])} columns for {wanted}: {', '.join(meant[wanted])}",
                cure="delete or rename all but one",
            )
    used = {wanted: meant[wanted][0] for wanted in (*REQUIRED, *OPTIONAL) if wanted in meant}
    unused = [c for c in frame.columns if c not in used.values()]
    notes = [f"Columns of {file.name} that are not used: {', '.join(unused)}."] if unused else []
    return frame.select(pl.col(column).alias(wanted) for wanted, column in used.items()), notes


def _refuse(rows: pl.DataFrame, wrong: pl.Expr, what: str, *, expected: str = "", cure: str = "") -> None:
    """Raise an error that names the first rows where `wrong` holds; with {column} in `what` filled from the first."""
    bad = rows.filter(wrong)
    if bad.height:
        first = bad.row(0, named=True)
        further = ", ".join(str(row) for row in bad["row"][1:6])
        also = f" ({bad.height:,} such rows; next: {further}{', ...' if bad.height > 6 else ''})" if further else ""
        raise VocabularyError(
            f"{first['file']}, row {first['row']}: {what.format(**first)}{also}", expected=expected, cure=cure
        )


def _codes(rows: pl.DataFrame) -> pl.DataFrame:
    plain = pl.col("vocabulary").str.to_lowercase().str.replace_all(r"[^a-z0-9]", "")
    some = rows.filter((pl.col("code") != "") | (pl.col("vocabulary") != ""))
    _refuse(some, pl.col("code") == "", "the code is blank", cure="fill it in, or blank the vocabulary as well")
    coded = some.with_columns(plain.replace_strict(_SYSTEMS, default=None, return_dtype=pl.String).alias("system"))
    _refuse(
        coded,
        pl.col("system").is_null(),
        "{vocabulary!r} is no code system",
        expected="ICD9CM, ICD10CM or ICD10 (the ICD-10 of the WHO)",
        cure="write one of these in the column vocabulary",
    )
    coded = coded.with_columns(icd.looks_like(pl.col("code"), pl.col("system")).alias("odd")).with_columns(
        pl.col("odd").replace(icd.NOT_A_CODE).alias("why")
    )
    _refuse(
        coded,
        pl.col("odd").is_not_null(),
        "{code!r} in {system}: {why}",
        expected="one diagnosis code per row",
        cure="correct the code or its code system, or delete the row",
    )
    table = coded.select(
        pl.col("system").alias("vocabulary"), icd.undotted(pl.col("code"), pl.col("system")).alias("code"), "phenotype"
    )
    if not table.height:
        raise VocabularyError(f"{rows['file'][-1]} has no code", expected="one row per code")
    return table.unique().sort("vocabulary", "code", "phenotype")


def _definitions(rows: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Return the phenotypes in the order of the file and the chapters."""
    rows = rows.with_columns(pl.lit("").alias(c) for c in ("description", "chapter", "sex") if c not in rows.columns)
    sex = pl.col("sex").str.to_lowercase().replace_strict(_SEXES, default=None, return_dtype=pl.String)
    _refuse(rows, sex.is_null(), "{sex!r} is no sex", expected="both, F or M (blank: both)")
    rows = rows.with_columns(pl.when(pl.col("sex") != "").then(sex).otherwise(pl.lit("")).alias("sex"))
    table = rows.select("phenotype").unique(maintain_order=True)
    for column in ("description", "chapter", "sex"):
        given = rows.filter(pl.col(column) != "").select("row", "file", "phenotype", column)
        first = given.unique("phenotype", keep="first", maintain_order=True)
        other = given.join(
            first.drop("file").rename({column: "first", "row": "first_row"}), on="phenotype", maintain_order="left"
        )
        _refuse(
            other,
            pl.col(column) != pl.col("first"),
            f"phenotype {{phenotype!r}} has the {column} {{{column}!r}}, in row {{first_row}} it has {{first!r}}",
            expected=f"one {column} per phenotype",
            cure="make the rows agree",
        )
        table = table.join(first.select("phenotype", column), on="phenotype", how="left", maintain_order="left")
    table = table.with_columns(
        pl.coalesce("description", "phenotype").alias("description"),
        pl.col("chapter").fill_null(_BLANK_CHAPTER),
        pl.col("sex").fill_null("both"),
    )
    chapters = table.select("chapter").unique(maintain_order=True).with_row_index("chapter_order", 1)
    chapters = chapters.select(
        "chapter",
        pl.col("chapter_order").cast(pl.Int16),
        pl.Series("colour", [_COLOURS[i % len(_COLOURS)] for i in range(chapters.height)], dtype=pl.String),
    )
    return table.join(chapters.drop("colour"), on="chapter", maintain_order="left").select(
        *TABLES["phenotypes"]
    ), chapters


def _listed(rows: pl.DataFrame, column: str, *, known: list[str]) -> pl.DataFrame:
    """Return phenotype and each phenotype that a ``|``-joined column names for it, once."""
    if column not in rows.columns:
        return pl.DataFrame(schema={"phenotype": pl.String, "other": pl.String})
    pairs = (
        rows.filter(pl.col(column) != "")
        .select("row", "file", "phenotype", pl.col(column).str.split("|").alias("other"))
        .explode("other")
        .with_columns(pl.col("other").str.strip_chars())
        .filter(pl.col("other") != "")
    )
    _refuse(
        pairs,
        ~pl.col("other").is_in(known),
        f"{{other!r}} among the {column} of {{phenotype!r}} is no phenotype of the file",
        expected=f"phenotypes of the file, joined by |; the column {column}",
        cure="correct it, or add a row with that phenotype and blank code and vocabulary",
    )
    if column == "parents":
        _refuse(pairs, pl.col("other") == pl.col("phenotype"), "{phenotype!r} is its own parent")
    return pairs.select("phenotype", "other").unique(maintain_order=True)


def home() -> Path:
    """Return the folder of the vocabularies that the user has stored; it need not exist."""
    import typer

    return Path(typer.get_app_dir("phewas")) / "vocabularies"


def stored() -> list[str]:
    """Return the names of the stored vocabularies, sorted."""
    folder = home()
    if not folder.is_dir():
        return []
    return sorted(child.name for child in folder.iterdir() if (child / "about.json").is_file())


def add(name: str, file: Path, *, labels: Path | None = None) -> Vocabulary:
    """Read a vocabulary file and store it for good under a name; `available` lists it as ``yours``.

    Parameters
    ----------
    name
        Letters, digits, dots, hyphens and underscores, the first a letter; at most 40 characters.
    file, labels
        As in `read_file`.

    Returns
    -------
    Vocabulary
        What was stored.

    Raises
    ------
    VocabularyError
        The name cannot be used or is taken (by a shipped vocabulary, an alias or one of yours; blanks, hyphens,
        underscores and case do not tell names apart), or the file is malformed. Nothing is stored then.
    """
    if not _NAME.fullmatch(name) or name.lower().endswith(FILES):
        raise VocabularyError(
            f"a vocabulary cannot be called {name!r}",
            expected="a letter, then letters, digits, dots, hyphens or underscores, 40 in all, and no file ending",
        )
    taken = {squeeze(full): full for full in [*available(), *ALIASES]}
    if squeeze(name) in taken:
        clash = taken[squeeze(name)]
        mine = clash in stored() and clash not in SHIPPED
        raise VocabularyError(
            f"the name {name!r} is taken by the vocabulary {clash}",
            cure=f"choose another name{f', or delete the folder {home() / clash} first' if mine else ''}",
        )
    vocabulary = read_file(file, labels=labels, name=name)
    target = home() / name
    draft = home() / f".{name}.{os.getpid()}.tmp"
    try:
        for table, frame in _tables(vocabulary).items():
            write_parquet(frame, draft / f"{name}.{table}.parquet")
        sources = {one.name: sha256_of(one) for one in (file, labels) if one is not None}
        about = {"name": name, "version": vocabulary.version, "sources": sources, "notes": list(vocabulary.notes)}
        write_json(about, draft / "about.json")
        draft.rename(target)  # whole or not at all
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return vocabulary


def _tables(vocabulary: Vocabulary) -> dict[str, pl.DataFrame]:
    return {table: getattr(vocabulary, "code_map" if table == "map" else table) for table in TABLES}


def load(name: str) -> Vocabulary:
    """Return a stored vocabulary.

    Raises
    ------
    VocabularyError
        A table or ``about.json`` is missing, malformed, or not what was stored.
    """
    folder = home() / name
    cure = f"delete the folder {folder} and add the vocabulary again"
    try:
        about: dict[str, Any] = json.loads((folder / "about.json").read_text(encoding="utf-8"))
        vocabulary = read(folder, prefix=name, name=name, version=str(about["version"]))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise VocabularyError(f"the stored vocabulary {name} is damaged: {error}", cure=cure) from None
    except VocabularyError as error:
        raise VocabularyError(f"the stored vocabulary {name} is damaged: {error.found}", cure=cure) from None
    if not vocabulary.digest.startswith(vocabulary.version):
        raise VocabularyError(f"the tables of the stored vocabulary {name} are not those that were stored", cure=cure)
    return vocabulary
