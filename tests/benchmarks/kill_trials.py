"""Kill -9 at random moments: whether the same command then ends with the same bytes.

Usage: python tests/benchmarks/kill_trials.py [trials [dask trials [seed]]]      (20, 3 and 0)

A small emulated hospital is cut into windows (`phewas segments`, shards of two encounters), undisturbed with 1, 2 and 4
workers, whose files must be the same. Each trial then starts the command anew in an empty folder, with 1, 2 or 4
workers in turn, and kills at a moment drawn over the time that the undisturbed run took: by turns the command itself
with all its workers left to themselves, or one worker. A command that was killed is given again. At the end every byte
below the run directory is compared, and no temporary file and no process may be left. A Dask trial kills a worker of a
cluster of two by its process id while the command runs.

One line a trial: what was killed, when, how the command ended, how many files are the same.
"""

from __future__ import annotations

import hashlib
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

SETTINGS = "[segments]\nshard_encounters = 2\n"
WORKERS = (1, 2, 4)


def command(top: Path, out: Path, *more: object) -> list[str]:
    words = [sys.executable, "-m", "phewas", "segments", "--cohort", "mcmed", "--data", top / "mc", "--encoder",
             "net1d-small", "--config", top / "s.toml", "--out", out, *more]  # fmt: skip
    return [str(word) for word in words]


def start(top: Path, out: Path, *more: object) -> subprocess.Popen[bytes]:
    with (top / "log").open("ab") as log:
        return subprocess.Popen(command(top, out, *more), stdout=log, stderr=log, cwd=top)


def content(run: Path) -> dict[str, str]:
    """Return the hash of every file of the steps; the manifest holds times and the command."""
    parts = ("cohort", "phenotypes", "segments")
    files = (f for part in parts for f in (run / part).rglob("*") if f.is_file())
    return {f.relative_to(run).as_posix(): hashlib.sha256(f.read_bytes()).hexdigest() for f in files}


def workers_of(process: subprocess.Popen[bytes]) -> list[psutil.Process]:
    found = []
    for child in psutil.Process(process.pid).children():
        try:
            if "spawn_main" in " ".join(child.cmdline()):
                found.append(child)
        except psutil.Error:
            continue
    return found


def told(run: Path, whole: dict[str, str], returncode: int, left: list[psutil.Process]) -> tuple[bool, str]:
    ours = content(run)
    same = sum(ours.get(name) == digest for name, digest in whole.items())
    extra = sorted(set(ours) - set(whole))
    rubbish = list(run.rglob("*.tmp")) + list((run / "segments").glob(".work-*"))
    orphans = [p for p in left if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]
    good = returncode == 0 and same == len(whole) and not extra and not rubbish and not orphans
    words = f"exit {returncode}, {same}/{len(whole)} files the same"
    for name, some in (("further files", extra), ("rubbish", rubbish), ("orphans", orphans)):
        words += f", {len(some)} {name}" if some else ""
    return good, words


def trial(top: Path, number: int, rng: random.Random, whole: dict[str, str], took_s: dict[int, float]) -> bool:
    workers = WORKERS[number % len(WORKERS)]
    out = top / f"trial-{number}"
    at = rng.uniform(0.3, took_s[workers])
    process = start(top, out, "--workers", workers)
    time.sleep(at)
    living = workers_of(process) if process.poll() is None else []
    what = "nothing, it had ended"
    if process.poll() is None and living and number % 2:
        what = "one worker"
        rng.choice(living).kill()
    elif process.poll() is None:
        what = "the command"
        os.kill(process.pid, signal.SIGKILL)
    n_again = 0
    while process.wait() == -signal.SIGKILL:
        n_again += 1
        process = start(top, out, "--workers", workers)
    good, words = told(out, whole, process.returncode, living)
    print(f"trial {number:2d}: {workers} workers, kill -9 of {what} after {at:.1f} s, given again {n_again} time(s): "
          f"{words}: {'ok' if good else 'NOT OK'}", flush=True)  # fmt: skip
    return good


def dask_trial(top: Path, number: int, rng: random.Random, whole: dict[str, str]) -> bool:
    from distributed import LocalCluster

    out = top / f"dask-{number}"
    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0", host="127.0.0.1",
                      silence_logs="critical") as cluster:  # fmt: skip
        process = start(top, out, "--engine", "dask", "--scheduler", cluster.scheduler_address)
        while process.poll() is None and not list(out.glob("segments/.work-*/.parts/open-*")):
            time.sleep(0.02)
        time.sleep(rng.uniform(0, 0.5))
        pids = [worker.pid for worker in cluster.workers.values()]
        amid = process.poll() is None
        os.kill(pids[number % 2], signal.SIGKILL)
        process.wait()
    good, words = told(out, whole, process.returncode, [])
    when = "amid the segments" if amid else "TOO LATE"
    print(f"dask {number:2d}: worker {number % 2} killed by its pid {when}: {words}: {'ok' if good else 'NOT OK'}",
          flush=True)  # fmt: skip
    return good


def main(trials: int, dask_trials: int, seed: int) -> int:
    rng = random.Random(seed)
    with tempfile.TemporaryDirectory() as folder:
        top = Path(folder)
        (top / "s.toml").write_text(SETTINGS)
        words = [sys.executable, "-m", "phewas", "emulate", "mcmed", "--preset", "tiny", "--out", str(top / "mc")]
        subprocess.run(words, check=True, capture_output=True)
        took_s, runs = {}, {}
        for workers in WORKERS:
            began = time.monotonic()
            process = start(top, top / f"whole-{workers}", "--workers", workers)
            assert process.wait() == 0, (top / "log").read_text()
            took_s[workers] = time.monotonic() - began
            runs[workers] = content(top / f"whole-{workers}")
            same = runs[workers] == runs[1]
            print(f"undisturbed, {workers} workers: {len(runs[workers])} files, {took_s[workers]:.1f} s, "
                  f"{'the same bytes' if same else 'OTHER BYTES'}", flush=True)  # fmt: skip
        results = [runs[w] == runs[1] for w in WORKERS]
        results += [trial(top, n, rng, runs[1], took_s) for n in range(1, trials + 1)]
        results += [dask_trial(top, n, rng, runs[1]) for n in range(1, dask_trials + 1)]
    print(f"{sum(results)} of {len(results)} ok")
    return 0 if all(results) else 1


if __name__ == "__main__":
    given = [int(word) for word in sys.argv[1:]]
    sys.exit(main(*given, *(20, 3, 0)[len(given) :]))
