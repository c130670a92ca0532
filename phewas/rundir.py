"""The run directory: atomic writes, fingerprints, the manifest ``run.json`` and resume."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
import polars as pl

from phewas.errors import RunError


@contextlib.contextmanager
def atomic(path: Path, mode: str = "wb") -> Iterator[IO[Any]]:
    """Open a temporary neighbour of `path` for writing and rename it onto `path` when the block ends well.

    A reader therefore never sees half a file, and a killed writer leaves the old one. The temporary name holds the
    process id, so that two writers do not share it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open(mode, **({} if "b" in mode else {"encoding": "utf-8", "newline": "\n"})) as handle:
            yield handle
            handle.flush()
            os.fsync(handle.fileno())
        temporary.replace(path)
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
