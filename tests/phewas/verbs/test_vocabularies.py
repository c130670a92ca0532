from __future__ import annotations

import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from phewas import cli
from phewas.errors import PhewasError
from phewas.mappings import custom
from phewas.verbs import vocabularies


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch) -> Path:
    monkeypatch.setattr(custom, "home", lambda: tmp_path / "home")
    return tmp_path / "home"


@pytest.fixture
def say():
    def run(*arguments):
        done = CliRunner().invoke(cli.app, list(arguments))
        if done.exception is not None and not isinstance(done.exception, SystemExit):
            raise done.exception
        return done.output

    return run


@pytest.fixture
def mine(tmp_path) -> Path:
    file = tmp_path / "mine.csv"
    file.write_text(
        "code,vocabulary,phenotype,description,sex\nI10,ICD10,bp,Blood [high] pressure,\nO80,ICD10,birth,,F\n",
        encoding="utf-8",
    )
    return file


def test_list(say):
    lines = [line.split("\t") for line in say("vocabularies").splitlines()]
    assert lines[0] == ["name", "version", "code systems", "phenotypes", "codes", "source"]
    assert ["phecodeX1.0", "1.0", "ICD10, ICD10CM, ICD9CM", "3,612", "75,744", "shipped"] in lines
    assert ["icd10-3", "3-digit", "ICD10, ICD10CM", "2,610", "all", "shipped"] in lines
    assert {line[0] for line in lines[1:]} == {"phecode1.2", "phecode1.2-who", "phecodeX1.0", "icd10-3"}


def test_add_and_list_and_look_up(say, mine):
    said = say("vocabularies", "add", "mine", str(mine))
    assert said.startswith("mine ")
    assert "2 phenotypes, 2 codes (ICD10)" in said
    assert any(line.startswith("mine\t") and line.endswith("\tyours") for line in say("vocabularies").splitlines())
    assert "mine\tbp\tBlood [high] pressure" in say("codes", "I10")
    with pytest.raises(PhewasError, match="is taken"):
        say("vocabularies", "add", "mine", str(mine))


def test_a_damaged_one_hides_no_other(say, mine, home):
    say("vocabularies", "add", "mine", str(mine))
    (home / "mine" / "mine.map.parquet").unlink()
    assert "yours; the stored vocabulary mine is damaged" in say("vocabularies")
    assert "427.21" in say("codes", "I48.91")
    with pytest.raises(PhewasError, match="damaged"):
        say("codes", "I48.91", "--vocabulary", "mine")


def test_codes_of_a_phenotype(say):
    said = say("codes", "427.2")
    assert said.startswith("427.2  Atrial fibrillation and flutter  (phecode 1.2)\n")
    for line in (
        "chapter: circulatory system",
        "sex: both",
        "parents: 427 Cardiac dysrhythmias",
        "children: 427.21 Atrial fibrillation; 427.22 Atrial flutter",
        "ICD9CM: 3 codes, 1 direct, 2 by way of children",
        "427.31\t427.21\tchild",
        "Also a phenotype of phecode1.2-who: add --vocabulary phecode1.2-who.",
        "As a code (ICD9CM):",
    ):
        assert line in said.splitlines()


def test_the_sex_rule_is_in_words(say):
    assert "sex: men only (everybody else is excluded)" in say("codes", "185")


def test_forty_rows_unless_all(say):
    short, long = say("codes", "250", "--vocabulary", "phecode1.2"), say("codes", "250", "--all")
    assert "(--all)" in short
    assert "(--all)" not in long
    assert len(long.splitlines()) > len(short.splitlines())


def test_codes_of_a_code(say):
    said = say("codes", "i4891")
    assert "ICD10CM\tI48.91\tphecode1.2\t427.21\tAtrial fibrillation\t427, 427.2" in said
    assert "ICD10CM\tI48.91\ticd10-3\tI48" in said
    assert "no map for this code system" not in said
    asked = say("codes", "i4891", "--vocabulary", "phecodeX")
    assert "CV_416.21" in asked
    assert "427.21" not in asked


def test_nearest(say):
    assert "The nearest codes in the maps: I48.9 (ICD10CM, ICD10), I48.91 (ICD10CM)" in say("codes", "I48.99")
    with pytest.raises(PhewasError) as caught:
        say("codes", "atrial fib")
    assert "427.21 (Atrial fibrillation)" in caught.value.cure
    with pytest.raises(PhewasError, match="Did you mean phecode"):
        say("codes", "I10", "--vocabulary", "phecod")


def test_a_file_in_place_of_a_name(say, mine):
    assert "women only" in say("codes", "birth", "--vocabulary", str(mine))


def test_ruled_on_a_terminal_and_descriptions_are_no_markup(say, monkeypatch, capsys):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    vocabularies._table(("code", "description"), [("D89.4", "Mast cell activation [MCAS] [/]")])
    said = capsys.readouterr().out
    assert "Mast cell activation [MCAS] [/]" in said
    assert "\t" not in said


@pytest.mark.parametrize("verb", [("vocabularies",), ("vocabularies", "add"), ("codes",)])
def test_help_has_an_example(say, verb):
    assert "Example: phewas" in say(*verb, "--help")
