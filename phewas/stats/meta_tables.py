"""Tables that sites exported, without any row of a patient, pooled phenotype by phenotype.

Two kinds: AUCs (`report/tables/phenotypes.csv` of a run or of `phewas evaluate`), pooled as logits, and coefficients
(`phewas associate`). Which one a table is shows in its columns.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy import special, stats

from phewas.errors import SchemaError
from phewas.stats.meta import METHOD, Pooled, pool
from phewas.stats.multiplicity import benjamini_hochberg, bonferroni

AUC = ("phenotype", "vocabulary", "label_window", "unit", "status", "auc", "auc_low", "auc_high", "n_case_patients",
       "n_control_patients")
BETA = ("phenotype", "predictor", "adjustment", "type", "beta", "SE", "n_total", "n_cases", "n_controls")
SAME = {"AUC": ("vocabulary", "label_window", "unit"), "coefficient": ("type",)}
"""What has to be alike at all sites."""

COUNTS = {"AUC": ("n_case_patients", "n_control_patients"), "coefficient": ("n_total", "n_cases", "n_controls")}
RATIO = {"logistic": "OR", "cox": "HR"}


@dataclass(frozen=True)
class Combined:
    """The pooled rows, those of the sites, what must be told, and a summary in words."""

    pooled: pl.DataFrame
    sites: pl.DataFrame
    notes: tuple[str, ...]
    summary: str


def site_names(files: Sequence[Path]) -> list[str]:
    """Return a name per file: its stem, or as much of the path as tells the files apart.

    Examples
    --------
    >>> site_names([Path("rome/report/tables/phenotypes.csv"), Path("oslo/report/tables/phenotypes.csv")])
    ['rome', 'oslo']
    """
    parts = [[*file.with_suffix("").parts] for file in files]
    for back in range(1, max(map(len, parts), default=0) + 1):
        names = [one[-back] if len(one) >= back else one[0] for one in parts]
        if len(set(names)) == len(names):
            return names
    if len(set(files)) < len(files):
        raise SchemaError(f"{next(f for f in files if list(files).count(f) > 1)} is named twice",
                          expected="every site once")
    return [str(file) for file in files]


def combine_tables(tables: Mapping[str, pl.DataFrame], *, small_cell: int = 11, level: float = 0.95) -> Combined:
    """Pool the exported tables of several sites.

    Parameters
    ----------
    tables
        Name of each site and its table: AUCs or coefficients, all of one kind.
    small_cell
        Counts of 1 to ``small_cell - 1`` are hidden in what is returned, and sites with fewer case or control patients
        than this are left out.
    level
        Confidence level of the tables and of the result.

    Returns
    -------
    Combined
        `pooled`: one row per phenotype (and predictor) of any site: n_sites, estimate with bounds, p, q_fdr,
        p_bonferroni, tau2, i2, Cochran's Q and its p, prediction interval, common-effect estimate, counts, status.
        `sites`: one row per site and phenotype with its estimate, weight and why it was left out.

    Raises
    ------
    SchemaError
        One site only, a column is missing, sites differ in vocabulary, label window, unit or type of model, or they
        share no phenotype.

    Notes
    -----
    The standard error of a logit AUC comes from the bounds, whose half width is the t quantile times it, with the df
    where the table has them and normal otherwise. Tables for sharing have three decimals: an error of the rounding of
    about 0.0002 in the AUC's standard error stays.
    """
    if len(tables) < 2:
        raise SchemaError(f"{next(iter(tables), 'no site')} is the only site" if tables else "no site was named",
                          expected="two tables or more", cure="name each with --combine")
    kind, frames = _read(tables)
    notes = _checked(kind, frames)
    keys = ["phenotype"] if kind == "AUC" else ["phenotype", "predictor"]
    every = pl.concat([frame.with_columns(site=pl.lit(site)) for site, frame in frames.items()], how="diagonal_relaxed")
    names = every.select(keys).unique(maintain_order=True)
    shared = every.group_by(keys).len().filter(pl.col("len") > 1).height
    if not shared:
        raise SchemaError(f"the sites share no {' and '.join(keys)}", expected="the same names at every site",
                          cure="are the vocabularies or the predictors the same?")
    every = every.with_columns(_reason(kind, small_cell=small_cell))
    effects, variances = (np.full((len(frames), names.height), np.nan) for _ in range(2))
    place = names.with_row_index("column")
    for k, site in enumerate(frames):
        mine = every.filter((pl.col("site") == site) & (pl.col("left_out") == "")).join(place, on=keys, how="left")
        effects[k, mine["column"].to_numpy()], variances[k, mine["column"].to_numpy()] = _effect(mine, kind, level)
    found = pool(effects, variances, level=level)
    pooled = _pooled(names, every, found, kind, keys, small_cell=small_cell, level=level)
    sites = _sites(every, names, list(frames), found, kind, keys, small_cell=small_cell)
    tested = pooled.filter(pl.col("status") == "pooled")
    notes.append("Sites are taken as independent: a patient of several counts in each.")
    if len(frames) == 2:
        notes.append("Two sites leave Hartung and Knapp's t one degree of freedom, hence wide intervals. The columns "
                     "named common take the effect to be the same at both.")
    scale = "AUC above 0.5" if kind == "AUC" else "an effect"
    lines = [f"{len(frames)} sites, {names.height:,} {kind}s; {tested.height:,} pooled from two sites or more "
             f"({METHOD}).",
             f"{tested.filter((pl.col('q_fdr') < 0.05) & (pl.col('effect') > 0 if kind == 'AUC' else True)).height:,} "
             f"with {scale} at q < 0.05; {tested.filter(pl.col('i2') > 0.5).height:,} with I2 above 50 %."]
    return Combined(pooled, sites, tuple(notes), "\n".join(lines))


def _read(tables: Mapping[str, pl.DataFrame]) -> tuple[str, dict[str, pl.DataFrame]]:
    """Say of which kind the tables are, and return them with the columns that are needed."""
    kinds = {site: "coefficient" if {"beta", "SE"} & set(frame.columns) else "AUC" for site, frame in tables.items()}
    if len(set(kinds.values())) > 1:
        other = next(site for site, kind in kinds.items() if kind != next(iter(kinds.values())))
        raise SchemaError(f"{next(iter(kinds))} holds {next(iter(kinds.values()))}s, {other} {kinds[other]}s",
                          expected="tables of one kind")
    kind = next(iter(kinds.values()))
    needed = AUC if kind == "AUC" else BETA
    frames = {}
    for site, frame in tables.items():
        missing = [name for name in needed if name not in frame.columns]
        if missing:
            raise SchemaError(f"the table of {site} lacks the columns {', '.join(missing[:5])}",
                              expected="report/tables/phenotypes.csv of a run, or a table of phewas associate",
                              cure="export it anew with this version")
        further = [c for c in ("description", "chapter", "df") if c in frame.columns]
        numbers = [c for c in ("auc", "auc_low", "auc_high", "df", "beta", "SE") if c in (*needed, *further)]
        counts = COUNTS[kind]
        chosen = frame.select(*needed, *further)
        # A hidden count reads "<11".
        chosen = chosen.with_columns(
            *(pl.col(c).cast(pl.Float64, strict=False).fill_nan(None) for c in numbers),
            *(pl.col(c).cast(pl.String).alias(f"{c}_told") for c in counts),
            *(pl.col(c).cast(pl.Int64, strict=False) for c in counts),
            pl.col("phenotype").cast(pl.String))
        keys = ["phenotype"] if kind == "AUC" else ["phenotype", "predictor"]
        if chosen.select(keys).is_duplicated().any():
            raise SchemaError(f"the table of {site} has several rows for one {' and '.join(keys)}",
                              expected="one row each")
        frames[site] = chosen
    return kind, frames


def _checked(kind: str, frames: Mapping[str, pl.DataFrame]) -> list[str]:
    """Refuse sites that measured different things; return what differs and can stand."""
    first, *others = frames
    for column in SAME[kind]:
        values = {site: frame[column].drop_nulls().unique().sort().to_list() for site, frame in frames.items()}
        for site in others:
            if values[site] != values[first]:
                raise SchemaError(
                    f"{first} and {site} differ in {column}: {', '.join(map(str, values[first][:3]))}; "
                    f"{', '.join(map(str, values[site][:3]))}", expected=f"the same {column} at every site",
                    cure="make the tables anew with the same options")
    if kind == "AUC":
        if "segment" in frames[first]["unit"].to_list():
            raise SchemaError("the tables count segments, not patients", expected="unit encounter or patient")
        return []
    adjusted = {site: frame["adjustment"].drop_nulls().unique().sort().to_list() for site, frame in frames.items()}
    if len({tuple(value) for value in adjusted.values()}) > 1:
        return ["Sites adjusted for different covariates: "
                + "; ".join(f"{site}: {', '.join(v) or 'none'}" for site, v in adjusted.items()) + "."]
    return []


def _reason(kind: str, *, small_cell: int) -> pl.Expr:
    """Return why a site's row takes no part; empty where it does."""
    counts = COUNTS[kind] if kind == "AUC" else ("n_cases", "n_controls")
    few = pl.any_horizontal(pl.col(c).is_null() & pl.col(f"{c}_told").str.starts_with("<") | (pl.col(c) < small_cell)
                            for c in counts).fill_null(value=False)
    if kind == "AUC":
        why = (pl.when(pl.col("status") != "tested").then(pl.col("status")).when(few).then(pl.lit("small_cell"))
               .when(pl.col("auc").is_null() | pl.col("auc_low").is_null()).then(pl.lit("no_interval"))
               .when((pl.col("auc") <= 0) | (pl.col("auc") >= 1) | (pl.col("auc_low") <= 0) | (pl.col("auc_high") >= 1)
                     | (pl.col("auc_high") <= pl.col("auc_low"))).then(pl.lit("no_logit")))
    else:
        why = (pl.when(pl.col("beta").is_null() | pl.col("SE").is_null() | (pl.col("SE") <= 0))
               .then(pl.lit("no_estimate")).when(few).then(pl.lit("small_cell")))
    return why.otherwise(pl.lit("")).alias("left_out")


def _effect(rows: pl.DataFrame, kind: str, level: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return effects and variances."""
    if kind != "AUC":
        return rows["beta"].to_numpy(), rows["SE"].to_numpy() ** 2
    low, high = special.logit(rows["auc_low"].to_numpy()), special.logit(rows["auc_high"].to_numpy())
    quantile = np.full(rows.height, stats.norm.ppf(0.5 + level / 2))
    if "df" in rows.columns:
        df = rows["df"].fill_null(float("nan")).to_numpy()
        quantile = np.where(df > 0, stats.t.ppf(0.5 + level / 2, np.where(df > 0, df, 1.0)), quantile)
    return special.logit(rows["auc"].to_numpy()), ((high - low) / (2 * quantile)) ** 2


def _hidden(every: pl.Expr, *, small_cell: int) -> pl.Expr:
    return pl.when((every <= 0) | (every >= small_cell)).then(every)


def _pooled(
    names: pl.DataFrame, every: pl.DataFrame, found: Pooled, kind: str, keys: list[str], *, small_cell: int,
    level: float,
) -> pl.DataFrame:
    """Return the pooled rows."""
    used = every.filter(pl.col("left_out") == "")
    about = every.group_by(keys, maintain_order=True).agg(
        pl.col(c).drop_nulls().first() for c in ("description", "chapter", *SAME[kind]) if c in every.columns)
    # The sum is known where every site that takes part told its number.
    counts = used.group_by(keys).agg(
        pl.when(pl.col(c).is_null().any()).then(None).otherwise(pl.col(c).sum()).alias(c) for c in COUNTS[kind])
    frame = names.join(about, on=keys, how="left", maintain_order="left")
    family = found.n_sites > 1
    p = np.where(family, found.p, np.nan)
    status = np.where(family, "pooled", np.where(found.n_sites == 1, "one_site", "no_site"))
    z = float(stats.norm.ppf(0.5 + level / 2))
    columns: dict[str, Any] = {"status": status.tolist(), "n_sites": found.n_sites, "effect": found.effect,
                               "se": found.se, "effect_low": found.low, "effect_high": found.high}
    if kind == "AUC":
        columns |= {name: special.expit(value) for name, value in (
            ("auc", found.effect), ("auc_low", found.low), ("auc_high", found.high),
            ("auc_prediction_low", found.prediction_low), ("auc_prediction_high", found.prediction_high),
            ("auc_common", found.fixed_effect), ("auc_common_low", found.fixed_effect - z * found.fixed_se),
            ("auc_common_high", found.fixed_effect + z * found.fixed_se))}
    else:
        columns |= {"prediction_low": found.prediction_low, "prediction_high": found.prediction_high,
                    "beta_common": found.fixed_effect, "SE_common": found.fixed_se}
        ratio = RATIO.get(str(every["type"][0]))
        if ratio is not None:
            columns |= {ratio: np.exp(found.effect), f"{ratio}_low": np.exp(found.low),
                        f"{ratio}_high": np.exp(found.high)}
    columns |= {"p_common": found.fixed_p, "p_value": found.p, "neg_log10_p": found.neg_log10_p, "df": found.df,
                "p_bonferroni": bonferroni(p, family=family), "q_fdr": benjamini_hochberg(p, family=family),
                "tau2": found.tau2, "i2": found.i2, "cochran_q": found.q, "cochran_p": found.q_p}
    frame = frame.with_columns(pl.Series(name, value) for name, value in columns.items())
    frame = frame.with_columns(method=pl.when(pl.col("status") == "pooled").then(pl.lit(METHOD)))
    frame = frame.join(counts, on=keys, how="left", maintain_order="left")
    return frame.with_columns(pl.col(pl.Float64).fill_nan(None)).with_columns(
        _hidden(pl.col(c), small_cell=small_cell) for c in COUNTS[kind])


def _sites(
    every: pl.DataFrame, names: pl.DataFrame, sites: list[str], found: Pooled, kind: str, keys: list[str], *,
    small_cell: int,
) -> pl.DataFrame:
    """Return one row per phenotype and site, in the order of the pooled rows."""
    weights = pl.DataFrame({**{c: names[c] for c in keys}, **dict(zip(sites, found.weights, strict=True))}).unpivot(
        index=keys, variable_name="site", value_name="weight")
    estimates = ("auc", "auc_low", "auc_high") if kind == "AUC" else ("beta", "SE")
    frame = every.join(weights, on=[*keys, "site"], how="left")
    bare = pl.col("left_out") == "small_cell"
    frame = frame.join(names.with_row_index("order"), on=keys, how="left").with_columns(
        pl.col("site").cast(pl.Enum(sites)))
    return frame.sort("order", "site").select(
        *keys, pl.col("site").cast(pl.String), *(pl.when(~bare).then(pl.col(c)).alias(c) for c in estimates), "weight",
        pl.col("left_out").replace({"": None}),
        *(_hidden(pl.col(c), small_cell=small_cell) for c in COUNTS[kind]))
