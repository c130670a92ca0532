"""The MC-MED adapter on a tree written by hand: every row and file has a known fate."""

from __future__ import annotations

import csv
import datetime as dt
import random
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest

import phewas.cohorts.wavescan as wavescan
from phewas.cohorts import get
from phewas.cohorts.base import covariates
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
        ("waveforms_1xx.tar", "archive_not_unpacked"),
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
    assert "waveforms_0xx.zip cannot be read" in message
    assert "download it again" in message


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
@pytest.mark.parametrize("above", ["", "waveforms/", "mc-med/1.0.1/waveforms/"])
def test_archives_give_the_same_cohort(
    tree: Path, tmp_path: Path, build: Build, method: int, above: str
) -> None:
    plain = build(tree, tmp_path / "plain")
    waves = tree / "waveforms"
    (waves / "waveforms_1xx.tar").unlink()
    for digit in "15":
        with zipfile.ZipFile(tree / f"waveforms_{digit}xx.zip", "w", method) as packed:
            for file in sorted(waves.glob(f"{digit}*/**/*")):
                if file.is_file():
                    packed.write(file, above + file.relative_to(waves).as_posix())
    counts = SOURCE.scan(tree)
    shutil.rmtree(waves)
    assert SOURCE.scan(tree) == counts
    packed_run = build(tree, tmp_path / "packed")
    for name in ("patients", "encounters", "diagnoses", "flow"):
        a, b = (tmp_path / run / "cohort" / f"{name}.parquet" for run in ("plain", "packed"))
        assert a.read_bytes() == b.read_bytes(), name
    one, two = plain["recordings"], packed_run["recordings"]
    assert one.drop("path", "member").equals(two.drop("path", "member"))
    assert set(two["path"]) == {"waveforms_1xx.zip"}
    for row in two.iter_rows(named=True):
        assert row["member"] == f"{above}{row['recording_id']}.hea"
    fates = [
        {(p.split(above)[-1] if above and above in p else p.split("/", 1)[-1], why)
         for p, why in t["rejects"].filter(pl.col("path").is_not_null()).select("path", "reason").iter_rows()}
        for t in (plain, packed_run)
    ]  # fmt: skip
    assert {f for f in fates[0] if "tar" not in f[0]} == fates[1]


def test_an_unpacked_copy_wins_and_a_broken_one_is_made_good(tree: Path, tmp_path: Path, build: Build) -> None:
    waves = tree / "waveforms"
    with zipfile.ZipFile(tree / "waveforms_1xx.zip", "w") as packed:
        for file in sorted(waves.glob("101/**/*")):
            if file.is_file():
                packed.write(file, file.relative_to(waves).as_posix())
    # As an unpacking that was killed leaves it: half of one signal is there.
    half = waves / "101/101/Pleth/101_2.dat"
    half.write_bytes(half.read_bytes()[:100])
    t = build(tree, tmp_path / "run")
    taken = dict(t["recordings"].select("recording_id", "path").iter_rows())
    assert taken["101/101/Pleth/101_2"] == "waveforms_1xx.zip"
    assert taken["101/101/Pleth/101_10"] == "waveforms/101/101/Pleth/101_10.hea"
    copies = t["rejects"].filter(pl.col("reason") == "packed_copy")["path"].to_list()
    assert copies == [f"waveforms_1xx.zip/101/101/{n}" for n in ("II/101_1.hea", "Pleth/101_10.hea", "Resp/101_1.hea")]
    flow = t["flow"].filter(pl.col("unit") == "recordings").select("n_in", "n_out").rows()
    assert flow == [(18, 7), (7, 6), (6, 4)]


def test_fingerprint_of_archives_follows_their_content(tree: Path, tmp_path: Path) -> None:
    waves = tree / "waveforms"
    prints = []
    for value in (1, 1, 2):
        (tree / "waveforms_1xx.zip").unlink(missing_ok=True)
        with zipfile.ZipFile(tree / "waveforms_1xx.zip", "w") as packed:
            packed.writestr("101/101/Pleth/101_1.dat", bytes([value] * 100))
        prints.append(SOURCE.fingerprint(tree))
    assert waves.is_dir()
    assert prints[0] == prints[1] != prints[2]


@pytest.mark.parametrize("name", ["../../etc/101/101/Pleth/x.hea", "101/x.hea", "__MACOSX/101/101/Pleth/x.hea"])
def test_odd_names_in_archives(tree: Path, tmp_path: Path, build: Build, name: str) -> None:
    with zipfile.ZipFile(tree / "waveforms_1xx.zip", "w") as packed:
        packed.writestr(name, "x 1 125 10\nx.dat 16\n")
    t = build(tree, tmp_path / "run")
    assert not [m for m in t["recordings"]["member"] if m is not None]
    told_of = t["rejects"].filter(pl.col("path").str.starts_with("waveforms_1xx.zip"))["reason"].to_list()
    assert told_of == ([] if "MACOSX" in name else ["out_of_root"] if ".." in name else ["foreign_file"])


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


# --- what may stand beside the signal ---

KNOWN_AFTERWARDS = {
    "Visits", "Hours_to_next_visit", "Dispo_class_next_visit", "ED_dispo", "ED_LOS", "Hosp_LOS", "DC_dispo",
    "Dispo_time", "Admit_time", "Admit_service", "Departure_time", "Dx_ICD9", "Dx_ICD10", "Dx_name",
}  # fmt: skip


def test_nothing_known_only_afterwards_is_offered(tree: Path, tmp_path: Path, build: Build) -> None:
    header, *rows = (tree / "visits.csv").read_text().replace('"line\nbreak"', "CC").split("\n")
    more = [*sorted(KNOWN_AFTERWARDS - set(header.split(","))), "Some_new_column"]
    wide = "\n".join([",".join([header, *more]), *(r + ",x" * len(more) if r.count(",") > 10 else r for r in rows)])
    (tree / "visits.csv").write_text(wide)
    encounters = build(tree, tmp_path / "run")["encounters"]
    assert {f"src_{c}" for c in KNOWN_AFTERWARDS} <= set(encounters.columns)
    offered = covariates(encounters, card=SOURCE.card)
    assert offered == ["src_Age", "src_Gender", "src_Race", "src_Ethnicity", "src_CC", "src_Arrival_time",
                       "src_Roomed_time"]  # fmt: skip
    assert KNOWN_AFTERWARDS.isdisjoint(SOURCE.card.covariates)


def test_pandas_of_any_version_keeps_the_year_2295(tree: Path, tmp_path: Path, build: Build) -> None:
    encounters = build(tree, tmp_path / "run")["encounters"]
    frame = encounters.select("encounter_id", "start", "index_time").to_pandas()
    assert str(frame["start"].dtype) == "datetime64[us]"
    back = pl.from_pandas(frame)
    assert back["start"].equals(encounters["start"])
    assert back["index_time"].equals(encounters["index_time"])
    assert back["start"].dt.year().max() == 2295


# --- whatever befalls the files: told in words, and no row lost in silence ---

LOST = {"duplicate_encounter", "encounter_of_two_patients", "blank_id", "short_row"}


def mutate(text: str, rng: random.Random) -> str:
    """Flip, drop, double, cut or move a few characters or lines; the header is spared half of the time."""
    lines = text.split("\n")
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(1 if rng.random() < 0.9 else 0, len(lines))
        line = lines[at]
        what = rng.choice(["flip", "drop", "double", "cut", "swap", "cell", "quote"])
        if what == "drop" and len(lines) > 2:
            lines.pop(at)
        elif what == "double":
            lines.insert(at, line)
        elif what == "cut":
            lines[at] = line[: rng.randrange(len(line) + 1)]
        elif what == "swap":
            other = rng.randrange(1, len(lines))
            lines[at], lines[other] = lines[other], lines[at]
        elif what == "cell" and line:
            cells = line.split(",")
            odd = ["", "NA", "x" * 300, "-1", "2264-13-45", "\ufffd", "I10;E11"]
            cells[rng.randrange(len(cells))] = rng.choice(odd)
            lines[at] = ",".join(cells)
        elif what == "quote":
            place = rng.randrange(len(line) + 1)
            lines[at] = line[:place] + '"' + line[place:]
        elif line:
            place = rng.randrange(len(line))
            lines[at] = line[:place] + chr(rng.choice([0, 9, 34, 44, 65, 233, 8364])) + line[place + 1 :]
    return "\n".join(lines)


@pytest.mark.parametrize("seed", range(40))
def test_fuzzed_tables(tree: Path, tmp_path: Path, build: Build, seed: int) -> None:
    rng = random.Random(seed)
    counts = {}
    for name in ("visits", "pmh", "waveform_summary"):
        path = tree / f"{name}.csv"
        path.write_text(mutate(path.read_text(), rng), encoding="utf-8", newline="")
    try:
        t = build(tree, tmp_path / "run")
    except CohortError:
        return  # told in words; what the messages say is tested above
    for name in ("visits", "pmh"):
        with (tree / f"{name}.csv").open(encoding="utf-8", newline="") as handle:
            counts[name] = sum(1 for _ in csv.reader(handle, strict=True)) - 1
    told_of = t["rejects"].filter(pl.col("table") == "encounters")
    lost = told_of.filter(pl.col("reason").is_in(LOST))["source_row"].n_unique()
    assert len(t["encounters"]) + lost == counts["visits"]
    rows = set(t["diagnoses"].filter(pl.col("source") == "pmh")["source_row"])
    rows |= set(t["rejects"].filter(pl.col("source") == "pmh")["source_row"])
    assert rows == set(range(1, counts["pmh"] + 1))


@pytest.mark.parametrize("seed", range(20))
def test_fuzzed_waveforms(tree: Path, tmp_path: Path, build: Build, seed: int) -> None:
    rng = random.Random(seed)
    files = sorted(f for f in (tree / "waveforms").rglob("*") if f.is_file())
    for file in rng.sample(files, 6):
        data = file.read_bytes()
        what = rng.choice(["flip", "cut", "empty", "remove", "rename", "folder"])
        if what == "flip" and data:
            at = rng.randrange(len(data))
            file.write_bytes(data[:at] + bytes([rng.randrange(256)]) + data[at + 1 :])
        elif what == "cut":
            file.write_bytes(data[: rng.randrange(len(data) + 1)])
        elif what == "empty":
            file.write_bytes(b"")
        elif what == "remove":
            file.unlink()
        elif what == "rename":
            file.rename(file.with_name(f"z{file.name}"))
        elif what == "folder":
            file.unlink()
            file.mkdir()
    t = build(tree, tmp_path / "run")
    paths = {*t["rejects"]["path"].drop_nulls(), *t["recordings"]["path"]}
    for file in (tree / "waveforms").rglob("*"):
        name = file.relative_to(tree).as_posix()
        if file.is_file() and file.name != "index.html":
            beside = {name, name.rsplit(".", 1)[0] + ".hea"}
            assert beside & paths or _named_by_a_header(file), name


def _named_by_a_header(file: Path) -> bool:
    """Whether a header in the same folder names this signal file, so that its fate is the header's."""
    return any(file.name.encode() in h.read_bytes() for h in file.parent.glob("*.hea") if h.is_file())
