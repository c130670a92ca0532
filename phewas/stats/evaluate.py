"""Predictions become results: the evaluate step of a run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import polars as pl

from phewas.config import EvaluateConfig
from phewas.errors import ConfigError, SchemaError
from phewas.schema import (
    Controls,
    ControlSummary,
    Multiplicity,
    PhenotypeResults,
    Phenotypes,
    RivalInputs,
    Rivals,
)
from phewas.stats.assemble import Family, assemble
from phewas.stats.controls import control_tables
from phewas.stats.counts import count, representatives
from phewas.stats.details import details
from phewas.stats.estimates import estimate, infer, read_null
from phewas.stats.joint import judge_together, multiplicity
from phewas.stats.multiplicity import benjamini_hochberg, benjamini_yekutieli, bonferroni, holm
from phewas.stats.rival_inputs import Inputs
from phewas.stats.rivals import FLAG, Prepare, explained, measures
from phewas.stats.rivals import rivals as hold_against
from phewas.stats.shift import write_shift
from phewas.stats.summary import Resampled, write_summary
from phewas.stats.tails import Floats
from phewas.stats.units import read_units

CONTROL_COLUMNS = {"phenotype": pl.String, "kind": pl.String, "reason": pl.String}
LABEL_WINDOWS = ("history", "through_visit", "any", "future")


def evaluate(
    run: Path, *, config: EvaluateConfig, seed: int, label_window: str, rivals: Sequence[Inputs] = (),
    prepare: Prepare | None = None, controls: pl.DataFrame | None = None,
) -> None:
    """Write the tables below ``results/`` of a run: phenotypes and everything in `phewas.schema.results`.

    Parameters
    ----------
    run
        Run directory with cohort, splits, phenotypes and predictions.
    config
        Unit, case policy and level.
    seed
        The run's seed, of the patient draws; permutations were drawn by the learning step.
    label_window
        Which diagnoses made the labels: history, through_visit, any or future.
    rivals, prepare
        What each rival is told, and what makes its columns ready for fitting (`phewas.learning.probe.Prepared.of`).
    controls
        Control phenotypes: phenotype, kind, reason (`phewas.mappings.controls`).

    Raises
    ------
    ConfigError
        The label window is unknown.
    SchemaError
        A table or array is missing or does not fit the others.
    SplitError
        A scored patient is on the training side, or predictions contradict the splits.
    StatisticsError
        A case or control has no score.

    Notes
    -----
    Every phenotype of the vocabulary keeps a row; what is not tested has counts, a reason and no estimate. The family
    for multiplicity is fixed from counts alone: tested phenotypes, those with identical labels once. Rows that share
    their labels with another get the q and Bonferroni p of the one that stands for them and the flag ``same_labels``.
    Without any training patient in the splits (predictions from elsewhere) there is no baseline and no training count.
    """
    if label_window not in LABEL_WINDOWS:
        raise ConfigError(f"label window {label_window!r} is unknown", expected=" / ".join(LABEL_WINDOWS))
    units = read_units(run, unit=config.unit)
    phenotypes = Phenotypes.read(run)
    strange = [name for name in units.label_of if name not in set(phenotypes["phenotype"])]
    if strange:
        raise SchemaError(f"{len(strange)} labelled phenotypes are not in the vocabulary table, such as {strange[0]}",
                          expected="label columns from the same vocabulary")
    counts = count(units, phenotypes, config=config)
    tested = (counts["status"] == "tested").to_numpy()
    stand_in = representatives(phenotypes, tested)
    family = Family(tested, tested & (stand_in == np.arange(len(tested))), stand_in)
    names = phenotypes["phenotype"].filter(pl.Series(tested)).to_list()
    members = family.members[family.rows]

    found, drawn = estimate(units, phenotypes.filter(pl.Series(tested)), config=config, seed=seed)
    null = read_null(run, units)
    found, flags, factor = infer(found, null, cross=units.folds is not None, names=names)
    joint = judge_together(found, drawn, members, level=config.level, factor=factor, null=null, names=names)
    few = (counts["n_case_patients"] < config.few_cases).to_numpy()[family.rows]
    sex = phenotypes["sex"].filter(pl.Series(tested)).to_numpy().astype(str)
    beside = details(run, units, names, sex, found, family=members, few=few, factor=factor, config=config, seed=seed)
    against, told = Rivals.empty(), RivalInputs.empty()
    if prepare is not None:
        place = np.cumsum(tested) - 1
        against, told = hold_against(
            units, names, rivals, prepare=prepare, family=members, stand_in=place[stand_in[family.rows]], factor=factor,
            level=config.level)
    doubtful = explained(against)
    for name, listed in zip(names, flags, strict=True):
        listed += [FLAG] if name in doubtful else []
    results = assemble(
        phenotypes, counts, found, joint, beside.precision, beside.prevalence, beside.calibration, flags, family,
        config=config, window=label_window)
    PhenotypeResults.write(results, run)
    beside.write(run)
    Rivals.write(against, run)
    RivalInputs.write(told, run)
    own = results.filter(pl.Series(family.members))
    Multiplicity.write(multiplicity(own, joint, adjusted={
        "auc": _ways(found.encoder.p[members], joint.p[members]),
        "delta": _ways(found.difference.p[members], joint.delta_p[members])}), run)
    seen = Resampled(results, drawn, names, factor, level=config.level)
    listed_controls = pl.DataFrame(schema=CONTROL_COLUMNS) if controls is None else controls
    each, summed = control_tables(results, listed_controls, seen, level=config.level)
    Controls.write(each, run)
    ControlSummary.write(summed, run)
    write_summary(run, results, units, config=config, drawn=drawn, names=names, factor=factor,
                  further=measures(against, dict(zip(names, members.tolist(), strict=True))))
    write_shift(run)


def _ways(p: Floats, together: Floats) -> dict[str, Floats]:
    return {
        "none": p, "bonferroni": bonferroni(p), "holm": holm(p), "benjamini_hochberg": benjamini_hochberg(p),
        "benjamini_yekutieli": benjamini_yekutieli(p), "max_t": together,
    }
