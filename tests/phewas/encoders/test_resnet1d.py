"""ResNet1D against the published figures, key names and torch's own layers."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

from phewas.encoders import registry
from phewas.encoders.resnet1d import Block, ResNet1D

# name -> tensors in the published file, and some of them with their shapes
PUBLISHED = {
    "papagei-s": (294, {
        "first_block_conv.conv.weight": (32, 1, 3),
        "basicblock_list.0.bn1.running_mean": (32,),
        "basicblock_list.4.conv1.conv.weight": (64, 32, 3),
        "basicblock_list.17.conv2.conv.weight": (512, 512, 3),
        "final_bn.weight": (512,),
        "dense.weight": (512, 512),
        "expert_layers_1.2.2.weight": (1, 256),
        "expert_layers_2.0.3.bias": (1,),
        "gating_network_2.0.weight": (3, 512),
    }),
    "papagei-p": (266, {"dense.bias": (512,), "basicblock_list.16.bn1.weight": (256,)}),
    "papagei-s-svri": (266, {"dense.bias": (512,)}),
    "pulse-ppg": (175, {
        "first_block_conv.conv.weight": (128, 1, 11),
        "basicblock_list.8.conv1.conv.weight": (512, 256, 11),
        "basicblock_list.11.bn2.num_batches_tracked": (),
    }),
}  # fmt: skip


@pytest.mark.parametrize(("name", "entries", "shapes"), [(n, *v) for n, v in PUBLISHED.items()])
def test_the_state_dict_has_the_published_entries(name, entries, shapes):
    with torch.device("meta"):
        state = registry.get(name).build().state_dict()
    assert len(state) == entries
    for key, shape in shapes.items():
        assert tuple(state[key].shape) == shape
    assert ("final_bn.weight" in state) == name.startswith("papagei")
    assert [key for key in state if "expert" in key or "gating" in key] == [] or name == "papagei-s"


def test_lengths_after_each_block_halve_at_the_odd_ones():
    model = ResNet1D(base_filters=4, kernel_size=3, n_blocks=18, dropout=0.0).eval()
    x = model.first_block_conv(torch.randn(1, 1, 1250))
    lengths, channels = [], []
    for block in model.basicblock_list:
        x = block(x)
        lengths.append(x.shape[-1])
        channels.append(x.shape[1])
    assert lengths == [1250, 625, 625, 313, 313, 157, 157, 79, 79, 40, 40, 20, 20, 10, 10, 5, 5, 3]
    assert channels == [4] * 4 + [8] * 4 + [16] * 4 + [32] * 4 + [64] * 2


@pytest.mark.parametrize("samples", [40, 41])
@pytest.mark.parametrize("stride", [1, 2])
def test_a_block_is_the_same_as_one_put_together_from_torch(samples, stride):
    torch.manual_seed(0)
    block = Block(6, 10, kernel_size=3, stride=stride, dropout=0.5, first=False)
    for norm in (block.bn1, block.bn2):
        nn.init.uniform_(norm.running_mean, -1, 1)
        nn.init.uniform_(norm.running_var, 0.5, 2)
    block.eval()
    x = torch.randn(3, 6, samples)

    def normed(norm: nn.BatchNorm1d, y: torch.Tensor) -> torch.Tensor:
        return functional.relu(functional.batch_norm(y, norm.running_mean, norm.running_var, norm.weight, norm.bias))

    a, b = block.conv1.conv, block.conv2.conv
    # Stride 2: an even length needs one zero on the right, an odd one a zero on each side.
    pad = (1, 1) if stride == 1 or samples % 2 else (0, 1)
    out = functional.conv1d(functional.pad(normed(block.bn1, x), pad), a.weight, a.bias, stride=stride)
    out = functional.conv1d(normed(block.bn2, out), b.weight, b.bias, padding="same")
    identity = torch.zeros(3, 10, -(-samples // stride))
    for at in range(identity.shape[-1]):
        part = x[..., at * stride : (at + 1) * stride]
        part = functional.pad(part, (0, stride - part.shape[-1]))
        identity[:, 2:8, at] = part.amax(-1)
    torch.testing.assert_close(block(x), out + identity, rtol=1e-5, atol=1e-6)


def test_pulse_ppg_standardises_windows_as_torch_does_and_takes_any_scale():
    torch.manual_seed(0)
    spec = registry.get("pulse-ppg")
    inside = spec.build().eval()
    outside = ResNet1D(**{**spec.options, "normalise_input": False}).eval()
    outside.load_state_dict(inside.state_dict(), strict=True)
    x = 40 + 7 * torch.randn(2, 1, 200)
    with torch.no_grad():
        normed = nn.InstanceNorm1d(1)(x)
        torch.testing.assert_close(inside(x), outside(normed), rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(inside(x), inside(3 * x - 1), rtol=1e-3, atol=1e-3)
        assert torch.isfinite(inside(torch.ones(2, 1, 9))).all()
        steps = inside.feature_map(x)
        torch.testing.assert_close(inside(x), steps.max(-1).values)
        assert (steps < 0).any()  # no activation at the end


def test_papagei_embeds_by_the_dense_layer_after_the_mean():
    torch.manual_seed(0)
    spec = registry.get("papagei-p")
    model, pooled = spec.build().eval(), ResNet1D(**{**spec.options, "output": "pooled"}).eval()
    pooled.load_state_dict(model.state_dict(), strict=True)
    x = torch.randn(2, 1, 300)
    with torch.no_grad():
        torch.testing.assert_close(model(x), model.dense(pooled(x)))
        assert (model.feature_map(x) >= 0).all()  # normalised and rectified
