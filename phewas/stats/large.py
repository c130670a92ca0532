"""Predictions larger than memory, from files to the table of phenotypes: two passes over row blocks.

What needs all scores at once stays out: baseline, subgroups, curves, bootstrap intervals, max-T.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from phewas.config import EvaluateConfig
from phewas.errors import SchemaError, StatisticsError
from phewas.schema import PhenotypeResults
from phewas.stats.assemble import Family, assemble
from phewas.stats.auc import Auc, Moments, infer_moments
from phewas.stats.compare import Difference
from phewas.stats.counts import case_policy, representatives
from phewas.stats.estimates import Estimates
from phewas.stats.imported import PERSON, describe_phenotypes, keyed, numbers
from phewas.stats.joint import Joint
from phewas.stats.precision import Precision
from phewas.stats.streaming import Block, stream_moments

BYTES_PER_CELL = 25
"""What a score with its label takes while tables are joined in memory: two tables of 8 bytes a cell, and copies."""

BLOCK_BYTES = 200_000_000
"""Of scores and labels read at a time."""


def memory_needed_mb(predictions: Sequence[Path]) -> int:
    """Return about how much memory `phewas.stats.imported.import_predictions` would take for files, in 10^6 bytes."""
    cells = 0
    for file in predictions:
        if file.suffix.lower() == ".parquet":
            frame = pl.scan_parquet(file, hive_partitioning=False)
            cells += int(frame.select(pl.len()).collect().item()) * len(frame.collect_schema())
        else:
            # A number in text takes about ten characters.
            cells += file.stat().st_size // 10
    return cells * BYTES_PER_CELL // 10**6


@dataclass(frozen=True)
class Large:
    """Predictions and labels in Parquet files, row by row the same encounters where `rows` says so.

    Attributes
    ----------
    predictions, labels
        Files, each list one below the other.
    key
        Their column of the encounter.
    names
        Phenotypes that are predicted.
    rows
        int64 [N], row of the labels for each predicted row, ascending.
    clusters
        [N], patient of each predicted row.
    probabilities
        Scores are probabilities: their logits are taken, as they are in memory.
    """

    predictions: list[Path]
    labels: list[Path]
    names: list[str]
    rows: NDArray[np.int64]
    clusters: NDArray[Any]
    probabilities: bool = False

    def blocks(self, digests: list[Any] | None = None) -> Iterator[Block]:
        """Yield blocks of scores and labels; the bytes of each column of labels go to `digests`."""
        step = max(BLOCK_BYTES // (9 * max(len(self.names), 1)), 1)
        scores = pl.scan_parquet(self.predictions, hive_partitioning=False).select(self.names)
        labels = pl.scan_parquet(self.labels, hive_partitioning=False).select(self.names)
        for start in range(0, len(self.rows), step):
            wanted = self.rows[start : start + step]
            read = labels.slice(int(wanted[0]), int(wanted[-1] - wanted[0]) + 1).collect()
            marks = np.empty((len(wanted), len(self.names)), dtype=np.int8, order="F")
            for j, name in enumerate(self.names):
                marks[:, j] = _labels(read[name], name)[wanted - wanted[0]]
                if digests is not None:
                    digests[j].update(np.ascontiguousarray(marks[:, j]).tobytes())
            found = scores.slice(start, len(wanted)).collect()
            values = np.empty(marks.shape, dtype=np.float32, order="F")
            for j, name in enumerate(self.names):
                values[:, j] = numbers(found[name], name, probabilities=self.probabilities)
            yield values, marks


def _labels(column: pl.Series, name: str) -> NDArray[np.int8]:
    """Return labels as int8, -1 where blank."""
    if column.dtype == pl.String:
        raise SchemaError(f"labels of {name!r} hold text", expected="1, 0, and blank or -1 where excluded")
    values = column.cast(pl.Float32).fill_null(-1).fill_nan(-1).to_numpy()
    wrong = ~np.isin(values, (-1, 0, 1))
    if wrong.any():
        raise SchemaError(f"labels of {name!r} hold {values[wrong][0]:g}", expected="1, 0, and blank or -1 where "
                          "excluded")
    return values.astype(np.int8)


def open_large(
    predictions: list[Path], labels: list[Path], patients: pl.DataFrame | None, *, key: str, probabilities: bool = False
) -> tuple[Large, list[str]]:
    """Match Parquet files by encounter, reading only their identifiers; return also what must be told.

    Raises
    ------
    SchemaError
        A column is missing, an encounter occurs twice, has no labels or nobody it belongs to, or the files are not
        sorted alike.
    """
    told = []
    columns = {}
    frames = {}
    for what, files in (("predictions", predictions), ("labels", labels)):
        scanned = pl.scan_parquet(files, hive_partitioning=False)
        columns[what] = scanned.collect_schema().names()
        wanted = [c for c in (key, "patient_id") if c in columns[what]]
        frames[what] = keyed(scanned.select(wanted).collect(), key, what)
    names = [c for c in columns["predictions"] if c != key and c not in PERSON]
    absent = [name for name in names if name not in columns["labels"]]
    if absent or not names:
        raise SchemaError(
            f"{len(absent)} predicted phenotypes have no labels, such as {absent[0]!r}" if absent
            else "the predictions have no phenotype", expected="a column of the same name in the labels",
            cure="rename or drop the column")
    unscored = [c for c in columns["labels"] if c != key and c not in PERSON and c not in set(names)]
    if unscored:
        told.append(f"{len(unscored):,} phenotypes have labels and no predictions, such as {unscored[0]}: left out.")
    who = frames["predictions"].select("encounter_id").join(
        frames["labels"].select("encounter_id").with_row_index("row"), on="encounter_id", how="left",
        maintain_order="left")
    if who["row"].null_count():
        raise SchemaError(f"{who['row'].null_count()} predicted encounters have no labels",
                          expected="a row of labels each", cure="leave them out of the predictions, or label them")
    rows = who["row"].cast(pl.Int64).to_numpy()
    if len(rows) > 1 and (np.diff(rows) < 0).any():
        raise SchemaError("predictions and labels are not in the same order", expected="both sorted alike, since files "
                          "of this size are read block by block", cure=f"sort both by {key}, best by patient first")
    sources = [keyed(patients, key, "patients")] if patients is not None else []
    sources += [frames["labels"], frames["predictions"]]
    source = next((frame for frame in sources if "patient_id" in frame.columns), None)
    if source is None:
        told.append("No patient identifiers were given: every encounter counts as a patient. If patients have "
                    "several encounters, the intervals are too narrow.")
        clusters = who["encounter_id"].to_numpy()
    else:
        owner = who.join(source.select("encounter_id", pl.col("patient_id").cast(pl.String)), on="encounter_id",
                         how="left", maintain_order="left")["patient_id"]
        blank = owner.null_count() + int((owner == "").sum())
        if blank:
            raise SchemaError(f"{blank} predicted encounters have no patient", expected="a patient_id each")
        # Numbers in place of text: a tenth of the memory.
        clusters = owner.rank("dense").to_numpy().astype(np.int64)
    return Large(predictions, labels, names, rows, clusters, probabilities), told


def evaluate_large(
    large: Large, *, config: EvaluateConfig, phenotypes: pl.DataFrame | None, vocabulary: str, memory_mb: int
) -> pl.DataFrame:
    """Return `phewas.schema.PhenotypeResults` of predictions that are read block by block.

    Parameters
    ----------
    large
        From `open_large`.
    config
        Case policy and level.
    phenotypes, vocabulary
        As for `phewas.stats.imported.import_predictions`.
    memory_mb
        As for `phewas.stats.streaming.stream_auc`.

    Returns
    -------
    polars.DataFrame
        The numbers of `phewas.stats.evaluate.evaluate`, to rounding; null where all scores are needed at once (baseline
        and difference, max-T and joint bounds, intervals of prevalence and of average precision, calibration).
    """
    digests = [hashlib.blake2b(digest_size=16) for _ in large.names]
    passes = 0

    def blocks() -> Iterator[Block]:
        nonlocal passes
        passes += 1
        return large.blocks(digests if passes == 1 else None)

    try:
        found = stream_moments(blocks, clusters=large.clusters, memory_mb=memory_mb)
    except StatisticsError as error:
        named = re.sub(r"^column (\d+) ", lambda m: f"phenotype {large.names[int(m[1])]!r} ", error.found)
        raise StatisticsError(named, expected=error.expected, cure=error.cure) from None
    table = describe_phenotypes(large.names, [d.digest() for d in digests], phenotypes, vocabulary=vocabulary)
    counts = case_policy(pl.DataFrame({
        "phenotype": large.names, "n_patients": found.n_clusters, "n_cases": found.n_cases,
        "n_controls": found.n_controls, "n_excluded": len(large.rows) - found.n_cases - found.n_controls,
        "n_case_patients": found.n_case_clusters, "n_control_patients": found.n_control_clusters,
        "n_train_case_patients": pl.Series([None] * len(large.names), dtype=pl.Int64)}), large.names, config=config)
    tested = (counts["status"] == "tested").to_numpy()
    stand_in = representatives(table, tested)
    family = Family(tested, tested & (stand_in == np.arange(len(tested))), stand_in)
    own = infer_moments(Moments(*(value[tested] for value in vars(found).values())), clustered=True, level=config.level)
    flags = [["zero_variance"] if zero else [] for zero in own.zero_variance]
    none = np.full(len(own), np.nan)
    results = assemble(
        table, counts, _without_baseline(own), Joint(none, none, none, float("nan"), none, float("nan")),
        Precision(none, none, none, none, none, none), (none, none),
        pl.DataFrame(schema={"phenotype": pl.String, "brier": pl.Float64, "brier_skill": pl.Float64}), flags, family,
        config=config, window="any")
    return PhenotypeResults.check(results)


def _without_baseline(own: Auc) -> Estimates:
    """Return the encoder's AUCs beside a baseline of nothing."""
    none = np.full(len(own), np.nan)
    blank: dict[str, Any] = {name: none for name, value in vars(own).items()
                             if isinstance(value, np.ndarray) and value.dtype == np.float64}
    return Estimates(own, replace(own, **blank), Difference(
        auc_a=none, auc_b=none, difference=none, se=none, slope=none, curve=none, null_se=none,
        low=none, high=none, statistic=none, df=none,
        null_df=none, p=none, neg_log10_p=none, p_test="", level=own.level))
