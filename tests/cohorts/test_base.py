"""Cards, the registry, and text tables."""

from __future__ import annotations

import csv
import datetime as dt
import io
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from phewas.cohorts import available, get
from phewas.cohorts.base import Source, load_card
from phewas.cohorts.csvtext import parse_number, parse_time, read_table
from phewas.errors import CohortError, ConfigError

CARD = Path(__file__).resolve().parents[2] / "cohorts" / "demo.toml"


@pytest.mark.parametrize("name", available())
def test_sources_keep_the_protocol(name: str) -> None:
    source = get(name)
    assert isinstance(source, Source)
    assert source.card.name == name
    assert source.card.fit in ("finetune", "probe")
    assert source.card.obtain
    assert source.card.citation


def test_unknown_source() -> None:
    with pytest.raises(ConfigError, match="Did you mean mcmed"):
        get("mc-med")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("public = true", "publik = true", "unknown key 'publik'. Did you mean public"),
        ("public = true", "", "lacks public"),
        ("public = true", 'public = "yes"', "public is 'yes'"),
        ("min_code_days = 1", "min_code_days = true", "min_code_days is True"),
        ("min_code_days = 1", "min_code_days = 0", "must be positive"),
        ("window_s = 10.0", "window_s = nan", "must be positive"),
        ('fit = "finetune"', 'fit = "guess"', "fit is 'guess'"),
        ("public = true", "public = = true", "cannot be read"),
    ],
)
def test_cards_are_checked(tmp_path: Path, old: str, new: str, message: str) -> None:
    text = CARD.read_text()
    assert old in text
    (tmp_path / "card.toml").write_text(text.replace(old, new))
    with pytest.raises(ConfigError) as caught:
        load_card(tmp_path / "card.toml")
    assert message in str(caught.value)


cell = st.text(st.characters(exclude_characters="\0\r", exclude_categories=["Cs"]), max_size=12)


@given(st.lists(st.tuples(cell, cell), max_size=8))
def test_tables_survive_any_text(tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str]]) -> None:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n", quoting=csv.QUOTE_ALL)
    writer.writerows([("a", "b"), *rows])
    path = tmp_path_factory.mktemp("csv") / "t.csv"
    path.write_text(out.getvalue(), encoding="utf-8", newline="")
    got = read_table(path, needs=["b", "a"], table="encounters")
    assert got.n_rows == len(rows)
    strip = pl.Series([v for row in rows for v in row], dtype=pl.String).str.strip_chars().to_list()
    assert [v for r in got.rows.select("a", "b").rows() for v in r] == [v or None for v in strip]


def test_odd_rows_are_told(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes('\ufeffa,b\r\n1,2\r\n3\r\n\r\n4,5,6\r\n"x, ""y""\nz",7\r\n'.encode() + b"\xff,8\r\n")
    got = read_table(path, needs=["a", "b"], table="encounters")
    assert got.rows.rows() == [(1, "1", "2"), (5, 'x, "y"\nz', "7"), (6, "\ufffd", "8")]
    assert got.rejects.select("source_row", "reason").rows() == [(n, "short_row") for n in (2, 3, 4)]
    assert got.n_rows == 6


def test_a_column_named_twice_is_refused(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("a,a\n1,2\n")
    with pytest.raises(CohortError, match="twice"):
        read_table(tmp_path / "t.csv", needs=["a"], table="encounters")


def test_times() -> None:
    texts = ["2295-12-31T23:59:59Z", "2219-08-10T00:00:00", "2264-02-29T01:02:03.5Z", "2264-02-29 01:02", "2264-02-29",
             "2265-02-29", "2264-02-29T24:00:00Z", "2264-02-29T01:02:03+02:00", "", None, "29/02/2264"]  # fmt: skip
    got = pl.DataFrame({"t": texts}, schema={"t": pl.String}).select(parse_time(pl.col("t"))).to_series()
    assert got.dtype == pl.Datetime("us")
    assert got.to_list() == [
        dt.datetime(2295, 12, 31, 23, 59, 59), dt.datetime(2219, 8, 10), dt.datetime(2264, 2, 29, 1, 2, 3, 500_000),
        dt.datetime(2264, 2, 29, 1, 2), dt.datetime(2264, 2, 29), None, None, None, None, None, None,
    ]  # fmt: skip


def test_numbers() -> None:
    got = pl.DataFrame({"t": ["53", " 53.5 ", "53,5", "1,000,000", "inf", "nan", "old", None]}).select(
        parse_number(pl.col("t"))
    )
    assert got.to_series().to_list() == [53.0, 53.5, 53.5, None, None, None, None, None]
