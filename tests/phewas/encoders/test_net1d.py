"""Net1D against the published figures and against arithmetic written out by hand."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from phewas.encoders import net1d, registry
from phewas.encoders.dropout import Dropout
from phewas.encoders.net1d import Block, SameConv1d

# AnyPPG, Table A1: parameters of the stem and of the six stages.
STEM = 384
STAGES = [32_064, 156_768, 172_320, 1_413_720, 1_510_200, 758_816]


@pytest.fixture(scope="module")
def anyppg():
    torch.manual_seed(0)
    return registry.get("anyppg").build().eval()


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def test_parameters_per_stage_are_the_published_ones(anyppg):
    assert count(anyppg.first_conv) + count(anyppg.first_bn) == STEM
    assert [count(stage) for stage in anyppg.stage_list] == STAGES
    assert count(anyppg) == 4_044_272 == registry.get("anyppg").parameters


def test_the_state_dict_has_the_published_entries(anyppg):
    state = anyppg.state_dict()
    assert len(state) == 332
    assert len(list(anyppg.parameters())) == 212
    assert sum(b.numel() for b in anyppg.buffers()) == 21_352
    assert not [name for name in state if name.startswith(("dense", "final"))]
    for name, shape in {
        "first_conv.conv.weight": (64, 1, 3),
        "first_bn.num_batches_tracked": (),
        "stage_list.0.block_list.0.bn1.weight": (64,),
        "stage_list.1.block_list.0.conv1.conv.weight": (160, 64, 1),
        "stage_list.3.block_list.2.conv2.conv.weight": (400, 16, 3),
        "stage_list.5.block_list.0.conv3.conv.bias": (512,),
        "stage_list.5.block_list.0.se_fc1.weight": (256, 512),
        "stage_list.5.block_list.0.se_fc2.weight": (512, 256),
    }.items():
        assert tuple(state[name].shape) == shape


# Input length -> lengths after the stem and each stage, from the facts about the published module.
@pytest.mark.parametrize(
    ("samples", "lengths"),
    [
        (1250, [625, 313, 157, 79, 40, 20, 10]),
        (625, [313, 157, 79, 40, 20, 10, 5]),
        (1000, [500, 250, 125, 63, 32, 16, 8]),
        (2501, [1251, 626, 313, 157, 79, 40, 20]),
        (1, [1, 1, 1, 1, 1, 1, 1]),
    ],
)
def test_output_lengths(anyppg, samples, lengths):
    x = torch.randn(2, 1, samples)
    seen = []
    with torch.no_grad():
        out = anyppg.first_conv(x)
        seen.append(out.shape[-1])
        for stage in anyppg.stage_list:
            out = stage(out)
            seen.append(out.shape[-1])
        assert anyppg(x).shape == (2, 512)
    assert seen == lengths


@pytest.mark.parametrize("samples", [7, 8, 50, 51])
@pytest.mark.parametrize(("kernel", "stride"), [(3, 2), (3, 1), (16, 2), (16, 1), (1, 1)])
def test_same_padding_is_written_out(samples, kernel, stride):
    conv = SameConv1d(1, 1, kernel, stride=stride)
    x = torch.randn(1, 1, samples)
    out = -(-samples // stride)
    total = max(0, (out - 1) * stride + kernel - samples)
    left = total // 2
    padded = torch.zeros(samples + total)
    padded[left : left + samples] = x[0, 0]
    by_hand = [
        padded[i * stride : i * stride + kernel] @ conv.conv.weight[0, 0] + conv.conv.bias[0] for i in range(out)
    ]
    torch.testing.assert_close(conv(x)[0, 0], torch.stack(by_hand), rtol=1e-5, atol=1e-5)


def silenced(channels_in: int, channels_out: int, stride: int) -> Block:
    """Return a block whose residual branch is zero, so that only the identity comes out."""
    block = Block(
        channels_in, channels_out, kernel_size=3, stride=stride, group_width=16, dropout=0.5, first=False
    ).eval()
    nn.init.zeros_(block.conv3.conv.weight)
    nn.init.zeros_(block.conv3.conv.bias)
    return block


def test_the_identity_of_an_odd_length_is_pooled_with_one_zero_on_the_right():
    block = silenced(16, 16, 2)
    x = -torch.ones(1, 16, 5)
    assert block(x)[0, 0].tolist() == [-1.0, -1.0, 0.0]  # the last pair is (-1, 0)
    assert block(-torch.ones(1, 16, 4))[0, 0].tolist() == [-1.0, -1.0]  # an even length gets no zero


def test_new_channels_lie_half_before_and_half_after_the_identity():
    out = silenced(16, 48, 1)(torch.ones(1, 16, 4))[0, :, 0]
    assert out[:16].sum() == 0
    assert out[16:32].tolist() == [1.0] * 16
    assert out[32:].sum() == 0


def test_the_first_normalisation_of_the_network_is_stored_and_not_run(anyppg):
    x = torch.randn(3, 1, 1250)
    before = anyppg(x)
    first = anyppg.stage_list[0].block_list[0].bn1
    kept = first.weight.detach().clone()
    with torch.no_grad():
        first.weight.mul_(7)
    torch.testing.assert_close(anyppg(x), before, rtol=0, atol=0)
    with torch.no_grad():
        first.weight.copy_(kept)
    second = anyppg.stage_list[0].block_list[1].bn1
    kept = second.weight.detach().clone()
    with torch.no_grad():
        second.weight.mul_(7)
    assert not torch.allclose(anyppg(x), before)
    with torch.no_grad():
        second.weight.copy_(kept)


def test_stem_stride_one_has_the_same_keys_and_other_embeddings(anyppg):
    from dataclasses import replace

    spec = registry.get("anyppg")
    other = replace(spec, options={**spec.options, "stem_stride": 1}).build().eval()
    other.load_state_dict(anyppg.state_dict(), strict=True)
    x = torch.randn(2, 1, 1250)
    assert (other(x) - anyppg(x)).abs().max() > 1e-2


def test_dropout_acts_in_training_only():
    model = registry.get("anyppg").build()
    x = torch.randn(4, 1, 1250)
    assert not torch.allclose(model.train()(x), model(x))


@pytest.mark.parametrize("odd", [1250, 777])
def test_the_layout_in_memory_changes_neither_outputs_nor_gradients(anyppg, monkeypatch, odd):
    model = copy.deepcopy(anyppg).double().train()
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    x = torch.randn(3, 1, odd, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    found = []
    for plain in (False, True):
        if plain:
            monkeypatch.setattr(net1d, "stem", lambda conv, x: conv(x))
        model.zero_grad()
        steps = model.feature_map(x)
        assert steps.dim() == 3
        steps.square().sum().backward()
        found.append([steps.detach()] + [p.grad.clone() for p in model.parameters() if p.grad is not None])
    for here, there in zip(*found, strict=True):
        torch.testing.assert_close(here, there, atol=1e-8, rtol=1e-8)


def test_masks_cut_from_words_are_bernoulli_whatever_the_layout():
    torch.manual_seed(0)
    for p in (0.5, 0.25):
        drop = Dropout(p).train()
        x = torch.ones(50, 64, 1, 313).contiguous(memory_format=torch.channels_last).requires_grad_()
        y = drop(x)
        assert y.is_contiguous(memory_format=torch.channels_last)
        assert y.unique().tolist() == pytest.approx([0.0, 1 / (1 - p)])
        n = x.numel()
        for axis in (None, 0, 1, 3):  # of all, and of each window, channel and time
            axes = [a for a in range(4) if a != axis]
            share = (y == 0).double().mean(axes)
            sd = (p * (1 - p) / (n / share.numel())) ** 0.5
            assert ((share - p).abs() < 5 * sd).all()
        flat = (y == 0).double().flatten() - p
        for lag in (1, 2, 8, 64):  # neighbours within a word and across
            assert abs((flat[lag:] * flat[:-lag]).mean()) < 5 * p * (1 - p) / n**0.5
        y.sum().backward()
        torch.testing.assert_close(x.grad, y.detach())
        torch.manual_seed(1)
        first = drop(x)
        torch.manual_seed(1)
        assert torch.equal(first, drop(x))
    assert torch.equal(Dropout(0.5).eval()(x), x)
    assert (Dropout(1.0).train()(x) == 0).all()
    assert abs((Dropout(0.3).train()(x) == 0).double().mean() - 0.3) < 0.01
