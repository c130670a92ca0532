#!/usr/bin/env bash
# Two hospitals judge one model. Inside one trust boundary their encounters are joined; across it only tables travel.
set -euo pipefail
work=${1:-phewas-runs/sites}
mkdir -p "$work"

# Made-up scores of 4,000 encounters of 2,600 patients; 300 patients were seen at both hospitals.
python - "$work" <<'PY'
import sys

import numpy as np
import polars as pl

rng = np.random.default_rng(0)
own = {"oslo": rng.integers(0, 1500, 2000), "rome": rng.integers(1200, 2600, 2000)}
sick = {"411.2": rng.random(2600) < 0.12, "427.2": rng.random(2600) < 0.08, "585.3": rng.random(2600) < 0.05}
for site, patients in own.items():
    ids = [f"{site}-{k}" for k in range(len(patients))]
    labels, scores = {"encounter_id": ids}, {"encounter_id": ids}
    for effect, (phenotype, case) in enumerate(sick.items()):
        labels[phenotype] = case[patients].astype(int)
        scores[phenotype] = rng.normal(size=len(ids)) + (0.3 + 0.4 * effect) * case[patients]
    pl.DataFrame({"encounter_id": ids, "patient_id": [f"p{p}" for p in patients]}).write_csv(f"{sys.argv[1]}/{site}-people.csv")
    pl.DataFrame(labels).write_csv(f"{sys.argv[1]}/{site}-labels.csv")
    pl.DataFrame(scores).write_csv(f"{sys.argv[1]}/{site}-scores.csv")
PY

for site in oslo rome; do
    phewas evaluate --predictions "$work/$site-scores.csv" --labels "$work/$site-labels.csv" \
        --patients "$work/$site-people.csv" --vocabulary phecode1.2 --out "$work/$site"
done

# Exact: the rows of both, a patient of both counted as one patient.
phewas evaluate --combine "$work/oslo" --combine "$work/rome" --out "$work/joined"

# Without any row: each site sends report/tables/phenotypes.csv, in which small cells are hidden.
phewas evaluate --combine "$work/oslo/report/tables/phenotypes.csv" \
    --combine "$work/rome/report/tables/phenotypes.csv" --out "$work/pooled"
cat "$work/pooled/meta.csv"
