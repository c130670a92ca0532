"""A small tree in the MC-MED layout, written by hand, and the real data where they lie beside the checkout."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest

VISIT_HEADER = "CSN,MRN,Age,Gender,Race,Ethnicity,CC,Dx_ICD9,Dx_ICD10,Arrival_time,Roomed_time,Departure_time"
# The rows are numbered from 1, as in source_row.
VISITS = [
    '101,1,54,F,White,Non-Hispanic/Non-Latino,"PAIN, CHEST","789.01, 338.19",R07.9,'
    "2264-03-01T07:00:00Z,,2264-03-01T12:30:00Z",
    "102,1,55,F,,,FALL,,S93.401A,2265-03-01T07:00:00.250,,2265-03-01T06:00:00Z",  # 2: leaves before it comes
    "103,2,91,M,Asian,,,,,2295-12-31 23:00:00Z,,2295-12-31T23:59:59Z",  # 3: no diagnosis; year 2295
    "104,3,old,M,,,,,I10,soon,,",  # 4: bad number, bad time
    "104,3,44,M,,,,,I48.91,2230-01-01T00:00:00Z,,",  # 5: again
    "105,4,30,F,,,,,I10,2230-01-01T00:00:00Z,,",  # 6: of two patients
    "105,5,30,F,,,,,I10,2230-01-01T00:00:00Z,,",  # 7: of two patients
    ",6,30,F,,,,,I10,2230-01-01T00:00:00Z,,",  # 8: blank id
    "106,7,30",  # 9: short
    "107,8,20,F,,,,,I10,2230-01-01T00:00:00Z,,2230-01-01T03:00:00Z",  # 10: sex conflict
    '108,8,21,M,,,"line\nbreak",,J44.9,2231-01-01T00:00:00Z,,2231-01-01T03:00:00Z',  # 11
]
PMH_HEADER = "CodeType,Code,MRN,Noted_date,Desc10"
PMH = [
    "Dx10,I4891,1,2264-03-01T00:00:00Z,AF",  # 1
    "Dx10,I4891,1,2264-03-01T00:00:00Z,AF",  # 2: duplicate
    "Dx9,4019,1,2250-01-01T00:00:00Z,hypertension",  # 3
    "Dx10,e119 ,2,2290-01-01T00:00:00Z,diabetes",  # 4
    "Dx10,,2,2290-01-01T00:00:00Z,",  # 5: blank
    "Dx10,IMO0001,2,2290-01-01T00:00:00Z,",  # 6: placeholder
    'Dx10,"Z87891, Z8739",2,2290-01-02T00:00:00Z,',  # 7: two codes
    "SNOMED,38341003,3,2230-01-01T00:00:00Z,",  # 8: unknown system
    "Dx10,I10,999,2230-01-01T00:00:00Z,",  # 9: unknown patient
    "Dx10,I10,,2230-01-01T00:00:00Z,",  # 10: blank id
    "Dx10,I10,3,yesterday,",  # 11: bad time
    "Dx10,I10",  # 12: short
    "Dx10,I10,3,,",  # 13: no date, kept
]


def write_record(
    folder: Path, name: str, record: str, *, n: int = 1250, spec: str = "16 1000.5(3)/NU 16 0 0 0 0"
) -> None:
    """Write a header from its record line and `n` samples of format 16."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.hea").write_text(f"{record}\n{name}.dat {spec} {folder.name}\n")
    (folder / f"{name}.dat").write_bytes(np.arange(n, dtype="<i2").tobytes())


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Return a tree in which every row and file has a known fate."""
    root = tmp_path / "mc-med"
    root.mkdir()
    (root / "visits.csv").write_text("\n".join([VISIT_HEADER, *VISITS]) + "\n")
    (root / "pmh.csv").write_text("\n".join([PMH_HEADER, *PMH]) + "\n")
    (root / "waveform_summary.csv").write_text(
        "CSN,Type,Segments,Duration\n101,Pleth,2,20\n101,II,1,2.5\n103,Pleth,9,90\n107,Pleth,1,10\n"
    )
    waves = root / "waveforms"
    write_record(waves / "101/101/Pleth", "101_2", "101_2 1 125 1250 07:30:00 01/03/2264")
    write_record(waves / "101/101/Pleth", "101_10", "101_10 1 125/125(0) 1250 07:10:00.500 01/03/2264")
    write_record(waves / "101/101/II", "101_1", "101_1 1 500 1250 07:09:00 01/03/2264")
    write_record(waves / "101/101/Resp", "101_1", "101_1 1 62.5 1250 07:09:00 01/03/2264")  # not in the summary
    write_record(waves / "103/103/Pleth", "103_1", "103_1 1 125 1250 24:00:00 31/12/2295")  # no usable time
    write_record(waves / "103/103/Pleth", "103_2", "103_2 1 125 2000 23:10:00 31/12/2295")  # truncated
    write_record(waves / "103/103/Pleth", "103_3", "103_3 one fast")
    write_record(waves / "103/103/Pleth", "103_4", "103_4 1 125 0 23:10:00 31/12/2295", n=0)
    write_record(waves / "103/103/Pleth", "103_5", "103_5 1 100 1250 23:10:00 31/12/2295")  # other rate
    write_record(waves / "103/103/Pleth", "103_6", "103_6 1 125 1250 23:10:00 31/12/2295", spec="99 1 16 0 0 0 0")
    write_record(waves / "103/103/Pleth", "103_7", "103_7 1 125 1250 23:10:00 31/12/2295")
    (waves / "103/103/Pleth/103_7.dat").unlink()
    write_record(waves / "103/103/Pleth", "103_8", "103_8 1 125 1250 23:10:00 31/12/2295")
    (waves / "103/103/Pleth/103_8.hea").unlink()
    (waves / "103/103/Pleth/103_9.hea").write_text("103_9 1 125 1250\n../../../secret.dat 16 1 16 0 0 0 0 Pleth\n")
    (waves / "103/103/Pleth/103_11.hea").write_text("x 2 125 10\na.dat 16\nb.dat 16\n")
    (waves / "103/103/Pleth/notes.doc").write_text("?")
    (waves / "103/103/Pleth/index.html").write_text("left by a download tool")
    write_record(waves / "103/103/ABP", "103_1", "103_1 1 125 1250")
    write_record(waves / "555/555/Pleth", "555_1", "555_1 1 125 1250 23:10:00 31/12/2295")  # unknown visit
    (waves / "waveforms_1xx.tar").write_bytes(b"ustar")
    return root


@pytest.fixture
def build() -> Callable[..., dict[str, pl.DataFrame]]:
    """Return a function that builds a cohort and reads its tables back."""

    def run(root: Path, run_dir: Path, *, workers: int = 1) -> dict[str, pl.DataFrame]:
        from phewas.cohorts import get

        get("mcmed").build(root, run_dir, workers=workers)
        names = ("patients", "encounters", "recordings", "diagnoses", "rejects", "flow")
        return {n: pl.read_parquet(run_dir / "cohort" / f"{n}.parquet") for n in names}

    return run


@pytest.fixture
def shared() -> Path:
    """Return the folder of real data, or skip."""
    folder = Path(__file__).resolve().parents[2].parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("no real data beside the checkout")
    return folder
