"""An encoder in the user's own file: found, run, told apart by its content, and told of its mistakes."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import torch

from phewas.encoders import registry
from phewas.errors import EncoderError

EXAMPLE = Path(__file__).resolve().parents[3] / "examples" / "own_encoder.py"

GOOD = """
from phewas.encoders.registry import PPG_125, EncoderSpec
import torch
def make():
    return torch.nn.Sequential(torch.nn.AdaptiveAvgPool1d(4), torch.nn.Flatten())
spec = EncoderSpec("mine", "Mine", "d", make, PPG_125, 4, False)
def later(): return spec
many = [spec, spec]
number = 3
"""


def test_the_example_is_short_and_complete():
    assert len(EXAMPLE.read_text().splitlines()) < 30
    spec = registry.get(f"{EXAMPLE}:tiny")
    assert spec.build()(torch.randn(2, 1, 1250)).shape == (2, spec.width)
    assert spec.code == "sha256:" + hashlib.sha256(EXAMPLE.read_bytes()).hexdigest()


@pytest.mark.parametrize("name", ["", ":spec", ":later"])
def test_a_record_and_a_function_are_taken(tmp_path, name, capsys):
    (tmp_path / "mine.py").write_text(GOOD + f"# {name}\n")
    assert registry.get(f"{tmp_path / 'mine.py'}{name}").name == "mine"
    told = capsys.readouterr().err
    assert "Running the code of" in told
    assert "sha256" in told


def test_another_content_is_another_encoder(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(GOOD)
    first = registry.get(str(file))
    file.write_text(GOOD + "# changed\n")
    assert registry.get(str(file)).code != first.code


@pytest.mark.parametrize(
    ("text", "name", "told"),
    [
        (GOOD, ":spek", "Did you mean spec"),
        (GOOD, ":many", "gives 2 encoders"),
        (GOOD, ":number", "which is no EncoderSpec"),
        (GOOD, ":make", "gives Sequential, which is no EncoderSpec"),
        ("x = = 1\n", "", "line 1 ends in SyntaxError"),
        ("import numpy\nraise KeyError('a')\n", "", "line 2 ends in KeyError"),
        ("import sys\nsys.exit(3)\n", "", "SystemExit"),
        ("def spec():\n    return 1 / 0\n", "", "ends in ZeroDivisionError"),
    ],
)
def test_mistakes_are_told_in_words(tmp_path, text, name, told):
    (tmp_path / "mine.py").write_text(text)
    with pytest.raises(EncoderError, match=told):
        registry.get(f"{tmp_path / 'mine.py'}{name}")


def test_a_missing_file_is_told():
    with pytest.raises(EncoderError, match="there is no file"):
        registry.get("nowhere/mine.py:spec")


@pytest.mark.parametrize(
    ("name", "wanted"),
    [("mine.py", "/a/mine.py"), ("x/mine.py:net", "/a/x/mine.py:net"), ("onnx:m.onnx", "onnx:/a/m.onnx"),
     ("/b/mine.py:net", "/b/mine.py:net"), ("anyppg", "anyppg"), ("hf:owner/name", "hf:owner/name")],
)  # fmt: skip
def test_paths_are_taken_from_where_they_were_written(name, wanted):
    assert registry.relative_to(name, Path("/a")) == wanted
