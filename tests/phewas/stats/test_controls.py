"""Control phenotypes: seen negative controls are told, unseen ones are not, and identical labels count once."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from scipy import stats

from phewas.schema import PhenotypeResults
from phewas.stats.controls import control_tables
from phewas.stats.estimates import Drawn
from phewas.stats.summary import Resampled

SE = 0.03


def results_of(areas: dict[str, float], *, tested: bool = True, same: dict[str, str] | None = None) -> pl.DataFrame:
    rows = []
    for name, area in areas.items():
        p = float(2 * stats.norm.sf(abs(area - 0.5) / SE))
        rows.append({
            "phenotype": name, "description": name, "chapter": "A", "chapter_order": 1, "sex": "both",
            "vocabulary": "t 1", "label_window": "any", "status": "tested" if tested else "too_few_cases", "flags": "",
            "unit": "encounter", "n_patients": 900, "n_cases": 90, "n_controls": 800, "n_excluded": 0,
            "n_case_patients": 90, "n_control_patients": 800, "auc": area, "auc_se": SE, "auc_low": area - 1.96 * SE,
            "auc_high": area + 1.96 * SE, "p_value": p, "q_fdr": p, "delta_low": area - 0.62,
            "same_as": (same or {}).get(name),
        })
    return PhenotypeResults.build(rows)


def summed(results: pl.DataFrame, kinds: dict[str, str], *, common: float = 0.0) -> dict[str, dict]:
    rng = np.random.default_rng(0)
    n = results.height
    moves = SE * (np.sqrt(common) * rng.normal(size=(4000, 1)) + np.sqrt(1 - common) * rng.normal(size=(4000, n)))
    drawn = Drawn(moves.astype(np.float32), np.full(n, SE), moves.astype(np.float32), np.full(n, SE))
    names = results["phenotype"].to_list()
    listed = pl.DataFrame({"phenotype": list(kinds), "kind": list(kinds.values()), "reason": "because"})
    each, table = control_tables(results, listed, Resampled(results, drawn, names, None, level=0.95), level=0.95)
    assert each.height == len(set(kinds) & set(names))
    return {row["kind"]: row for row in table.iter_rows(named=True)}


def test_unseen_and_seen_controls():
    rng = np.random.default_rng(2)
    null = {f"n{k}": 0.5 + SE * z for k, z in enumerate(rng.normal(size=15))}
    good = {f"p{k}": 0.8 for k in range(5)}
    kinds = dict.fromkeys(null, "negative") | dict.fromkeys(good, "positive") | {"elsewhere": "negative"}
    found = summed(results_of(null | good), kinds)
    negative, positive = found["negative"], found["positive"]
    assert (negative["n_listed"], negative["n_tested"]) == (15, 15)
    assert negative["looks_seen"] is False
    assert negative["median_auc"] == pytest.approx(np.median(list(null.values())))
    assert negative["median_low"] < 0.5 < negative["median_high"]
    assert (positive["n_above"], positive["share_above"], positive["n_significant"]) == (5, 1.0, 5)
    assert positive["n_beyond_age_sex"] == 5
    assert positive["median_low"] > 0.7
    shifted = {name: area + 0.05 for name, area in null.items()}
    seen = summed(results_of(shifted | good), kinds)["negative"]
    assert seen["looks_seen"] is True
    assert seen["p_excess"] == pytest.approx(stats.binomtest(seen["n_above"], 15, 0.025, "greater").pvalue)


def test_common_patients_widen_the_median():
    areas = {f"n{k}": 0.54 for k in range(9)}
    kinds = dict.fromkeys(areas, "negative")
    apart, together = (summed(results_of(areas), kinds, common=c)["negative"] for c in (0.0, 1.0))
    assert together["median_high"] - together["median_low"] == pytest.approx(2 * 1.96 * SE, rel=0.05)
    assert apart["median_high"] - apart["median_low"] < 0.6 * (together["median_high"] - together["median_low"])
    assert apart["looks_seen"] is True  # nine witnesses agree
    assert together["looks_seen"] is False  # one witness, nine times


def test_identical_labels_count_once_and_untested_ones_not():
    areas = {"a": 0.7, "b": 0.7, "c": 0.5}
    found = summed(results_of(areas, same={"b": "a"}), dict.fromkeys(areas, "negative"))["negative"]
    assert (found["n_listed"], found["n_tested"], found["n_above"]) == (3, 2, 1)
    spoken = summed(results_of(areas, same={"b": "a"}), {"b": "negative"})["negative"]
    assert (spoken["n_listed"], spoken["n_tested"], spoken["median_auc"]) == (1, 1, 0.7)
    none = summed(results_of({"a": 0.5}, tested=False), {"a": "negative"})["negative"]
    assert (none["n_listed"], none["n_tested"], none["median_auc"], none["looks_seen"]) == (1, 0, None, None)
