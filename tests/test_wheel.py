"""The wheel holds every module and data file of the tree, and works outside the checkout."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ROOMS = {"phewas": "phewas", "cohorts": "phewas/cohorts", "mappings": "phewas/mappings", "reports": "phewas/reports"}
LEFT_OUT = {".pyc"}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("wheel")
    source = out / "source"
    # A copy, so that the build leaves nothing in the checkout.
    tracked = subprocess.run(["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True)
    names = tracked.stdout.splitlines() if tracked.returncode == 0 else [
        f.relative_to(ROOT).as_posix() for part in (*ROOMS, "pyproject.toml", "README.md")
        for f in ([ROOT / part] if (ROOT / part).is_file() else (ROOT / part).rglob("*")) if f.is_file()
    ]  # fmt: skip
    for name in names:
        if (ROOT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((ROOT / name).read_bytes())
    command = [sys.executable, "-m", "pip", "wheel", ".", "--no-deps", "--no-build-isolation", "-q", "-w", str(out)]
    done = subprocess.run(command, cwd=source, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (file,) = out.glob("*.whl")
    return file


def test_the_wheel_holds_the_whole_tree_and_nothing_else(wheel):
    packed = {n for n in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in n}
    expected = {
        f"{target}/{f.relative_to(ROOT / room).as_posix()}"
        for room, target in ROOMS.items()
        for f in (ROOT / room).rglob("*")
        if f.is_file() and "__pycache__" not in f.parts and f.suffix not in LEFT_OUT
    }
    assert packed == expected


def test_the_unpacked_wheel_works_outside_the_checkout(wheel, tmp_path):
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    (tmp_path / "reports").mkdir()  # a user's own folder of that name must not get in the way
    code = (
        "import phewas, phewas.reports.build, phewas.cohorts.mcmed, phewas.mappings.vocabulary as v;"
        "assert 'site' in phewas.reports.__file__;"
        "assert len(phewas.__path__) == 1;"
        "print(v.load('phecode').phenotypes.height)"
    )
    env = {"PYTHONPATH": str(tmp_path / "site"), "PATH": "/usr/bin:/bin"}
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "1817"


@pytest.mark.parametrize("room", ["cohorts", "mappings", "reports"])
def test_the_bare_names_are_refused(room):
    done = subprocess.run([sys.executable, "-c", f"import {room}"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode != 0
    assert f"import phewas.{room}, not {room}" in done.stderr
