"""The MC-MED adapter on a tree written by hand: every row and file has a known fate."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest

import phewas.cohorts.wavescan as wavescan
from phewas.cohorts import get
from phewas.errors import CohortError

SOURCE = get("mcmed")
Build = Callable[..., dict[str, pl.DataFrame]]


def reasons(rejects: pl.DataFrame, source: str) -> list[tuple[int, str]]:
    return sorted(rejects.filter(pl.col("source") == source).select("source_row", "reason").rows())


def test_every_visit_row_has_its_fate(tree: Path, tmp_path: Path, build: Build) -> None:
    t = build(tree, tmp_path / "run")
    assert t["encounters"]["encounter_id"].to_list() == ["101", "102", "103", "104", "107", "108"]
    of_encounters = t["rejects"].filter(pl.col("table") == "encounters")
    assert reasons(of_encounters, "visits") == [
        (2, "negative_interval"), (4, "bad_number"), (4, "bad_time"), (5, "duplicate_encounter"),
        (6, "encounter_of_two_patients"), (7, "encounter_of_two_patients"), (8, "blank_id"), (9, "short_row"),
        (10, "sex_conflict"), (11, "sex_conflict"),
    ]  # fmt: skip
    # 11 rows: six became encounters, five are lost; the other reasons mend a row that is kept.
    lost = {"duplicate_encounter", "encounter_of_two_patients", "blank_id", "short_row"}
    assert len(t["encounters"]) + of_encounters.filter(pl.col("reason").is_in(lost))["source_row"].n_unique() == 11


def test_times_run_to_the_year_2295(tree: Path, tmp_path: Path, build: Build) -> None:
    e = {r["encounter_id"]: r for r in build(tree, tmp_path / "run")["encounters"].iter_rows(named=True)}
    assert e["103"]["start"] == dt.datetime(2295, 12, 31, 23)
    assert e["103"]["end"] == dt.datetime(2295, 12, 31, 23, 59, 59)
    assert e["102"]["start"] == dt.datetime(2265, 3, 1, 7, 0, 0, 250_000)
    assert e["102"]["end"] is None
    assert e["104"]["start"] is None
    assert e["104"]["age"] is None
    # The earliest PPG, not the earlier ECG; numbers do not order in time.
    assert e["101"]["index_time"] == dt.datetime(2264, 3, 1, 7, 10, 0, 500_000)
    # An undated record (24:00:00) does not set it; the one with the odd rate does.
    assert e["103"]["index_time"] == dt.datetime(2295, 12, 31, 23, 10)
    assert e["107"]["index_time"] == e["107"]["start"]
    assert e["101"]["src_CC"] == "PAIN, CHEST"
    assert {"src_MRN", "src_CSN"}.isdisjoint(e["101"])


def test_patients(tree: Path, tmp_path: Path, build: Build) -> None:
    p = build(tree, tmp_path / "run")["patients"]
    assert p.select("patient_id", "sex", "race").rows() == [
        ("1", "F", "White"), ("2", "M", "Asian"), ("3", "M", None), ("8", "U", None),
    ]  # fmt: skip


def test_every_code_cell_has_its_fate(tree: Path, tmp_path: Path, build: Build) -> None:
    t = build(tree, tmp_path / "run")
    d = t["diagnoses"]
    noted = d.filter(pl.col("source") == "pmh").select("source_row", "patient_id", "code", "vocabulary", "recorded")
    assert noted.rows() == [
        (1, "1", "I48.91", "ICD10CM", dt.date(2264, 3, 1)),
        (3, "1", "401.9", "ICD9CM", dt.date(2250, 1, 1)),
        (4, "2", "E11.9", "ICD10CM", dt.date(2290, 1, 1)),
        (7, "2", "Z87.39", "ICD10CM", dt.date(2290, 1, 2)),
        (7, "2", "Z87.891", "ICD10CM", dt.date(2290, 1, 2)),
        (8, "3", "38341003", "unknown", dt.date(2230, 1, 1)),
        (11, "3", "I10", "ICD10CM", None),
        (13, "3", "I10", "ICD10CM", None),
    ]
    assert reasons(t["rejects"], "pmh") == [
        (2, "duplicate_row"), (5, "no_diagnosis"), (6, "placeholder_code"), (7, "several_codes"),
        (8, "unknown_code_system"), (9, "unknown_patient"), (10, "blank_id"), (11, "bad_time"), (12, "short_row"),
    ]  # fmt: skip
    assert set(noted["source_row"]) | {r for r, _ in reasons(t["rejects"], "pmh")} == set(range(1, 14))
    visits = d.filter(pl.col("source") == "visits").select(
        "source_row", "encounter_id", "code", "vocabulary", "recorded"
    )
    assert visits.rows() == [
        (1, "101", "338.19", "ICD9CM", dt.date(2264, 3, 1)),
        (1, "101", "789.01", "ICD9CM", dt.date(2264, 3, 1)),
        (1, "101", "R07.9", "ICD10CM", dt.date(2264, 3, 1)),
        (2, "102", "S93.401A", "ICD10CM", dt.date(2265, 3, 1)),
        (4, "104", "I10", "ICD10CM", None),
        (10, "107", "I10", "ICD10CM", dt.date(2230, 1, 1)),
        (11, "108", "J44.9", "ICD10CM", dt.date(2231, 1, 1)),
    ]
    of_codes = t["rejects"].filter(pl.col("table") == "diagnoses")
    assert reasons(of_codes, "visits") == [(1, "several_codes"), (3, "no_diagnosis")]


def test_every_waveform_file_has_its_fate(tree: Path, tmp_path: Path, build: Build) -> None:
    t = build(tree, tmp_path / "run")
    r = t["recordings"]
    assert r["recording_id"].to_list() == [
        "101/101/II/101_1", "101/101/Pleth/101_2", "101/101/Pleth/101_10", "101/101/Resp/101_1",
        "103/103/Pleth/103_1", "103/103/Pleth/103_5",
    ]  # fmt: skip
    assert r["channel"].to_list() == ["ECG_II", "PPG", "PPG", "RESP", "PPG", "PPG"]
    assert r["fs_hz"].to_list() == [500.0, 125.0, 125.0, 62.5, 125.0, 100.0]
    lost = t["rejects"].filter((pl.col("source") == "waveforms") & (pl.col("reason") != "not_in_summary"))
    got = {(p.removeprefix("waveforms/"), why) for p, why in lost.select("path", "reason").iter_rows()}
    assert got == {
        ("103/103/Pleth/103_1.hea", "no_date"), ("103/103/Pleth/103_2.hea", "signal_truncated"),
        ("103/103/Pleth/103_3.hea", "header_unreadable"), ("103/103/Pleth/103_4.hea", "zero_length"),
        ("103/103/Pleth/103_5.hea", "unexpected_rate"), ("103/103/Pleth/103_6.hea", "unsupported_format"),
        ("103/103/Pleth/103_7.hea", "signal_missing"), ("103/103/Pleth/103_8.dat", "header_missing"),
        ("103/103/Pleth/103_9.hea", "out_of_root"), ("103/103/Pleth/103_11.hea", "several_signals"),
        ("103/103/Pleth/notes.doc", "foreign_file"), ("103/103/ABP/103_1.hea", "foreign_file"),
        ("103/103/ABP/103_1.dat", "foreign_file"), ("555/555/Pleth/555_1.hea", "unknown_encounter"),
        ("waveforms_1xx.zip", "archive_not_unpacked"),
    }  # fmt: skip
    # Every header and every signal file is a recording, a reject, or the signal of such a header.
    paths = {p for p, _ in got} | {p.removeprefix("waveforms/") for p in r["path"]}
    for file in (tree / "waveforms").rglob("*"):
        name = file.relative_to(tree / "waveforms").as_posix()
        if file.suffix in (".hea", ".dat"):
            assert name in paths or name.replace(".dat", ".hea") in paths, name
    assert reasons(t["rejects"], "waveform_summary") == [(3, "summary_mismatch"), (4, "summary_without_files")]
    unlisted = t["rejects"].filter(pl.col("reason") == "not_in_summary")["path"].to_list()
    assert unlisted == ["waveforms/101/101/Resp", "waveforms/555/555/Pleth"]


def test_no_identifier_in_a_detail(tree: Path, tmp_path: Path, build: Build) -> None:
    details = " ".join(build(tree, tmp_path / "run")["rejects"]["detail"].drop_nulls())
    assert not [i for i in ("101", "103", "107", "555") if i in details]


def test_flow_adds_up(tree: Path, tmp_path: Path, build: Build) -> None:
    flow = build(tree, tmp_path / "run")["flow"]
    assert flow.filter(pl.col("unit") == "encounters").select("n_in", "n_out").rows() == [(11, 6), (6, 2), (2, 2)]
    assert flow.filter(pl.col("unit") == "recordings").select("n_in", "n_out").rows() == [(14, 7), (7, 6), (6, 4)]
    assert flow.filter(pl.col("unit") == "rows").select("n_in", "n_out").rows() == [(13, 7), (7, 5)]


def test_the_data_folder_may_be_one_below(tree: Path, tmp_path: Path, build: Build) -> None:
    above = tmp_path / "above"
    above.mkdir()
    tree.rename(above / "data")
    t = build(above, tmp_path / "run")
    assert t["recordings"]["path"][0].startswith("data/waveforms/101/")
    assert t["recordings"]["recording_id"][0] == "101/101/II/101_1"
    assert (SOURCE.data_root(above, tmp_path) / t["recordings"]["path"][0]).is_file()


@pytest.mark.parametrize("again", [1, 2])
def test_same_bytes_for_any_number_of_workers(
    tree: Path, tmp_path: Path, build: Build, again: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    build(tree, tmp_path / "a", workers=1)
    monkeypatch.setattr(wavescan, "SERIAL_FOLDERS", 0)
    build(tree, tmp_path / "b", workers=again)
    for file in (tmp_path / "a" / "cohort").iterdir():
        assert file.read_bytes() == (tmp_path / "b" / "cohort" / file.name).read_bytes(), file.name


def test_fingerprint_follows_tables_and_sizes(tree: Path, tmp_path: Path) -> None:
    first = SOURCE.fingerprint(tree)
    moved = tmp_path / "moved"
    tree.rename(moved)
    assert SOURCE.fingerprint(moved) == first
    with (moved / "waveforms/101/101/Pleth/101_2.dat").open("ab") as handle:
        handle.write(b"xx")
    second = SOURCE.fingerprint(moved)
    assert second != first
    (moved / "pmh.csv").write_text((moved / "pmh.csv").read_text().replace("4019", "4018"))
    assert SOURCE.fingerprint(moved) != second


def test_scan_counts_without_reading(tree: Path) -> None:
    assert SOURCE.scan(tree)["n_encounters"] == 11
    assert SOURCE.scan(tree)["n_waveform_folders"] == 3
    assert "split_random_test.csv" in SOURCE.scan(tree)["missing"]


# --- what the user is told when the folder is not right ---


def told(root: Path | None, tmp_path: Path) -> str:
    with pytest.raises(CohortError) as caught:
        SOURCE.build(root, tmp_path / "run")
    assert not (tmp_path / "run").exists()
    return str(caught.value)


def test_no_folder(tmp_path: Path) -> None:
    assert "needs its data folder" in told(None, tmp_path)
    assert "does not exist" in told(tmp_path / "nowhere", tmp_path)
    (tmp_path / "file").write_text("x")
    assert "is a file" in told(tmp_path / "file", tmp_path)


def test_not_such_a_tree(tree: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    assert "the folder is empty" in told(other, tmp_path)
    (other / "photos").mkdir()
    message = told(other, tmp_path)
    assert "visits.csv, pmh.csv, waveforms/ missing" in message
    assert "photos/" in message
    assert f"--data {tree}" in told(tree / "waveforms", tmp_path)
    (tree / "pmh.csv").unlink()
    assert "pmh.csv missing" in told(tree, tmp_path)


def test_packed_waveforms(tree: Path, tmp_path: Path) -> None:
    (tree / "waveforms").rename(tree / "elsewhere")
    assert "waveforms/ missing" in told(tree, tmp_path)
    (tree / "waveforms_0xx.zip").write_bytes(b"PK")
    message = told(tree, tmp_path)
    assert "still packed" in message
    assert "unzip" in message


def test_renamed_column(tree: Path, tmp_path: Path) -> None:
    text = (tree / "visits.csv").read_text()
    (tree / "visits.csv").write_text(text.replace("Departure_time", "Departure_Time"))
    assert "no column 'Departure_time'. Did you mean Departure_Time?" in told(tree, tmp_path)


def test_empty_tables(tree: Path, tmp_path: Path) -> None:
    header = (tree / "visits.csv").read_text().split("\n")[0]
    (tree / "visits.csv").write_text(header + "\n")
    assert "no data rows" in told(tree, tmp_path)
    (tree / "visits.csv").write_text("")
    assert "visits.csv is empty" in told(tree, tmp_path)


def test_damaged_table(tree: Path, tmp_path: Path) -> None:
    with (tree / "pmh.csv").open("a") as handle:
        handle.write('Dx10,"I10,1,2264-03-01T00:00:00Z,x\n')
    assert "damaged" in told(tree, tmp_path)


def test_swapped_identifiers(tree: Path, tmp_path: Path) -> None:
    good = (tree / "pmh.csv").read_text()
    (tree / "pmh.csv").write_text(good.replace(",1,2", ",101,2").replace(",2,2", ",103,2").replace(",3,2", ",104,2"))
    assert "swapped between visits.csv and pmh.csv" in told(tree, tmp_path)
    (tree / "pmh.csv").write_text("MRN,Noted_date,CodeType,Code\n77,2264-03-01T00:00:00Z,Dx10,I10\n")
    assert "none of the 1 patients of pmh.csv" in told(tree, tmp_path)
    (tree / "pmh.csv").write_text(good)
    visits = (tree / "visits.csv").read_text()
    (tree / "visits.csv").write_text(visits.replace("CSN,MRN", "MRN,CSN", 1))
    assert "swapped" in told(tree, tmp_path)
    # Without noted diagnoses the visits alone give it away: fewer visits than patients.
    header = "MRN,CSN,Age,Gender,Race,Ethnicity,Dx_ICD9,Dx_ICD10,Arrival_time,Departure_time"
    (tree / "visits.csv").write_text("\n".join([header, "11,1" + "," * 8, "12,1" + "," * 8, "13,2" + "," * 8]) + "\n")
    assert "swapped in visits.csv: 2 different CSN for 3 different MRN" in told(tree, tmp_path)


def test_waveforms_of_other_visits(tree: Path, tmp_path: Path) -> None:
    for name in ("101/101", "103/103"):
        (tree / "waveforms" / name).rename(tree / "waveforms" / name.replace("/", "/9"))
    assert "no waveform folder belongs to a visit" in told(tree, tmp_path)


def test_a_link_out_of_the_root_is_refused(tree: Path, tmp_path: Path, build: Build) -> None:
    outside = tmp_path / "outside"
    (tree / "waveforms/101/101/Pleth").rename(outside)
    (tree / "waveforms/101/101/Pleth").symlink_to(outside)
    t = build(tree, tmp_path / "run")
    lost = t["rejects"].filter(pl.col("reason") == "out_of_root")["path"].to_list()
    assert "waveforms/101/101/Pleth" in lost
    assert not [p for p in t["recordings"]["path"] if "101/101/Pleth" in p]
