"""Weights files: the published form loads unchanged, everything else is refused in words."""

from __future__ import annotations

import os

import pytest
import torch

from phewas.encoders import checkpoint, registry
from phewas.errors import EncoderError, WeightsError

SPEC = registry.get("anyppg")


@pytest.fixture(scope="module")
def published():
    torch.manual_seed(3)
    return SPEC.build().eval()


def same(model, other) -> bool:
    return all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), other.state_dict().values(), strict=True))


def test_the_flat_published_form_loads(tmp_path, published):
    file = tmp_path / "anyppg_ckpt.pth"
    torch.save(published.state_dict(), file)
    fresh = SPEC.build()
    checkpoint.load(fresh, file, spec=SPEC)
    assert same(fresh, published)


@pytest.mark.parametrize("nest", ["state_dict", "model_state_dict", "net"])
@pytest.mark.parametrize("prefix", ["", "module.", "ppg_encoder.", "module.ppg_encoder.", "encoder."])
def test_nesting_and_prefixes_are_seen_through(tmp_path, published, nest, prefix):
    state = {prefix + name: tensor for name, tensor in published.state_dict().items()}
    if prefix.endswith("ppg_encoder."):
        state[prefix.replace("ppg_encoder.", "ecg_encoder.") + "first_conv.conv.weight"] = torch.zeros(1)
    torch.save({nest: state, "epoch": 4}, tmp_path / "w.pth")
    fresh = SPEC.build()
    checkpoint.load(fresh, tmp_path / "w.pth", spec=SPEC)
    assert same(fresh, published)


def test_safetensors_load(tmp_path, published):
    from safetensors.torch import save_file

    save_file(published.state_dict(), tmp_path / "w.safetensors")
    fresh = SPEC.build()
    checkpoint.load(fresh, tmp_path / "w.safetensors", spec=SPEC)
    assert same(fresh, published)


def test_a_missing_file_is_told(tmp_path):
    with pytest.raises(WeightsError, match="there is no weights file"):
        checkpoint.load(SPEC.build(), tmp_path / "none.pth", spec=SPEC)


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.99])
def test_a_truncated_file_is_told(tmp_path, published, share):
    file = tmp_path / "w.pth"
    torch.save(published.state_dict(), file)
    os.truncate(file, int(file.stat().st_size * share))
    with pytest.raises(WeightsError, match="damaged or cut short"):
        checkpoint.load(SPEC.build(), file, spec=SPEC)


def test_any_other_file_is_told(tmp_path):
    (tmp_path / "w.pth").write_text("hello, this is no weights file at all")
    with pytest.raises(WeightsError, match="damaged or cut short"):
        checkpoint.load(SPEC.build(), tmp_path / "w.pth", spec=SPEC)
    (tmp_path / "w.safetensors").write_bytes(b"\x08\0\0\0\0\0\0\0{}")
    with pytest.raises(WeightsError):
        checkpoint.load(SPEC.build(), tmp_path / "w.safetensors", spec=SPEC)


def test_a_pickled_module_is_not_opened(tmp_path, published):
    torch.save(published, tmp_path / "w.pth")
    with pytest.raises(WeightsError, match="it was not opened"):
        checkpoint.load(SPEC.build(), tmp_path / "w.pth", spec=SPEC)


def test_code_in_a_pickle_does_not_run(tmp_path):
    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "ran"),)

    torch.save({"state_dict": Evil()}, tmp_path / "w.pth")
    with pytest.raises(WeightsError):
        checkpoint.load(SPEC.build(), tmp_path / "w.pth", spec=SPEC)
    assert not (tmp_path / "ran").exists()


def test_another_architecture_is_named(tmp_path):
    small = registry.get("net1d-small").build()
    torch.save(small.state_dict(), tmp_path / "w.pth")
    with pytest.raises(WeightsError, match="does not hold the weights of anyppg") as caught:
        checkpoint.load(SPEC.build(), tmp_path / "w.pth", spec=SPEC)
    assert "net1d-small" in str(caught.value)


def test_the_older_release_is_recognised_and_its_stem_is_not_guessed(tmp_path):
    torch.save(registry.get("anyppg-1024.stride1").build().state_dict(), tmp_path / "w.pth")
    with pytest.raises(WeightsError, match=r"stage_list.5.block_list.0.\S+ is \(1024") as caught:
        checkpoint.load(SPEC.build(), tmp_path / "w.pth", spec=SPEC)
    assert "looks like anyppg-1024.stride1 or anyppg-1024.stride2" in str(caught.value)


def test_one_missing_key_is_enough_to_refuse(tmp_path, published):
    state = dict(published.state_dict())
    del state["stage_list.0.block_list.0.bn1.running_mean"]
    torch.save(state, tmp_path / "w.pth")
    with pytest.raises(WeightsError, match="1 are missing"):
        checkpoint.load(SPEC.build(), tmp_path / "w.pth", spec=SPEC)


def test_nan_weights_are_refused(tmp_path, published):
    state = {name: tensor.clone() for name, tensor in published.state_dict().items()}
    state["first_conv.conv.weight"][0] = float("nan")
    torch.save(state, tmp_path / "w.pth")
    with pytest.raises(WeightsError, match="NaN"):
        checkpoint.load(SPEC.build(), tmp_path / "w.pth", spec=SPEC)


def test_an_unknown_encoder_gets_the_nearest_name():
    with pytest.raises(EncoderError, match="Did you mean anyppg"):
        registry.get("anypgg")
