"""Which encounters and phenotypes a model is fitted on, and the labels in store order."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from phewas.errors import LearningError
from phewas.schema import LABELS_PATH, LabelColumns, LabelRows, Splits
from phewas.seeds import hashed
from phewas.segments.store import SegmentStore


@dataclass(frozen=True)
class Study:
    """Everything that fitting needs about encounters that have windows, in store order.

    Parameters
    ----------
    encounters
        encounter_id, patient_id, row (first window), n_windows, split, fold.
    labels
        int8 [encounters, phenotypes]: 1 case, 0 control, -1 excluded.
    phenotypes
        Names of the label columns.
    """

    encounters: pl.DataFrame
    labels: NDArray[np.int8]
    phenotypes: tuple[str, ...]

    def where(self, *splits: str) -> NDArray[np.int64]:
        """Return the positions of the encounters on any of these sides."""
        return self.encounters.with_row_index("i").filter(pl.col("split").is_in(splits))["i"].cast(pl.Int64).to_numpy()

    def patients(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return an integer per encounter that is the same for encounters of one patient."""
        codes = self.encounters.get_column("patient_id").rank("dense").cast(pl.Int64).to_numpy() - 1
        return codes[rows]

    @cached_property
    def first(self) -> NDArray[np.int64]:
        """int64 [encounters]: the first store row of each."""
        return self.encounters.get_column("row").cast(pl.Int64).to_numpy()

    @cached_property
    def counts(self) -> NDArray[np.int64]:
        """int64 [encounters]: windows of each."""
        return self.encounters.get_column("n_windows").cast(pl.Int64).to_numpy()

    @cached_property
    def keys(self) -> NDArray[np.uint64]:
        """uint64 [encounters]: a hash of each encounter's id, from which its random choices derive."""
        ids = self.encounters.get_column("encounter_id").to_list()
        return np.fromiter((hashed("encounter", i) & (2**64 - 1) for i in ids), dtype=np.uint64, count=len(ids))


def load(run: Path, store: SegmentStore) -> Study:
    """Join the store's encounters with their labels and sides."""
    rows = LabelRows.read(run).with_row_index("label_row").select("encounter_id", "label_row")
    sides = Splits.read(run).select("patient_id", "split", "fold")
    encounters = (
        store.encounters()
        .join(rows, on="encounter_id", how="left", maintain_order="left")
        .join(sides, on="patient_id", how="left", maintain_order="left")
    )
    lost = encounters.filter(pl.col("label_row").is_null() | pl.col("split").is_null()).height
    if lost:
        raise LearningError(
            f"{lost} encounters with windows have no label row or no side",
            cure="the tables are of different runs: give the same command with a new --out",
        )
    labels = np.load(run / LABELS_PATH, mmap_mode="r", allow_pickle=False)
    return Study(
        encounters.drop("label_row"),
        np.asarray(labels[encounters.get_column("label_row").to_numpy()]),
        tuple(LabelColumns.read(run).get_column("phenotype").to_list()),
    )


def count_patients(labels: NDArray[np.int8], patients: NDArray[np.int64], value: int) -> NDArray[np.int64]:
    """Return, per phenotype, how many patients have at least one encounter with label `value`.

    Parameters
    ----------
    labels
        int8 [encounters, phenotypes].
    patients
        int64 [encounters], one code per patient.
    """
    order = np.argsort(patients, kind="stable")
    starts = np.flatnonzero(np.diff(patients[order], prepend=-1))
    if not len(starts):
        return np.zeros(labels.shape[1], dtype=np.int64)
    counts: NDArray[np.int64] = np.maximum.reduceat(labels[order] == value, starts, axis=0).sum(0).astype(np.int64)
    return counts


def fittable(study: Study, train: NDArray[np.int64], *, minimum: int) -> NDArray[np.int64]:
    """Return the phenotype columns with at least `minimum` case and control patients among the training encounters.

    Raises
    ------
    LearningError
        None has.
    """
    labels, patients = study.labels[train], study.patients(train)
    cases, controls = count_patients(labels, patients, 1), count_patients(labels, patients, 0)
    columns = np.flatnonzero((cases >= minimum) & (controls >= minimum))
    if not len(columns):
        raise LearningError(
            f"no phenotype has {minimum} case patients with usable recordings among the training patients "
            f"(the most frequent has {int(cases.max(initial=0))} of {len(np.unique(patients))})",
            expected=f"at least {minimum} case and {minimum} control patients for some phenotype",
            cure="a larger training side (--heldout random:0.2), a wider label window ([phenotypes] label_window = "
            '"any"), or fewer required ([evaluate] min_train_case_patients) in a --config file',
        )
    return columns


def macro_auc(
    scores: NDArray[np.float32], labels: NDArray[np.int8], patients: NDArray[np.int64], *, minimum: int = 5
) -> float:
    """Return the mean AUC over phenotypes with at least `minimum` case and control patients; NaN if there is none.

    A means of choosing between epochs, on tuning patients; the reported AUCs come from `phewas.stats`.
    """
    from scipy.stats import rankdata

    enough = (count_patients(labels, patients, 1) >= minimum) & (count_patients(labels, patients, 0) >= minimum)
    aucs = []
    for column in np.flatnonzero(enough):
        kept = labels[:, column] >= 0
        positive = labels[kept, column] == 1
        ranks = rankdata(scores[kept, column])
        n_pos, n_neg = positive.sum(), (~positive).sum()
        aucs.append((ranks[positive].sum() - n_pos * (n_pos + 1) / 2) / (n_pos * n_neg))
    return float(np.mean(aucs)) if aucs else float("nan")
