"""From the codes of a cohort to the phenotypes that they mean, and what reached none."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import polars as pl

from phewas.mappings import icd
from phewas.mappings.vocabulary import Vocabulary

OUTSIDE = "phenotype is outside the vocabulary's definitions"
NOT_IN_MAP = "not in the map"
UNKNOWN_SYSTEM = "unknown code system"


@dataclass(frozen=True, eq=False)
class Linked:
    """What the codes of a cohort mean.

    Attributes
    ----------
    codes
        code and vocabulary as the diagnoses have them, code_id (int32, dense; codes that mean the same to the map share
        one id); mapped codes only.
    meanings
        code_id, phenotype (int16, place in the vocabulary's order), without ancestors.
    unmapped
        `phewas.schema.Unmapped`, most frequent first.
    coverage
        Counts of rows, codes and patients, in all and mapped, over everything and by code system.
    """

    codes: pl.DataFrame
    meanings: pl.DataFrame
    unmapped: pl.DataFrame
    coverage: dict[str, Any]


def link(*, diagnoses: pl.DataFrame, vocabulary: Vocabulary) -> Linked:
    """Look every code of `diagnoses` up in the vocabulary's map.

    A code meets the map by its undotted key inside its own code system, so that dots, case and blanks do not matter.
    Nothing is looked up in another code system, cut short or lengthened.

    Parameters
    ----------
    diagnoses
        `phewas.schema.Diagnoses`; code, vocabulary and patient_id are read.
    vocabulary
        Where the codes are looked up.
    """
    spelled = (
        diagnoses.lazy()
        .group_by("code", "vocabulary")
        .agg(pl.len().cast(pl.Int64).alias("n_rows"))
        .with_columns(
            icd.normalise(pl.col("code"), pl.col("vocabulary")).alias("normal"),
            icd.undotted(pl.col("code"), pl.col("vocabulary")).alias("key"),
            icd.looks_like(pl.col("code"), pl.col("vocabulary")).alias("odd"),
        )
        .collect()
    )
    order = vocabulary.phenotypes.select("phenotype").with_row_index("place")
    meanings = vocabulary.code_map.join(order, on="phenotype", how="left").rename({"code": "key"})
    known = meanings.group_by("vocabulary", "key").agg(pl.col("place").count().alias("n_defined"))
    spelled = spelled.join(known, on=["vocabulary", "key"], how="left").with_columns(
        _reason(vocabulary).alias("reason")
    )

    mapped = spelled.filter(pl.col("reason").is_null())
    ids = mapped.select("vocabulary", "key").unique().sort("vocabulary", "key").with_row_index("code_id")
    ids = ids.with_columns(pl.col("code_id").cast(pl.Int32))
    codes = mapped.join(ids, on=["vocabulary", "key"]).select("code", "vocabulary", "code_id")
    direct = (
        meanings.drop_nulls("place")
        .join(ids, on=["vocabulary", "key"])
        .select("code_id", pl.col("place").cast(pl.Int16).alias("phenotype"))
        .unique()
        .sort("code_id", "phenotype")
    )
    return Linked(codes, direct, _unmapped(diagnoses, spelled), _coverage(diagnoses, spelled))


def _reason(vocabulary: Vocabulary) -> pl.Expr:
    """Return why a code reaches no phenotype; null where it reaches one."""
    in_words = {key: f"not a code: {words}" for key, words in icd.NOT_A_CODE.items()}
    no_map = pl.format("no map for {} in " + vocabulary.label, pl.col("vocabulary"))
    return (
        pl.when(pl.col("n_defined") > 0).then(pl.lit(None, pl.String))
        .when(pl.col("n_defined") == 0).then(pl.lit(OUTSIDE))
        .when(pl.col("odd").is_not_null()).then(pl.col("odd").replace(in_words))
        .when(pl.col("vocabulary") == "unknown").then(pl.lit(UNKNOWN_SYSTEM))
        .when(~pl.col("vocabulary").is_in(list(vocabulary.code_systems))).then(no_map)
        .otherwise(pl.lit(NOT_IN_MAP))
    )  # fmt: skip


def _unmapped(diagnoses: pl.DataFrame, spelled: pl.DataFrame) -> pl.DataFrame:
    lost = spelled.filter(pl.col("reason").is_not_null())
    people = (
        diagnoses.lazy()
        .select("patient_id", "code", "vocabulary")
        .join(lost.lazy().select("code", "vocabulary", "normal"), on=["code", "vocabulary"])
        .group_by("normal", "vocabulary")
        .agg(pl.col("patient_id").n_unique().cast(pl.Int64).alias("n_patients"))
        .collect()
    )
    listed = lost.group_by("normal", "vocabulary", "reason").agg(pl.col("n_rows").sum())
    return (
        listed.join(people, on=["normal", "vocabulary"])
        .sort("n_rows", "vocabulary", "normal", descending=[True, False, False])
        .select(pl.col("normal").alias("code"), "vocabulary", "n_rows", "n_patients", "reason")
    )


def _coverage(diagnoses: pl.DataFrame, spelled: pl.DataFrame) -> dict[str, Any]:
    found = pl.col("reason").is_null()
    mapped = spelled.filter(found).select("code", "vocabulary")
    with_mapped = diagnoses.lazy().join(mapped.lazy(), on=["code", "vocabulary"], how="semi").select("patient_id")
    totals = {
        "n_rows": int(spelled["n_rows"].sum()),
        "n_rows_mapped": int(spelled.filter(found)["n_rows"].sum()),
        "n_codes": spelled.select("normal", "vocabulary").n_unique(),
        "n_codes_mapped": spelled.filter(found).select("normal", "vocabulary").n_unique(),
        "n_patients": diagnoses["patient_id"].n_unique(),
        "n_patients_mapped": with_mapped.collect()["patient_id"].n_unique(),
    }
    systems = {
        str(system): {
            "n_rows": int(part["n_rows"].sum()),
            "n_rows_mapped": int(part.filter(found)["n_rows"].sum()),
            "n_codes": part["normal"].n_unique(),
            "n_codes_mapped": part.filter(found)["normal"].n_unique(),
        }
        for (system,), part in sorted(spelled.group_by("vocabulary"), key=lambda item: str(item[0]))
    }
    return totals | {"by_code_system": systems}
