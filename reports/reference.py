"""A published table beside ours: which of its columns is which, phenotype by phenotype, and how the two agree."""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
from matplotlib.figure import Figure

from phewas.errors import ConfigError, nearest
from phewas.reports.pairs import scatter
from phewas.reports.tables import csv_safe
from phewas.rundir import atomic

NUMBERS = ("auc", "auc_low", "auc_high", "n_pos", "n_neg")
COLUMNS = ("phenotype", *NUMBERS)
NEEDED = ("phenotype", "auc")
WORDS = ("name", "unit", "citation")
PHECODE = re.compile(r"0*(\d+)(?:\.(\d*?)0*)?")


@dataclass(frozen=True)
class Reference:
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


def read_reference(file: Path, mapping: Path | None = None) -> Reference:
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
    return Reference(table, told["name"] or file.stem, told["unit"] or "not stated", told["citation"])


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


def compared(results: pl.DataFrame, reference: Reference) -> pl.DataFrame:
    """Return the published phenotypes beside ours, in the published order.

    Parameters
    ----------
    results
        `phewas.reports.tables.protect` of the results: what it hides stays hidden.
    reference
        As `read_reference` returns it.

    Returns
    -------
    polars.DataFrame
        published (identifier), published_auc, published_low, published_high, published_n_pos, published_n_neg; then
        ours: phenotype, description, status, auc, auc_low, auc_high, n_cases (null: hidden or not there), unit;
        difference (auc - published_auc); ``status`` is ``not in the vocabulary`` where we have no such phenotype.
    """
    key = pl.col("phenotype").map_elements(same_code, return_dtype=pl.String)
    theirs = reference.table.with_columns(key.alias("_key")).rename(
        {"phenotype": "published", "auc": "published_auc", "auc_low": "published_low", "auc_high": "published_high",
         "n_pos": "published_n_pos", "n_neg": "published_n_neg"})
    ours = results.select(
        key.alias("_key"), "phenotype", "description", "chapter", "chapter_order", "status", "auc", "auc_low",
        "auc_high", "q_fdr", "n_cases", "n_case_patients", "unit")
    both = theirs.join(ours, on="_key", how="left", maintain_order="left").drop("_key")
    return both.with_columns(
        pl.col("status").fill_null("not in the vocabulary"),
        (pl.col("auc") - pl.col("published_auc")).round(3).alias("difference"),
    )


def agreement(both: pl.DataFrame, reference: Reference, *, name: str, title: str = "", note: str = "") -> Figure:
    """Draw our AUCs against the published ones, with the unit of each in words."""
    seen = both.filter(pl.col("auc").is_not_null()).rename(
        {"published_auc": "other_auc", "published_low": "other_auc_low", "published_high": "other_auc_high"})
    units = " and ".join(sorted(set(seen.get_column("unit").drop_nulls().to_list()))) or "encounter"
    return scatter(seen, ours=f"{name} (unit: {units})", theirs=f"{reference.name} (unit: {reference.unit})",
                   title=title, note=note)


def summary_words(both: pl.DataFrame, reference: Reference) -> list[str]:
    """Return what the comparison holds, in sentences: how many match, and what the units are."""
    tested = both.filter(pl.col("auc").is_not_null())
    missing = both.filter(pl.col("status") == "not in the vocabulary").height
    inside = tested.filter(pl.col("published_auc").is_between(pl.col("auc_low"), pl.col("auc_high"))).height
    units = " and ".join(sorted(set(tested.get_column("unit").drop_nulls().to_list()))) or "encounter"
    text = [f"{reference.name} lists {both.height:,} phenotypes; {tested.height:,} of them have an AUC here"
            + (f", {missing:,} are not in the vocabulary" if missing else "") + "."]
    if tested.height:
        text.append(f"{inside:,} of the {tested.height:,} published AUCs lie within our 95 % interval.")
    text.append(f"Ours counts by the {units}; the published counts are of: {reference.unit}. "
                "Counts and intervals compare only where the units agree.")
    return text


def write_compared(both: pl.DataFrame, folder: Path, *, small_cell: int) -> Path:
    """Write the comparison as ``reference.csv``; hidden counts of ours as ``<small_cell``."""
    hidden = pl.when(pl.col("status").is_in(["not in the vocabulary"])).then(None).otherwise(
        pl.col("n_cases").cast(pl.String).fill_null(f"<{small_cell}"))
    table = both.with_columns(hidden.alias("n_cases")).drop("chapter_order", "n_case_patients")
    with atomic(folder / "reference.csv") as handle:
        csv_safe(table).write_csv(handle, quote_style="non_numeric")
    return folder / "reference.csv"
