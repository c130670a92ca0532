"""`phewas encoders`, `phewas encoders show`, `phewas weights verify`."""

from __future__ import annotations

import pytest
import torch
from typer.testing import CliRunner

from phewas import cli
from phewas.encoders import registry
from phewas.errors import EncoderError, WeightsError


def say(*words: object) -> str:
    done = CliRunner().invoke(cli.app, [str(w) for w in words])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert done.exit_code == 0, done.output
    return done.output


def test_all_are_listed_or_those_that_fit_a_wildcard():
    every = say("encoders")
    for name in registry.names():
        assert f"\n{name} " in every
    some = say("encoders", "papagei*")
    assert "papagei-s " in some
    assert "anyppg" not in some
    assert say("encoders", "list", "papagei*") == some
    with pytest.raises(EncoderError, match="no encoder fits 'papa'"):
        say("encoders", "papa")


@pytest.mark.parametrize("name", registry.names())
def test_every_card_can_be_shown_with_its_one_command(name):
    card, spec = say("encoders", "show", name), registry.get(name)
    assert spec.title in card
    if spec.unavailable:
        assert "phewas cannot build it" in card
        return
    command = card.strip().splitlines()[-1]
    assert command.startswith("phewas run --cohort ")
    assert f"--encoder {name}" in command
    assert ("--weights" in command) == spec.pretrained
    assert f"{spec.width} numbers per window" in card


def test_a_card_tells_where_the_weights_are_and_what_is_done_to_the_signal():
    card = " ".join(say("encoders", "show", "papagei-s").split())
    for words in (
        "10.5281/zenodo.13983110", "5,785,612", "a4cdb32392e2a7b25999128af92813b5", "flat, names after module.",
        "z-score by recording; cheby2 0.5-12 Hz, order 4, zero-phase; moving average of 0.05 s; to 125 Hz",
        "phewas run --cohort mcmed --encoder papagei-s --weights papagei_s.pt",
    ):  # fmt: skip
        assert words in card


def test_a_weights_file_is_looked_into(tmp_path):
    torch.manual_seed(0)
    file = tmp_path / "papagei_p.pt"
    torch.save({"state_dict": {f"module.{k}": v for k, v in registry.get("papagei-p").build().state_dict().items()},
                "epoch": 3}, file)  # fmt: skip
    told = say("weights", "verify", file)
    assert "tensors   266" in told
    assert "under state_dict" in told
    assert "epoch" in told
    assert "papagei-p: fits" in told
    assert "papagei-s-svri: fits" in told
    assert "the file alone cannot tell them apart" in told
    assert "does not go with the md5" in told  # these weights were made here
    with pytest.raises(WeightsError, match="fits papagei-p and is not the published file"):
        say("weights", "verify", file, "--encoder", "papagei-p")
    assert "No checksum was published" in say("weights", "verify", file, "--encoder", "papagei-s-svri")
    with pytest.raises(WeightsError, match="does not hold the weights of anyppg") as caught:
        say("weights", "verify", file, "--encoder", "anyppg")
    assert "--encoder papagei-p" in caught.value.cure


def test_a_file_that_fits_nothing_is_an_error_with_the_nearest(tmp_path):
    state = registry.get("papagei-p").build().state_dict()
    del state["dense.bias"]
    torch.save(state, tmp_path / "w.pt")
    with pytest.raises(WeightsError, match="fits no encoder") as caught:
        say("weights", "verify", tmp_path / "w.pt")
    assert "265 of its 266 tensors fit" in caught.value.cure
