"""Two processes train the model that one trains: gradients, normalisation, the choice of the epoch."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from phewas import launch
from phewas.learning.distributed import Group, _Synchronised
from phewas.learning.model import load_tensors

SCRIPT = Path(__file__).with_name("two_processes.py")


@pytest.fixture(scope="module")
def both(make_run, tmp_path_factory):
    """Run the script in two processes, and return the run and where they wrote."""
    run, out = make_run(tmp_path_factory.mktemp("run"), n_patients=30), tmp_path_factory.mktemp("out")
    assert launch.launch([sys.executable, str(SCRIPT), str(run), str(out)], processes=2, restarts=0) == 0
    return run, out


@pytest.fixture(scope="module")
def alone(both, tmp_path_factory):
    spec = importlib.util.spec_from_file_location("two_processes", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.fitted(both[0], tmp_path_factory.mktemp("alone"), Group())


def test_two_processes_have_the_gradients_and_losses_of_one(both, alone):
    for rank in (0, 1):
        theirs = load_tensors(both[1] / f"rank-{rank}.safetensors")
        assert set(theirs) == set(alone)
        for name, gradient in alone.items():
            if name != "losses":
                torch.testing.assert_close(theirs[name], gradient, rtol=1e-3, atol=1e-5, msg=name)
        assert alone["0"].abs().max() > 1e-4
        # Biases before a normalisation have no gradient but rounding, of which AdamW makes whole steps: losses agree
        # only about.
        torch.testing.assert_close(theirs["losses"], alone["losses"], rtol=2e-2, atol=1e-6, equal_nan=True)


def test_after_the_death_of_one_the_model_is_the_undisturbed_one(both, tmp_path, capfd):
    run, undisturbed = both
    assert launch.launch([sys.executable, str(SCRIPT), str(run), str(tmp_path), "dies"], processes=2, restarts=1) == 0
    assert (tmp_path / "died").exists()
    assert "all begin again from the last checkpoint" in capfd.readouterr().err
    models = [sorted((out / "work").glob("*.safetensors")) for out in (undisturbed, tmp_path)]
    assert [f.name for f in models[0]] == [f.name for f in models[1]] != []
    assert [f.read_bytes() for f in models[0]] == [f.read_bytes() for f in models[1]]
    steps = [int(load_tensors(out / "rank-0.safetensors")["steps"]) for out in (undisturbed, tmp_path)]
    assert steps[1] == steps[0] - 2  # those before the death were not taken again


def test_gradients_are_those_of_torchs_own_wrapper_and_rows_come_back_in_order(both):
    for rank in (0, 1):
        found = json.loads((both[1] / f"rank-{rank}.json").read_text())
        assert found["size"] == 2
        assert found["torch"] < 1e-6
        assert found["told"] == "from 0"
        assert found["gathered"] == np.arange(14).reshape(7, 2).tolist()


def test_synchronised_normalisation_of_a_lone_batch_is_torchs(monkeypatch):
    monkeypatch.setattr("phewas.learning.distributed.distributed.all_reduce", lambda value: None)
    torch.manual_seed(0)
    plain = nn.BatchNorm1d(5)
    nn.init.normal_(plain.weight)
    twin = _Synchronised.of(nn.BatchNorm1d(5))
    twin.load_state_dict(plain.state_dict())
    a, b = torch.randn(7, 5, 11).mul_(3).add_(1).requires_grad_(), None
    b = a.detach().clone().requires_grad_()
    weights = torch.randn(7, 5, 11)
    (plain(a) * weights).sum().backward()
    (twin(b) * weights).sum().backward()
    torch.testing.assert_close(a.grad, b.grad, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(plain.running_var, twin.running_var)
    torch.testing.assert_close(plain.eval()(a), twin.eval()(b))
