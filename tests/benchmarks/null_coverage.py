"""A run on an emulated hospital: are planted diseases found in their order, and do nulls keep 0.5 in their interval?

python tests/benchmarks/null_coverage.py --patients 2000 --nulls 200                  # probe of pulse-features
python tests/benchmarks/null_coverage.py --patients 2000 --nulls 200 --fit finetune --encoder net1d-small

Null phenotypes are drawn by patient (all encounters of a patient alike, 3 to 30 %), independent of signal, age and sex;
they are trained, scored and tested as all others. One run's nulls share one model and one test side, so that their
number inside the interval spreads more than that of independent tests: give several --seeds.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
import polars as pl

from phewas import settings
from phewas.cohorts.emulator.mcmed import emulate_mcmed
from phewas.cohorts.emulator.options import options
from phewas.learning.step import learn
from phewas.learnstep import job
from phewas.pipeline import run
from phewas.plan import plan
from phewas.rundir import write_npy
from phewas.schema import LABELS_PATH, LabelColumns, LabelRows, PhenotypeResults, Phenotypes
from phewas.seeds import generator
from phewas.stats.evaluate import evaluate


def add_nulls(folder: Path, count: int, seed: int) -> None:
    """Append null phenotypes to the labels of a run."""
    labels, rows = np.load(folder / LABELS_PATH), LabelRows.read(folder)
    rng = generator("nulls", seed)
    patients = rows["patient_id"].unique().sort()
    place = rows["patient_id"].replace_strict(patients, pl.int_range(len(patients), eager=True)).to_numpy()
    drawn = rng.random((len(patients), count)) < rng.uniform(0.03, 0.3, count)
    write_npy(np.concatenate([labels, drawn[place].astype(np.int8)], axis=1), folder / LABELS_PATH)
    names = [f"null-{i:03d}" for i in range(count)]
    columns, table = LabelColumns.read(folder), Phenotypes.read(folder)
    LabelColumns.write(pl.concat([columns, pl.DataFrame({"phenotype": names}, schema=columns.schema)]), folder)
    more = pl.concat([table.head(1)] * count).with_columns(
        pl.Series("phenotype", names), pl.Series("description", names), pl.lit("both").alias("sex"),
        pl.lit(None, dtype=pl.String).alias("same_as"),
    )  # fmt: skip
    Phenotypes.write(pl.concat([table, more]), folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--patients", type=int, default=2000)
    parser.add_argument("--nulls", type=int, default=200)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--fit", default="probe")
    parser.add_argument("--encoder", default="pulse-features")
    parser.add_argument("--heldout", default="random:0.4")
    parser.add_argument("--segments", type=int, default=10)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--workers", type=int, default=1)
    asked = parser.parse_args()
    inside, total = 0, 0
    for seed in range(asked.seeds):
        with tempfile.TemporaryDirectory() as scratch:
            root = Path(scratch) / "mc-med"
            emulate_mcmed(root, options=options("demo", patients=asked.patients), seed=seed, workers=asked.workers)
            config = settings.resolve(
                {"cohort": "mcmed", "data": root, "encoder": asked.encoder, "fit": asked.fit, "heldout": asked.heldout,
                 "seed": seed, "workers": asked.workers, "segments": {"n_segments": asked.segments},
                 "learn": {"epochs": asked.epochs, "segments_per_encounter": asked.segments}}, None,
            )  # fmt: skip
            made = plan(config, out=Path(scratch) / "run", command="null_coverage")
            run(made, until="segments")
            add_nulls(made.out, asked.nulls, seed)
            learn(job(made, "f" * 32))
            evaluate(made.out, config=config.evaluate, seed=seed, label_window=config.phenotypes.label_window)
            results = PhenotypeResults.read(made.out).filter(pl.col("status") == "tested")
        nulls = results.filter(pl.col("phenotype").str.starts_with("null-"))
        kept = nulls.filter((pl.col("auc_low") <= 0.5) & (pl.col("auc_high") >= 0.5)).height
        inside, total = inside + kept, total + nulls.height
        print(f"seed {seed}: {kept} of {nulls.height} nulls keep 0.5 in their interval ({kept / nulls.height:.1%})")
        print(f"  mean AUC of nulls {nulls['auc'].mean():.4f}, standard deviation {nulls['auc'].std():.4f}")
        best = results.sort("auc_low", descending=True).head(12)
        for row in best.select("phenotype", "description", "auc", "auc_low", "auc_high").iter_rows():
            print(f"  {row[0]:<9} {row[1][:40]:<40} {row[2]:.3f} ({row[3]:.3f} to {row[4]:.3f})")
    print(f"all: {inside} of {total} = {inside / total:.1%} (asked: 93 to 97 %)")


if __name__ == "__main__":
    main()
