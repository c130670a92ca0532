"""What a run is made of before it starts: cards that a data folder describes, defaults, missing parts."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from phewas import dryrun, settings
from phewas.encoders import registry
from phewas.errors import ConfigError
from phewas.plan import plan

TABLES = Path(__file__).resolve().parents[1] / "golden" / "tables" / "input"


@pytest.fixture
def root(tmp_path):
    shutil.copytree(TABLES, tmp_path / "data")
    return tmp_path / "data"


def planned(root: Path, **options):
    config = settings.resolve({"cohort": "tables", "data": root, "encoder": "net1d-small"} | options, None)
    return plan(config, out=root.parent / "run", command="phewas run")


def test_a_cohort_described_by_its_folder_has_the_card_of_its_folder(root):
    from phewas.cohorts import get

    text = (root / "cohort.toml").read_text()
    made = planned(root)
    assert made.source.card == get("tables").card_for(root)
    assert made.source.card.title in text
    assert not (root.parent / "run").exists()


def test_an_encoder_of_another_channel_than_the_index_channel_is_no_mistake(root):
    text = (root / "cohort.toml").read_text()
    (root / "cohort.toml").write_text(text.replace('channel = "PPG"', 'channel = "ECG_II"', 1))
    made = planned(root)
    assert (made.source.card.index_channel, made.spec.contract.channels) == ("ECG_II", ("PPG",))


def test_defaults_come_from_the_card_and_options_win(root):
    made = planned(root)
    assert made.heldout == made.source.card.heldout
    assert made.fit == made.source.card.fit
    assert planned(root, heldout="random:0.5", fit="probe").heldout == "random:0.5"
    assert planned(root, heldout="random:0.5", fit="probe").fit == "probe"


def test_the_mains_frequency_is_the_cards_and_an_option_wins(root, capsys):
    def notch(**options):
        return planned(root, encoder="m2ae", **options).spec.contract.notch

    assert notch() is None
    assert "mains" in capsys.readouterr().err
    text = (root / "cohort.toml").read_text()
    (root / "cohort.toml").write_text("mains_hz = 60\n" + text)
    assert notch().hz == 60
    assert notch(segments={"mains_hz": 50}).hz == 50
    (root / "cohort.toml").write_text("mains_hz = 55\n" + text)
    with pytest.raises(ConfigError, match="mains_hz is 55"):
        planned(root)


@pytest.mark.parametrize("name", ["mcmed", "mimic3", "mimic4", "mimic4ecg", "ppgbp"])
def test_sites_say_their_mains_frequency(name):
    from phewas.cohorts import get

    assert get(name).card.mains_hz == (50 if name == "ppgbp" else 60)


def test_another_recorded_channel_may_stand_for_the_encoders(root, capsys):
    made = planned(root, encoder="m2ae", segments={"channels": {"ECG_II": "ECG_V"}})
    assert made.spec.contract.channels == ("PPG", "ECG_V")
    assert "ECG_V stands for ECG_II" in capsys.readouterr().err
    with pytest.raises(ConfigError, match="no channel 'ECG_I'"):
        planned(root, encoder="m2ae", segments={"channels": {"ECG_I": "ECG_II"}})
    with pytest.raises(ConfigError, match="stand for two"):
        planned(root, encoder="m2ae", segments={"channels": {"ECG_II": "PPG"}})


@pytest.mark.parametrize(
    ("name", "low", "high"),
    # By hand: two for each weight and step of the convolutions that they are used at.
    [("anyppg", 0.20e9, 0.23e9), ("net1d-small", 1e6, 20e6), ("pulse-features", None, None), ("csfm-tiny", None, None)],
)
def test_the_arithmetic_of_an_encoder_is_counted_or_unknown(name, low, high):
    found = dryrun.flops(registry.get(name), window_s=10.0)
    assert (found is None) if low is None else low < found < high
