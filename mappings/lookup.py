"""Looking things up: which codes and rules make a phenotype, and which phenotypes a code means."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches

import polars as pl

from phewas.errors import VocabularyError
from phewas.mappings import hierarchy, icd
from phewas.mappings.vocabulary import Vocabulary

_SYSTEMS = ("ICD9CM", "ICD10CM", "ICD10")

NO_MAP = "no map for this code system"
NOT_IN_MAP = "not in the map"


@dataclass(frozen=True, eq=False)
class Entry:
    """One phenotype of one vocabulary.

    Attributes
    ----------
    vocabulary
        Name and version.
    phenotype, description, chapter, sex
        As in the table of phenotypes; sex is ``both``, ``F`` or ``M``.
    codes
        vocabulary (code system), code (dotted), means (the phenotype that the code itself means: this one or one below
        it), via (``direct`` or ``child``); by code system and code, each code once, direct before child.
    parents, children
        phenotype, description: the nearest ones above and below.
    exclusions
        phenotype, description: a code of one of these keeps a person out of the controls. One-way.
    """

    vocabulary: str
    phenotype: str
    description: str
    chapter: str
    sex: str
    codes: pl.DataFrame
    parents: pl.DataFrame
    children: pl.DataFrame
    exclusions: pl.DataFrame


@dataclass(frozen=True, eq=False)
class Found:
    """What a text names.

    Attributes
    ----------
    entries
        The phenotype so called, by vocabulary name; empty where there is none.
    codes
        What the text means as an ICD code (`meanings`); no rows where it has the shape of none.
    near
        Codes like it that the vocabularies know, with their code system, where they do not know the one asked for.
    """

    entries: dict[str, Entry]
    codes: pl.DataFrame
    near: tuple[str, ...] = ()


def phenotype(vocabulary: Vocabulary, name: str) -> Entry | None:
    """Return what a vocabulary says about a phenotype, or None where it has none of that name (in any case).

    Examples
    --------
    >>> from phewas.mappings.vocabulary import load
    >>> phenotype(load("phecode1.2"), "427.21").parents["phenotype"].to_list()
    ['427.2']
    """
    table = vocabulary.phenotypes
    rows = table.filter(pl.col("phenotype").str.to_uppercase() == name.strip().upper())
    if not rows.height:
        return None
    row = rows.row(0, named=True)
    own = row["phenotype"]
    below = vocabulary.rollup.filter(pl.col("ancestor") == own)["phenotype"].implode()
    nearest = hierarchy.nearest_above(vocabulary.rollup)
    codes = vocabulary.code_map.filter(pl.col("phenotype").is_in(below)).with_columns(
        icd.normalise(pl.col("code"), pl.col("vocabulary")).alias("code"),
        pl.when(pl.col("phenotype") == own).then(pl.lit("direct")).otherwise(pl.lit("child")).alias("via"),
    )
    codes = codes.sort(pl.col("via") == "child", "phenotype").unique(
        ["vocabulary", "code"], keep="first", maintain_order=True
    )
    return Entry(
        vocabulary=vocabulary.label,
        phenotype=own,
        description=row["description"],
        chapter=row["chapter"],
        sex=row["sex"],
        codes=codes.sort("vocabulary", "code").select("vocabulary", "code", pl.col("phenotype").alias("means"), "via"),
        parents=_described(table, nearest.filter(pl.col("phenotype") == own)["parent"]),
        children=_described(table, nearest.filter(pl.col("parent") == own)["phenotype"]),
        exclusions=_described(table, vocabulary.exclusions.filter(pl.col("phenotype") == own)["related"]),
    )


def _described(phenotypes: pl.DataFrame, names: pl.Series) -> pl.DataFrame:
    return phenotypes.filter(pl.col("phenotype").is_in(names.implode())).select("phenotype", "description")


def meanings(code: str, vocabularies: Mapping[str, Vocabulary]) -> pl.DataFrame:
    """Return what a text means as an ICD code, in every code system whose shape it has and in every vocabulary.

    Parameters
    ----------
    code
        Dotted or not, any case. Undotted, E8501 is a code of both revisions; both are answered.
    vocabularies
        By name.

    Returns
    -------
    polars.DataFrame
        code_system, code (dotted), vocabulary (name), phenotype, description, rolls_up_to (its ancestors, joined by
        ``, ``), reason (why there is none; null where there is one). One row per meaning, by code system, then in the
        order of `vocabularies`; a vocabulary without a map for the code system, or without the code, has one row.
    """
    rows: list[dict[str, str | None]] = []
    for system in _SYSTEMS:
        if icd.looks_like_one(code, system):
            continue
        dotted, key = icd.normalise_one(code, system), icd.undotted_one(code, system)
        for name, vocabulary in vocabularies.items():
            asked: dict[str, str | None] = {"code_system": system, "code": dotted, "vocabulary": name}
            rows += [asked | row for row in _one(vocabulary, system, key)]
    columns = ("code_system", "code", "vocabulary", "phenotype", "description", "rolls_up_to", "reason")
    return pl.DataFrame(rows, schema=dict.fromkeys(columns, pl.String), orient="row")


def _one(vocabulary: Vocabulary, system: str, key: str) -> list[dict[str, str | None]]:
    if system not in vocabulary.code_systems:
        return [{"reason": NO_MAP}]
    asked = pl.DataFrame({"vocabulary": [system], "code": [key]})
    found = vocabulary.map_for(asked).join(asked, on=["vocabulary", "code"], how="semi")
    if not found.height:
        return [{"reason": NOT_IN_MAP}]
    above = vocabulary.rollup.filter(pl.col("phenotype") != pl.col("ancestor"))
    place = vocabulary.phenotypes.with_row_index("place")
    ordered = found.join(place, on="phenotype", how="left").sort("place", "phenotype", nulls_last=True)
    return [
        {
            "phenotype": row["phenotype"],
            "description": row["description"],
            "rolls_up_to": ", ".join(above.filter(pl.col("phenotype") == row["phenotype"])["ancestor"].sort()) or None,
            "reason": None if row["place"] is not None else "the vocabulary does not define this phenotype",
        }
        for row in ordered.iter_rows(named=True)
    ]


def find(text: str, vocabularies: Mapping[str, Vocabulary]) -> Found:
    """Return what a text names: a phenotype, an ICD code, or both (427.2 is a phecode and an ICD-9-CM code).

    Parameters
    ----------
    text
        Phenotype or code.
    vocabularies
        Where to look, by name, in the order of the answer.

    Raises
    ------
    VocabularyError
        It is no phenotype and has not the shape of a code; the message names what comes near: phenotypes so spelled,
        or with the text in their description.
    """
    entries = {}
    for name, vocabulary in vocabularies.items():
        entry = phenotype(vocabulary, text)
        if entry is not None:
            entries[name] = entry
    codes = meanings(text, vocabularies)
    if not entries and not codes.height:
        near = _similar(text, vocabularies)
        raise VocabularyError(
            f"{text!r} is no phenotype of {', '.join(vocabularies)}, and has not the shape of an ICD code",
            expected="a phenotype (427.2, CV_416.21) or a code (I48.91)",
            cure=f"did you mean {'; '.join(near)}?" if near else "phewas vocabularies lists the vocabularies",
        )
    listed = any(
        vocabularies[name].derive is None for name in codes.filter(pl.col("phenotype").is_not_null())["vocabulary"]
    )
    return Found(entries, codes, () if entries or listed else _near_codes(codes, vocabularies))


def _similar(text: str, vocabularies: Mapping[str, Vocabulary], most: int = 5) -> list[str]:
    table = pl.concat(
        [one.phenotypes.select("phenotype", "description") for one in vocabularies.values()]
        or [pl.DataFrame(schema={"phenotype": pl.String, "description": pl.String})]
    ).unique("phenotype", keep="first", maintain_order=True)
    words = text.strip().lower()
    said = table.filter(pl.col("description").str.to_lowercase().str.contains(words, literal=True))
    upper = text.strip().upper()
    close = get_close_matches(upper, table["phenotype"].str.to_uppercase().to_list(), n=4 * most, cutoff=0.6)
    alike = pl.col("phenotype").map_elements(lambda name: _shared(upper, name.upper()), return_dtype=pl.Int64)
    spelled = table.filter(pl.col("phenotype").str.to_uppercase().is_in(close)).sort(-alike, "phenotype")
    if not said.height and not spelled.height:
        likely = get_close_matches(words, table["description"].str.to_lowercase().to_list(), n=most, cutoff=0.6)
        said = table.filter(pl.col("description").str.to_lowercase().is_in(likely))
    both = pl.concat([said.sort(pl.col("description").str.len_chars(), "phenotype"), spelled])
    return [f"{name} ({description})" for name, description in both.unique(maintain_order=True).head(most).rows()]


def _near_codes(codes: pl.DataFrame, vocabularies: Mapping[str, Vocabulary], most: int = 5) -> tuple[str, ...]:
    """Return the known codes of the same category that share the longest beginning with the code asked for."""
    near: dict[tuple[int, int, str], list[str]] = {}
    for system, code in codes.select("code_system", "code").unique(maintain_order=True).rows():
        key = icd.undotted_one(code, system)
        own = (pl.col("vocabulary") == system) & pl.col("code").str.starts_with(key[:3])
        maps = [one.code_map.filter(own)["code"] for one in vocabularies.values() if one.derive is None]
        for other in sorted(set().union(*maps)):
            place = (-_shared(key, other), len(other), icd.normalise_one(other, system))
            near.setdefault(place, []).append(system)
    return tuple(f"{place[-1]} ({', '.join(systems)})" for place, systems in sorted(near.items()))[:most]


def _shared(one: str, other: str) -> int:
    """Return the length of the beginning that two texts share."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((place for place, (a, b) in pairs if a != b), min(len(one), len(other)))
