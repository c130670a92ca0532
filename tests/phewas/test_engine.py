"""Shards in processes: order, errors, and workers that die."""

from __future__ import annotations

import importlib
import sys

import polars as pl
import pytest

from phewas.config import SegmentConfig
from phewas.encoders.registry import PPG_125
from phewas.engine import ShardsFailedError, map_shards
from phewas.errors import SignalError
from phewas.schema import Rejects
from phewas.segments.cutting import Journal, Shard, blame
from phewas.segments.extract import FAILED_FILE, REJECTS_FILE, extract

DEADLY = '''
"""Functions that worker processes import by name."""

import os
import signal
from pathlib import Path

from phewas.errors import SignalError


def square(n):
    return n * n


def dies_once(job):
    folder, n = job
    mark = Path(folder) / f"died-{n}"
    if n % 3 == 0 and not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return n


def dies_always(job):
    folder, n = job
    if n == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    (Path(folder) / f"did-{n}").touch()
    return n


def complains(n):
    raise SignalError("no signal", expected="a signal", cure="plug it in")
'''


@pytest.fixture
def deadly(tmp_path, monkeypatch):
    (tmp_path / "deadly_shards.py").write_text(DEADLY)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield importlib.import_module("deadly_shards")
    sys.modules.pop("deadly_shards", None)


@pytest.mark.parametrize("workers", [1, 2])
def test_results_come_in_the_order_of_the_shards(deadly, workers):
    done = map_shards(deadly.square, list(range(7)), task="t", unit="shards", workers=workers)
    assert done == [n * n for n in range(7)]


def test_a_worker_that_dies_once_costs_nothing(deadly, tmp_path):
    jobs = [(str(tmp_path), n) for n in range(7)]
    assert map_shards(deadly.dies_once, jobs, task="t", unit="shards", workers=2) == list(range(7))


def test_a_shard_that_always_kills_its_worker_is_named_and_the_rest_is_done(deadly, tmp_path):
    jobs = [(str(tmp_path), n) for n in range(5)]
    blamed = []

    def note(job):
        blamed.append(job[1])

    with pytest.raises(ShardsFailedError, match="1 of 5 shards") as caught:
        map_shards(deadly.dies_always, jobs, task="t", unit="shards", workers=2, on_death=note)
    assert caught.value.failed == (2,)
    assert set(blamed) == {2}
    assert sorted(f.name for f in tmp_path.glob("did-*")) == ["did-0", "did-1", "did-3", "did-4"]


def test_an_error_crosses_the_process_with_its_cure(deadly):
    with pytest.raises(SignalError) as caught:
        map_shards(deadly.complains, [1, 2], task="t", unit="shards", workers=2)
    assert caught.value.cure == "plug it in"


def test_a_recording_that_ends_its_reader_twice_is_left_alone(tmp_path):
    """What the parent notes after a death of a worker, and what the next worker makes of it."""
    import numpy as np
    import wfdb

    from phewas.schema import Encounters, Recordings

    root, run = tmp_path / "data", tmp_path / "run"
    root.mkdir()
    wave = np.sin(np.arange(5000) / 17)
    for name in ("a", "b"):
        wfdb.wrsamp(name, fs=125, units=["NU"], sig_name=["Pleth"], p_signal=wave[:, None], fmt=["16"],
                    write_dir=str(root))  # fmt: skip
    rows = [{"recording_id": n, "encounter_id": n, "channel": "PPG", "path": f"{n}.hea", "signal": "Pleth",
             "fs_hz": 125.0, "n_samples": 5000} for n in ("a", "b")]  # fmt: skip
    Recordings.write(Recordings.build(rows), run)
    Encounters.write(Encounters.build({"encounter_id": n, "patient_id": n} for n in ("a", "b")), run)
    folder = run / "segments" / (".work-" + "f" * 16)
    shard = Shard(0, folder, root, pl.DataFrame(), PPG_125, SegmentConfig(), 10.0, 0)
    for _ in range(2):
        Journal(folder, 0).opens("a")
        blame(shard)
    assert Journal(folder, 0).to_avoid() == {"a"}
    extract(run, root=root, contract=PPG_125, config=SegmentConfig(), window_s=10.0, seed=0, workers=1,
            fingerprint="f" * 32)  # fmt: skip
    rejects = Rejects.check(pl.read_parquet(run / REJECTS_FILE))
    assert rejects.select("path", "reason", "detail").rows() == [
        ("a.hea", "read_failed", "ended the reading process 2 times")
    ]
    index = pl.read_parquet(run / "segments" / PPG_125.digest / "index.parquet")
    assert index["encounter_id"].unique().to_list() == ["b"]
    failed = pl.read_parquet(run / FAILED_FILE)
    assert failed.rows() == [("a", "a.hea", None, 2, "recording")]
