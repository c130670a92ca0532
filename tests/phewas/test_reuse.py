"""`--from RUN`: a second encoder takes what another run has done, and comes out as if it had done it itself."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from phewas import settings
from phewas.encoders.registry import PPG_50
from phewas.errors import ConfigError, RunError
from phewas.pipeline import run
from phewas.plan import Plan, plan
from phewas.reuse import settings_of
from phewas.segments.cutting import Work
from phewas.segments.store import SegmentStore

TABLES = Path(__file__).resolve().parent.parent / "golden" / "tables" / "input"
DEFAULTS = {"cohort": "tables", "encoder": "net1d-small", "workers": 1, "heldout": "crossfit:2"}


def planned(root: Path, out: Path, *, start_from: Path | None = None, other: bool = False, **options) -> Plan:
    base = settings_of(start_from, encoder=options.get("encoder")) if start_from else None
    given = DEFAULTS | {"data": root} | options
    config = settings.resolve(given, None, base=base)
    made = plan(config, out=out, command="phewas run", start_from=start_from)
    return replace(made, spec=replace(made.spec, name="other", contract=PPG_50)) if other else made


def contents(out: Path) -> dict[str, bytes]:
    files = (f for part in ("cohort", "phenotypes", "segments") for f in (out / part).rglob("*") if f.is_file())
    return {f.relative_to(out).as_posix(): f.read_bytes() for f in files}


def clinic(root: Path) -> None:
    """Twelve patients with a visit, a diagnosis and half a minute of pulse wave each, in the layout of TABLES."""
    (root / "signals").mkdir(parents=True)
    shutil.copy(TABLES / "cohort.toml", root)
    visits, codes, files = (
        ["Visit\tPatient\tArrival\tDeparture\tAge\tSex"],
        ["patient,codes,revision,noted"],
        ["visit,file,what"],
    )
    for n in range(12):
        visits.append(f"v{n}\tp{n}\t01.02.2020 10:00\t01.02.2020 12:00\t{40 + n}\t{'FM'[n % 2]}")
        codes.append(f"p{n},{('I10', 'E11.9')[n % 2]},10,01.01.2020")
        files.append(f"v{n},signals/v{n}.txt,PPG")
        t = np.arange(250 * 31) / 250
        wave = np.sin(2 * np.pi * (1 + n / 20) * t) + 0.01 * np.random.default_rng(n).standard_normal(len(t))
        np.savetxt(root / "signals" / f"v{n}.txt", wave, fmt="%.4f")
    for name, lines in (("visits.tsv", visits), ("codes.csv", codes), ("files.csv", files)):
        (root / name).write_text("\n".join(lines) + "\n")


@pytest.fixture
def first(tmp_path):
    clinic(tmp_path / "data")
    run(planned(tmp_path / "data", tmp_path / "first", seed=3), until="segments")
    return tmp_path / "data", tmp_path / "first"


def test_a_second_encoder_goes_on_from_another_run(first, tmp_path, monkeypatch):
    root, one = first
    fresh = tmp_path / "fresh"
    run(planned(root, fresh, seed=3, other=True), until="segments")
    drawn = []
    plain = Work._choose
    monkeypatch.setattr(Work, "_choose", lambda *more: (drawn.append(1), plain(*more))[1])
    second = tmp_path / "second"
    made = planned(root, second, start_from=one, other=True)
    assert made.config.seed == 3  # the other run's
    run(made, until="segments")
    assert not drawn
    assert contents(second) == contents(fresh)
    manifest = json.loads((second / "run.json").read_text())
    assert manifest["from"]["steps"] == ["cohort", "split", "phenotypes"]
    assert manifest["steps"]["cohort"] == json.loads((one / "run.json").read_text())["steps"]["cohort"]
    # The first run may go; the second holds its own.
    shutil.rmtree(one)
    store = SegmentStore.open(second, PPG_50)
    assert store.index.height > 0
    moved = second.rename(tmp_path / "elsewhere")
    assert SegmentStore.open(moved, PPG_50).gather(np.array([0])).any()


def test_the_same_contract_is_taken_with_its_windows(first, tmp_path):
    root, one = first
    second = tmp_path / "second"
    run(planned(root, second, start_from=one), until="segments")
    assert json.loads((second / "run.json").read_text())["from"]["steps"][-1] == "segments"
    assert contents(second) == contents(one)


def test_what_would_come_out_otherwise_is_done_anew(first, tmp_path):
    root, one = first
    second = tmp_path / "second"
    run(planned(root, second, start_from=one, seed=4), until="segments")
    taken = json.loads((second / "run.json").read_text())["from"]["steps"]
    assert taken == ["cohort", "phenotypes"]
    fresh = tmp_path / "fresh"
    run(planned(root, fresh, seed=4), until="segments")
    assert contents(second) == contents(fresh)


def test_other_data_is_refused(first, tmp_path):
    root, one = first
    with pytest.raises(ConfigError, match="own folder"):
        run(planned(root, one, start_from=one))
    changed = tmp_path / "changed"
    shutil.copytree(root, changed)
    table = next(changed.glob("*.csv"))
    table.write_text(table.read_text() + "\n")
    with pytest.raises(RunError, match="data"):
        run(planned(changed, tmp_path / "second", start_from=one))
    assert not (tmp_path / "second").exists()
    with pytest.raises(RunError, match="no run directory"):
        settings_of(tmp_path, encoder=None)
