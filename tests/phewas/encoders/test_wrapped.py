"""Encoders of other packages, in tiny configurations built here, against the packages' own embeddings."""

from __future__ import annotations

import json

import pytest
import torch

from phewas.encoders import checkpoint, inputs, registry
from phewas.errors import EncoderError, WeightsError

X = torch.randn(3, 1, 250, generator=torch.Generator().manual_seed(0))


def gradients(model) -> set[str]:
    model.zero_grad()
    model(X).square().sum().backward()
    return {name for name, p in model.named_parameters() if p.grad is None}


@pytest.fixture
def chronos():
    pytest.importorskip("chronos.chronos2")
    from phewas.encoders import chronos2

    torch.manual_seed(0)
    small = {"d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4}
    return chronos2.build(config={**chronos2.PUBLISHED, **small}).eval()


def test_chronos_is_the_mean_over_every_token_of_the_package(chronos):
    from chronos import Chronos2Pipeline

    for x, tokens in ((X, 16 + 2), (torch.randn(2, 2, 100), 7 + 2)):
        own, _ = Chronos2Pipeline(chronos.model).embed(x)
        assert own[0].shape[1] == tokens
        wanted = torch.stack([one.mean((0, 1)) for one in own])
        with torch.no_grad():
            torch.testing.assert_close(chronos(x), wanted, rtol=1e-5, atol=1e-6)


def test_chronos_can_be_fine_tuned(chronos):
    without = gradients(chronos.train())
    assert all(name.startswith("model.output_patch_embedding.") for name in without)


def test_chronos_loads_its_folder_strictly(chronos, tmp_path):
    folder = tmp_path / "chronos"
    chronos.model.save_pretrained(folder)
    spec = registry.get("chronos-2")
    back = checkpoint.build(spec, folder).eval()
    with torch.no_grad():
        torch.testing.assert_close(back(X), chronos(X), rtol=0, atol=0)
    told = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(told | {"num_layers": 3}))
    with pytest.raises(WeightsError, match="does not hold the weights of chronos-2"):
        checkpoint.build(spec, folder)
    (folder / "config.json").unlink()
    with pytest.raises(WeightsError, match="no folder of a Hugging Face model"):
        checkpoint.build(spec, folder)


def test_chronos_has_the_published_size():
    pytest.importorskip("chronos.chronos2")
    with torch.device("meta"):
        model = registry.get("chronos-2").build()
    assert sum(p.numel() for p in model.parameters()) == 119_477_664 == registry.get("chronos-2").parameters
    assert len(model.state_dict()) == 170
    assert model.width == registry.get("chronos-2").width


@pytest.fixture
def moment():
    pytest.importorskip("momentfm")
    from phewas.encoders import moment as room

    torch.manual_seed(0)
    small = room.published("small")
    t5 = {**small["t5_config"], "d_model": 32, "d_ff": 64, "d_kv": 8, "num_layers": 2, "num_heads": 4}
    return room.build(config={**small, "d_model": 32, "t5_config": t5}).eval()


def test_moment_is_the_package_s_own_embedding_and_can_be_fine_tuned(moment):
    with torch.no_grad():
        steps = moment.model.embed(x_enc=X, reduction="none").embeddings
        assert steps.shape == (3, 1, 250 // 8, 32)
        torch.testing.assert_close(moment(X), steps.mean((1, 2)), rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(moment(5 * X + 3), moment(X), rtol=1e-3, atol=1e-3)
    assert gradients(moment) == {"model.encoder.embed_tokens.weight"}


def test_moment_loads_its_folder(moment, tmp_path):
    from safetensors.torch import save_file

    state = {k: v.clone() for k, v in moment.model.state_dict().items()}
    save_file(state | {"head.linear.weight": torch.zeros(8, 32)}, tmp_path / "model.safetensors")
    told = {k: v for k, v in vars(moment.model.config).items() if k in ("d_model", "t5_config", "seq_len", "patch_len")}
    (tmp_path / "config.json").write_text(json.dumps(told))
    back = checkpoint.build(registry.get("moment-small"), tmp_path).eval()
    with torch.no_grad():
        torch.testing.assert_close(back(X), moment(X), rtol=0, atol=0)


@pytest.mark.parametrize(("name", "millions"), [("moment-small", 35), ("moment-base", 110), ("moment-large", 341)])
def test_moment_has_the_published_sizes(name, millions):
    pytest.importorskip("momentfm")
    spec = registry.get(name)
    with torch.device("meta"):
        model = spec.build()
    assert round(sum(p.numel() for p in model.parameters()) / 1e6) == millions
    assert model.width == spec.width


def test_hubert_takes_the_leads_in_a_row_and_any_scale(tmp_path):
    transformers = pytest.importorskip("transformers")
    from phewas.encoders import hubert_ecg

    torch.manual_seed(0)
    small = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64,
             "conv_dim": [16] * 5}  # fmt: skip
    model = hubert_ecg.build(config={**hubert_ecg.published("small"), **small}).eval()
    x = torch.randn(2, 12, 500)
    scaled = torch.stack([2 * (one - one.min()) / (one.max() - one.min()) - 1 for one in x]).reshape(2, 6000)
    with torch.no_grad():
        steps = model.model(scaled).last_hidden_state
        torch.testing.assert_close(model(x), steps.mean(1), rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(model(4 * x - 2), model(x), rtol=1e-4, atol=1e-4)
    model.model.save_pretrained(tmp_path / "hubert")
    back = checkpoint.build(registry.get("hubert-ecg-small"), tmp_path / "hubert").eval()
    with torch.no_grad():
        torch.testing.assert_close(back(x), model(x), rtol=0, atol=0)
    inputs.check_length(registry.get("hubert-ecg-small"), 500)
    assert isinstance(model.model, transformers.HubertModel)


@pytest.mark.parametrize(("name", "millions"), [("hubert-ecg-small", 30.2), ("hubert-ecg-base", 92.8)])
def test_hubert_has_about_the_published_sizes(name, millions):
    pytest.importorskip("transformers")  # published, with a head for labels: 30.3 and 92.9 million
    with torch.device("meta"):
        model = registry.get(name).build()
    assert round(sum(p.numel() for p in model.parameters()) / 1e6, 1) == millions


@pytest.mark.parametrize(
    ("name", "package", "cure"),
    [("chronos-2", "chronos", "phewas[chronos]"), ("moment-small", "momentfm", "--no-deps momentfm"),
     ("hubert-ecg-small", "transformers", "phewas[transformers]")],
)  # fmt: skip
def test_a_missing_package_is_told_with_its_cure(name, package, cure, monkeypatch):
    from phewas.encoders import extras

    def missing(module):
        raise ModuleNotFoundError(f"No module named {package!r}", name=package)

    monkeypatch.setattr(extras.importlib, "import_module", missing)
    import phewas.encoders.chronos2
    import phewas.encoders.hubert_ecg
    import phewas.encoders.moment

    module = {"chronos-2": phewas.encoders.chronos2, "moment-small": phewas.encoders.moment}.get(
        name, phewas.encoders.hubert_ecg
    )
    with pytest.raises(EncoderError, match=f"needs the package {package}, which is not installed") as caught:
        module.build()
    assert cure in caught.value.cure
