"""AUCs within groups of patients, and whether they differ between the groups."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy import special, stats

from phewas.config import EvaluateConfig
from phewas.errors import ConfigError
from phewas.schema import Encounters, Patients, Subgroups
from phewas.stats.auc import auc_shares, inflate
from phewas.stats.counts import patients_with
from phewas.stats.multiplicity import benjamini_hochberg
from phewas.stats.tails import Floats

VISIT_TYPES = ("src_visit_type", "src_Means_of_arrival", "src_ADMISSION_TYPE", "src_admission_type", "src_kind",
               "src_visit_concept_id")
"""Columns that tell the kind of visit in the known sources; the first that is there is taken."""

MOST_LEVELS = 12
"""Less frequent levels of a variable are put together as `other`."""

UNKNOWN = "unknown"


@dataclass(frozen=True)
class Grouping:
    """One variable: the names of its levels in order, and each unit's level as its place, int [U], -1 unknown."""

    variable: str
    levels: tuple[str, ...]
    codes: NDArray[np.int64]


def groupings(run: Any, encounters: pl.Series, *, config: EvaluateConfig) -> list[Grouping]:
    """Return how the scored units fall into groups.

    Parameters
    ----------
    run
        The run directory.
    encounters
        Encounter of each unit.
    config
        Which variables and where age groups begin. A variable that this cohort does not have, or that is the same for
        everybody, is left out.

    Raises
    ------
    ConfigError
        A variable is neither known nor a column of the encounters that begins with ``src_``.
    """
    table = Encounters.read(run)
    people = Patients.read(run).select("patient_id", "sex", "race", "ethnicity")
    units = encounters.to_frame("encounter_id").join(
        table.join(people, on="patient_id", how="left"), on="encounter_id", how="left", maintain_order="left")
    found = []
    for variable in config.subgroups:
        column = variable
        if variable == "visit_type":
            column = next((name for name in VISIT_TYPES if name in units.columns), "")
        elif variable not in ("sex", "age", "race", "ethnicity") and variable not in units.columns:
            raise ConfigError(f"subgroup variable {variable!r} is unknown",
                              expected="sex, age, race, ethnicity, visit_type, or a src_ column of the encounters",
                              cure="change [evaluate] subgroups")
        if not column:
            continue
        made = _bands(units["age"], config.age_bands) if variable == "age" else _levels(units[column], sex=variable)
        if len(made[0]) > 1:
            found.append(Grouping(variable, *made))
    return found


def _bands(age: pl.Series, starts: list[float]) -> tuple[tuple[str, ...], NDArray[np.int64]]:
    years, edges = age.fill_null(float("nan")).to_numpy(), sorted(starts)
    names = [f"under {edges[0]:g}", *(f"{a:g} to under {b:g}" for a, b in pairwise(edges)),
             f"{edges[-1]:g} and over"] if edges else ["all"]
    codes = np.where(np.isnan(years), -1, np.searchsorted(edges, np.nan_to_num(years), side="right"))
    return tuple(names), codes.astype(np.int64)


def _levels(values: pl.Series, *, sex: str) -> tuple[tuple[str, ...], NDArray[np.int64]]:
    """Levels by falling frequency; sex as F, M with U unknown; blanks are a level of their own elsewhere."""
    if sex == "sex":
        texts = values.to_numpy().astype(str)
        return ("F", "M"), np.where(texts == "F", 0, np.where(texts == "M", 1, -1)).astype(np.int64)
    text = values.cast(pl.String).str.strip_chars().replace("", None).fill_null(UNKNOWN)
    counts = text.value_counts(sort=False).sort(["count", text.name], descending=[True, False])
    names = counts[text.name].to_list()
    if len(names) > MOST_LEVELS:
        names = [*[name for name in names if name != "other"][: MOST_LEVELS - 1], "other"]
    place = {name: k for k, name in enumerate(names)}
    codes = [place.get(value, len(names) - 1) for value in text.to_list()]
    return tuple(names), np.asarray(codes, dtype=np.int64)


def subgroups(
    scores: NDArray[Any], labels: NDArray[Any], clusters: NDArray[np.intp], names: list[str],
    grouping: Grouping, *, config: EvaluateConfig, factor: Floats | None = None,
) -> pl.DataFrame:
    """Return `phewas.schema.Subgroups` of one variable, without q.

    Parameters
    ----------
    scores, labels
        float [U, P] and int8 [U, P].
    clusters
        intp [U], patients as 0 .. C-1.
    names
        The P phenotypes.
    grouping
        The variable.
    config
        Case policy (it holds within each group) and level.
    factor
        float64 [P], by which standard errors are multiplied (cross-fitted); NaN gives neither interval nor test.

    Notes
    -----
    A patient can be in several groups (grows older, comes by ambulance once). The covariance of the groups' AUCs is
    the sum over patients of the products of their shares, the variances are Obuchowski's. Equality of the logit AUCs is
    tested by the Wald statistic over groups with an AUC inside (0, 1), divided by groups - 1 and referred to F with
    the smallest of the groups' degrees of freedom: cautious where a group is small.
    """
    size, n_patients, least = len(names), int(clusters.max(initial=-1)) + 1, config.min_case_patients
    many = [int(np.count_nonzero(grouping.codes == k)) for k in range(len(grouping.levels))]
    share = np.zeros((len(many), size, n_patients), dtype=np.float32)
    area, error, df = (np.full((len(many), size), np.nan) for _ in range(3))
    scale = np.ones(size) if factor is None else factor
    blocks: list[dict[str, Any]] = []
    for k, level in enumerate(grouping.levels):
        rows = np.flatnonzero(grouping.codes == k)
        marks, codes = labels[rows], clusters[rows]
        counted = _counts(marks, codes)
        few_cases, few_controls = counted["n_case_patients"] < least, counted["n_control_patients"] < least
        fit: NDArray[np.bool_] = ~(few_cases | few_controls)
        low, high = np.full(size, np.nan), np.full(size, np.nan)
        if fit.any():
            chosen = np.flatnonzero(fit)
            result, pieces = auc_shares(scores[np.ix_(rows, chosen)], marks[:, chosen], clusters=codes,
                                        level=config.level)
            area[k, chosen], error[k, chosen] = result.auc, result.se * scale[chosen]
            df[k, chosen] = result.df
            whom = np.unique(codes)
            share[k][np.ix_(chosen, whom)] = pieces * np.nan_to_num(scale[chosen, None])
            if factor is not None:
                result = inflate(result, scale[chosen], method="")
            low[chosen], high[chosen] = result.low, result.high
        status = np.where(few_cases, "too_few_cases", np.where(few_controls, "too_few_controls", "tested"))
        blocks.append({"level": level, "level_order": k + 1, "status": status, **counted, "auc": area[k],
                       "auc_se": error[k], "auc_low": low, "auc_high": high})
    known = np.flatnonzero(grouping.codes >= 0)
    tested = [_heterogeneity(area[:, j], error[:, j], df[:, j], share[:, j]) for j in range(size)]
    whole = np.array(tested, dtype=np.float64).reshape(size, 5)
    blocks.insert(0, {
        "level": "", "level_order": 0, "status": np.where(whole[:, 0] >= 2, "tested", "too_few_groups"),
        **_counts(labels[known], clusters[known]), "n_levels": whole[:, 0].astype(np.int64), "statistic": whole[:, 1],
        "df1": whole[:, 2], "df2": whole[:, 3], "p_value": whole[:, 4],
    })
    parts = []
    for block in blocks:
        frame = pl.DataFrame({"phenotype": names}).with_columns(
            pl.lit(grouping.variable).alias("variable"),
            *(pl.lit(v).alias(k) if np.ndim(v) == 0 else pl.Series(k, np.asarray(v).tolist())
              for k, v in block.items()))
        missing = [pl.lit(None).alias(name) for name in Subgroups.columns() if name not in frame.columns]
        frame = frame.with_columns(missing).select(pl.col(n).cast(t) for n, t in Subgroups.dtypes().items())
        parts.append(frame.with_columns(pl.col(pl.Float64).fill_nan(None)))
    return pl.concat(parts)


def _counts(labels: NDArray[Any], clusters: NDArray[np.intp]) -> dict[str, NDArray[np.int64]]:
    return {
        "n_patients": patients_with(labels >= 0, clusters),
        "n_cases": (labels == 1).sum(axis=0, dtype=np.int64),
        "n_controls": (labels == 0).sum(axis=0, dtype=np.int64),
        "n_case_patients": patients_with(labels == 1, clusters),
        "n_control_patients": patients_with(labels == 0, clusters),
    }


def _heterogeneity(
    area: Floats, error: Floats, df: Floats, share: NDArray[np.float32]
) -> tuple[float, float, float, float, float]:
    """Return groups compared, F, its two df and p."""
    good = np.flatnonzero((area > 0) & (area < 1) & (error > 0) & np.isfinite(df))
    k = len(good)
    nan = float("nan")
    if k < 2:
        return k, nan, nan, nan, nan
    pieces = share[good].astype(np.float64)
    covariance = pieces @ pieces.T
    np.fill_diagonal(covariance, error[good] ** 2)
    slope = 1 / (area[good] * (1 - area[good]))
    covariance *= slope[:, None] * slope[None, :]
    contrast = np.eye(k)[1:] - np.eye(k)[:1]
    gap = contrast @ special.logit(area[good])
    try:
        chi2 = float(gap @ np.linalg.solve(contrast @ covariance @ contrast.T, gap))
    except np.linalg.LinAlgError:
        return k, nan, nan, nan, nan
    statistic, below = max(chi2, 0.0) / (k - 1), float(df[good].min())
    return k, statistic, k - 1.0, below, float(stats.f.sf(statistic, k - 1, below))


def with_q(frame: pl.DataFrame, *, family: dict[str, bool]) -> pl.DataFrame:
    """Fill `q_fdr` of the whole rows: Benjamini-Hochberg per variable over the family, on tests that could be made."""
    if frame.is_empty():
        return frame
    whole = pl.col("level") == ""
    parts = []
    for part in frame.partition_by("variable", maintain_order=True):
        p = part.select(pl.when(whole).then("p_value")).to_series().fill_null(float("nan")).to_numpy()
        inside = np.array([family[name] for name in part["phenotype"].to_list()]) & ~np.isnan(p)
        parts.append(part.with_columns(q_fdr=pl.Series(benjamini_hochberg(p, family=inside)).fill_nan(None)))
    return pl.concat(parts)
