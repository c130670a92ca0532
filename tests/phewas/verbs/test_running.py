"""How the engine is chosen on the command line, and how a command ends that was stopped or left recordings out."""

from __future__ import annotations

import functools
from pathlib import Path

import polars as pl
import pytest
import typer
from typer.testing import CliRunner

from phewas import settings
from phewas.cli import app
from phewas.errors import ConfigError
from phewas.rundir import write_parquet
from phewas.segments.extract import FAILED_FILE
from phewas.verbs.running import stoppable, tell_left_out

EXAMPLE = Path(__file__).resolve().parents[3] / "examples" / "cluster.toml"


def test_options_win_over_the_file_one_by_one():
    plain = settings.resolve({"engine": {"kind": None, "jobs": None}}, EXAMPLE).engine
    assert (plain.kind, plain.jobs, plain.limit_s) == ("slurm", 8, 1800)
    other = settings.resolve({"engine": {"kind": None, "jobs": 2}}, EXAMPLE).engine
    assert (other.kind, other.jobs, other.limit_s) == ("slurm", 2, 1800)
    assert settings.resolve({"cohort": "demo", "engine": {"kind": None}}, None).engine.kind == "local"


@pytest.mark.parametrize(("name", "value"), [("memory", "16 GB; rm x"), ("partition", "a b"), ("walltime", "long")])
def test_what_enters_the_job_script_has_a_form(name, value):
    with pytest.raises(ConfigError, match=f"engine.{name}"):
        settings.resolve({"cohort": "demo", "engine": {name: value}}, None)


def test_recordings_left_out_are_counted_not_named_and_give_exit_code_3(tmp_path, capsys):
    tell_left_out(tmp_path)
    write_parquet(pl.DataFrame({"recording_id": ["secret"], "path": ["secret.hea"]}), tmp_path / FAILED_FILE)
    with pytest.raises(typer.Exit) as caught:
        tell_left_out(tmp_path)
    assert caught.value.exit_code == 3
    told = capsys.readouterr().err
    assert "1 recording was left out" in told
    assert FAILED_FILE in told
    assert "secret" not in told


def test_ctrl_c_gives_exit_code_130_and_says_how_to_go_on(capsys):
    with pytest.raises(typer.Exit) as caught, stoppable():
        raise KeyboardInterrupt
    assert caught.value.exit_code == 130
    assert "The same command continues" in capsys.readouterr().err


@pytest.mark.parametrize("verb", ["emulate", "map", "check"])
def test_ctrl_c_ends_every_verb_with_a_line_of_ours(verb, tmp_path, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    command = next(c for c in app.registered_commands if c.name == verb)
    monkeypatch.setattr(command, "callback", functools.wraps(command.callback)(interrupted))
    words = {"emulate": ["mcmed", "--out", "x"], "map": ["x.csv", "--out", "y"], "check": ["--cohort", "demo"]}[verb]
    done = CliRunner().invoke(app, [verb, *words])
    assert done.exit_code == 130, done.output
    assert "Stopped" in done.output
    assert "Aborted" not in done.output
