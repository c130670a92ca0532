"""Who may import whom: the layers of the design, read from the imports themselves."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
BASE = {"phewas"} | {
    f"phewas.{name}"
    for name in (
        "schema", "schema.tables", "schema.cohort", "schema.phenotypes", "schema.predictions", "schema.results",
        "schema.comparison", "schema.rivals", "errors", "config", "rundir", "engine", "engine_processes", "engine_dask",
        "progress", "seeds", "compiling",
    )
}  # fmt: skip

# room -> further modules (with everything below them) that it may import, besides base and itself
MAY: dict[str, set[str]] = {
    "phewas.encoders": set(),
    "phewas.segments": {"phewas.encoders.registry"},
    "phewas.learning": {"phewas.encoders", "phewas.segments.store"},
    "phewas.stats": set(),
    "phewas.mappings": set(),
    "phewas.reports": set(),
    "phewas.cohorts": {"phewas.mappings.icd", "phewas.segments.readers", "phewas.encoders.registry"},
}
FOLDERS = {
    "phewas.encoders": ROOT / "phewas" / "encoders",
    "phewas.segments": ROOT / "phewas" / "segments",
    "phewas.learning": ROOT / "phewas" / "learning",
    "phewas.stats": ROOT / "phewas" / "stats",
    "phewas.mappings": ROOT / "mappings",
    "phewas.reports": ROOT / "reports",
    "phewas.cohorts": ROOT / "cohorts",
}
MODULES = [(room, file) for room, folder in FOLDERS.items() for file in sorted(folder.rglob("*.py"))]


def imported(file: Path, room: str) -> set[str]:
    """Return the phewas modules that a file imports, `from package import module` resolved to the module."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file.name}: relative imports hide the layer"
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                found.add(full if is_module(full) else str(node.module))
    return {name for name in found if name.split(".")[0] in {"phewas", "cohorts", "mappings", "reports"}}


def is_module(name: str) -> bool:
    parts = name.split(".")
    if parts[0] != "phewas":
        return False
    for room, folder in FOLDERS.items():
        if name.startswith(room + "."):
            path = folder.joinpath(*parts[2:])
            return path.with_suffix(".py").is_file() or path.is_dir()
    path = ROOT.joinpath(*parts)
    return path.with_suffix(".py").is_file() or path.is_dir()


@pytest.mark.parametrize(("room", "file"), MODULES, ids=lambda value: value if isinstance(value, str) else value.stem)
def test_a_room_imports_only_what_its_layer_may(room, file):
    allowed = {room} | MAY[room]
    for name in imported(file, room):
        known = name in BASE or any(name == a or name.startswith(a + ".") for a in allowed)
        assert known, f"{file.relative_to(ROOT)} imports {name}"


@pytest.mark.parametrize("name", sorted(BASE - {"phewas"}))
def test_base_imports_only_base(name):
    file = ROOT.joinpath(*name.split(".")).with_suffix(".py")
    file = file if file.is_file() else file.with_suffix("") / "__init__.py"
    assert imported(file, "phewas") <= BASE


def test_the_command_line_imports_nothing_heavy():
    import subprocess
    import sys

    heavy = ("torch", "polars", "numpy", "scipy", "wfdb", "matplotlib")
    code = f"import sys, phewas.cli; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
