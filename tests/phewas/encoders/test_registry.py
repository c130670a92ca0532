"""Every registered encoder keeps its record; names, tags, wildcards and plug-ins are found."""

from __future__ import annotations

import fnmatch
import subprocess
import sys
from dataclasses import replace
from importlib.metadata import EntryPoint

import pytest
import torch

from phewas.encoders import registry
from phewas.errors import EncoderError, PhewasWarning

SPECS = [registry.get(name) for name in registry.names()]
# Of encoders that differ in a stride or a name only, one is run.
TWINS = ("anyppg-1024.stride2", "papagei-s-svri", "ecgfounder-1lead.bn")
BUILT_HERE = [
    s for s in SPECS if s.weights_are == "file" and not (s.unavailable or s.frozen_only) and s.name not in TWINS
]
COUNTS = {
    "anyppg": 4_044_272, "anyppg-1024.stride1": 5_850_864, "anyppg-1024.stride2": 5_850_864,
    "ecgfounder-1lead": 30_807_750, "ecgfounder-1lead.bn": 30_807_750, "ecgfounder-12lead": 30_819_014,
    "papagei-s": 5_785_612, "papagei-p": 4_993_024, "papagei-s-svri": 4_993_024, "pulse-ppg": 28_497_920,
}  # fmt: skip


def shape(spec, samples: int, batch: int = 2) -> tuple[int, int, int]:
    return batch, len(spec.contract.channels), samples


def window(spec) -> int:
    return spec.contract.length(min(spec.window_s or 10.0, 10.0))


@pytest.fixture(scope="module")
def built():
    """Return a function that builds each encoder once."""
    made = {}

    def get(spec):
        if spec.name not in made:
            torch.manual_seed(0)
            made[spec.name] = spec.build().eval()
        return made[spec.name]

    return get


@pytest.mark.parametrize(("name", "count"), COUNTS.items())
def test_parameter_counts_are_the_published_ones(name, count):
    spec = registry.get(name)
    with torch.device("meta"):
        model = spec.build()
    assert sum(p.numel() for p in model.parameters()) == count == spec.parameters


@pytest.mark.parametrize("spec", BUILT_HERE, ids=lambda s: s.name)
def test_an_encoder_gives_its_width_on_usual_odd_and_tiny_windows(spec, built):
    model = built(spec)
    with torch.no_grad():
        for samples in (window(spec) // 2, 251, 7, 1):
            out = model(torch.randn(shape(spec, samples)))
            assert out.shape == (2, spec.width)
            assert out.dtype == torch.float32
            assert torch.isfinite(out).all()


@pytest.mark.parametrize("spec", BUILT_HERE, ids=lambda s: s.name)
def test_evaluation_is_the_same_each_time_and_window_by_window(spec, built):
    model, x = built(spec), torch.randn(shape(spec, 250))
    with torch.no_grad():
        once = model(x)
        torch.testing.assert_close(model(x), once, rtol=0, atol=0)
        torch.testing.assert_close(model(x[:1]), once[:1], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("spec", BUILT_HERE, ids=lambda s: s.name)
def test_every_parameter_but_the_idle_ones_gets_a_gradient(spec):
    torch.manual_seed(0)
    model = spec.build().train()
    model(torch.randn(shape(spec, 64))).square().mean().backward()
    idle = {n for n, _ in model.named_parameters() if any(fnmatch.fnmatchcase(n, p) for p in spec.idle)}
    without = {n for n, p in model.named_parameters() if p.grad is None}
    assert without == idle
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


@pytest.mark.parametrize("spec", BUILT_HERE, ids=lambda s: s.name)
def test_training_differs_from_evaluation_where_it_should(spec):
    torch.manual_seed(0)
    model, x = spec.build(), torch.randn(shape(spec, 64))
    with torch.no_grad():
        differs = not torch.allclose(model.train()(x), model.eval()(x), atol=1e-6)
    assert differs == (spec.name not in ("ecgfounder-1lead", "ecgfounder-12lead"))  # no dropout, no normalisation run


# One of each architecture, small: the rest differ in numbers only.
SMALL = {
    "net1d-small": {"filters": (16, 32), "blocks": (1, 1)},
    "papagei-s": {"n_blocks": 4, "base_filters": 8, "double_every": 2, "dense": 16},
    "m2ae": {"width": 16, "heads": 2, "depth": 1, "shared_depth": 1},
}


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize("name", SMALL)
def test_torchscript_and_export_give_the_same(name, tmp_path):
    spec = registry.get(name)
    torch.manual_seed(0)
    model = replace(spec, options={**spec.options, **SMALL[name]}).build().eval()
    x = torch.randn(shape(spec, 251))
    with torch.no_grad():
        wanted = model(x)
        torch.jit.trace(model, x, check_trace=False).save(str(tmp_path / "m.ts"))
        torch.testing.assert_close(torch.jit.load(str(tmp_path / "m.ts"))(x), wanted, rtol=1e-4, atol=1e-5)
        program = torch.export.export(model, (x,), dynamic_shapes=({0: torch.export.Dim("windows")},))
        torch.export.save(program, tmp_path / "m.pt2")
        back = torch.export.load(tmp_path / "m.pt2").module()
        torch.testing.assert_close(back(torch.cat([x, x, x]))[:2], wanted, rtol=1e-4, atol=1e-5)


def test_ecgfounder_stores_its_normalisation_and_its_variant_runs_it(built):
    plain, run = built(registry.get("ecgfounder-1lead")), registry.get("ecgfounder-1lead.bn").build().eval()
    run.load_state_dict(plain.state_dict(), strict=True)
    assert len(plain.state_dict()) == 509
    x = torch.randn(1, 1, 1000)
    with torch.no_grad():
        before = plain(x)
        # Statistics that were never updated change next to nothing; others do.
        torch.testing.assert_close(run(x), before, rtol=5e-3, atol=5e-3)
        for model in (plain, run):
            for norm in (m for m in model.modules() if isinstance(m, torch.nn.BatchNorm1d)):
                norm.running_var.fill_(4.0)
        assert torch.equal(plain(x), before)
        assert not torch.allclose(run(x), before, rtol=5e-2, atol=5e-2)
        for norm in (m for m in plain.modules() if isinstance(m, torch.nn.BatchNorm1d)):
            norm.running_var.fill_(1.0)


@pytest.mark.parametrize("name", ["ecgfounder-1lead", "net1d-small"])
def test_a_faster_form_leaves_alone_what_is_not_run(name):
    fast = pytest.importorskip("phewas.encoders.fast").fast
    torch.manual_seed(0)
    model = registry.get(name).build().eval()
    for norm in (m for m in model.modules() if isinstance(m, torch.nn.BatchNorm1d)):
        norm.running_var.fill_(3.0)
    x = torch.randn(1, 1, 500)
    with torch.no_grad():
        torch.testing.assert_close(fast(model)(x), model(x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("spec", SPECS, ids=lambda s: s.name)
def test_a_record_says_what_a_reader_needs(spec):
    assert spec.title
    assert spec.description
    assert spec.tensor or spec.frozen_only
    assert spec.pooling or spec.frozen_only
    assert spec.width > 0
    if spec.pretrained:
        assert spec.source
        assert spec.licence
        assert spec.code_licence
        assert spec.citation
        assert spec.nesting


def test_wildcards_list_and_an_unknown_name_is_told_with_the_nearest():
    assert registry.names("papagei*") == ["papagei-p", "papagei-s", "papagei-s-svri"]
    with pytest.raises(EncoderError, match="Did you mean papagei-s"):
        registry.get("papagai-s")


def test_a_stem_stride_is_never_chosen_for_the_user():
    with pytest.raises(EncoderError, match=r"which one is meant must be said: anyppg-1024.stride1, "):
        registry.get("anyppg-1024")


def test_a_family_with_one_member_needs_no_tag(monkeypatch):
    only = replace(registry.get("net1d-small"), name="mine.v2")
    monkeypatch.setattr(registry, "_built_in", lambda: {"mine.v2": only})
    assert registry.get("mine") is only


def test_what_cannot_be_built_says_why():
    with pytest.raises(EncoderError, match="no package and carries no licence"):
        registry.get("csfm-base").build()


def offered() -> list[registry.EncoderSpec]:
    """Return what a plug-in offers; used through an entry point below."""
    return [replace(registry.get("net1d-small"), name="from-elsewhere", code="elsewhere 1.2")]


def test_a_plug_in_is_found_and_a_broken_one_is_left_out_with_a_word(monkeypatch):
    import phewas.encoders.registry as room

    class Good(EntryPoint):
        def load(self):
            return offered

    class Broken(EntryPoint):
        def load(self):
            raise ImportError("no such thing")

    class Taken(EntryPoint):
        def load(self):
            return registry.get("anyppg")

    points = [kind("x", "elsewhere:offered", "phewas.encoders") for kind in (Good, Broken, Taken)]
    monkeypatch.setattr(room, "entry_points", lambda group: points)
    with pytest.warns(PhewasWarning) as told:
        spec = registry.get("from-elsewhere")
    assert spec.code == "elsewhere 1.2"
    words = " | ".join(str(one.message) for one in told)
    assert "was left out: no such thing" in words
    assert "offers anyppg, a name that is taken" in words


def test_listing_imports_no_torch():
    code = "import sys; from phewas.encoders import registry; registry.names(); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_masks_of_m2ae_are_complementary_and_a_hidden_patch_is_not_seen():
    from phewas.encoders import m2ae

    torch.manual_seed(0)
    model, x = m2ae.build(width=32, heads=4, depth=1, shared_depth=1).eval(), torch.randn(3, 2, 260)
    hidden = m2ae.complementary(3, 11, share=0.4)
    assert (hidden.sum(1) == 1).all()
    assert (hidden[:, 0].sum(1) == 4).all()
    changed = model.patches(x).clone()
    changed[hidden] += 100.0
    with torch.no_grad():
        assert model.reconstruct(x, hidden).shape == (3, 2, 11, 25)
        torch.testing.assert_close(model.tokens(changed, hidden), model.tokens(model.patches(x), hidden))


@pytest.mark.parametrize("name", ["anyppg-1024.stride1", "anyppg-1024.stride2", "papagei-s", "pulse-ppg"])
def test_an_encoder_whose_pretraining_is_not_known_is_never_said_to_be_free_of_a_cohort(name):
    from phewas.cohorts import get
    from phewas.cohorts.heldout import contamination

    spec = registry.get(name)
    assert spec.pretrained
    assert spec.pretraining == ()
    for cohort in ("mcmed", "mimic3", "ppgbp"):
        told = contamination(rule="random", pretrained=True, pretraining=spec.pretraining, card=get(cohort).card)
        assert told == "cannot be excluded"
