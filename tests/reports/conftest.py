"""Synthetic results and whole run directories, built through the table contracts."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from phewas.reports import ReportMeta
from phewas.schema import (
    Calibration,
    CalibrationBins,
    ChapterResults,
    Controls,
    ControlSummary,
    CrossAuc,
    Curves,
    Definitions,
    Flow,
    Multiplicity,
    NetBenefit,
    OperatingPoints,
    Overview,
    PhenotypeResults,
    Phenotypes,
    Rejects,
    RivalInputs,
    Rivals,
    Specificity,
    Splits,
    Subgroups,
    Unmapped,
)

CHAPTERS = (
    "infectious diseases", "neoplasms", "endocrine/metabolic", "hematopoietic", "mental disorders", "neurological",
    "sense organs", "circulatory system", "respiratory", "digestive", "genitourinary", "pregnancy complications",
    "dermatologic", "musculoskeletal", "congenital anomalies", "symptoms", "injuries & poisonings",
)


def one(phenotype: str = "250.2", **values: Any) -> dict[str, Any]:
    """Return one tested row; `values` replace its cells."""
    row = {
        "phenotype": phenotype, "description": f"Disease {phenotype}", "chapter": "neoplasms", "chapter_order": 2,
        "sex": "both", "vocabulary": "phecode 1.2", "label_window": "through_visit", "status": "tested", "flags": "",
        "unit": "encounter", "n_patients": 1003, "n_cases": 133, "n_controls": 1017, "n_excluded": 27,
        "n_case_patients": 104, "n_control_patients": 899, "prevalence": 133 / 1150, "auc": 0.71234, "auc_se": 0.0251,
        "auc_low": 0.66123, "auc_high": 0.76987, "ci_method": "logit", "p_value": 1.23456e-9, "neg_log10_p": 8.9085,
        "p_test": "z", "df": 102.3, "q_fdr": 0.00123456, "p_bonferroni": 1e-7, "average_precision": 0.3,
        "ap_lift": 2.59, "baseline_auc": 0.65, "baseline_low": 0.6, "baseline_high": 0.7, "delta_auc": 0.06234,
        "delta_se": 0.02, "delta_low": 0.02, "delta_high": 0.1, "delta_p": 0.002, "delta_q": 0.01,
        "min_detectable_auc": 0.58,
    }
    return row | values


def many(
    n: int, *, chapters: tuple[str, ...] = CHAPTERS, seed: int = 0, tested: float = 0.8, **values: Any
) -> pl.DataFrame:
    """Return `n` phenotypes over `chapters`, a share of them tested."""
    random, rows = np.random.default_rng(seed), []
    for i in range(n):
        place = i * len(chapters) // n
        cases = int(np.exp(random.uniform(math.log(20), math.log(5000))))
        auc, delta = float(np.clip(0.5 + abs(random.normal(0.06, 0.07)), 0.4, 0.95)), float(random.normal(0, 0.04))
        se = 0.29 / math.sqrt(cases)
        row = one(
            f"{8 + i // 2}.{1 + i % 2}", description=f"Disease of {chapters[place]} number {i}",
            chapter=chapters[place], chapter_order=place + 1, n_case_patients=cases, n_cases=cases + cases // 10,
            auc=auc, auc_low=max(0.0, auc - 1.96 * se), auc_high=min(1.0, auc + 1.96 * se),
            q_fdr=math.erfc(abs(auc - 0.5) / se / math.sqrt(2)), delta_auc=delta, delta_q=0.01 if delta > 0.05 else 0.5,
        )
        if random.random() >= tested:
            blank = {k: None for k, c in PhenotypeResults.columns().items() if c.nullable}
            row |= blank | {"status": "too_few_cases", "n_case_patients": int(random.integers(0, 20)), "n_cases": 19}
        rows.append(row | values)
    return PhenotypeResults.build(rows)


def write_run(run: Path, results: pl.DataFrame, **tables: pl.DataFrame) -> Path:
    """Write every table that the report reads; `tables` replace the usual ones by name."""
    PhenotypeResults.write(results, run)
    names = ("phenotype", "description", "chapter", "chapter_order", "sex", "vocabulary", "same_as")
    Phenotypes.write(results.select(names), run)
    chapters = results.group_by("chapter", maintain_order=True).agg(
        pl.col("chapter_order").first(), n_phenotypes=pl.len().cast(pl.Int64),
        n_tested=(pl.col("status") == "tested").sum().cast(pl.Int64), n_significant=pl.lit(1, pl.Int64),
        n_auc_70=pl.lit(1, pl.Int64), mean_auc=pl.col("auc").mean(), median_auc=pl.col("auc").median(),
        n_beats_baseline=pl.lit(0, pl.Int64),
    )
    further = {n: pl.lit(1 if t == pl.Int64 else None, t) for n, t in ChapterResults.dtypes().items()}
    ChapterResults.write(chapters.with_columns(**{n: v for n, v in further.items() if n not in chapters.columns}), run)
    Overview.write(tables.get("overview", Overview.build([
        {"measure": "mean_auc", "value": 0.64321, "meaning": "mean AUC of the tested"},
        {"measure": "n_held_out_patients", "value": 1003.0, "meaning": "patients scored"},
        {"measure": "n_auc_50", "value": 41.0, "low": 37.2, "high": 44.1, "meaning": "tested with AUC > 0.50"},
        {"measure": "n_auc_60", "value": 20.0, "low": 16.5, "high": 23.5, "meaning": "tested with AUC >= 0.60"},
        {"measure": "n_auc_70", "value": 8.0, "low": 4.1, "high": 9.9, "meaning": "tested with AUC >= 0.70"},
        {"measure": "n_auc_70_joint", "value": 3.0, "meaning": "with joint confidence"},
    ])), run)
    Flow.write(tables.get("flow", Flow.build([
        {"step": "cohort", "unit": "encounters", "n_in": 4321, "n_out": 3210, "reason": "no PPG recording"},
        {"step": "segments", "unit": "encounters", "n_in": 3210, "n_out": 3099, "reason": "no usable window"},
    ])), run)
    sides = ["train"] * 333 + ["tuning"] * 44 + ["held_out"] * 111
    Splits.write(tables.get("splits", Splits.build(
        {"patient_id": f"SECRET{i}", "split": s, "why": "by date"} for i, s in enumerate(sides)
    )), run)
    Rejects.write(tables.get("rejects", Rejects.build(
        {"table": "diagnoses", "source": "pmh", "source_row": i, "reason": "placeholder_code"} for i in range(1234)
    )), run)
    Unmapped.write(tables.get("unmapped", Unmapped.build([
        {"code": "Z00.0", "vocabulary": "ICD10CM", "n_rows": 456, "n_patients": 321, "reason": "not in the map"},
    ])), run)
    for name, table in FURTHER.items():
        if name in tables:
            table.write(tables[name], run)
    (run / "cohort" / "disjointness.json").write_text(json.dumps({
        "rule": "by date", "intersection": [], "contamination": "cannot be excluded", "note": "Unknown source.",
        "counts": {"train": {"patients": 333, "encounters": 777}},
    }))
    (run / "model").mkdir(exist_ok=True)
    (run / "model" / "history.csv").write_text(
        "epoch,train_loss,tuning_loss,tuning_auc,seconds\n1,0.7,0.69,0.55,3\n2,0.6,nan,0.61234,3\n3,,0.61,,3\n"
    )
    return run


def group(phenotype: str, variable: str, level: str, order: int, **values: Any) -> dict[str, Any]:
    """Return one group of patients of a phenotype; `values` replace its cells."""
    return {
        "phenotype": phenotype, "variable": variable, "level": level, "level_order": order, "status": "tested",
        "n_patients": 500, "n_cases": 70, "n_controls": 480, "n_case_patients": 60, "n_control_patients": 440,
        "auc": 0.71234, "auc_se": 0.03, "auc_low": 0.65, "auc_high": 0.77,
    } | values


def further(results: pl.DataFrame, *, seed: int = 0, most: int | None = None) -> dict[str, pl.DataFrame]:
    """Return the tables that stand beside the main one, drawn at random, for the tested phenotypes."""
    random = np.random.default_rng(seed)
    tested = results.filter((pl.col("status") == "tested") & pl.col("auc").is_not_null())
    names = tested.get_column("phenotype").to_list()[:most]
    groups, points, bins, fits, operating, specific = [], [], [], [], [], []
    x = np.round(np.linspace(0, 1, 150), 4)
    for name, auc in zip(names, tested.get_column("auc").to_list()[:most], strict=True):
        for variable, levels in (("sex", ("F", "M")), ("age", ("under 40", "40 to under 60", "75 and over")),
                                 ("race", ("White", "Black or African American", "Asian", "Other"))):
            groups.append(group(name, variable, "", 0, n_levels=len(levels), statistic=1.5, df1=len(levels) - 1.0,
                                df2=80.0, p_value=0.21, q_fdr=0.6))
            for i, level in enumerate(levels, 1):
                own = float(np.clip(auc + random.normal(0, 0.03), 0.3, 0.99))
                groups.append(group(name, variable, level, i, auc=own, auc_low=own - 0.06, auc_high=own + 0.06))
        y = x ** ((1 - auc) / max(auc, 1e-6))
        for curve, high in (("roc", y), ("pr", np.linspace(0.6, 0.1, len(x)))):
            points.append(pl.DataFrame({"phenotype": name, "curve": curve, "point": np.arange(len(x), dtype=np.int16),
                                        "x": x, "y": high}, schema=Curves.dtypes()))
        for b in range(10):
            p = 0.02 + 0.03 * b
            bins.append({"phenotype": name, "bin": b, "n": 1800, "n_cases": int(1800 * p), "predicted": p,
                         "observed": p * 1.1, "low": p * 0.8, "high": p * 1.4})
        fits.append({"phenotype": name, "status": "raw", "n_cases": 133, "n_controls": 1017, "mean_predicted": 0.1,
                     "observed": 0.11, "oe_ratio": 1.1, "intercept": 0.02, "slope": 0.9, "slope_low": 0.8,
                     "slope_high": 1.0, "ece": 0.01, "brier": 0.09, "brier_skill": 0.05})
        operating.append({"phenotype": name, "specificity": 0.9, "reached": 0.9, "sensitivity": 0.3, "low": 0.2,
                          "high": 0.4})
        specific.append({"phenotype": name, "anchors": "401; 250", "auc": auc, "anchor_auc": auc - 0.02})
    heads = names[:40]
    return {
        "subgroups": Subgroups.build(groups), "curves": pl.concat(points) if points else Curves.empty(),
        "bins": CalibrationBins.build(bins), "calibration": Calibration.build(fits),
        "operating": OperatingPoints.build(operating), "specificity": Specificity.build(specific),
        "cross": CrossAuc.build({"score_of": a, "phenotype": b, "auc": 0.75 if a == b else random.uniform(0.45, 0.7)}
                                for a in heads for b in heads),
        "multiplicity": Multiplicity.build([
            {"question": "auc", "method": "benjamini_hochberg", "controls": "false discovery rate", "alpha": 0.05,
             "n_family": len(names), "n_above": len(names) // 2, "n_below": 0}]),
    }


FURTHER = {"subgroups": Subgroups, "curves": Curves, "bins": CalibrationBins, "calibration": Calibration,
           "operating": OperatingPoints, "specificity": Specificity, "cross": CrossAuc, "multiplicity": Multiplicity,
           "definitions": Definitions, "rivals": Rivals, "told": RivalInputs, "controls": Controls,
           "control_summary": ControlSummary, "benefit": NetBenefit}


@pytest.fixture
def row() -> Callable[..., dict[str, Any]]:
    return one


@pytest.fixture
def phenome() -> Callable[..., pl.DataFrame]:
    return many


@pytest.fixture
def make_run(tmp_path: Path) -> Callable[..., Path]:
    return lambda results, **tables: write_run(tmp_path / "run", results, **tables)


@pytest.fixture
def about() -> ReportMeta:
    return ReportMeta(
        cohort="demo", cohort_title="Demo cohort", encoder="net", version="0.1.0", fit="probe", seed=3,
        encoder_card={"licence": "MIT"}, command="phewas run --cohort demo",
        settings={"phenotypes": {"min_code_days": 2, "control_exclusions": True}, "weights": None},
        warnings=["The encoder is untrained."],
    )


@pytest.fixture(name="group")
def _group() -> Callable[..., dict[str, Any]]:
    return group


@pytest.fixture(name="further")
def _further() -> Callable[..., dict[str, pl.DataFrame]]:
    return further
