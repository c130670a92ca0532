"""From the codes of a cohort to the phenotypes that they mean, and what reached none."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import polars as pl

from phewas.mappings import icd, zeros
from phewas.mappings.vocabulary import Vocabulary

OUTSIDE = "phenotype is outside the vocabulary's definitions"
NOT_IN_MAP = "not in the map"
UNKNOWN_SYSTEM = "unknown code system"
BY_PARENT = "mapped by its parent "
BY_ZEROS = "mapped with its leading zeros put back: "

#: Characters that a code may lose on the way up to its parent: seven at most, three (a category) at least.
_LONGEST_LOSS = 4


@dataclass(frozen=True, eq=False)
class Resolved:
    """Spellings and what they mean.

    Attributes
    ----------
    spelled
        The columns that came in, and normal (dotted form), key (the map's key that the spelling meets; null where it
        meets none), reason (why it reaches no phenotype; null where it reaches one), note (null, or how it reached the
        map where not by itself: by its parent, or with zeros put back).
    meanings
        vocabulary, key, place (row of the vocabulary's phenotypes; null for a phenotype without definition). Direct.
    lost_zeros
        Counts over the distinct ICD-9-CM codes of digits: ``n_codes``, ``n_begin_with_zero``, ``n_only_with_zeros``
        (codes that only exist with zeros put back), ``n_ambiguous`` of these, ``n_rows`` of these.
    """

    spelled: pl.DataFrame
    meanings: pl.DataFrame
    lost_zeros: dict[str, int]


def resolve(
    spelled: pl.DataFrame, *, vocabulary: Vocabulary, walk_up: bool = False, restore_zeros: bool = False
) -> Resolved:
    """Find each spelling's code in the vocabulary's map.

    A code meets the map by its undotted key inside its own code system, so that dots, case and blanks do not matter.
    Nothing is looked up in another code system.

    Parameters
    ----------
    spelled
        code (as found), vocabulary (one of `phewas.mappings.icd.CODE_SYSTEMS`), n_rows; each pair once.
    vocabulary
        Where the codes are looked up.
    walk_up
        Let a code that is not in the map count as the longest shorter code that is (``S72.001A`` as ``S72.00``): the
        code that it is a subdivision of. Its note says so.
    restore_zeros
        Let an ICD-9-CM code that is in the map only with leading zeros put back, and under one code only, count as
        that code. Its note says so.
    """
    meanings, known = _map(vocabulary, vocabulary.code_map)
    # Most codes stand in their table as the map has them. These need no text work, which is the slow part.
    plain = spelled.join(_as_written(known), on=["code", "vocabulary"], how="left", maintain_order="left")
    odd = plain.filter(pl.col("key").is_null()).drop("key", "normal")
    code, system = pl.col("code"), pl.col("vocabulary")
    odd = odd.with_columns(
        icd.normalise(code, system).alias("normal"),
        icd.undotted(code, system).alias("key"),
        icd.looks_like(code, system).alias("odd"),
    )
    if vocabulary.derive is not None:
        asked = odd.filter(pl.col("odd").is_null()).select("vocabulary", pl.col("key").alias("code")).unique()
        meanings, known = _map(vocabulary, vocabulary.map_for(asked))
    table = pl.concat([plain.filter(pl.col("key").is_not_null()), odd], how="diagonal_relaxed")
    table = table.with_columns(pl.col("odd").cast(pl.String), pl.lit(None, pl.String).alias("note"))
    table = table.join(known, on=["vocabulary", "key"], how="left", maintain_order="left")
    lost = pl.col("n_defined").is_null()
    dotted = table.filter((system == "ICD9CM") & code.str.contains(".", literal=True)).height > 0
    missing = table.filter(lost).select(pl.col("normal").alias("code"), "vocabulary")
    restored = zeros.candidates(missing, known, dotted_list=dotted)
    counts = _zero_counts(table, restored)
    table = _replace(table, restored, known, active=restore_zeros)
    if walk_up:
        table = _walk_up(table, known)
    reason = _reason(vocabulary)
    hint = pl.when(lost & pl.col("restored").is_not_null()).then(
        pl.format("{}; {} is in the map: has a leading zero been lost?", reason, "restored")
    )
    table = table.with_columns(pl.coalesce(hint, reason).alias("reason"))
    found = pl.when(pl.col("reason").is_null()).then("key").alias("key")
    return Resolved(table.with_columns(found).drop("odd", "n_defined", "restored"), meanings, counts)


def _map(vocabulary: Vocabulary, code_map: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Return the map with places instead of names, and its keys with the number of defined phenotypes of each."""
    order = vocabulary.phenotypes.select("phenotype").with_row_index("place")
    meanings = code_map.join(order, on="phenotype", how="left").rename({"code": "key"}).drop("phenotype")
    return meanings, meanings.group_by("vocabulary", "key").agg(pl.col("place").count().alias("n_defined"))


def _as_written(known: pl.DataFrame) -> pl.DataFrame:
    """Return code, vocabulary, key, normal: the codes of the map in the two ways in which they are commonly written."""
    place = pl.when((pl.col("vocabulary") == "ICD9CM") & pl.col("key").str.starts_with("E")).then(4).otherwise(3)
    dotted = pl.when(pl.col("key").str.len_bytes() > place).then(
        pl.col("key").str.head(place) + "." + pl.col("key").str.slice(place)
    )
    keys = known.select("vocabulary", "key", pl.coalesce(dotted, "key").alias("normal"))
    both = pl.concat(
        [
            keys.with_columns(pl.col("normal").alias("code")),
            keys.filter(pl.col("normal") != pl.col("key")).with_columns(pl.col("key").alias("code")),
        ]
    )
    return both.select("code", "vocabulary", "key", "normal")


def _zero_counts(table: pl.DataFrame, restored: pl.DataFrame) -> dict[str, int]:
    digits = table.filter((pl.col("vocabulary") == "ICD9CM") & pl.col("normal").str.contains(r"^[0-9.]+$"))
    codes = digits["normal"].unique()
    only = digits.join(restored, left_on=["normal", "vocabulary"], right_on=["code", "vocabulary"], how="semi")
    return {
        "n_codes": len(codes),
        "n_begin_with_zero": int(codes.str.starts_with("0").sum()),
        "n_only_with_zeros": restored.height,
        "n_ambiguous": restored.filter(pl.col("n_candidates") > 1).height,
        "n_rows": int(only["n_rows"].sum()),
    }


def _replace(table: pl.DataFrame, restored: pl.DataFrame, known: pl.DataFrame, *, active: bool) -> pl.DataFrame:
    """Add the code that zeros would restore, and, where asked, take the unambiguous ones for what they were."""
    one = restored.select(
        pl.col("code").alias("normal"),
        "vocabulary",
        pl.col("key").alias("whole"),
        icd.normalise(pl.col("key"), pl.col("vocabulary")).alias("restored"),
        "n_candidates",
    )
    table = table.join(one, on=["normal", "vocabulary"], how="left", maintain_order="left")
    if active:
        take = (pl.col("n_candidates") == 1) & pl.col("n_defined").is_null()
        table = table.with_columns(
            pl.when(take).then(BY_ZEROS + pl.col("restored")).otherwise("note").alias("note"),
            pl.when(take).then("whole").otherwise("key").alias("key"),
        ).drop("n_defined")
        table = table.join(known, on=["vocabulary", "key"], how="left", maintain_order="left")
    return table.drop("whole", "n_candidates")


def _walk_up(table: pl.DataFrame, known: pl.DataFrame) -> pl.DataFrame:
    """Give a code that is not in the map the key of the nearest code above it that is."""
    wanted = table.filter(pl.col("n_defined").is_null() & pl.col("odd").is_null()).select("vocabulary", "key").unique()
    # A category has three characters, four in the E codes of ICD-9-CM; above it there is no code.
    shortest = pl.when((pl.col("vocabulary") == "ICD9CM") & pl.col("key").str.starts_with("E")).then(4).otherwise(3)
    steps = [
        wanted.with_columns(pl.col("key").str.slice(0, pl.col("key").str.len_bytes() - n).alias("above"))
        .filter(pl.col("key").str.len_bytes() - n >= shortest)
        .join(known.filter(pl.col("n_defined") > 0), left_on=["vocabulary", "above"], right_on=["vocabulary", "key"])
        for n in range(1, _LONGEST_LOSS + 1)
    ]
    length = pl.col("above").str.len_bytes()
    nearest = pl.concat(steps).sort("vocabulary", "key", length, descending=[False, False, True])
    nearest = nearest.unique(["vocabulary", "key"], keep="first", maintain_order=True).rename({"n_defined": "n_above"})
    words = BY_PARENT + icd.normalise(pl.col("above"), pl.col("vocabulary"))
    table = table.join(nearest.with_columns(words.alias("words")), on=["vocabulary", "key"], how="left",
                       maintain_order="left")  # fmt: skip
    return table.with_columns(
        pl.coalesce("words", "note").alias("note"),
        pl.coalesce("above", "key").alias("key"),
        pl.coalesce("n_defined", "n_above").alias("n_defined"),
    ).drop("above", "n_above", "words")


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
        Counts of rows, codes and patients, in all and mapped, over everything and by code system; and ``lost_zeros``
        (`Resolved.lost_zeros`).
    by_note
        The columns of `phewas.schema.Unmapped`: codes that are mapped, but not by themselves, with the note as reason.
        Empty unless `link` was asked for it.
    """

    codes: pl.DataFrame
    meanings: pl.DataFrame
    unmapped: pl.DataFrame
    coverage: dict[str, Any]
    by_note: pl.DataFrame


def link(
    *, diagnoses: pl.DataFrame, vocabulary: Vocabulary, walk_up: bool = False, restore_zeros: bool = False
) -> Linked:
    """Look every code of `diagnoses` up in the vocabulary's map.

    Parameters
    ----------
    diagnoses
        `phewas.schema.Diagnoses`; code, vocabulary and patient_id are read.
    vocabulary
        Where the codes are looked up.
    walk_up, restore_zeros
        As in `resolve`; off by default: nothing is cut short or lengthened.
    """
    spelled = diagnoses.lazy().group_by("code", "vocabulary").agg(pl.len().cast(pl.Int64).alias("n_rows")).collect()
    resolved = resolve(spelled, vocabulary=vocabulary, walk_up=walk_up, restore_zeros=restore_zeros)
    spelled, meanings = resolved.spelled, resolved.meanings
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
    unmapped = _listed(diagnoses, spelled.filter(pl.col("reason").is_not_null()))
    noted = spelled.filter(pl.col("reason").is_null() & pl.col("note").is_not_null())
    by_note = _listed(diagnoses, noted.with_columns(pl.col("note").alias("reason")))
    coverage = _coverage(diagnoses, spelled) | {"lost_zeros": resolved.lost_zeros}
    return Linked(codes, direct, unmapped, coverage, by_note)


def definitions(vocabulary: Vocabulary, linked: Linked) -> pl.DataFrame:
    """Return `phewas.schema.Definitions`: the whole map; where codes are derived by a rule, those that were met."""
    if vocabulary.derive is None:
        pairs = vocabulary.code_map
    else:
        order = vocabulary.phenotypes.select("phenotype").with_row_index("place")
        places = linked.meanings.join(linked.codes, on="code_id").select(
            "vocabulary", "code", pl.col("phenotype").cast(pl.UInt32).alias("place")
        )
        pairs = places.join(order, on="place")
    defined = pairs.join(vocabulary.phenotypes.select("phenotype"), on="phenotype", how="semi")
    return (
        defined.select(
            "phenotype",
            pl.col("vocabulary").alias("code_system"),
            icd.normalise(pl.col("code"), pl.col("vocabulary")).alias("code"),
        )
        .unique()
        .sort("phenotype", "code_system", "code")
    )


def _listed(diagnoses: pl.DataFrame, chosen: pl.DataFrame) -> pl.DataFrame:
    """Return the columns of `phewas.schema.Unmapped` for some of the spellings, most frequent first."""
    people = (
        diagnoses.lazy()
        .select("patient_id", "code", "vocabulary")
        .join(chosen.lazy().select("code", "vocabulary", "normal"), on=["code", "vocabulary"])
        .group_by("normal", "vocabulary")
        .agg(pl.col("patient_id").n_unique().cast(pl.Int64).alias("n_patients"))
        .collect()
    )
    listed = chosen.group_by("normal", "vocabulary", "reason").agg(pl.col("n_rows").sum())
    return (
        listed.join(people, on=["normal", "vocabulary"])
        .sort("n_rows", "vocabulary", "normal", descending=[True, False, False])
        .select(pl.col("normal").alias("code"), "vocabulary", "n_rows", "n_patients", "reason")
    )


def _coverage(diagnoses: pl.DataFrame, spelled: pl.DataFrame) -> dict[str, Any]:
    mapped = spelled.filter(pl.col("reason").is_null()).select("code", "vocabulary")
    with_mapped = diagnoses.lazy().join(mapped.lazy(), on=["code", "vocabulary"], how="semi").select("patient_id")
    patients = {
        "n_patients": diagnoses["patient_id"].n_unique(),
        "n_patients_mapped": with_mapped.collect()["patient_id"].n_unique(),
    }
    systems = {
        str(system): count(part)
        for (system,), part in sorted(spelled.group_by("vocabulary"), key=lambda item: str(item[0]))
    }
    return count(spelled) | patients | {"by_code_system": systems}


def count(spelled: pl.DataFrame) -> dict[str, int]:
    """Return rows and distinct codes of resolved spellings, in all and mapped."""
    found = spelled.filter(pl.col("reason").is_null())
    return {
        "n_rows": int(spelled["n_rows"].sum()),
        "n_rows_mapped": int(found["n_rows"].sum()),
        "n_codes": spelled.select("normal", "vocabulary").n_unique(),
        "n_codes_mapped": found.select("normal", "vocabulary").n_unique(),
    }
