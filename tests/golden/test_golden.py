"""Each source builds exactly the tables that its golden example expects, twice with the same bytes."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

import pytest

from phewas.cohorts import get

spec = importlib.util.spec_from_file_location("golden_inputs", Path(__file__).with_name("inputs.py"))
assert spec is not None
assert spec.loader is not None
inputs = importlib.util.module_from_spec(spec)
spec.loader.exec_module(inputs)


@pytest.mark.parametrize("adapter", inputs.ADAPTERS)
def test_expected_tables(adapter: str, tmp_path: Path) -> None:
    root = inputs.materialise(adapter, tmp_path / "data")
    source = get(adapter)
    source.build(root, tmp_path / "one", workers=1)
    got = inputs.tables_of(tmp_path / "one")
    expected = inputs.GOLDEN / adapter / "expected"
    if os.environ.get("PHEWAS_WRITE_GOLDEN"):  # after a wanted change; look at the difference before keeping it
        expected.mkdir(exist_ok=True, parents=True)
        for name, text in got.items():
            (expected / f"{name}.csv").write_text(text)
    for name, text in got.items():
        assert text == (expected / f"{name}.csv").read_text(), f"{adapter}: {name}"
    again = inputs.materialise(adapter, tmp_path / "elsewhere" / "data")
    source.build(again, tmp_path / "two", workers=2)
    for file in sorted((tmp_path / "one" / "cohort").iterdir()):
        assert file.read_bytes() == (tmp_path / "two" / "cohort" / file.name).read_bytes(), file.name
    assert source.fingerprint(root) == source.fingerprint(again)
    scan = source.scan(root)
    assert {"files", "missing"} <= set(scan)
    assert source.data_root(root, tmp_path / "one") == root
