"""The run directory: atomic writes, fingerprints, the manifest ``run.json`` and resume."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
import polars as pl

from phewas.errors import RunError, disk_full


@contextlib.contextmanager
def atomic(path: Path, mode: str = "wb") -> Iterator[IO[Any]]:
    """Open a temporary neighbour of `path` for writing and rename it onto `path` when the block ends well.

    A reader therefore never sees half a file, and a killed writer leaves the old one. The temporary name is drawn, so
    that two writers do not share it, be they on two machines.

    Raises
    ------
    DiskFullError
        No space is left; `path` is as it was before.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(6)}.tmp")
    try:
        text = "b" not in mode
        with temporary.open(mode, encoding="utf-8" if text else None, newline="\n" if text else None) as handle:
            yield handle
            handle.flush()
            os.fsync(handle.fileno())
        temporary.replace(path)
    except Exception as error:
        full = disk_full(error, name=str(path))
        if full is None:
            raise
        raise full from error
    finally:
        temporary.unlink(missing_ok=True)


def write_parquet(frame: pl.DataFrame, path: Path) -> Path:
    """Write a Parquet file atomically; the same frame gives the same bytes."""
    with atomic(path) as handle:
        frame.write_parquet(handle, compression="zstd", statistics=True)
    return path


def write_npy(array: np.ndarray[Any, Any], path: Path) -> Path:
    """Write an array as ``.npy`` atomically, in C order, without pickle."""
    with atomic(path) as handle:
        np.lib.format.write_array(handle, np.ascontiguousarray(array), allow_pickle=False)
    return path


def write_text(text: str, path: Path) -> Path:
    """Write UTF-8 text with Unix line ends atomically."""
    with atomic(path, "w") as handle:
        handle.write(text)
    return path


def write_json(value: Any, path: Path) -> Path:
    """Write JSON atomically with sorted keys."""
    return write_text(json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n", path)


def digest_of(value: Any) -> str:
    """Return 32 hex digits that name a JSON-like value."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=True, default=str)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def sha256_of(path: Path) -> str:
    """Return the sha256 of a file's bytes."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


MANIFEST = "run.json"
UNDECIDED = "undecided"  # a part of the identity that a later command will settle


class RunDirectory:
    """One run's folder and its manifest: identity, settings, and the finished steps with their outputs' hashes.

    A step is current when its fingerprint (its settings and the hashes of what it reads) is the recorded one and its
    outputs are still the files that it wrote. Only steps that are not current are run.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.manifest: dict[str, Any] = {"steps": {}}
        file = path / MANIFEST
        if file.is_file():
            try:
                self.manifest = json.loads(file.read_text(encoding="utf-8"))
                self.manifest["steps"].items()
            except (ValueError, KeyError, AttributeError, TypeError) as error:
                raise RunError(
                    f"{file} is damaged", cure="give another --out, or delete the folder to start anew"
                ) from error

    @property
    def identity(self) -> dict[str, str]:
        """Cohort, data fingerprint, encoder and weights hash that the folder belongs to; empty for a new one."""
        return dict(self.manifest.get("identity", {}))

    def claim(self, identity: dict[str, str]) -> None:
        """Tie the folder to an identity, or check that it is the one it has.

        Raises
        ------
        RunError
            The folder belongs to another cohort, data, encoder or weights file, or holds files but no manifest.
        """
        old = self.identity
        if old and old != identity:
            differ = [name for name in identity if old.get(name) != identity[name]]
            if all(UNDECIDED in (old.get(name), identity[name]) for name in differ):
                self.manifest["identity"] = identity | {name: old[name] for name in differ if old[name] != UNDECIDED}
                return
            raise RunError(
                f"{self.path} belongs to another run: "
                + "; ".join(f"{name} was {_short(old.get(name))}, now {_short(identity[name])}" for name in differ),
                cure="give another --out, or delete that folder to start anew",
            )
        if not old and self.path.is_dir() and any(self.path.iterdir()):
            raise RunError(
                f"{self.path} holds files but is no run directory", cure="give --out a new or an empty folder"
            )
        self.manifest["identity"] = identity

    def is_current(self, step: str, fingerprint: str) -> bool:
        """Tell whether a step is done for this fingerprint and its outputs are untouched."""
        record = self.manifest["steps"].get(step)
        if record is None or record["fingerprint"] != fingerprint:
            return False
        return all(self._untouched(name, output) for name, output in record["outputs"].items())

    def _untouched(self, name: str, output: dict[str, Any]) -> bool:
        """Compare a file with its record: by size and time if they agree, else by its bytes."""
        file = self.path / name
        if not file.is_file():
            return False
        stat = file.stat()
        if stat.st_size != output["size"]:
            return False
        return bool(stat.st_mtime_ns == output["mtime_ns"] or sha256_of(file) == output["sha256"])

    def outputs(self, step: str) -> dict[str, str]:
        """Return the sha256 of each file that a finished step wrote, by path below the run directory."""
        return {name: output["sha256"] for name, output in self.manifest["steps"][step]["outputs"].items()}

    def forget(self, step: str) -> list[str]:
        """Strike a step from the manifest and return the files that it had written."""
        record = self.manifest["steps"].pop(step, None)
        self.save()
        return list(record["outputs"]) if record else []

    def finish(self, step: str, *, fingerprint: str, outputs: list[Path], seconds: float, settings: Any) -> None:
        """Record a step as done."""
        described = {}
        for file in sorted(outputs):
            stat = file.stat()
            described[file.relative_to(self.path).as_posix()] = {
                "sha256": sha256_of(file),
                "size": stat.st_size,
                "mtime_ns": stat.st_mtime_ns,
            }
        self.manifest["steps"][step] = {
            "fingerprint": fingerprint,
            "outputs": described,
            "seconds": round(seconds, 1),
            "settings": settings,
        }
        self.save()

    def save(self) -> None:
        """Write the manifest."""
        write_json(self.manifest, self.path / MANIFEST)


def _short(value: str | None) -> str:
    """Return a name as it is and a long hash by its first digits."""
    text = value or "none"
    return text[:12] if len(text) > 24 else text


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the run directory for one process; a second one is told so.

    Raises
    ------
    RunError
        Another process works on the folder.
    """
    try:
        import fcntl
    except ImportError:  # not on Windows; the atomic files still keep the tables whole
        yield
        return
    with (path / ".lock").open("w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise RunError(
                f"another process is working on {path}", cure="wait for it, or give another --out"
            ) from error
        yield
