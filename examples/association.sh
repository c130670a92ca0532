#!/usr/bin/env bash
# From codes and a genotype to a phenome-wide association study; then an encoder's own scores, adjusted for age and sex.
set -euo pipefail
work=${1:-phewas-runs/association}
mkdir -p "$work"

# Made-up persons: a variant with an effect on atrial fibrillation, and their codes with dates.
python - "$work" <<'PY'
import sys

import numpy as np
import polars as pl

rng = np.random.default_rng(0)
n = 4_000
dose = rng.binomial(2, 0.3, n)
ids = [f"p{k:05d}" for k in range(n)]
pl.DataFrame({"person_id": ids, "rs0000001": dose, "age": rng.uniform(20, 90, n).round(1),
              "sex": rng.choice(["F", "M"], n), "site": rng.choice(["north", "south", "west"], n),
              }).write_csv(f"{sys.argv[1]}/persons.csv")
codes = {"I48.91": 0.05 * 1.5**dose, "E11.9": np.full(n, 0.12), "I10": np.full(n, 0.3), "N18.3": np.full(n, 0.04)}
rows = [(ids[k], code, "ICD10CM", f"{2015 + visit}-03-0{visit + 1}")
        for code, risk in codes.items() for k in np.flatnonzero(rng.random(n) < risk) for visit in range(3)]
pl.DataFrame(rows, schema=["person_id", "code", "vocabulary", "date"], orient="row").write_csv(f"{sys.argv[1]}/codes.csv")
PY

# Counts alone, so that whoever has no code at all is a control.
phewas map "$work/codes.csv" --no-labels --out "$work/phenotypes"
phewas associate "$work/persons.csv" --phenotypes "$work/phenotypes" --predictor rs0000001 \
    --covariates age,sex,site --out "$work/genotype.csv"

# A run directory: each phenotype on its own score, per standard deviation.
phewas run --cohort demo --fit probe --out "$work/demo"
phewas associate --phenotypes "$work/demo" --covariates age,sex --out "$work/score.csv"

python - "$work" <<'PY'
import sys

import polars as pl

columns = ["phenotype", "description", "n_cases", "beta", "SE", "OR", "p", "q_fdr", "note"]
for name in ("genotype", "score"):
    table = pl.read_csv(f"{sys.argv[1]}/{name}.csv", infer_schema_length=None, schema_overrides={"phenotype": pl.String})
    print(table.filter(pl.col("p").is_not_null()).sort("p").select(columns).head(5))
PY
