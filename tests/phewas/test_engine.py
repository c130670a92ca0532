"""Shards in processes: order, errors, and workers that die."""

from __future__ import annotations

import contextlib
import errno
import importlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import wfdb

from phewas import engine
from phewas.config import EngineConfig, SegmentConfig
from phewas.encoders.registry import PPG_125
from phewas.engine import ShardsFailedError, map_shards
from phewas.errors import DiskFullError, SignalError
from phewas.rundir import atomic
from phewas.schema import Encounters, Recordings, Rejects
from phewas.segments.cutting import Shard, blame
from phewas.segments.extract import FAILED_FILE, REJECTS_FILE, extract
from phewas.segments.opened import Journal

DEADLY = '''
"""Functions that worker processes import by name."""

import errno
import os
import signal
import time
from pathlib import Path

from phewas import engine
from phewas.errors import SignalError

engine.PAUSE_S = 0.0


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


def stops_once(job):
    folder, n = job
    mark = Path(folder) / f"stopped-{n}"
    if n == 1 and not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGSTOP)
    return n


def stops_always(job):
    folder, n = job
    if n == 1:
        os.kill(os.getpid(), signal.SIGSTOP)
    return n


def is_stale_twice(job):
    folder, n = job
    marks = len(list(Path(folder).glob("stale-*")))
    if n == 0 and marks < 2:
        (Path(folder) / f"stale-{marks}").touch()
        raise OSError(errno.ESTALE, "Stale file handle")
    return n


def fills_the_disk(n):
    with open("/dev/full", "w") as full:
        full.write("x")


def breaks(n):
    return 1 // (n - n)


def waits(job):
    folder, n = job
    (Path(folder) / f"pid-{os.getpid()}").touch()
    time.sleep(600)
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


def test_a_shard_that_stalls_is_ended_and_tried_again(deadly, tmp_path):
    blamed = []
    with engine.using(EngineConfig(limit_s=4), folder=tmp_path):
        jobs = [(str(tmp_path), n) for n in range(4)]
        done = map_shards(deadly.stops_once, jobs, task="t", unit="shards", workers=2,
                          on_death=lambda job: blamed.append(job[1]))  # fmt: skip
        assert done == [0, 1, 2, 3]
    assert blamed == [1]


def test_a_shard_that_always_stalls_is_given_up_even_with_one_worker(deadly, tmp_path):
    jobs = [(str(tmp_path), n) for n in range(3)]
    with (
        engine.using(EngineConfig(limit_s=4, tries=1), folder=tmp_path),
        pytest.raises(ShardsFailedError, match="1 of 3 shards") as caught,
    ):
        map_shards(deadly.stops_always, jobs, task="t", unit="shards", workers=1)
    assert caught.value.failed == (1,)
    assert caught.value.exit_code == 3


def test_a_stale_file_system_is_waited_for_and_no_recording_blamed(deadly, tmp_path):
    jobs = [(str(tmp_path), n) for n in range(3)]
    blamed = []
    done = map_shards(deadly.is_stale_twice, jobs, task="t", unit="shards", workers=2, on_death=blamed.append)
    assert done == [0, 1, 2]
    assert blamed == []


@pytest.mark.parametrize("workers", [1, 2])
def test_a_full_disk_in_a_worker_is_told_with_its_cure(deadly, workers):
    with pytest.raises(DiskFullError, match="no space is left") as caught:
        map_shards(deadly.fills_the_disk, [1, 2], task="t", unit="shards", workers=workers)
    assert "the same command again" in caught.value.cure


def test_a_full_disk_leaves_what_was_there(tmp_path):
    """Each library says it in its own words: polars in a text, numpy as a count, Python by number."""
    def table(full):
        pl.DataFrame({"a": range(100_000)}).write_parquet(full)

    def array(full):
        np.lib.format.write_array(full, np.arange(100_000.0), allow_pickle=False)

    def text(full):
        full.write(b"x" * 100_000)

    def write(how):
        with atomic(file), Path("/dev/full").open("wb") as full:
            how(full)

    file = tmp_path / "file"
    file.write_text("before")
    for how in (table, array, text):
        with pytest.raises(DiskFullError, match="file"):
            write(how)
        assert [f.name for f in tmp_path.iterdir()] == ["file"]
        assert file.read_text() == "before"


def test_an_error_of_ours_says_where_in_the_worker_it_happened(deadly):
    with pytest.raises(ZeroDivisionError) as caught:
        map_shards(deadly.breaks, [1, 2], task="t", unit="shards", workers=2)
    assert any("in breaks" in note for note in caught.value.__notes__)


PARENT = """
import sys
import deadly_shards
from phewas.engine import map_shards

if __name__ == "__main__":
    map_shards(deadly_shards.waits, [(sys.argv[1], n) for n in range(4)], task="t", unit="shards", workers=2)
"""


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_no_worker_outlives_its_parent(deadly, tmp_path, end):
    script = tmp_path / "parent.py"
    script.write_text(PARENT)
    parent = subprocess.Popen([sys.executable, str(script), str(tmp_path)], cwd=tmp_path, stderr=subprocess.DEVNULL,
                              start_new_session=True, env=os.environ | {"PYTHONPATH": str(tmp_path)})  # fmt: skip
    assert until(lambda: len(list(tmp_path.glob("pid-*"))) == 2)
    parent.send_signal(end)
    parent.wait(timeout=60)
    pids = [int(f.name.removeprefix("pid-")) for f in tmp_path.glob("pid-*")]
    assert until(lambda: not any(alive(pid) for pid in pids))


def until(true: Callable[[], bool], *, tries: int = 600) -> bool:
    """Wait until something is true; False if it never is."""
    for _ in range(tries):
        if true():
            return True
        time.sleep(0.1)
    return False


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def workers_of(pid: int) -> set[int]:
    """Return the worker processes of a process; the one that tracks shared resources is none."""
    found = set()
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes() and alive(int(child)):
                found.add(int(child))
    return found


CUT = """
import sys
from pathlib import Path

from phewas import engine
from phewas.config import EngineConfig, SegmentConfig
from phewas.encoders.registry import PPG_125
from phewas.segments.extract import extract

if __name__ == "__main__":
    root, run, workers = sys.argv[1:]
    extract(Path(run), root=Path(root), contract=PPG_125, window_s=10.0, seed=0, workers=int(workers),
            config=SegmentConfig(shard_encounters=1), fingerprint="f" * 32)
"""


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="children are looked for in /proc")
def test_workers_killed_one_by_one_and_together_with_their_parent_change_no_byte(tmp_path):
    rng = np.random.default_rng(3)
    root, script = tmp_path / "data", tmp_path / "cut.py"
    root.mkdir()
    script.write_text(CUT)
    rows = []
    for n in range(20):
        wave = np.sin(np.arange(40_000) / 17) + 0.1 * rng.standard_normal(40_000)
        wfdb.wrsamp(f"r{n}", fs=125, units=["NU"], sig_name=["Pleth"], p_signal=wave[:, None], fmt=["16"],
                    write_dir=str(root))  # fmt: skip
        rows.append({"recording_id": f"r{n}", "encounter_id": f"r{n}", "channel": "PPG", "path": f"r{n}.hea",
                     "signal": "Pleth", "fs_hz": 125.0, "n_samples": 40_000})  # fmt: skip

    def started(name: str, workers: int) -> subprocess.Popen[bytes]:
        run = tmp_path / name
        if not run.exists():
            Recordings.write(Recordings.build(rows), run)
            Encounters.write(Encounters.build({"encounter_id": f"r{n}", "patient_id": f"r{n}"} for n in range(20)), run)
        return subprocess.Popen([sys.executable, str(script), str(root), str(run), str(workers)])

    def finished(name: str) -> int:
        return len(list((tmp_path / name).glob("segments/.work-*/.parts/shard-*.parquet")))

    def content(name: str) -> dict[str, bytes]:
        top = tmp_path / name / "segments"
        return {f.relative_to(top).as_posix(): f.read_bytes() for f in sorted(top.rglob("*")) if f.is_file()}

    assert started("whole", 1).wait(timeout=120) == 0
    first = started("killed", 2)
    assert until(lambda: finished("killed") >= 2)
    os.kill(first.pid, signal.SIGKILL)
    first.wait(timeout=60)
    left = finished("killed")
    assert 2 <= left < 20
    second, killed = started("killed", 4), set[int]()
    for goal in (left + 1, left + 4):  # two workers in turn, each amid its work
        assert until(lambda goal=goal: finished("killed") >= goal or second.poll() is not None)
        assert until(lambda: workers_of(second.pid) - killed)
        worker = min(workers_of(second.pid) - killed)
        os.kill(worker, signal.SIGKILL)
        killed.add(worker)
    assert second.wait(timeout=120) == 0
    assert len(killed) == 2
    ours, whole = content("killed"), content("whole")
    assert sorted(ours) == sorted(whole)
    assert [name for name in ours if ours[name] != whole[name]] == []


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_recording_on_a_stale_file_system_is_no_reject(tmp_path, monkeypatch, wrapped):
    from phewas.segments import opened

    root, run = tmp_path / "data", tmp_path / "run"
    root.mkdir()
    wave = np.sin(np.arange(5000) / 17)
    wfdb.wrsamp("a", fs=125, units=["NU"], sig_name=["Pleth"], p_signal=wave[:, None], fmt=["16"], write_dir=str(root))
    row = {"recording_id": "a", "encounter_id": "a", "channel": "PPG", "path": "a.hea", "signal": "Pleth",
           "fs_hz": 125.0, "n_samples": 5000}  # fmt: skip
    Recordings.write(Recordings.build([row]), run)
    Encounters.write(Encounters.build([{"encounter_id": "a", "patient_id": "a"}]), run)
    plain, calls = opened.open_row, []

    def stale_at_first(*more):
        calls.append(more)
        if len(calls) > 2:
            return plain(*more)
        error = OSError(errno.ESTALE, "Stale file handle")
        if wrapped:
            raise SignalError("it cannot be read") from error
        raise error

    monkeypatch.setattr(opened, "open_row", stale_at_first)
    monkeypatch.setattr(engine, "PAUSE_S", 0.0)
    extract(run, root=root, contract=PPG_125, config=SegmentConfig(), window_s=10.0, seed=0, workers=1,
            fingerprint="f" * 32)  # fmt: skip
    assert len(calls) == 3
    assert pl.read_parquet(run / REJECTS_FILE).is_empty()
    assert not (run / FAILED_FILE).exists()


def test_a_recording_that_ends_its_reader_twice_is_left_alone(tmp_path):
    """What the parent notes after a death of a worker, and what the next worker makes of it."""
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
    half = folder / "PPG" / ".shard-00000.npy.0123456789ab.tmp"  # as a worker leaves it that is killed amid writing
    half.parent.mkdir()
    half.touch()
    extract(run, root=root, contract=PPG_125, config=SegmentConfig(), window_s=10.0, seed=0, workers=1,
            fingerprint="f" * 32)  # fmt: skip
    rejects = Rejects.check(pl.read_parquet(run / REJECTS_FILE))
    assert rejects.select("path", "reason", "detail").rows() == [
        ("a.hea", "read_failed", "ended the reading process 2 times")
    ]
    index = pl.read_parquet(run / "segments" / PPG_125.digest / "index.parquet")
    assert index["encounter_id"].unique().to_list() == ["b"]
    assert not list(run.rglob("*.tmp"))
    failed = pl.read_parquet(run / FAILED_FILE)
    assert failed.rows() == [("a", "a.hea", None, 2, "recording")]
    # Another encoder's windows are of the same choice, made without that recording: it stays named.
    other = replace(PPG_125, fs_hz=100.0)
    extract(run, root=root, contract=other, config=SegmentConfig(), window_s=10.0, seed=0, workers=1,
            fingerprint="e" * 32)  # fmt: skip
    assert pl.read_parquet(run / FAILED_FILE).equals(failed)
