"""Shards on a Dask cluster: one that is there already, or Slurm jobs that are started and ended with the step.

A Dask cluster trusts everyone who can reach its scheduler: it runs what it is sent. Our own clusters therefore speak
TLS only, with certificates made for the one cluster and kept in the run directory while it lasts.
"""

from __future__ import annotations

import contextlib
import importlib.util
import re
import shutil
import socket
import time
import warnings
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from phewas.config import EngineConfig
from phewas.engine import Outcome, attempt, crossing
from phewas.errors import ConfigError, PhewasError
from phewas.progress import say

ANSWER_S = 20.0  # for a scheduler to answer, and to have a worker
POLL_S = 1.0
RESTART_S = 10.0
ALIKE = ("phewas", "numpy", "scipy", "polars", "wfdb")  # whose versions decide the bytes
JOB_FOLDER = ".slurm"
ADDRESS = re.compile(r"(tcp|tls)://([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\]):(?P<port>[0-9]{1,5})")
SHARED = ".lock"  # a file of the run directory that every worker must see


class ClusterError(PhewasError):
    """A cluster cannot be reached, is lost, or its workers are not fit for the work."""


def check(config: EngineConfig) -> None:
    """Say at once what a cluster lacks, before anything is written.

    Raises
    ------
    ConfigError
        Options contradict each other, or the packages of ``phewas[cluster]`` are missing.
    """
    if config.kind == "dask" and config.scheduler is None:
        raise ConfigError(
            "the engine dask needs the address of its scheduler",
            cure="--engine dask --scheduler tcp://HOST:8786 (`dask scheduler` prints it)",
        )
    if config.kind != "dask" and config.scheduler is not None:
        raise ConfigError(
            f"a scheduler is given, and the engine is {config.kind}", cure="add --engine dask, or leave --scheduler out"
        )
    if config.scheduler is not None:
        form = ADDRESS.fullmatch(config.scheduler)
        if form is None or not 0 < int(form["port"]) < 65536:
            raise ConfigError(
                f"the scheduler {config.scheduler!r} is no address",
                expected="tcp://HOST:PORT, or tls://HOST:PORT with the certificates in Dask's own configuration",
                cure="copy it from what `dask scheduler` prints",
            )
    needed = {"local": (), "dask": ("distributed",), "slurm": ("distributed", "dask_jobqueue", "cryptography")}
    missing = [name for name in needed[config.kind] if importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigError(
            f"the engine {config.kind} needs {', '.join(missing)}, which is not installed",
            cure="pip install 'phewas[cluster]'",
        )


def job_script(config: EngineConfig, *, folder: Path) -> str:
    """Return the script of one Slurm job, without Slurm; the scheduler's address is known only when it runs.

    Parameters
    ----------
    config
        Of kind slurm.
    folder
        Run directory.
    """
    from dask_jobqueue.slurm import SLURMJob

    options = _job_options(config, folder) | {"log_directory": None}  # the folder would be made
    script: str = SLURMJob("tls://SCHEDULER:PORT", name="NAME", protocol="tls://", **options).job_script()
    return script


def _job_options(config: EngineConfig, folder: Path) -> dict[str, Any]:
    scratch = folder / JOB_FOLDER
    return {
        "queue": config.partition,
        "account": config.account,
        "cores": config.cores,
        "processes": config.cores,
        "memory": config.memory,
        "walltime": config.walltime,
        "interface": config.interface,
        "job_extra_directives": config.directives,
        "job_script_prologue": ["export POLARS_MAX_THREADS=1", *config.prologue],
        "worker_extra_args": ["--no-dashboard"],
        "log_directory": str(scratch),
        "job_name": "phewas",
    }


class Cluster:
    """The workers of a Dask cluster.

    Parameters
    ----------
    config
        Of kind dask or slurm.
    folder
        Run directory, absolute; every worker must see it under the same path. None: not looked for.

    Raises
    ------
    ClusterError
        No scheduler answers, it has no worker, or Slurm takes no job.
    """

    def __init__(self, config: EngineConfig, *, folder: Path | None) -> None:
        check(config)
        self.config, self.folder = config, folder
        self.jobs: Any = None
        self.client: Any = None
        self.running: dict[str, tuple[int, Any]] = {}
        self.secrets: list[Path] = []
        self.seen: dict[str, float] = {}  # when a shard was first seen on a worker, by key
        try:
            self._open()
        except BaseException:
            self.shut()
            raise

    def _open(self) -> None:
        from distributed import Client

        if self.config.kind == "slurm":
            self.jobs = self._submit()
            self.client = Client(self.jobs, set_as_default=False)
            say(f"Slurm: {self.config.jobs} jobs asked for; work begins with the first (Ctrl-C ends them)")
            return
        try:
            with _quiet():
                self.client = Client(self.config.scheduler, timeout=ANSWER_S, set_as_default=False)
        except (OSError, TimeoutError, ValueError) as error:
            raise ClusterError(
                f"no Dask scheduler answers at {self.config.scheduler}",
                cure="start one (`dask scheduler`) and its workers (`dask worker ADDRESS --nthreads 1`)",
            ) from error
        try:
            self.client.wait_for_workers(1, timeout=ANSWER_S)
        except TimeoutError as error:
            raise ClusterError(
                f"the scheduler at {self.config.scheduler} has no worker",
                cure=f"dask worker {self.config.scheduler} --nthreads 1 --nworkers 4",
            ) from error

    def _submit(self) -> Any:
        """Start a scheduler here and ask Slurm for the jobs; one that ends early is replaced."""
        from dask_jobqueue import SLURMCluster

        folder = self.folder or Path.cwd()
        (folder / JOB_FOLDER).mkdir(parents=True, exist_ok=True, mode=0o700)
        if shutil.which(SLURMCluster.job_cls.submit_command) is None:
            raise ClusterError(
                "there is no sbatch on this machine",
                cure="give the command on a login node of the Slurm cluster; --dry-run shows the job script anywhere",
            )
        cluster = SLURMCluster(
            security=self._certificates(folder / JOB_FOLDER),
            scheduler_options={"dashboard_address": "127.0.0.1:0"},  # seen from this machine only
            **_job_options(self.config, folder),
        )
        cluster.adapt(minimum_jobs=self.config.jobs, maximum_jobs=self.config.jobs)
        return cluster

    def _certificates(self, folder: Path) -> Any:
        """Make a key and a certificate for this cluster alone, in files that only their owner may read."""
        from distributed.security import Security

        made = Security.temporary()
        texts = {"ca": made.tls_ca_file, "cert": made.tls_worker_cert, "key": made.tls_worker_key}
        files = {name: folder / f"{name}.pem" for name in texts}
        for name, file in files.items():
            file.unlink(missing_ok=True)
            file.touch(mode=0o600, exist_ok=False)
            file.write_text(texts[name], encoding="ascii")
            self.secrets.append(file)
        roles = {f"tls_{role}_{name}": str(files[name]) for role in ("client", "scheduler", "worker")
                 for name in ("cert", "key")}  # fmt: skip
        return Security(require_encryption=True, tls_ca_file=str(files["ca"]), **roles)

    def slots(self) -> int:
        """Return the number of the workers' threads."""
        threads: dict[str, int] = self.client.nthreads()
        return max(1, sum(threads.values()))

    def start(self, index: int, function: Callable[[Any], Any], shard: Any) -> None:
        """Send a shard to the scheduler."""
        expected = {name: version(name) for name in ALIKE}
        folder = str(self.folder) if self.folder is not None and (self.folder / SHARED).exists() else None
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # on the size of what is sent
            future = self.client.submit(remote, index, function, shard, expected, folder, pure=False)
        self.running[future.key] = (index, future)

    def finished(self) -> list[Outcome]:
        """Wait up to a second and return what has ended."""
        from distributed import wait

        with self.client.as_current(), contextlib.suppress(TimeoutError):
            wait([f for _, f in self.running.values()], timeout=POLL_S, return_when="FIRST_COMPLETED")
        if self.client.status != "running":
            raise ClusterError(
                "the connection to the Dask scheduler is lost",
                cure="see that it runs, then give the same command again: what is finished is kept",
            )
        outcomes = []
        for key, (index, future) in list(self.running.items()):
            if future.done():
                del self.running[key]
                self.seen.pop(key, None)
                outcomes.append(self._outcome(index, future))
        return outcomes or self._overdue()

    def _outcome(self, index: int, future: Any) -> Outcome:
        """Return what has become of a shard whose future is done."""
        from distributed import KilledWorker

        if future.status == "finished":
            outcome: Outcome = future.result()
            return outcome
        if future.cancelled():
            raise ClusterError(
                "the Dask scheduler has dropped the work (it was restarted, or someone cancelled it)",
                cure="give the same command again: what is finished is kept",
            )
        error = future.exception()
        if isinstance(error, KilledWorker):
            # The scheduler has tried it several times by itself; other shards may have run in the same workers.
            return Outcome(index, again=True, deaths=error.allowed_failures + 1, sure=False)
        if isinstance(error, ImportError):
            raise ClusterError(
                f"a worker of the cluster cannot import what it should run: {error}",
                cure=f"install phewas {version('phewas')} in the workers' environment, too",
            ) from error
        return Outcome(index, error=error)

    def _overdue(self) -> list[Outcome]:
        """End the workers of shards that have taken too long."""
        if self.config.limit_s is None:
            return []
        now = time.monotonic()
        where = {key: address for address, keys in self.client.processing().items() for key in keys}
        outcomes = []
        for key, (index, future) in list(self.running.items()):
            if key not in where:
                self.seen.pop(key, None)
            elif now - self.seen.setdefault(key, now) >= self.config.limit_s:
                del self.running[key], self.seen[key]
                future.cancel()
                self._restart(where[key])
                outcomes.append(Outcome(index, again=True, deaths=1))
        return outcomes

    def _restart(self, address: str) -> None:
        """Have the scheduler let go of a worker, and its nanny, if it has one, replace it."""
        with _quiet(), contextlib.suppress(ValueError, KeyError, OSError, TimeoutError):
            self.client.restart_workers([address], timeout=RESTART_S)

    def close(self) -> None:
        """Drop what has not ended. Shards that run go on to their end in their worker; nobody waits for them."""
        left, self.running, self.seen = [f for _, f in self.running.values()], {}, {}
        if left:
            with contextlib.suppress(OSError, TimeoutError, RuntimeError):
                self.client.cancel(left)

    def shut(self) -> None:
        """Leave the cluster; our own jobs are cancelled."""
        with _quiet(), contextlib.suppress(OSError, TimeoutError):
            if self.client is not None:
                self.client.close(timeout=5)
            if self.jobs is not None:
                self.jobs.close(timeout=30)
        self.client = self.jobs = None
        for file in self.secrets:
            file.unlink(missing_ok=True)


def remote(
    index: int, function: Callable[[Any], Any], shard: Any, expected: dict[str, str], folder: str | None
) -> Outcome:
    """Run one shard in a worker of a cluster; never raises, so that no shard is printed in a worker's log."""
    problem = unfit(expected, folder)
    return Outcome(index, error=problem) if problem is not None else crossing(attempt(index, function, shard))


def unfit(expected: dict[str, str], folder: str | None) -> ClusterError | None:
    """Return why this worker cannot give the same bytes, or None."""
    differ = []
    for name, wanted in expected.items():
        try:
            found = version(name)
        except PackageNotFoundError:
            found = "none"
        if found != wanted:
            differ.append(f"{name} {found} instead of {wanted}")
    if differ:
        return ClusterError(
            f"a worker on {socket.gethostname()} has " + ", ".join(differ),
            expected="the same versions on every machine: the results must not depend on where they are made",
            cure="start the workers from the environment that this command runs in",
        )
    if folder is not None and not (Path(folder) / SHARED).exists():
        return ClusterError(
            f"a worker on {socket.gethostname()} does not see the run folder {folder}",
            cure="give --out (and --data) on a file system that all machines see under the same path",
        )
    return None


@contextlib.contextmanager
def _quiet() -> Any:
    """Keep the client's own log from repeating what is told in words."""
    import logging

    log = logging.getLogger("distributed")
    before = log.level
    log.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        log.setLevel(before)
