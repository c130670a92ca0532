"""Every golden input, damaged in every way a file can be: words instead of tracebacks, and no row lost in silence."""

from __future__ import annotations

import csv
import importlib.util
import io
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest

from phewas.cohorts import get
from phewas.cohorts.anyfile import read_any
from phewas.errors import PhewasError, SchemaError

spec = importlib.util.spec_from_file_location(
    "golden_inputs", Path(__file__).resolve().parents[1] / "golden" / "inputs.py"
)
assert spec is not None
assert spec.loader is not None
inputs = importlib.util.module_from_spec(spec)
spec.loader.exec_module(inputs)

VARIANTS = int(os.environ.get("PHEWAS_FUZZ", "40"))
# adapter -> table stem -> name of its rows in the diagnoses table, or the table that its rows enter
TABLES = {
    "mimic3": {"patients": "patients", "admissions": "encounters", "diagnoses_icd": "diagnoses"},
    "mimic4": {"patients": "patients", "admissions": "encounters", "edstays": "encounters",
               "diagnoses_icd": "diagnoses", "diagnosis": "diagnoses"},
    "mimic4ecg": {"record_list": "recordings"},
    "omop": {"person": "patients", "visit_occurrence": "encounters", "condition_occurrence": "diagnoses",
             "recordings": "recordings"},
    "tables": {"visits": "encounters", "codes": "diagnoses", "files": "recordings"},
    "meds": {"recordings": "recordings"},
}  # fmt: skip
# The names that the source gives to the user's tables.
NAMED = {("tables", "visits"): "encounters", ("tables", "codes"): "diagnoses", ("tables", "files"): "recordings"}
ODD = [
    "",
    " ",
    "NA",
    "-1",
    "1e999",
    "\N{SNOWMAN}",
    '"',
    "a,b",
    "9" * 40,
    "2300-13-45",
    "\x00",
    "nan",
    "../x",
    "\t",
    "%Y",
]


def text_files(root: Path) -> list[Path]:
    return [p for p in sorted(root.rglob("*")) if p.suffix in (".csv", ".tsv", ".text", ".toml", ".hea", ".txt")]


def flip(text: str, chance: random.Random) -> str:
    at = chance.randrange(len(text)) if text else 0
    return text[:at] + chance.choice("0A;,/\n ~%'\"\\é") + text[at + 1 :]


def cell(text: str, chance: random.Random) -> str:
    rows = list(csv.reader(io.StringIO(text.replace("\0", ""))))
    full = [k for k, row in enumerate(rows) if row]
    if not full:
        return text
    row = rows[chance.choice(full)]
    row[chance.randrange(len(row))] = chance.choice(ODD)
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows(rows)
    return out.getvalue()


def drop_cell(text: str, chance: random.Random) -> str:
    lines = text.split("\n")
    k = chance.randrange(len(lines))
    lines[k] = lines[k].rpartition(",")[0]
    return "\n".join(lines)


def truncate(text: str, chance: random.Random) -> str:
    return text[: chance.randrange(len(text) + 1)]


def reorder(text: str, chance: random.Random) -> str:
    head, *rows = text.rstrip("\n").split("\n")
    chance.shuffle(rows)
    return "\n".join([head, *rows]) + "\n"


def columns(text: str, chance: random.Random) -> str:
    rows = list(csv.reader(io.StringIO(text.replace("\0", ""))))
    order = list(range(max(map(len, rows), default=0)))
    chance.shuffle(order)
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows([[r[k] for k in order if k < len(r)] for r in rows])
    return out.getvalue()


def repeat(text: str, chance: random.Random) -> str:
    lines = text.rstrip("\n").split("\n")
    return "\n".join([*lines, chance.choice(lines)]) + "\n"


def empty(text: str, chance: random.Random) -> str:
    return chance.choice(["", "\n", text.split("\n")[0] + "\n"])


MUTATIONS: list[Callable[[str, random.Random], str]] = [
    flip, cell, cell, cell, drop_cell, truncate, reorder, columns, repeat, empty
]  # fmt: skip


def damage(root: Path, chance: random.Random) -> str:
    """Damage one or two files below a folder of golden input and bake it; return what was done."""
    done = []
    for _ in range(chance.choice([1, 1, 2])):
        file = chance.choice(text_files(root))
        how = chance.choice([*MUTATIONS, None, "binary"])
        if how is None:
            file.unlink()
            done.append(f"drop {file.name}")
        elif how == "binary":
            done.append("binary")
        else:
            assert callable(how)
            file.write_text(how(file.read_text(), chance), encoding="utf-8", newline="")
            done.append(f"{how.__name__} {file.name}")
    try:
        inputs.bake(root)
    except Exception:  # noqa: BLE001  a stand-in that no longer is a table cannot be baked: leave the damaged bytes
        for text in sorted(root.rglob("*.parquet.csv")):
            text.rename(text.with_name(text.name.removesuffix(".csv")))
        for text in sorted(root.rglob("*.gz.text")):
            text.rename(text.with_name(text.name.removesuffix(".text")))
        done.append("not baked")
    if "binary" in done:
        file = chance.choice([p for p in sorted(root.rglob("*")) if p.is_file() and p.stat().st_size])
        raw = bytearray(file.read_bytes())
        for _ in range(3):
            raw[chance.randrange(len(raw))] = chance.randrange(256)
        file.write_bytes(bytes(raw[: chance.randrange(1, len(raw) + 1)]))
        done.append(f"bytes of {file.name}")
    return ", ".join(done)


def read(run: Path, name: str) -> pl.DataFrame:
    return pl.read_parquet(run / "cohort" / f"{name}.parquet")


def check_nothing_lost(adapter: str, root: Path, run: Path) -> None:
    rejects = read(run, "rejects")
    for file in sorted(root.rglob("*")):
        stem = file.name.partition(".")[0].lower()
        table = TABLES[adapter].get(stem)
        if table is None or not file.is_file() or file.suffix == ".text":
            continue
        source = NAMED.get((adapter, stem), stem)
        n_rows = read_any(file, needs=[], table=table).n_rows
        told = set(rejects.filter(pl.col("source") == source)["source_row"].drop_nulls())
        if table == "diagnoses":
            kept = set(read(run, "diagnoses").filter(pl.col("source") == source)["source_row"])
            assert kept | told == set(range(1, n_rows + 1)), stem
        elif table == "patients":
            assert len(read(run, "patients")) + len(told) >= n_rows, stem
        elif table == "encounters":
            flow = read(run, "flow").row(0, named=True)
            assert flow["n_in"] >= n_rows
            every = rejects.filter(pl.col("table") == "encounters").select("source", "source_row").n_unique()
            assert flow["n_out"] + every >= flow["n_in"]
        else:
            files = (
                read(run, "recordings")["path"].n_unique()
                + rejects.filter(pl.col("table") == "recordings")["path"].n_unique()
            )
            assert files + len(told) >= n_rows
    flow = read(run, "flow").filter((pl.col("unit") == "rows") & pl.col("kind").is_null()).row(0, named=True)
    rows = pl.concat(
        [read(run, "diagnoses").select("source", "source_row"),
         rejects.filter(pl.col("table") == "diagnoses").select("source", "source_row")]
    )  # fmt: skip
    assert rows.n_unique() >= flow["n_in"]
    if adapter == "mimic3":
        paths = "|".join([*read(run, "recordings")["path"], *rejects["path"].drop_nulls()])
        for header in root.rglob("p000878/p000878-*[0-9].hea"):
            segments = header.read_text(errors="replace").split()[10::2]
            assert header.name in paths or any(s in paths for s in segments), header.name


@pytest.mark.parametrize("adapter", sorted(TABLES))
def test_damaged_inputs(adapter: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda handle: None)  # nothing here has to survive a power cut
    built = 0
    for seed in range(VARIANTS):
        chance = random.Random(f"{adapter} {seed}")
        root = tmp_path / "data"
        shutil.copytree(inputs.GOLDEN / inputs.SHARED.get(adapter, adapter) / "input", root)
        what = damage(root, chance)
        run = tmp_path / "run"
        try:
            get(adapter).scan(root)
            get(adapter).fingerprint(root)
            get(adapter).build(root, run, workers=1)
        except Exception as error:
            if isinstance(error, PhewasError) and not isinstance(error, SchemaError):
                shutil.rmtree(root)
                continue  # told in words; a broken contract between two of our own functions is no such thing
            raise AssertionError(f"{adapter} {seed}: {what}") from error
        else:
            built += 1
            try:
                check_nothing_lost(adapter, root, run)
            except AssertionError as error:
                raise AssertionError(f"{adapter} {seed}: {what}: {error}") from error
        shutil.rmtree(root)
        shutil.rmtree(run, ignore_errors=True)
    assert built > VARIANTS // 4  # most damage is survived, not refused
