"""Plain tables read as bytes, against polars' reader on the same file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from phewas.mappings import columns as naming
from phewas.mappings import mapfile, plaintext
from phewas.mappings.counting import Options
from phewas.mappings.vocabulary import load

FIELD = st.text(st.characters(min_codepoint=32, max_codepoint=126, exclude_characters='",'), max_size=16)
PLACES = {"patient": 0, "code": 2}


def texts_of(found: plaintext.Numbered, role: str) -> pl.Series:
    return found.texts[role].extend_constant(None, 1).gather(found.numbers[role])


def theirs(file: Path) -> pl.DataFrame:
    return naming.scan(file).drop(naming.SURPLUS).collect()


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=st.lists(st.tuples(FIELD, FIELD, FIELD), min_size=1, max_size=30),
    end=st.sampled_from(["\n", "\r\n"]),
    last=st.booleans(),
    size=st.sampled_from([64, 200, 1 << 20]),
)
def test_fields_are_those_of_polars(tmp_path, monkeypatch, rows, end, last, size):
    monkeypatch.setattr(plaintext, "CHUNK", size)
    file = tmp_path / "t.csv"
    body = end.join(",".join(row) for row in rows)
    file.write_bytes(("p,x,c" + end + body + (end if last else "")).encode())
    found = plaintext.read(file, separator=",", width=3, roles=PLACES, heads={})
    if found is None:  # the last line ends otherwise than the others
        assert (end, last) == ("\r\n", False)
        return
    frame = theirs(file)
    for role, place in PLACES.items():
        assert texts_of(found, role).to_list() == frame.to_series(place).to_list()
        assert found.texts[role].is_unique().all()


def test_a_hundred_thousand_texts_of_two_lengths_keep_their_numbers(tmp_path):
    rng = np.random.default_rng(5)
    long = [f"{n:016d}" for n in rng.integers(0, 60_000, 100_000)]
    short = [f"{n:x}" for n in rng.integers(0, 60_000, 100_000)]
    frame = pl.DataFrame({"a": [*long, *short], "b": [*short, *long]})
    file = tmp_path / "t.tsv"
    frame.write_csv(file, separator="\t")
    found = plaintext.read(file, separator="\t", width=2, roles={"patient": 0, "code": 1}, heads={})
    assert found is not None
    assert (texts_of(found, "patient") == frame["a"]).all()
    assert (texts_of(found, "code") == frame["b"]).all()
    assert len(found.texts["patient"]) == frame["a"].n_unique()


def test_only_the_head_of_a_date_counts(tmp_path):
    file = tmp_path / "t.csv"
    file.write_text("p,d\na,2020-01-02 10:11:12.5678\nb,2020-01-02\nc,2020\n")
    found = plaintext.read(file, separator=",", width=2, roles={"date": 1}, heads={"date": 10})
    assert found is not None
    assert texts_of(found, "date").to_list() == ["2020-01-02", "2020-01-02", "2020"]
    assert plaintext.read(file, separator=",", width=2, roles={"date": 1}, heads={}) is None


@pytest.mark.parametrize(
    "body",
    [
        b'a,"x, y",c\n', b"a,b\n", b"a,b,c,d\na,b\n", b"a,b,c,d\n", b"a,b,c\n\nd,e,f\n", b"a,b\xc3\xa9,c\n",
        b"a,b,c\r\nd,e,f\n", b"a,b\x00,c\n", b"a,b\tx,c\n", b"a,b," + b"c" * 17 + b"\n",
    ],
)  # fmt: skip
def test_what_is_not_plain_is_left_to_the_general_reader(tmp_path, body):
    file = tmp_path / "t.csv"
    file.write_bytes(b"p,x,c\n" + body)
    assert plaintext.read(file, separator=",", width=3, roles=PLACES, heads={}) is None


def test_a_header_alone_has_no_rows(tmp_path):
    file = tmp_path / "t.csv"
    file.write_bytes(b"p,x,c\n")
    found = plaintext.read(file, separator=",", width=3, roles=PLACES, heads={})
    assert found is not None
    assert len(found.numbers["code"]) == 0


def test_both_readers_give_the_same_phenotypes(tmp_path, monkeypatch):
    rng = np.random.default_rng(3)
    codes = ["E11.9", "e119", "I10", "250.00", "25041", "", " I48.91", "NOCODE", "427.31", "H40.11X1", "C61", "008.61"]
    n, people, days = 4_000, [f"p{i}" for i in range(300)], [f"2020-01-{i:02d} 09:30" for i in range(1, 32)]
    table = pl.DataFrame(
        {
            "person_id": [["", " ", "p1 ", "p1", "p10", "p2", *people][i] for i in rng.integers(0, 300, n)],
            "ICD": [codes[i] for i in rng.integers(0, len(codes), n)],
            "vocabulary_id": [["ICD9CM", "ICD10CM", "icd10cm", "", "what"][i] for i in rng.integers(0, 5, n)],
            "date": [["", "soon", "2020-02-30", *days][i] for i in rng.integers(0, 29, n)],
            "sex": [["F", "M", "", "x"][i] for i in rng.integers(0, 4, n)],
        }
    )  # fmt: skip
    table.write_csv(tmp_path / "codes.csv")
    text = (tmp_path / "codes.csv").read_text().replace('""', "").replace('"', "")
    (tmp_path / "codes.csv").write_text(text)
    made = {}
    for name in ("bytes", "general"):
        if name == "general":
            monkeypatch.setattr(naming.plaintext, "read", lambda *args, **options: None)
        summary = mapfile.map_file(
            tmp_path / "codes.csv", out=tmp_path / name, vocabulary=load("phecode1.2"), options=Options(walk_up=True)
        )
        made[name] = summary
    assert made["bytes"] == made["general"]
    assert made["bytes"]["rows"]["rows_with_bad_date"] > 0
    for name in ("counts", "labels", "phenotypes", "unmapped"):
        tables = [pl.read_parquet(tmp_path / folder / f"{name}.parquet") for folder in made]
        assert_frame_equal(*tables)
