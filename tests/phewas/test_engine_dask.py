"""Shards on a real Dask cluster of local processes, and in Slurm jobs behind a stand-in for ``sbatch``."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import wfdb

from phewas import engine, engine_dask
from phewas.config import EngineConfig, SegmentConfig
from phewas.encoders.registry import PPG_125
from phewas.engine import ShardsFailedError, map_shards
from phewas.errors import ConfigError
from phewas.schema import Encounters, Recordings
from phewas.segments.extract import extract

dask = pytest.importorskip("dask")
distributed = pytest.importorskip("distributed")

DEADLY = '''
"""Functions that the workers of a cluster import by name."""

import os
import signal
import time
from pathlib import Path


def note_and_wait(job):
    folder, n = job
    (Path(folder) / f"pid-{n}-{os.getpid()}").touch()
    time.sleep(1.5)
    return n


def dies_or_stalls(job):
    folder, n = job
    if n == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    if n == 2 and not (Path(folder) / "stalled").exists():
        (Path(folder) / "stalled").touch()
        time.sleep(3600)
    return n
'''


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """Two single-threaded workers in processes of their own, with their nannies; one repeat of a shard by Dask."""
    folder = tmp_path_factory.mktemp("modules")
    (folder / "deadly_cluster.py").write_text(DEADLY)
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = str(folder)
    sys.path.insert(0, str(folder))
    settings = {"distributed.scheduler.allowed-failures": 1, "distributed.nanny.pre-spawn-environ.OMP_NUM_THREADS": 1}
    with (
        dask.config.set(settings),
        distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0", host="127.0.0.1",
                                 local_directory=str(folder)) as made,
    ):  # fmt: skip
        yield made
    sys.path.remove(str(folder))
    os.environ.pop("PYTHONPATH")
    if before is not None:
        os.environ["PYTHONPATH"] = before


@pytest.fixture
def run(tmp_path) -> Path:
    """A cohort of nine encounters with a record each."""
    rng = np.random.default_rng(8)
    root = tmp_path / "data"
    root.mkdir()
    rows = []
    for name in "abcdefghi":
        wave = np.sin(np.arange(20_000) / 17) + 0.1 * rng.standard_normal(20_000)
        wfdb.wrsamp(name, fs=125, units=["NU"], sig_name=["Pleth"], p_signal=wave[:, None], fmt=["16"],
                    write_dir=str(root))  # fmt: skip
        rows.append({"recording_id": name, "encounter_id": name, "channel": "PPG", "path": f"{name}.hea",
                     "signal": "Pleth", "fs_hz": 125.0, "n_samples": 20_000})  # fmt: skip
    Recordings.write(Recordings.build(rows), tmp_path / "tables")
    Encounters.write(Encounters.build({"encounter_id": n, "patient_id": n} for n in "abcdefghi"), tmp_path / "tables")
    return tmp_path


def cut(run: Path, name: str, config: EngineConfig) -> dict[str, bytes]:
    """Cut windows into a run directory of its own and return its files."""
    import shutil

    out = run / name
    shutil.copytree(run / "tables", out)
    (out / engine_dask.SHARED).touch()
    with engine.using(config, folder=out):
        extract(out, root=run / "data", contract=PPG_125, config=SegmentConfig(shard_encounters=2), window_s=10.0,
                seed=0, workers=1, fingerprint="f" * 32)  # fmt: skip
    return {f.relative_to(out).as_posix(): f.read_bytes() for f in sorted((out / "segments").rglob("*")) if f.is_file()}


def at(cluster, **more) -> EngineConfig:
    return EngineConfig(kind="dask", scheduler=cluster.scheduler_address, **more)


def test_the_cluster_gives_the_same_bytes_although_its_workers_work_elsewhere(cluster, run, monkeypatch):
    here = cut(run, "here", EngineConfig())
    monkeypatch.chdir(run)
    assert cut(Path(), "there", at(cluster)) == here
    assert any(name.endswith(".npy") for name in here)


def test_a_worker_killed_by_its_pid_amid_a_shard_costs_nothing(cluster, tmp_path):
    import deadly_cluster

    killed = []

    def kill_the_first() -> None:
        while not killed:
            for mark in tmp_path.glob("pid-*"):
                killed.append(int(mark.name.split("-")[2]))
                os.kill(killed[0], signal.SIGKILL)
                return
            time.sleep(0.05)

    killer = threading.Thread(target=kill_the_first)
    killer.start()
    with engine.using(at(cluster), folder=tmp_path):
        done = map_shards(deadly_cluster.note_and_wait, [(str(tmp_path), n) for n in range(3)], task="t", unit="u",
                          workers=1)  # fmt: skip
    killer.join()
    assert done == [0, 1, 2]
    assert len(list(tmp_path.glob("pid-*"))) == 4  # one was begun twice
    assert killed[0] not in [w["id"] for w in cluster.scheduler_info["workers"].values()]


def test_deaths_and_stalls_are_bounded_named_and_leave_the_rest_done(cluster, tmp_path):
    import deadly_cluster

    blamed = []
    jobs = [(str(tmp_path), n) for n in range(5)]
    with (
        engine.using(at(cluster, tries=1, limit_s=3), folder=tmp_path),
        pytest.raises(ShardsFailedError, match="2 of 5 shards") as caught,
    ):
        map_shards(deadly_cluster.dies_or_stalls, jobs, task="t", unit="shards", workers=1,
                   on_death=lambda job: blamed.append(job[1]))  # fmt: skip
    assert caught.value.failed == (1, 2)
    assert caught.value.exit_code == 3
    assert set(blamed) == {1, 2}
    with engine.using(at(cluster), folder=tmp_path):
        done = map_shards(deadly_cluster.dies_or_stalls, [jobs[0], jobs[2]], task="t", unit="shards", workers=1)
    assert done == [0, 2]


def test_workers_must_have_the_same_versions_and_see_the_run_folder(tmp_path):
    assert engine_dask.unfit({"numpy": np.__version__}, None) is None
    problem = engine_dask.unfit({"numpy": "0.1", "no-such-package": "1"}, None)
    assert problem is not None
    assert f"numpy {np.__version__} instead of 0.1, no-such-package none instead of 1" in problem.found
    problem = engine_dask.unfit({}, str(tmp_path / "elsewhere"))
    assert problem is not None
    assert "does not see the run folder" in problem.found


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"kind": "dask"}, "needs the address"),
        ({"scheduler": "tcp://host:8786"}, "the engine is local"),
        ({"kind": "dask", "scheduler": "host:8786"}, "is no address"),
        ({"kind": "dask", "scheduler": "tcp://host:99999"}, "is no address"),
        ({"kind": "dask", "scheduler": "tcp://host:1; rm -rf x"}, "is no address"),
    ],
)
def test_engines_that_cannot_be_are_refused_before_anything_is_written(options, words):
    with pytest.raises(ConfigError, match=words):
        engine_dask.check(EngineConfig(**options))


def test_a_missing_extra_is_named(monkeypatch):
    import importlib.util

    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "dask_jobqueue" else found(name))
    with pytest.raises(ConfigError, match="dask_jobqueue") as caught:
        engine_dask.check(EngineConfig(kind="slurm"))
    assert caught.value.cure == "pip install 'phewas[cluster]'"


def test_a_scheduler_that_is_not_there_is_told(monkeypatch, tmp_path):
    monkeypatch.setattr(engine_dask, "ANSWER_S", 0.5)
    with (
        engine.using(EngineConfig(kind="dask", scheduler="tcp://127.0.0.1:9"), folder=tmp_path),
        pytest.raises(engine_dask.ClusterError, match="no Dask scheduler answers at"),
    ):
        map_shards(len, ["a"], task="t", unit="u", workers=1)


SLURM = EngineConfig(kind="slurm", partition="long", jobs=1, cores=2, memory="3GB", walltime="01:00:00",
                     directives=["--qos=night"], prologue=["module load python"])  # fmt: skip


def test_the_job_script_is_printed_without_slurm(tmp_path):
    pytest.importorskip("dask_jobqueue")
    script = engine_dask.job_script(SLURM, folder=tmp_path)
    lines = script.splitlines()
    for line in ("#SBATCH -p long", "#SBATCH --cpus-per-task=2", "#SBATCH -t 01:00:00", "#SBATCH --qos=night"):
        assert line in lines
    assert lines.index("module load python") < len(lines) - 1
    assert lines[-1].startswith(f"{sys.executable} -m distributed.cli.dask_worker tls://SCHEDULER:PORT")
    assert "--nworkers 2" in lines[-1]
    assert not list(tmp_path.iterdir())


def test_slurm_jobs_are_started_used_and_cancelled(run, tmp_path, monkeypatch):
    """The stand-in for sbatch runs the script that it is given; everything else is real, the encryption too."""
    pytest.importorskip("dask_jobqueue")
    pytest.importorskip("cryptography")
    bin_folder = tmp_path / "bin"
    bin_folder.mkdir()
    jobs = tmp_path / "jobs"
    for name, text in (
        ("sbatch", f'cp "$1" {jobs}.sh; setsid bash {jobs}.sh >{jobs}.log 2>&1 & echo "Submitted batch job $!"'),
        ("scancel", f"echo $1 >>{jobs}.cancelled; kill -TERM -- -$1"),
    ):
        (bin_folder / name).write_text(f"#!/bin/bash\n{text}\n")
        (bin_folder / name).chmod(0o755)
    here = cut(run, "here", EngineConfig())
    monkeypatch.setenv("PATH", f"{bin_folder}:{os.environ['PATH']}")
    plain = EngineConfig(kind="slurm", jobs=1, cores=1, memory="2GB", walltime="00:10:00")
    assert cut(run, "there", plain) == here
    assert "tls://" in Path(f"{jobs}.sh").read_text()
    assert Path(f"{jobs}.cancelled").read_text().strip().isdigit()
    assert not list((run / "there" / engine_dask.JOB_FOLDER).glob("*.pem"))
    group = Path(f"{jobs}.cancelled").read_text().strip()
    for _ in range(100):
        if subprocess.run(["pgrep", "-g", group], capture_output=True, check=False).returncode:
            break
        time.sleep(0.1)
    else:
        pytest.fail("the job goes on")
