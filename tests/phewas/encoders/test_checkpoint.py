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


class Trap:
    """An object whose unpickling would write a file."""

    def __init__(self, file):
        self.file = file

    def __reduce__(self):
        return (open, (str(self.file), "w"))


def test_a_pickled_module_is_not_opened_and_nothing_in_it_runs(tmp_path, published):
    torch.save({"state_dict": published.state_dict(), "made": Trap(tmp_path / "ran")}, tmp_path / "w.pth")
    with pytest.raises(WeightsError, match="it was not opened"):
        checkpoint.load(SPEC.build(), tmp_path / "w.pth", spec=SPEC)
    assert not (tmp_path / "ran").exists()


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


def published_form(name: str) -> tuple[registry.EncoderSpec, dict[str, torch.Tensor]]:
    torch.manual_seed(5)
    spec = registry.get(name)
    return spec, spec.build().state_dict()


def loaded(spec, file) -> tuple[dict[str, torch.Tensor], checkpoint.Fit]:
    model = spec.build()
    fit = checkpoint.load(model, file, spec=spec)
    return model.state_dict(), fit


def test_papagei_after_its_prefix_and_with_or_without_its_heads(tmp_path):
    spec, state = published_form("papagei-s")
    torch.save({f"module.{k}": v for k, v in state.items()}, tmp_path / "papagei_s.pt")
    got, fit = loaded(spec, tmp_path / "papagei_s.pt")
    assert all(torch.equal(got[k], state[k]) for k in state)
    assert not fit.absent_heads
    torch.save({k: v for k, v in state.items() if "expert" not in k and "gating" not in k}, tmp_path / "bare.pt")
    got, fit = loaded(spec, tmp_path / "bare.pt")
    assert torch.equal(got["dense.weight"], state["dense.weight"])
    assert len(fit.absent_heads) == 28
    # The other way round the file is not this encoder's, and the message says whose it is.
    with pytest.raises(WeightsError, match="28 do not belong to it") as caught:
        loaded(registry.get("papagei-p"), tmp_path / "papagei_s.pt")
    assert "looks like papagei-s: --encoder papagei-s" in str(caught.value)


def test_pulse_ppg_under_net_beside_the_optimiser(tmp_path):
    spec, state = published_form("pulse-ppg")
    content = {"net": state, "optimizer": {"state": {}, "param_groups": [{"lr": 1e-4}]}, "test_loss": 1.5, "epoch": 5}
    torch.save(content, tmp_path / "checkpoint_best.pkl")
    got, _ = loaded(spec, tmp_path / "checkpoint_best.pkl")
    assert all(torch.equal(got[k], state[k]) for k in state)
    found = checkpoint.inspect(tmp_path / "checkpoint_best.pkl")
    assert (found.nest, set(found.others)) == ("net", {"optimizer", "test_loss", "epoch"})


@pytest.mark.parametrize(("other", "wanted"), [("ecg_encoder", "ppg_encoder"), ("a", "b"), ("b", "a")])
def test_a_training_checkpoint_of_two_encoders_gives_the_one_that_fits(tmp_path, other, wanted):
    # Every name of the PPG encoder also occurs in the larger ECG encoder: shapes must decide.
    spec, ppg = published_form("anyppg")
    with torch.device("meta"):
        shapes = {k: v.shape for k, v in registry.get("ecgfounder-1lead").build().state_dict().items()}
    state = {f"module.{other}.{k}": torch.zeros(s) for k, s in shapes.items() if "stage_list.6" not in k}
    state |= {f"module.{wanted}.{k}": v for k, v in ppg.items()} | {"module.clip_loss.logit_scale": torch.ones(())}
    torch.save({"model_state_dict": state, "global_step": 3}, tmp_path / "w.pth")
    got, fit = loaded(spec, tmp_path / "w.pth")
    assert all(torch.equal(got[k], ppg[k]) for k in ppg)
    assert fit.prefix == f"{wanted}."
    assert set(fit.beside) == {other, "clip_loss"}


@pytest.mark.parametrize("prefix", ["net.module.", "backbone.", "a.b.c.", "model.encoder._orig_mod."])
def test_any_prefix_is_seen_through(tmp_path, published, prefix):
    state = {prefix + name: tensor for name, tensor in published.state_dict().items()}
    torch.save({"state_dict": state | {"head.weight": torch.zeros(3)}, "pytorch-lightning_version": "2.0"},
               tmp_path / "w.ckpt")  # fmt: skip
    fresh = SPEC.build()
    fit = checkpoint.load(fresh, tmp_path / "w.ckpt", spec=SPEC)
    assert same(fresh, published)
    assert dict(fit.beside) == {"head": 1}


def test_two_encoders_of_the_same_kind_in_one_file_are_not_chosen_between(tmp_path, published):
    state = {f"{where}.{k}": v for where in ("online", "target") for k, v in published.state_dict().items()}
    torch.save(state, tmp_path / "w.pth")
    with pytest.raises(WeightsError, match=r"holds 2 such encoders, under online\. and target\."):
        checkpoint.load(SPEC.build(), tmp_path / "w.pth", spec=SPEC)


def test_parts_in_a_folder_are_joined(tmp_path, published):
    from safetensors.torch import save_file

    names = list(published.state_dict())
    for number, part in enumerate((names[:100], names[100:])):
        save_file({k: published.state_dict()[k] for k in part}, tmp_path / f"model-{number}-of-2.safetensors")
    fresh = SPEC.build()
    checkpoint.load(fresh, tmp_path, spec=SPEC)
    assert same(fresh, published)


def test_the_refusal_of_a_pickle_names_what_it_holds_and_its_cure_works(tmp_path, published):
    import argparse

    torch.save({"state_dict": published.state_dict(), "args": argparse.Namespace(lr=1)}, tmp_path / "w.pth")
    with pytest.raises(WeightsError, match=r"argparse\.Namespace.*it was not opened") as caught:
        checkpoint.load(SPEC.build(), tmp_path / "w.pth", spec=SPEC)
    assert "torch.save(model.state_dict(), 'NEW.pth')" in caught.value.cure
    assert "weights_only" not in caught.value.cure  # no advice to open it the unsafe way
    torch.save(published.state_dict(), tmp_path / "NEW.pth")
    fresh = SPEC.build()
    checkpoint.load(fresh, tmp_path / "NEW.pth", spec=SPEC)
    assert same(fresh, published)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:'torch.load' received a zip file:UserWarning")
def test_a_torchscript_program_given_as_weights_is_recognised(tmp_path):
    torch.jit.script(torch.nn.ReLU()).save(str(tmp_path / "w.pt"))
    with pytest.raises(WeightsError, match="TorchScript program") as caught:
        checkpoint.load(SPEC.build(), tmp_path / "w.pt", spec=SPEC)
    assert "--encoder torchscript:" in str(caught.value)


def test_checksums_are_compared_where_one_is_known(tmp_path):
    from dataclasses import replace

    file = tmp_path / "w.pth"
    file.write_bytes(b"abc")
    sha256 = checkpoint.fingerprint(file)
    assert sha256 == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # FIPS 180-4, "abc"
    md5 = "900150983cd24fb0d6963f7d28e17f72"  # RFC 1321, "abc"
    assert checkpoint.compare(replace(SPEC, sha256=sha256), file, sha256)[0] is True
    assert checkpoint.compare(replace(SPEC, sha256="0" * 64), file, sha256)[0] is False
    assert checkpoint.compare(replace(SPEC, sha256="", md5=md5), file, sha256)[0] is True
    assert checkpoint.compare(replace(SPEC, sha256="", md5="0" * 32), file, sha256)[0] is False
    same_, words = checkpoint.compare(replace(SPEC, sha256=""), file, sha256)
    assert same_ is None
    assert sha256 in words
