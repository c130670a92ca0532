#!/usr/bin/env bash
# From installed environment to report on the built-in cohort, then the table's best rows.
set -euo pipefail
phewas run --cohort demo --out phewas-runs/quickstart
python - <<'PY'
import polars as pl

table = pl.read_parquet("phewas-runs/quickstart/results/phenotypes.parquet")
columns = ["phenotype", "description", "n_case_patients", "auc", "auc_low", "auc_high", "q_fdr", "baseline_auc", "delta_auc"]
print(table.filter(pl.col("auc").is_not_null()).sort("auc", descending=True).select(columns).head(10))
PY
