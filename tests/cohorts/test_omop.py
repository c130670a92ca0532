"""OMOP: codes from source concepts and source values, and the same tables from files and from a DuckDB file."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import polars as pl
import pytest

from phewas.cohorts import get
from phewas.cohorts.omop import _coded
from phewas.errors import CohortError

SOURCE = get("omop")
GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "omop" / "input"


@pytest.mark.parametrize(
    ("concept", "value", "code", "vocabulary"),
    [
        ("1", "anything", "I10", "ICD10CM"),
        ("0", "I10", "I10", "unknown"),
        (None, "ICD10CM:I10", "I10", "ICD10CM"),
        ("0", "ICD-9-CM|401.9", "401.9", "ICD9CM"),
        ("0", "icd10: I10 ", "I10 ", "ICD10"),
        ("0", "401.9^HTN^ICD-9-CM", "401.9", "ICD9CM"),
        ("2", "38341003", "38341003", "unknown"),
        ("0", None, None, "unknown"),
    ],
)
def test_codes(concept: str | None, value: str | None, code: str | None, vocabulary: str) -> None:
    rows = pl.DataFrame(
        {"condition_source_concept_id": [concept], "condition_source_value": [value]},
        schema={"condition_source_concept_id": pl.String, "condition_source_value": pl.String},
    )
    concepts = pl.DataFrame({"concept_id": ["1"], "vocabulary_id": ["ICD10CM"], "concept_code": ["I10"]})
    assert _coded(rows, concepts, "condition").select("cell", "vocabulary").row(0) == (code, vocabulary)


def copied(root: Path) -> Path:
    root.mkdir()
    for file in GOLDEN.glob("*.csv"):
        (root / file.name).write_bytes(file.read_bytes())
    return root


def test_a_database_gives_the_same_tables(tmp_path: Path) -> None:
    duckdb = pytest.importorskip("duckdb")
    files = copied(tmp_path / "files")
    base = tmp_path / "base"
    base.mkdir()
    with duckdb.connect(str(base / "hospital.duckdb")) as connection:
        for file in sorted(files.glob("*.csv")):
            if file.stem == "recordings":
                (base / file.name).write_bytes(file.read_bytes())
                continue
            options = ", quote=''" if file.stem == "CONCEPT" else ""
            connection.execute(
                f"CREATE TABLE {file.stem} AS SELECT * FROM read_csv('{file}', all_varchar=true{options})"
            )
    for name, root in (("one", files), ("two", base)):
        SOURCE.build(root, tmp_path / name)
    for table in ("patients", "encounters", "recordings"):
        one, two = (pl.read_parquet(tmp_path / n / "cohort" / f"{table}.parquet") for n in ("one", "two"))
        assert one.equals(two), table
    # Rows of a database are numbered in their own order.
    one, two = (
        pl.read_parquet(tmp_path / n / "cohort" / "diagnoses.parquet")
        .drop("source_row")
        .sort(pl.all(), nulls_last=True)
        for n in ("one", "two")
    )
    assert one.equals(two)
    assert SOURCE.fingerprint(base)
    assert SOURCE.scan(base)["n_encounters"] == 5


def test_a_database_without_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "hospital.duckdb").write_bytes(b"")
    monkeypatch.setitem(sys.modules, "duckdb", None)
    with pytest.raises(CohortError, match="duckdb is not installed") as caught:
        SOURCE.build(tmp_path, tmp_path / "run")
    assert "pip install duckdb" in str(caught.value)


def test_what_is_told(tmp_path: Path) -> None:
    root = copied(tmp_path / "d")
    (root / "person.csv").unlink()
    with pytest.raises(CohortError, match="person missing"):
        SOURCE.build(root, tmp_path / "run")
    if importlib.util.find_spec("duckdb"):
        (root / "x.duckdb").write_bytes(b"no database at all")
        with pytest.raises(CohortError, match="cannot be opened"):
            SOURCE.build(root, tmp_path / "run")


def test_without_concepts_the_source_values_speak(tmp_path: Path) -> None:
    root = copied(tmp_path / "d")
    (root / "CONCEPT.csv").unlink()
    SOURCE.build(root, tmp_path / "run")
    codes = pl.read_parquet(tmp_path / "run" / "cohort" / "diagnoses.parquet")
    assert codes.filter(pl.col("code") == "I10")["vocabulary"].to_list() == ["unknown"]
    assert codes.filter(pl.col("code") == "E11.9")["vocabulary"].to_list() == ["ICD10CM"]


def test_codes_that_the_vocabulary_moved_are_read_from_any_format(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = copied(tmp_path / "files")
    SOURCE.build(files, tmp_path / "one")
    # Parquet, identifiers as numbers, read in slices of two rows.
    monkeypatch.setattr("phewas.cohorts.anyfile.SLICE_ROWS", 2)
    for name in ("measurement", "procedure_occurrence"):
        pl.read_csv(files / f"{name}.csv").write_parquet(files / f"{name}.parquet")
        (files / f"{name}.csv").unlink()
    SOURCE.build(files, tmp_path / "two")
    one, two = (pl.read_parquet(tmp_path / n / "cohort" / "diagnoses.parquet") for n in ("one", "two"))
    assert one.equals(two)
    moved = one.filter(pl.col("source").is_in(["measurement", "procedure_occurrence"]))
    assert moved["code"].to_list() == ["R73.09", "R73.01", "R73.09", "Z98.89"]
    notes = pl.read_parquet(tmp_path / "one" / "cohort" / "flow.parquet").filter(kind="note")
    assert (5, 4) in notes.filter(pl.col("reason").str.contains("of measurement")).select("n_in", "n_out").rows()
