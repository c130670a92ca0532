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
    ChapterResults,
    Flow,
    Overview,
    PhenotypeResults,
    Phenotypes,
    Rejects,
    Splits,
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
    (run / "cohort" / "disjointness.json").write_text(json.dumps({
        "rule": "by date", "intersection": [], "contamination": "cannot be excluded", "note": "Unknown source.",
        "counts": {"train": {"patients": 333, "encounters": 777}},
    }))
    (run / "model").mkdir(exist_ok=True)
    (run / "model" / "history.csv").write_text(
        "epoch,train_loss,tuning_loss,tuning_auc,seconds\n1,0.7,0.69,0.55,3\n2,0.6,nan,0.61234,3\n3,,0.61,,3\n"
    )
    return run


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
