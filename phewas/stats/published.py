"""A published table of AUCs beside ours: which of its columns is which, phenotype by phenotype, and how they differ."""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from phewas.errors import ConfigError, nearest
from phewas.schema import Overview, PublishedComparison

NUMBERS = ("auc", "auc_low", "auc_high", "n_pos", "n_neg")
COLUMNS = ("phenotype", *NUMBERS)
NEEDED = ("phenotype", "auc")
WORDS = ("name", "unit", "citation")
PHECODE = re.compile(r"0*(\d+)(?:\.(\d*?)0*)?")
ABSENT = "not in the vocabulary"


@dataclass(frozen=True)
class Published:
    """A published table.

    Attributes
    ----------
    table
        phenotype (String, as published), auc, auc_low, auc_high, n_pos, n_neg (Float64, blank where not given).
    name, unit, citation
        What it is called, what its counts count (``segments``, ``patients``; ``not stated``), and how to cite it.
    """

    table: pl.DataFrame
    name: str
    unit: str = "not stated"
    citation: str = ""


def read_published(file: Path, mapping: Path | None = None) -> Published:
    """Read a published table of AUCs.

    Parameters
    ----------
    file
        CSV or Parquet with a header; every column is read as text, so that ``008`` stays ``008``.
    mapping
        TOML with ``[columns]`` (ours = "theirs", for phenotype, auc, auc_low, auc_high, n_pos, n_neg) and on top
        ``name``, ``unit`` and ``citation``. None: the columns have our names.

    Raises
    ------
    ConfigError
        A file is missing or cannot be read, a column is not there, an AUC is no number from 0 to 1, or a phenotype
        occurs twice.
    """
    if file.suffix.lower() not in {".csv", ".parquet"}:
        raise ConfigError(f"{file} is neither CSV nor Parquet", expected="a name that ends in .csv or .parquet")
    if not file.is_file():
        raise ConfigError(f"there is no file {file}", expected="a published table, CSV or Parquet")
    told = _mapping(mapping)
    names = {ours: told["columns"].get(ours, ours) for ours in COLUMNS}
    try:
        raw = pl.read_parquet(file) if file.suffix.lower() == ".parquet" else pl.read_csv(file, infer_schema=False)
    except (pl.exceptions.PolarsError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file} cannot be read: {error}", expected="a table with a header") from None
    for ours, theirs in names.items():
        if theirs not in raw.columns and (ours in NEEDED or ours in told["columns"]):
            raise ConfigError(f"{file} has no column {theirs!r}.{nearest(theirs, raw.columns)}",
                              expected=", ".join(raw.columns), cure=f'say which it is: [columns] {ours} = "..."')
    table = raw.select(
        pl.col(names["phenotype"]).cast(pl.String).str.strip_chars().alias("phenotype"),
        *((pl.col(names[c]).cast(pl.String).str.strip_chars().str.replace_all(",", "").cast(pl.Float64, strict=False)
           if names[c] in raw.columns else pl.lit(None, pl.Float64)).alias(c) for c in NUMBERS),
    )
    bad = table.filter(pl.col("auc").is_null() | ~pl.col("auc").is_between(0, 1))
    if bad.height:
        raise ConfigError(f"{file}: the AUC of {bad['phenotype'][0]!r} is no number from 0 to 1"
                          f"{f', and {bad.height - 1} more' if bad.height > 1 else ''}", expected="0.5 to 1 mostly")
    twice = table.filter(pl.col("phenotype").is_duplicated())
    if twice.height:
        raise ConfigError(f"{file} has {twice['phenotype'][0]!r} more than once", expected="one row per phenotype")
    return Published(table, told["name"] or file.stem, told["unit"] or "not stated", told["citation"])


def _mapping(file: Path | None) -> dict[str, Any]:
    empty: dict[str, Any] = {"columns": {}, **dict.fromkeys(WORDS, "")}
    if file is None:
        return empty
    try:
        content = tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{file} cannot be read: {error.strerror}", expected="a TOML file") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file} cannot be read: {error}", expected="a TOML file") from None
    columns = content.get("columns", {})
    stray = [k for k in content if k not in empty] + [
        k for k in (columns if isinstance(columns, dict) else ["columns"]) if k not in COLUMNS]
    if stray or not all(isinstance(v, str) for v in [*columns.values(), *(content.get(w, "") for w in WORDS)]):
        odd = stray[0] if stray else "a value that is no text"
        raise ConfigError(f"{file} holds {odd!r}", expected=f"{', '.join(WORDS)} and [columns] {', '.join(COLUMNS)}")
    return empty | content


def same_code(phenotype: str) -> str:
    """Return a phecode without leading and trailing zeros, so that 038.10 and 38.1 are one; other text as it is.

    Examples
    --------
    >>> [same_code(p) for p in ("038.1", "38.10", "250", "250.0", "CV_401.1")]
    ['38.1', '38.1', '250', '250', 'CV_401.1']
    """
    match = PHECODE.fullmatch(phenotype)
    if match is None:
        return phenotype
    return match[1] + (f".{match[2]}" if match[2] else "")


def compare_published(results: pl.DataFrame, published: pl.DataFrame) -> pl.DataFrame:
    """Return the published phenotypes beside ours, in the published order.

    Parameters
    ----------
    results
        `phewas.schema.PhenotypeResults`, raw or with small cells hidden: what is hidden there stays hidden.
    published
        `Published.table`.

    Returns
    -------
    polars.DataFrame
        `phewas.schema.PublishedComparison`; ``difference`` and ``inside`` are null where we have no AUC.
    """
    key = pl.col("phenotype").map_elements(same_code, return_dtype=pl.String)
    theirs = published.with_columns(key.alias("_key")).rename(
        {"phenotype": "published", "auc": "published_auc", "auc_low": "published_low", "auc_high": "published_high",
         "n_pos": "published_n_pos", "n_neg": "published_n_neg"})
    ours = results.select(
        key.alias("_key"), "phenotype", "description", "chapter", "chapter_order", "status", "auc", "auc_low",
        "auc_high", "q_fdr", "n_cases", "n_case_patients", "unit")
    both = theirs.join(ours, on="_key", how="left", maintain_order="left").drop("_key")
    return PublishedComparison.check(both.with_columns(
        pl.col("status").fill_null(ABSENT),
        (pl.col("auc") - pl.col("published_auc")).round(3).alias("difference"),
        pl.when(pl.col("auc").is_not_null()).then(
            pl.col("published_auc").is_between(pl.col("auc_low"), pl.col("auc_high"))).alias("inside"),
    ).select(*PublishedComparison.columns()))


def count_published(comparison: pl.DataFrame) -> pl.DataFrame:
    """Return how many phenotypes of `compare_published` match, are missing and agree, as `phewas.schema.Overview`."""
    ours = comparison.filter(pl.col("auc").is_not_null())
    counts = (
        ("n_published", comparison.height, "published phenotypes"),
        ("n_compared", ours.height, "of them with an AUC here"),
        ("n_absent", comparison.filter(pl.col("status") == ABSENT).height, "of them not in our vocabulary"),
        ("n_inside", ours.filter(pl.col("inside")).height, "published AUCs within our 95 % interval"),
    )
    return Overview.build([{"measure": m, "value": float(v), "meaning": w} for m, v, w in counts])
