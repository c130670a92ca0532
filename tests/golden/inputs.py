"""Golden examples: tiny inputs as text, made into the files that a source reads, and the tables expected from them.

``<adapter>/input`` holds the input. Text stands for what is not text: ``NAME.parquet.csv`` becomes ``NAME.parquet``
(columns typed as that format has them), ``NAME.gz.text`` becomes the compressed ``NAME.gz``, and ``signals.txt`` lists
signal files with their size in bytes.
"""

from __future__ import annotations

import gzip
import shutil
from pathlib import Path

import polars as pl

GOLDEN = Path(__file__).parent
ADAPTERS = ("meds", "mimic3", "mimic4", "mimic4ecg", "omop", "tables")
TABLES = ("patients", "encounters", "recordings", "diagnoses", "rejects")
# The same folder serves both cohorts of MIMIC-IV.
SHARED = {"mimic4ecg": "mimic4"}


def materialise(adapter: str, into: Path) -> Path:
    """Copy an example's input to a new folder, binary files made from their text."""
    shutil.copytree(GOLDEN / SHARED.get(adapter, adapter) / "input", into)
    return bake(into)


def bake(root: Path) -> Path:
    """Turn the text stand-ins below a folder into the files they stand for."""
    for text in sorted(root.rglob("*.parquet.csv")):
        write_parquet(text, text.with_name(text.name.removesuffix(".csv")))
        text.unlink()
    for text in sorted(root.rglob("*.gz.text")):
        text.with_name(text.name.removesuffix(".text")).write_bytes(gzip.compress(text.read_bytes(), mtime=0))
        text.unlink()
    for listed in sorted(root.rglob("signals.txt")):
        for line in listed.read_text().splitlines():
            name, _, size = line.partition(" ")
            (listed.parent / name).parent.mkdir(parents=True, exist_ok=True)
            (listed.parent / name).write_bytes(bytes(int(size)))
        listed.unlink()
    return root


def write_parquet(text: Path, path: Path) -> None:
    frame = pl.read_csv(text, infer_schema=False, truncate_ragged_lines=True)
    casts = []
    for name in frame.columns:
        if name in ("subject_id", "hadm_id"):
            casts.append(pl.col(name).cast(pl.Int64, strict=False))
        elif name == "time":
            casts.append(pl.col(name).str.to_datetime("%Y-%m-%d %H:%M:%S", time_unit="us", strict=False))
        elif name == "parent_codes":
            casts.append(pl.col(name).str.split(";"))
    frame.with_columns(casts).write_parquet(path)


def tables_of(run: Path) -> dict[str, str]:
    """Return the built tables as CSV text."""
    out = {}
    for name in TABLES:
        frame = pl.read_parquet(run / "cohort" / f"{name}.parquet")
        frame = frame.with_columns(pl.col(pl.Float64).round(4))
        out[name] = frame.write_csv(datetime_format="%Y-%m-%dT%H:%M:%S%.f")
    return out
