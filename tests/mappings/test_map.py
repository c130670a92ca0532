"""`map_codes` and `phewas map` against a plain reference, the labels of a study, and themselves in another order."""

from __future__ import annotations

import csv
import gzip
import json
import random
from datetime import date, timedelta
from pathlib import Path

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal
from typer.testing import CliRunner

from phewas.cli import app
from phewas.config import PhenotypeConfig
from phewas.errors import ConfigError, SchemaError
from phewas.mappings import counting, encoding, icd, mapfile
from phewas.mappings.columns import Columns
from phewas.mappings.counting import Options, map_codes
from phewas.mappings.phenotypes import label
from phewas.schema import LABELS_PATH, Diagnoses, Encounters, LabelColumns, LabelRows, Patients, Unmapped

CODES = [
    ("E11.9", "ICD10CM"), ("e119 ", "ICD10CM"), ("E10.311", "ICD10CM"), ("I10", "ICD10CM"), ("C61", "ICD10CM"),
    ("250.00", "ICD9CM"), ("25041", "ICD9CM"), ("008.61", "ICD9CM"), ("174.9", "ICD9CM"), ("Z99.89", "ICD10CM"),
    ("H40.11X1", "ICD10CM"), ("A00-A09", "ICD10CM"), ("I48.91", "ICD10CM"), ("427.31", "ICD9CM"), ("", "ICD10CM"),
    ("E8500", "ICD9CM"), ("N/A", "ICD10CM"), ("99213", "ICD10CM"), ("I10", "SNOMED"),
]  # fmt: skip
SCHEMA = {"patient_id": pl.String, "code": pl.String, "vocabulary": pl.String, "date": pl.Date, "sex": pl.String}
SEX = {"p0": "F", "p1": "M", "p2": None, "p3": "female", "p4": "M", "p5": "x"}
ROW = st.tuples(st.sampled_from(sorted(SEX)), st.sampled_from(CODES), st.one_of(st.none(), st.integers(0, 5)))


def table(rows) -> pl.DataFrame:
    listed = [
        (who, code, system, None if day is None else date(2020, 1, 1) + timedelta(day), SEX[who])
        for who, (code, system), day in rows
    ]
    return pl.DataFrame(listed, schema=SCHEMA, orient="row")


def slowly(rows, vocabulary, min_days):
    """Count by hand, with dictionaries: (patient, phenotype) -> days, first date; and the labels."""
    direct, above, bars = {}, {}, {}
    for system, key, phenotype in vocabulary.code_map.rows():
        direct.setdefault((system, key), set()).add(phenotype)
    for child, parent in vocabulary.rollup.rows():
        above.setdefault(child, set()).add(parent)
    for barred, related in vocabulary.exclusions.rows():
        bars.setdefault(related, set()).add(barred)
    seen, meant, people = {}, {}, set()
    for who, (code, system), day in rows:
        people.add(who)
        known = system if system in icd.CODE_SYSTEMS else "unknown"
        for phenotype in direct.get((known, icd.undotted_one(code, known)), ()):
            meant.setdefault(who, set()).add(phenotype)
            for parent in above[phenotype]:
                seen.setdefault((who, parent), set()).add(day)
    counts = {}
    for pair, days in seen.items():
        dated = sorted(day for day in days if day is not None)
        first = date(2020, 1, 1) + timedelta(dated[0]) if dated else None
        counts[pair] = (max(len(dated), 1), first)
    sexes = dict(vocabulary.phenotypes.select("phenotype", "sex").rows())
    words = {"F": "F", "female": "F", "M": "M"}
    labels = {}
    for who in people:
        barred = set().union(*(bars.get(one, set()) for one in meant.get(who, ())))
        for phenotype, sex in sexes.items():
            days = counts.get((who, phenotype), (0, None))[0]
            value = 1 if days >= min_days else -1 if days or phenotype in barred else 0
            if sex != "both" and sex != words.get(SEX[who]):
                value = -1
            if value:
                labels[who, phenotype] = value
    return counts, labels


def as_dictionary(made):
    counts = {(row[0], row[1]): (row[2], row[3]) for row in made.counts.rows()}
    long = made.labels.unpivot(index="patient_id", variable_name="phenotype", value_name="label")
    return counts, {row[:2]: row[2] for row in long.filter(pl.col("label") != 0).rows()}


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(ROW, min_size=1, max_size=30), st.integers(1, 3))
def test_counts_and_labels_are_those_of_a_plain_count(phecode, rows, min_days):
    made = map_codes(table(rows), vocabulary=phecode, options=Options(min_days=min_days))
    assert as_dictionary(made) == slowly(rows, phecode, min_days)
    assert made.unmapped["n_rows"].sum() == len(rows) - made.summary["coverage"]["n_rows_mapped"]
    Unmapped.check(made.unmapped)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.lists(ROW, min_size=1, max_size=30), seed=st.integers(0, 99))
def test_order_duplicates_and_cutting_do_not_matter(phecode, monkeypatch, rows, seed):
    made = map_codes(table(rows), vocabulary=phecode)
    shuffled = rows + random.Random(seed).choices(rows, k=seed % 7)
    random.Random(seed).shuffle(shuffled)
    monkeypatch.setattr(encoding, "ROWS_AT_A_TIME", 3)
    again = map_codes(table(shuffled).lazy(), vocabulary=phecode)
    assert_frame_equal(made.counts, again.counts)
    assert_frame_equal(made.labels, again.labels)
    assert_frame_equal(made.phenotypes, again.phenotypes)
    columns = ["code", "vocabulary", "n_patients", "reason"]
    assert_frame_equal(made.unmapped.select(columns), again.unmapped.select(columns), check_row_order=False)


@pytest.mark.parametrize("min_days", [1, 2])
def test_labels_are_those_of_a_study_with_one_encounter_each(phecode, tmp_path, min_days):
    draw = random.Random(7)
    codes = phecode.code_map.select("vocabulary", "code").unique().sort("vocabulary", "code").sample(300, seed=1).rows()
    rows = [(f"p{draw.randrange(60):02}", *draw.choice(codes), draw.choice([None, *range(40)])) for _ in range(3000)]
    sexes = {f"p{i:02}": "FMU"[i % 3] for i in range(60)}
    frame = pl.DataFrame(
        [(who, code, system, None if day is None else date(2020, 1, 1) + timedelta(day), sexes[who])
         for who, system, code, day in rows],
        schema=SCHEMA, orient="row",
    )  # fmt: skip
    made = map_codes(frame, vocabulary=phecode, options=Options(min_days=min_days))
    diagnoses = [
        {"patient_id": who, "code_raw": code, "code": icd.normalise_one(code, system), "vocabulary": system,
         "recorded": None if day is None else date(2020, 1, 1) + timedelta(day), "source": "t", "source_row": i}
        for i, (who, system, code, day) in enumerate(rows)
    ]  # fmt: skip
    label(
        diagnoses=Diagnoses.build(diagnoses),
        encounters=Encounters.build({"encounter_id": f"e{who}", "patient_id": who} for who in sexes),
        patients=Patients.build({"patient_id": who, "sex": sex} for who, sex in sexes.items()),
        vocabulary=phecode, config=PhenotypeConfig(label_window="any"), min_code_days=min_days, run=tmp_path,
    )  # fmt: skip
    import numpy as np

    assert LabelRows.read(tmp_path)["patient_id"].to_list() == made.labels["patient_id"].to_list()
    assert LabelColumns.read(tmp_path)["phenotype"].to_list() == made.labels.columns[1:]
    np.testing.assert_array_equal(np.load(tmp_path / LABELS_PATH), made.labels.drop("patient_id").to_numpy())
    states = made.phenotypes
    total = states.select(pl.col("n_cases") + pl.col("n_controls") + pl.col("n_excluded")).to_series()
    assert (total == 60).all()
    cells = made.summary["labels"]
    assert sum(cells["neither_because_of"].values()) == cells["neither"]


def test_several_codes_in_a_cell_are_split_and_counted(phecode):
    frame = pl.DataFrame({"pid": ["a", "a", "b"], "dx": ["I10; E11.9", "I10", "E11.9|Z99.89"]})
    made = map_codes(frame, vocabulary=phecode, options=Options(code_system="ICD10CM"))
    assert made.counts.filter(phenotype="401.1").rows() == [("a", "401.1", 1, None)]
    assert made.counts.filter(phenotype="250.2")["patient_id"].to_list() == ["a", "b"]
    assert made.unmapped.rows() == [("Z99.89", "ICD10CM", 1, 1, "not in the map")]
    assert made.summary["rows"] == {
        "rows": 5, "rows_with_surplus_fields": 0, "rows_without_patient": 0, "rows_with_bad_date": 0,
        "rows_without_date": 5, "cells_with_several_codes": 2,
    }  # fmt: skip
    assert made.summary["rules"]["min_days"] == counting.MIN_DAYS_WITHOUT_DATES


def test_every_row_is_accounted_for(phecode, tmp_path):
    text = (
        "\ufeffMRN,ICD,Version,Date,Note\n1,I10,ICD-10-CM,2020-01-01,\n1,I10,icd10cm,2020-13-01,\n,I10,10,2020-01-01,\n"
        '1,I10,10,,\n2,"I10, E11.9",10,2020/01/02 10:30,x\n3\n4,I10,10,2020-01-01,x,surplus\n 2 ,i10,10,20200103,\n'
    )
    source = tmp_path / "codes.csv"
    source.write_text(text, encoding="utf-8")
    summary = mapfile.map_file(source, out=tmp_path / "out", vocabulary=phecode)
    assert summary["rows"] == {
        "rows": 9, "rows_with_surplus_fields": 1, "rows_without_patient": 1, "rows_with_bad_date": 1,
        "rows_without_date": 3, "cells_with_several_codes": 1,
    }  # fmt: skip
    # The row of patient 3 has no code: it is among the unmapped, as blank, and its patient among the patients.
    assert summary["coverage"]["n_rows"] == 7
    assert (summary["coverage"]["n_patients"], summary["coverage"]["n_patients_mapped"]) == (3, 2)
    assert {item["label"]: item["vocabulary"] for item in summary["code_systems"]} == {
        "10": "ICD10CM", "ICD-10-CM": "ICD10CM", "icd10cm": "ICD10CM", "(blank)": "unknown",
    }  # fmt: skip
    counts = pl.read_parquet(tmp_path / "out" / "counts.parquet").filter(phenotype="401.1")
    assert counts.rows() == [("1", "401.1", 1, date(2020, 1, 1)), ("2", "401.1", 2, date(2020, 1, 2))]
    assert json.loads((tmp_path / "out/summary.json").read_text()) == summary
    assert "patients" in (tmp_path / "out/summary.txt").read_text()


def write(rows, path: Path, separator=","):
    with path.open("w", newline="") as handle:
        table(rows).write_csv(handle, separator=separator)


@pytest.fixture
def some_rows():
    draw = random.Random(3)
    return [(draw.choice(sorted(SEX)), draw.choice(CODES), draw.choice([None, 0, 1, 2, 3])) for _ in range(300)]


@pytest.mark.parametrize("kind", ["tsv", "csv.gz", "parquet", "streamed csv", "streamed parquet", "csv out"])
def test_every_way_in_and_out_gives_the_same(phecode, tmp_path, monkeypatch, some_rows, kind):
    made = map_codes(table(some_rows), vocabulary=phecode)
    source = tmp_path / f"codes.{ {'csv out': 'csv'}.get(kind, kind.removeprefix('streamed ')) }"
    if source.suffix == ".parquet":
        table(some_rows).write_parquet(source)
    elif kind == "csv.gz":
        write(some_rows, tmp_path / "plain.csv")
        source.write_bytes(gzip.compress((tmp_path / "plain.csv").read_bytes()))
    else:
        write(some_rows, source, "\t" if kind == "tsv" else ",")
    if kind.startswith("streamed") or kind == "csv out":
        monkeypatch.setattr(mapfile, "SMALL_BYTES", {"text": 0, "parquet": 0})
        monkeypatch.setattr(encoding, "ROWS_AT_A_TIME", 50)
    form = "csv" if kind == "csv out" else "parquet"
    summary = mapfile.map_file(source, out=tmp_path / "out", vocabulary=phecode, form=form)
    assert summary == made.summary
    tables = {"counts": made.counts, "labels": made.labels, "unmapped": made.unmapped, "phenotypes": made.phenotypes}
    for name, expected in tables.items():
        file = tmp_path / "out" / f"{name}.{form}"
        found = pl.read_parquet(file) if form == "parquet" else pl.read_csv(file, schema=expected.schema)
        assert_frame_equal(found, expected)
    assert not list((tmp_path / "out").glob(".*")), "temporary files are left"


def test_same_input_same_bytes(phecode, tmp_path, some_rows):
    write(some_rows, tmp_path / "a.csv")
    write(some_rows[::-1], tmp_path / "b.csv")
    for name in ("a", "b"):
        mapfile.map_file(tmp_path / f"{name}.csv", out=tmp_path / name, vocabulary=phecode)
    for file in (tmp_path / "a").iterdir():
        assert file.read_bytes() == (tmp_path / "b" / file.name).read_bytes(), file.name


# --- mistakes ------------------------------------------------------------------------------------------------------


def one(**columns):
    return pl.DataFrame({"patient_id": ["a"], "code": ["I10"], "vocabulary": ["ICD10CM"]} | columns)


@pytest.mark.parametrize(
    ("frame", "columns", "options", "words"),
    [
        (one(), Columns(code="cod"), {}, "Did you mean code"),
        (one().rename({"code": "kode"}), Columns(), {}, "kode"),
        (one(code=[250.0]), Columns(), {}, "250, 250.0 and 250.00 are three codes"),
        (one(code=[250]), Columns(), {}, "numbers"),
        (one(patient_id=[1.5]), Columns(), {}, "fractions"),
        (one(date=[20200101]), Columns(), {}, "no date"),
        (one(date=["01/02/2020"]), Columns(), {}, "--date-format"),
        (one().drop("vocabulary"), Columns(), {}, "E and V codes belong to both"),
        (one(), Columns(), {"code_system": "ICD10-CM"}, "Did you mean ICD10CM"),
        (one(), Columns(), {"code_system": "by_date"}, "date column"),
        (one(), Columns(), {"min_days": 2}, "no date column"),
        (one(), Columns(), {"min_days": 0}, "at least 1"),
        (one(), Columns(patient="code"), {}, "cannot be both"),
    ],
)
def test_mistakes_are_told(phecode, frame, columns, options, words):
    with pytest.raises((SchemaError, ConfigError)) as caught:
        map_codes(frame, vocabulary=phecode, columns=columns, options=Options(**options))
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.csv", b"", "a.csv"),
        ("a.xlsx", b"x", "no kind that is read"),
        ("a.parquet", b"no parquet", "cannot be read"),
        ("missing.csv", None, "no file"),
        ("a.csv.gz", b"no gzip", ""),
    ],
)
def test_broken_files_end_in_words(tmp_path, name, content, words):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    result = CliRunner().invoke(app, ["map", str(tmp_path / name), "--out", str(tmp_path / "out")])
    assert isinstance(result.exception, (SchemaError, ConfigError)), result.exception
    assert words in str(result.exception)


def test_no_rows(phecode):
    made = map_codes(table([]), vocabulary=phecode)
    assert (made.counts.height, made.labels.height, made.unmapped.height) == (0, 0, 0)
    assert made.labels.width == 1818
    assert made.summary["coverage"]["n_rows"] == 0


# --- the command ---------------------------------------------------------------------------------------------------


def test_the_command(tmp_path, some_rows):
    source = tmp_path / "codes.csv"
    table(some_rows).rename({"vocabulary": "kind", "patient_id": "who"}).write_csv(source)
    words = ["map", str(source), "--out", str(tmp_path / "out"), "--patient", "who", "--system", "kind"]
    result = CliRunner().invoke(app, [*words, "--min-days", "1", "--walk-up", "--format", "csv"])
    assert result.exit_code == 0, result.output
    assert "Coverage" in result.output
    with (tmp_path / "out/counts.csv").open() as handle:
        assert next(csv.reader(handle)) == ["patient_id", "phenotype", "distinct_days", "first_date"]
    assert (tmp_path / "out/mapped_otherwise.csv").is_file()
    constant = CliRunner().invoke(app, [*words[:-1], "ICD10CM", "--no-labels"])
    assert constant.exit_code == 0, constant.output
    assert not (tmp_path / "out/labels.parquet").exists()


def test_the_import_is_light():
    import subprocess
    import sys

    heavy = ("torch", "scipy", "pandas", "pyarrow", "pydantic", "matplotlib")
    code = f"import sys, phewas.mappings.mapfile; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
