"""On a GPU: the processor's numbers, the same bytes for a seed, resume without a trace. Skipped where there is none."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from phewas.config import LearnConfig
from phewas.encoders import registry
from phewas.learning import data, embed, finetune, probe
from phewas.learning.labels import load
from phewas.learning.model import build_encoder
from phewas.learning.predict import score
from phewas.segments.store import SegmentStore

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine")

SPEC = registry.get("net1d-small")
CPU, CUDA = torch.device("cpu"), torch.device("cuda")
SMALL = LearnConfig(epochs=2, batch_encounters=16, segments_per_encounter=3, head_lr=1e-2, save_every_steps=2)


@pytest.fixture(scope="module")
def run(make_run, tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("cuda"))


@pytest.fixture(scope="module")
def store(run):
    return SegmentStore.open(run, SPEC.contract)


@pytest.fixture(scope="module")
def study(run, store):
    return load(run, store)


def fitted(store, study, folder, *, spec=SPEC, config=SMALL, device=CUDA):
    """Return the weights of a fit on the training side, on the CPU."""
    model = finetune.fit(
        store, study, train=study.where("train"), tuning=study.where("tuning"), columns=np.array([0, 1]), spec=spec,
        weights=None, config=config, seed=0, device=device, folder=folder,
    )  # fmt: skip
    return {name: value.cpu() for name, value in model.state_dict().items()}


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.fixture(scope="module")
def undisturbed(store, study, tmp_path_factory):
    return fitted(store, study, tmp_path_factory.mktemp("undisturbed"))


def test_a_seed_gives_the_same_bytes(store, study, undisturbed, tmp_path):
    assert same(fitted(store, study, tmp_path), undisturbed)


def test_page_locked_buffers_bring_what_the_kept_store_holds(store, study, undisturbed, tmp_path, monkeypatch):
    monkeypatch.setattr(data, "KEPT_SHARE", 0.0)
    assert data.Windows(store, CUDA).kept is None
    assert same(fitted(store, study, tmp_path), undisturbed)


def test_a_killed_fit_goes_on_as_if_undisturbed(store, study, undisturbed, tmp_path, monkeypatch):
    real, calls = finetune.Fit.update, []

    def dies(*args):
        calls.append(1)
        if len(calls) == 5:
            raise KeyboardInterrupt
        return real(*args)

    with monkeypatch.context() as patched:
        patched.setattr(finetune.Fit, "update", dies)
        with pytest.raises(KeyboardInterrupt):
            fitted(store, study, tmp_path)
    assert same(fitted(store, study, tmp_path), undisturbed)


def test_training_in_float32_is_the_processors(store, study, plain_spec, tmp_path):
    config = SMALL.model_copy(update={"precision": "float32"})
    here = fitted(store, study, tmp_path / "cpu", spec=plain_spec, config=config, device=CPU)
    there = fitted(store, study, tmp_path / "cuda", spec=plain_spec, config=config)
    for name, value in here.items():
        torch.testing.assert_close(there[name], value, atol=2e-3, rtol=2e-3)


@pytest.mark.parametrize("name", ["anyppg", "ecgfounder-1lead", "papagei-s", "papagei-p", "pulse-ppg", "m2ae"])
def test_embeddings_are_the_processors(name):
    spec = registry.get(name)
    x = np.random.default_rng(0).standard_normal(
        (8, len(spec.contract.channels), int(10 * spec.contract.fs_hz)), dtype=np.float32
    )
    here, there, coarse = (
        embed.vectors(embed.ready(spec, weights=None, seed=0, device=device), x, device=device, precision=precision)
        for device, precision in ((CPU, "float32"), (CUDA, "float32"), (CUDA, "bf16"))
    )
    size = np.linalg.norm(here)
    assert np.linalg.norm(there - here) < 2e-3 * size  # cuDNN's convolutions use tf32 by default
    assert np.linalg.norm(coarse - here) < 5e-2 * size


def test_gradients_are_the_processors(monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    x = torch.randn(32, 1, 1250, generator=torch.Generator().manual_seed(0))
    found = []
    for device in (CPU, CUDA):
        encoder = build_encoder(registry.get("anyppg"), weights=None, seed=0).train().to(device)
        for module in encoder.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        encoder(x.to(device)).square().sum().backward()
        found.append(torch.cat([p.grad.flatten().cpu() for p in encoder.parameters() if p.grad is not None]))
    assert (found[1] - found[0]).norm() < 1e-4 * found[0].norm()


def test_scores_are_the_processors(store, study):
    spec = registry.get("net1d-small")
    model = finetune.phenome_model(build_encoder(spec, weights=None, seed=0), spec.width, 3, SMALL)
    torch.nn.init.normal_(model.head.weight)
    held = study.where("held_out")
    here = score(model, store, study, held, device=CPU)
    there = score(model, store, study, held, device=CUDA, precision="float32")
    np.testing.assert_allclose(there, here, atol=5e-3, rtol=5e-3)


def test_heads_are_the_processors():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((4000, 40)).astype(np.float32)
    y = (rng.random((4000, 7)) < 1 / (1 + np.exp(2 - x[:, :7]))).astype(np.int8)
    y[rng.random(y.shape) < 0.1] = -1
    here, there = (probe.fit_heads(x, y, l2=1.0, device=device)(x) for device in (CPU, CUDA))
    np.testing.assert_allclose(there, here, atol=2e-3)
