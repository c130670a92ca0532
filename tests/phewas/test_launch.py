"""Several processes of one command: who they are told to be, whose exit code counts, and what a death leads to."""

from __future__ import annotations

import sys

import pytest

from phewas import launch

WRITE = "import os, pathlib; r = os.environ['RANK']\n"


def script(folder, code: str) -> list[str]:
    return [sys.executable, "-c", WRITE + f"here = pathlib.Path({str(folder)!r})\n" + code]


@pytest.fixture(autouse=True)
def _alone(monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)


def test_each_process_knows_who_it_is(tmp_path):
    names = "'WORLD_SIZE', 'LOCAL_RANK', 'MASTER_ADDR'"
    code = f"(here / r).write_text(' '.join(os.environ[n] for n in ({names})))"
    assert launch.launch(script(tmp_path, code), processes=3) == 0
    assert {f.name: f.read_text() for f in tmp_path.iterdir()} == {r: f"3 {r} 127.0.0.1" for r in "012"}


def test_a_mistake_is_not_tried_again_and_keeps_its_code(tmp_path):
    code = "(here / (r + str(os.getpid()))).touch(); import time; r == '1' or time.sleep(20); raise SystemExit(2)"
    assert launch.launch(script(tmp_path, code), processes=2) == 2
    assert len(list(tmp_path.iterdir())) <= 2


def test_after_a_death_all_begin_again(tmp_path, capfd):
    code = """import signal, time
(here / (r + '-' + str(os.getpid()))).touch()
born = lambda: len(list(here.glob('1-*')))
if r == '1' and born() < 3:
    os.kill(os.getpid(), signal.SIGKILL)
while born() < 3:
    time.sleep(0.02)
"""
    assert launch.launch(script(tmp_path, code), processes=2) == 0
    assert len(list(tmp_path.glob("1-*"))) == 3
    assert "One of 2 processes died (signal 9)" in capfd.readouterr().err


def test_death_again_and_again_is_told_by_its_code(tmp_path):
    code = "import signal; os.kill(os.getpid(), signal.SIGKILL)"
    assert launch.launch(script(tmp_path, code), processes=2, restarts=1) == 137


def test_who_follows(monkeypatch):
    assert not launch.several()
    assert not launch.follows()
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    assert launch.follows()
    monkeypatch.setenv("RANK", "0")
    assert launch.several()
    assert not launch.follows()
