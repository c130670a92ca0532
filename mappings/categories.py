"""The vocabulary ``icd10-3``: ICD-10 codes by their first three characters.

A category is what stands before the dot (I48 for I48.91), so the map is a rule and knows every code, also those that no
list here has. Its phenotypes are fixed in advance, the same for every cohort: all 2,600 numbers from A00 to Z99 and the
categories of ICD-10-CM that end in a letter. A number that was never issued stays a phenotype without cases; choosing
the columns by the cohort instead would give each cohort another vocabulary, and predictions could not be exchanged.

Chapters follow ICD-10 (WHO, ICD-10 volume 1, 2019; ICD-10-CM has the same bounds, with D49 and the letters V to Y in
full). No category is tied to a sex: every phenotype is ``both``. Titles of categories come from the table
``icd10-3.titles.parquet``; where it has none, the category stands for itself.
"""

from __future__ import annotations

from bisect import bisect_right
from string import ascii_uppercase
from typing import TYPE_CHECKING

import polars as pl

from phewas.mappings import icd

if TYPE_CHECKING:
    from phewas.mappings.vocabulary import Vocabulary

SYSTEMS = ("ICD10", "ICD10CM")

#: First category, chapter, colour; in chapter order. A chapter ends where the next one in the alphabet begins.
CHAPTERS: tuple[tuple[str, str, str], ...] = (
    ("A00", "Infectious and parasitic", "#0000FF"),
    ("C00", "Neoplasms", "#008B8B"),
    ("D50", "Blood and immune", "#FF7F00"),
    ("E00", "Endocrine and metabolic", "#A52A2A"),
    ("F00", "Mental and behavioural", "#FF00FF"),
    ("G00", "Nervous system", "#00008B"),
    ("H00", "Eye", "#698B69"),
    ("H60", "Ear", "#4682B4"),
    ("I00", "Circulatory system", "#FF0000"),
    ("J00", "Respiratory system", "#8B3E2F"),
    ("K00", "Digestive system", "#458B00"),
    ("L00", "Skin", "#B22222"),
    ("M00", "Musculoskeletal system", "#556B2F"),
    ("N00", "Genitourinary system", "#000000"),
    ("O00", "Pregnancy and childbirth", "#27408B"),
    ("P00", "Perinatal", "#CD6090"),
    ("Q00", "Congenital", "#00FA9A"),
    ("R00", "Symptoms and findings", "#A020F0"),
    ("S00", "Injury and poisoning", "#7F7F7F"),
    ("V00", "External causes", "#8B7500"),
    ("Z00", "Health factors and contacts", "#5F9EA0"),
    ("U00", "Special purposes", "#CD5B45"),
)

#: Categories of ICD-10-CM (release of 2024) whose third character is a letter.
LETTERED = ("C4A", "C7A", "C7B", "D3A", "I1A", "I5A", "J4A", "M1A", "O9A", "Z3A")


def chapter_of(category: str) -> int:
    """Return the chapter number (1 to 22) of a category.

    Examples
    --------
    >>> chapter_of("I48"), chapter_of("D50"), chapter_of("H59"), chapter_of("U07")
    (9, 3, 7, 22)
    """
    starts = sorted((first, number) for number, (first, _, _) in enumerate(CHAPTERS, 1))
    return starts[bisect_right([first for first, _ in starts], category) - 1][1]


def derive(codes: pl.DataFrame) -> pl.DataFrame:
    """Return the category of every key that has the shape of an ICD-10 code; the others have no row.

    Parameters
    ----------
    codes
        vocabulary (code system), code (undotted key).

    Returns
    -------
    polars.DataFrame
        vocabulary, code, phenotype (the category); one row per distinct pair.
    """
    fits = pl.col("vocabulary").is_in(list(SYSTEMS)) & icd.looks_like(pl.col("code"), pl.col("vocabulary")).is_null()
    found = codes.select("vocabulary", "code").unique(maintain_order=True).filter(fits)
    return found.with_columns(pl.col("code").str.head(3).alias("phenotype"))


def make(*, known: pl.DataFrame, titles: pl.DataFrame) -> Vocabulary:
    """Return the vocabulary.

    Parameters
    ----------
    known
        vocabulary, code (undotted): codes to list under their categories, beside the categories themselves. They serve
        those who look a category up; the rule covers all others as well.
    titles
        category, title.
    """
    from phewas.mappings.vocabulary import Vocabulary

    numbers = [f"{letter}{number:02d}" for letter in ascii_uppercase for number in range(100)]
    names = sorted([*numbers, *LETTERED], key=lambda name: (chapter_of(name), name))
    orders = [chapter_of(name) for name in names]
    text = dict(titles.select("category", "title").rows())
    phenotypes = pl.DataFrame(
        {
            "phenotype": names,
            "description": [text.get(name, name) for name in names],
            "chapter": [CHAPTERS[order - 1][1] for order in orders],
            "chapter_order": pl.Series(orders, dtype=pl.Int16),
            "sex": ["both"] * len(names),
        }
    )
    own = pl.DataFrame([(s, n) for s in SYSTEMS for n in names], schema=["vocabulary", "code"], orient="row")
    listed = derive(pl.concat([own, known.select("vocabulary", "code")]))
    return Vocabulary(
        name="icd10",
        version="3-digit",
        phenotypes=phenotypes,
        code_map=listed.filter(pl.col("phenotype").is_in(names)).sort("vocabulary", "code"),
        rollup=pl.DataFrame({"phenotype": names, "ancestor": names}),
        exclusions=pl.DataFrame(schema={"phenotype": pl.String, "related": pl.String}),
        chapters=pl.DataFrame(
            {
                "chapter": [name for _, name, _ in CHAPTERS],
                "chapter_order": pl.Series(range(1, len(CHAPTERS) + 1), dtype=pl.Int16),
                "colour": [colour for _, _, colour in CHAPTERS],
            }
        ),
        derive=derive,
    )
