"""Small cohorts in words: each test states the few facts that it is about."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from phewas.config import PhenotypeConfig
from phewas.mappings.phenotypes import label
from phewas.mappings.vocabulary import Vocabulary, load
from phewas.schema import LABELS_PATH, Diagnoses, Encounters, LabelColumns, LabelRows, Patients, Phenotypes, Unmapped


@pytest.fixture(scope="session")
def phecode() -> Vocabulary:
    return load("phecode1.2")


@dataclass
class Labelled:
    """A written phenotypes folder, to be asked by name."""

    run: Path
    summary: dict[str, Any]
    labels: np.ndarray[Any, Any]
    rows: list[str]
    columns: list[str]

    def __call__(self, phenotype: str, encounter: str = "e1") -> int:
        return int(self.labels[self.rows.index(encounter), self.columns.index(phenotype)])

    @property
    def phenotypes(self) -> pl.DataFrame:
        return Phenotypes.read(self.run)

    @property
    def unmapped(self) -> dict[tuple[str, str], tuple[int, int, str]]:
        frame = Unmapped.read(self.run)
        return {(code, system): (rows, people, why) for code, system, rows, people, why in frame.rows()}


VISIT = {
    "encounter_id": "e1",
    "patient_id": "p1",
    "start": datetime(2200, 6, 10, 14),
    "end": datetime(2200, 6, 10, 20),
    "index_time": datetime(2200, 6, 10, 14),
    "age": 50.0,
}


@pytest.fixture
def labelled(tmp_path: Path, phecode: Vocabulary) -> Callable[..., Labelled]:
    """Return a function that labels a cohort given as dictionaries."""
    count = iter(range(100))

    def make(
        diagnoses: list[dict[str, Any]],
        *,
        encounters: list[dict[str, Any]] | None = None,
        sex: dict[str, str] | None = None,
        min_code_days: int = 1,
        vocabulary: Vocabulary = phecode,
        **options: Any,
    ) -> Labelled:
        run = tmp_path / str(next(count))
        visits = [VISIT] if encounters is None else encounters
        people = sex if sex is not None else {visit["patient_id"]: "F" for visit in visits}
        summary = label(
            diagnoses=Diagnoses.build(diagnoses),
            encounters=Encounters.build(visits),
            patients=Patients.build({"patient_id": name, "sex": value} for name, value in people.items()),
            vocabulary=vocabulary,
            config=PhenotypeConfig(**options),
            min_code_days=min_code_days,
            run=run,
        )
        labels = np.load(run / LABELS_PATH, allow_pickle=False)
        rows = LabelRows.read(run)["encounter_id"].to_list()
        return Labelled(run, summary, labels, rows, LabelColumns.read(run)["phenotype"].to_list())

    return make
