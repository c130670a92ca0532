"""The faster form of an encoder answers as the plain one, and is used only where that holds."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from phewas.encoders import registry
from phewas.encoders.fast import PLAIN, FastNet1D, fast
from phewas.encoders.fast_gpu import GpuNet1D
from phewas.encoders.net1d import Net1D
from phewas.errors import EncoderError
from phewas.learning.model import PhenomeModel
from phewas.learning.predict import for_inference

NETS = [name for name in registry.names() if registry.get(name).factory == "phewas.encoders.net1d:build"]


def used(net: nn.Module) -> nn.Module:
    """Give normalisation the statistics and weights of a network that has been trained."""
    torch.manual_seed(1)
    for part in net.modules():
        if isinstance(part, nn.BatchNorm1d):
            part.running_mean.normal_(0, 0.3)
            part.running_var.uniform_(0.3, 3)
            nn.init.uniform_(part.weight, 0.5, 1.5)
            nn.init.normal_(part.bias, 0, 0.3)
    return net.eval()


@pytest.mark.parametrize("name", NETS)
def test_the_faster_form_gives_the_same_embedding(name):
    spec = registry.get(name)
    net = used(spec.build())
    form = fast(net)
    assert isinstance(form, FastNet1D)
    for samples in (1250, 1251, 625, 263, 37, 3, 1):
        x = torch.randn(2, len(spec.contract.channels), samples)
        with torch.inference_mode():
            plain, quick = net(x), form(x)
        assert plain.abs().max() > 0.1
        torch.testing.assert_close(quick, plain, atol=1e-5, rtol=1e-5, msg=lambda told, at=samples: f"{at}: {told}")


@pytest.mark.parametrize("name", NETS)
def test_the_form_for_a_gpu_gives_the_same_embedding(name):
    spec = registry.get(name)
    net = used(spec.build())
    form = GpuNet1D(net).eval()
    for samples in (1250, 263, 1):
        x = torch.randn(2, len(spec.contract.channels), samples)
        with torch.inference_mode():
            plain, quick = net(x), form(x)
        torch.testing.assert_close(quick, plain, atol=1e-5, rtol=1e-5, msg=lambda told, at=samples: f"{at}: {told}")


def test_many_windows_are_as_one_by_one():
    net = fast(used(registry.get("net1d-small").build()))
    x = torch.randn(9, 1, 500)
    torch.testing.assert_close(net(x), torch.cat([net(part[None]) for part in x]), atol=1e-5, rtol=1e-5)
    copy = x.clone()
    net(x)
    assert torch.equal(x, copy), "the input was overwritten"


def test_a_head_on_top_stays_and_the_model_itself_is_left_alone():
    model = used(PhenomeModel(registry.get("net1d-small").build(), 64, 5))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    quick = fast(model)
    x = torch.randn(4, 1, 300)
    with torch.inference_mode():
        torch.testing.assert_close(quick(x), model(x), atol=1e-4, rtol=1e-4)
    assert isinstance(quick.encoder, FastNet1D)
    assert isinstance(model.encoder, Net1D)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert not quick(x).requires_grad or quick.head.weight.requires_grad


def test_training_is_refused_and_other_models_pass_unchanged():
    with pytest.raises(EncoderError, match="in training"):
        fast(registry.get("net1d-small").build())
    plain = nn.Linear(3, 2)
    assert fast(plain) is plain
    features = registry.get("pulse-features").build()
    assert for_inference(features, torch.device("cpu")) is features


def test_inference_uses_it_on_a_processor():
    assert isinstance(for_inference(registry.get("net1d-small").build(), torch.device("cpu")), FastNet1D)


def test_threads_change_no_byte_and_stay_as_they_were():
    net = fast(used(registry.get("net1d-small").build()))
    x = torch.randn(70, 1, 1250)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        alone = net(x)
        torch.set_num_threads(3)
        together = net(x)
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)
    assert torch.equal(alone, together)


def test_autocast_changes_nothing():
    net = fast(used(registry.get("net1d-small").build()))
    x = torch.randn(2, 1, 300)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = net(x)
    assert torch.equal(inside, net(x))


def test_extreme_numbers_are_met_as_by_the_plain_module():
    net = used(registry.get("net1d-small").build())
    x = torch.randn(3, 1, 200) * torch.tensor([1e3, 1e-6, 1.0])[:, None, None]
    x[2, 0, 50] = float("nan")
    with torch.inference_mode():
        plain, quick = net(x), fast(net)(x)
    torch.testing.assert_close(quick[:2], plain[:2], atol=1e-4, rtol=1e-4)
    assert not torch.isfinite(quick[2]).any()


def test_a_class_of_ones_own_and_other_widths_stay_plain_and_so_does_all_when_asked(monkeypatch):
    options = registry.get("net1d-small").options

    class Doubled(Net1D):
        def forward(self, x):
            return 2 * super().forward(x)

    for other in (Doubled(**options), Net1D(**{**options, "group_width": 8})):
        other.eval()
        assert fast(other) is other
    net = Net1D(**options).eval()
    monkeypatch.setenv(PLAIN, "1")
    assert fast(net) is net
