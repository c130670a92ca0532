"""The codes that the emulated patients have beside the planted ones: all of phecode 1.2, some often and most seldom."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from importlib import resources

import numpy as np
import polars as pl

from phewas.cohorts.emulator.draws import Draws, Floats, Ints
from phewas.cohorts.emulator.planted import PLANTED
from phewas.cohorts.emulator.text import Flags
from phewas.mappings.icd import normalise

CODES_PER_PHENOTYPE = 12
# Shares of phenotypes fall as (rank + 20) ** -1.3 [A]: the commonest fifth holds most rows, and at the full size even
# the rarest have some cases.
RANK_OFFSET, RANK_POWER = 20.0, 1.3


@dataclass(frozen=True)
class CodePool:
    """The codes one may draw, first the planted ones in the order of their table.

    Parameters
    ----------
    table
        One row per code: code10 and code9 (dotted; code9 null where ICD-9-CM has none), phenotype, name, chapter,
        number (of the chapter).
    shares_f, shares_m
        float64 [codes]: probability of each code for women (and unknown sex) and for men; 0 for the planted ones.
    """

    table: pl.DataFrame
    shares_f: Floats
    shares_m: Floats

    def draw(self, draws: Draws, purpose: str, male: Flags, *keys: Ints) -> Ints:
        """Return rows of `table`, one per key; `male` says which shares apply."""
        women, men = draws.pick(self.shares_f, purpose, *keys), draws.pick(self.shares_m, purpose, *keys)
        return np.where(male, men, women)


@lru_cache(maxsize=1)
def code_pool() -> CodePool:
    """Return the pool. Related codes of planted phenotypes are left out, so that chance makes no cases of those."""
    folder = resources.files("phewas.mappings.data")
    with resources.as_file(folder / "phecode1.2.map.parquet") as file:
        codes = pl.read_parquet(file)
    with resources.as_file(folder / "phecode1.2.phenotypes.parquet") as file:
        phenotypes = pl.read_parquet(file)
    root = pl.col("phenotype").str.split(".").list.first()
    taken = {p.phecode.split(".")[0] for p in PLANTED}
    codes = codes.with_columns(normalise(pl.col("code"), pl.col("vocabulary")).alias("dotted"))
    ten = codes.filter(pl.col("vocabulary") == "ICD10CM").sort("code")
    # A code that begins another one is a category: nobody is billed for it.
    following = pl.col("code").shift(-1).fill_null("")
    ten = ten.filter(~following.str.starts_with(pl.col("code")))
    # Codes of several phenotypes would tie these together.
    ten = ten.filter(pl.len().over("code") == 1, ~root.is_in(list(taken)))
    nine = codes.filter(pl.col("vocabulary") == "ICD9CM").group_by("phenotype").agg(
        pl.col("dotted").sort_by("code").last().alias("code9")
    )  # fmt: skip
    draws = Draws(0)
    names = phenotypes.sort("phenotype")["phenotype"]
    order = np.argsort(np.argsort(draws.uniform("rank of phenotypes", np.arange(len(names)))))
    ranked = pl.DataFrame({"phenotype": names, "rank": order})
    ten = (
        ten.join(phenotypes, on="phenotype", how="inner", maintain_order="left")
        .join(ranked, on="phenotype", how="left", maintain_order="left")
        .join(nine, on="phenotype", how="left", maintain_order="left")
        .with_columns(pl.int_range(pl.len()).over("phenotype").alias("place"))
        .filter(pl.col("place") < CODES_PER_PHENOTYPE)
    )
    weight = (ten["rank"].to_numpy() + RANK_OFFSET) ** -RANK_POWER * 0.5 ** ten["place"].to_numpy()
    weight = np.asarray(weight, dtype=np.float64)
    sex = ten["sex"].to_numpy()
    own = pl.DataFrame(
        {
            "code10": [p.code for p in PLANTED],
            "code9": [p.icd9 or None for p in PLANTED],
            "phenotype": [p.phecode for p in PLANTED],
        }
    ).join(phenotypes, on="phenotype", how="left", maintain_order="left")
    columns = ["code10", "code9", "phenotype", "description", "chapter", "chapter_order"]
    table = pl.concat([own.select(columns), ten.rename({"dotted": "code10"}).select(columns)])
    none = np.zeros(len(own))
    shares_f = np.concatenate([none, np.where(sex == "M", 0.0, weight)])
    shares_m = np.concatenate([none, np.where(sex == "F", 0.0, weight)])
    return CodePool(table.rename({"description": "name", "chapter_order": "number"}), shares_f, shares_m)
