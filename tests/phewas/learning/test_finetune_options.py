"""The options of fine-tuning: losses against torch and published formulas, parts against whole batches, freezing."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional

from phewas.config import LearnConfig
from phewas.encoders import registry
from phewas.errors import LearningError
from phewas.learning import augment, data, finetune, freezing
from phewas.learning.labels import load
from phewas.learning.losses import Criterion, prevalence_log_odds
from phewas.learning.model import PhenomeModel, pooled
from phewas.learning.predict import score
from phewas.segments.store import SegmentStore

SPEC = registry.get("net1d-small")
DEVICE = torch.device("cpu")
SMALL = LearnConfig(epochs=1, batch_encounters=16, segments_per_encounter=3, head_lr=1e-2)


@pytest.fixture(scope="module")
def run(make_run, tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("options"))


@pytest.fixture(scope="module")
def study(run):
    return load(run, SegmentStore.open(run, SPEC.contract))


def fitted(run, study, folder, spec, config, **more):
    """Return the state dict of a short fit on the training side, without tuning patients unless given."""
    given = {"train": study.where("train"), "tuning": study.where("held_out")[:0]} | more
    model = finetune.fit(
        SegmentStore.open(run, SPEC.contract), study, columns=np.array([0, 1]), spec=spec, weights=None,
        config=config, seed=0, device=DEVICE, folder=folder, **given,
    )  # fmt: skip
    return model, model.state_dict()


# --- losses ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def batch():
    torch.manual_seed(0)
    return torch.randn(50, 6), torch.randint(-1, 2, (50, 6), dtype=torch.int8)


def criterion(labels, **options):
    return Criterion.of(LearnConfig(**options), labels)


def test_the_plain_criterion_is_the_masked_loss(batch):
    logits, labels = batch
    total = criterion(labels).total(logits, labels, torch.ones(50)) / (labels >= 0).sum()
    torch.testing.assert_close(total, finetune.masked_loss(logits, labels, torch.ones(50)))


def test_positive_weights_are_torchs_and_capped():
    torch.manual_seed(1)
    labels = (torch.rand(400, 3) < torch.tensor([0.5, 0.1, 0.01])).to(torch.int8)
    labels[:, 2] = 0
    labels[:3, 2] = 1
    made = criterion(labels, loss="positive_weight", positive_weight_cap=15)
    odds = torch.exp(-prevalence_log_odds(labels))
    torch.testing.assert_close(made.case_weight, odds.clamp(1, 15))
    assert made.case_weight[2] == 15
    logits = torch.randn(400, 3)
    theirs = functional.binary_cross_entropy_with_logits(
        logits, labels.float(), pos_weight=odds.clamp(1, 15), reduction="sum"
    )
    torch.testing.assert_close(made.total(logits, labels, torch.ones(400)), theirs)


def test_logit_adjustment_adds_the_prior_in_training_only(batch):
    logits, labels = batch
    made = criterion(labels, loss="logit_adjustment", adjustment_strength=1.5)
    shifted = logits + 1.5 * prevalence_log_odds(labels)
    plain = criterion(labels).total(shifted, labels, torch.ones(50))
    torch.testing.assert_close(made.total(logits, labels, torch.ones(50)), plain)


def test_focal_is_the_published_formula(batch):
    logits, labels = batch
    made = criterion(labels, loss="focal", focal_gamma=2.0).total(logits, labels, torch.ones(50))
    p = torch.sigmoid(logits)
    p_t = torch.where(labels == 1, p, 1 - p)
    by_hand = -((1 - p_t) ** 2 * p_t.log())[labels >= 0].sum()
    torch.testing.assert_close(made, by_hand)
    without = criterion(labels, loss="focal", focal_gamma=0.0).total(logits, labels, torch.ones(50))
    torch.testing.assert_close(without, criterion(labels).total(logits, labels, torch.ones(50)))


@pytest.mark.parametrize("loss", ["plain", "positive_weight", "logit_adjustment", "focal"])
def test_excluded_labels_have_no_gradient_in_any_loss(batch, loss):
    logits = batch[0].clone().requires_grad_()
    criterion(batch[1], loss=loss).total(logits, batch[1], torch.ones(50)).backward()
    assert (logits.grad[batch[1] < 0] == 0).all()
    assert (logits.grad[batch[1] >= 0] != 0).all()


@pytest.mark.parametrize("loss", ["plain", "positive_weight", "logit_adjustment"])
def test_training_starts_where_a_constant_is_best(loss):
    labels = (torch.rand(4000, 2, generator=torch.Generator().manual_seed(2)) < 0.2).to(torch.int8)
    made = criterion(labels, loss=loss)
    bias = made.start(labels).requires_grad_()
    made.total(bias.expand(4000, 2), labels, torch.ones(4000)).backward()
    assert bias.grad.abs().max() / 4000 < 1e-3


# --- parts, order and pooling ---------------------------------------------------------------------------------------


def test_a_batch_cut_into_parts_is_the_whole_batch(run, study, tmp_path, plain_spec):
    whole = fitted(run, study, tmp_path / "whole", plain_spec, SMALL.model_copy(update={"part_segments": 10_000}))[1]
    parts = fitted(run, study, tmp_path / "parts", plain_spec, SMALL.model_copy(update={"part_segments": 7}))[1]
    for name, tensor in whole.items():
        torch.testing.assert_close(parts[name], tensor, rtol=1e-4, atol=1e-6)
    assert not torch.equal(whole["head.weight"], torch.zeros_like(whole["head.weight"]))


def test_no_part_is_larger_than_asked(run, study, plain_spec, tmp_path, monkeypatch):
    seen, real = [], finetune.Fit.accumulate
    monkeypatch.setattr(finetune.Fit, "accumulate", lambda self, part: (seen.append(len(part.x)), real(self, part))[1])
    fitted(run, study, tmp_path, plain_spec, SMALL.model_copy(update={"part_segments": 12}))
    assert max(seen) <= 12
    assert sum(seen) == 3 * len(study.where("train"))


def test_the_order_of_the_table_changes_no_draw(study):
    rows = study.where("train")
    shuffled = np.random.default_rng(0).permutation(rows)
    np.testing.assert_array_equal(
        data.shuffled_order(study, rows, 0, 3), data.shuffled_order(study, shuffled, 0, 3)
    )
    assert not np.array_equal(data.shuffled_order(study, rows, 0, 3), data.shuffled_order(study, rows, 0, 4))


def test_draws_are_uniform(study):
    counts = np.zeros(5)
    for epoch in range(300):
        rows, _ = data.draw_windows(study, np.array([3, 8]), 2, 0, epoch)
        counts += np.bincount(rows % 5, minlength=5)
    assert counts.sum() == 1200
    assert np.abs(counts / 1200 - 0.2).max() < 0.05


def test_pooling_is_a_mean_by_encounter_and_attention_weighs_it():
    out, owner = torch.randn(6, 4), torch.tensor([0, 1, 0, 1, 1, 2])
    plain = pooled(out, owner, 3, attention=False)
    torch.testing.assert_close(plain[1], out[owner == 1].mean(0))
    weighed = pooled(out, owner, 3, attention=True)
    share = torch.softmax(out[owner == 1, -1], 0)
    torch.testing.assert_close(weighed[1], (out[owner == 1, :-1] * share[:, None]).sum(0))


def test_the_bag_loss_is_that_of_mean_logits(run, study, tmp_path, plain_spec):
    bag = fitted(run, study, tmp_path / "bag", plain_spec, SMALL.model_copy(update={"bag": True}))[1]
    each = fitted(run, study, tmp_path / "each", plain_spec, SMALL)[1]
    assert not torch.allclose(bag["head.weight"], each["head.weight"], rtol=1e-3)


def test_attention_learns_and_predicts_as_it_pools(run, study, tmp_path, plain_spec):
    config = SMALL.model_copy(update={"pooling": "attention", "epochs": 2, "head": "mlp", "head_width": 16})
    model, tensors = fitted(run, study, tmp_path, plain_spec, config)
    assert tensors["attention.score.weight"].abs().max() > 0
    store = SegmentStore.open(run, SPEC.contract)
    got = score(model, store, study, np.array([7]), device=DEVICE)
    rows = study.first[7] + np.arange(5)
    with torch.no_grad():
        out = model(torch.from_numpy(store.gather(rows)).float())
    torch.testing.assert_close(torch.from_numpy(got), pooled(out, torch.zeros(5, dtype=torch.long), 1, attention=True))


@pytest.mark.parametrize("aggregate", ["mean", "mean_probability", "median"])
def test_aggregates_are_by_encounter(run, study, aggregate, plain_spec):
    torch.manual_seed(0)
    model, store = PhenomeModel(plain_spec.build(), 8, 2).eval(), SegmentStore.open(run, SPEC.contract)
    kept = []
    asked = np.array([9, 2, 30])
    got = score(model, store, study, asked, device=DEVICE, aggregate=aggregate, keep=lambda r, o: kept.append((r, o)))
    for place, encounter in enumerate(asked):
        rows = study.first[encounter] + np.arange(5)
        with torch.no_grad():
            out = model(torch.from_numpy(store.gather(rows)).float()).double().numpy()
        p = (1 / (1 + np.exp(-out))).mean(0)
        expected = {"mean": out.mean(0), "median": np.median(out, 0), "mean_probability": np.log(p / (1 - p))}
        np.testing.assert_allclose(got[place], expected[aggregate], rtol=1e-4, atol=1e-6)
    rows = np.concatenate([r for r, _ in kept])
    assert rows.tolist() == [r for e in asked for r in range(study.first[e], study.first[e] + 5)]


# --- freezing -------------------------------------------------------------------------------------------------------


def test_layers_of_an_encoder_from_the_input_on():
    names = [layer.name for layer in freezing.layers(SPEC.build())]
    assert names == ["first_conv", *(f"stage_list.{i}" for i in range(len(names) - 1))]
    encoder = SPEC.build()
    whole = {id(p) for p in encoder.parameters()}
    assert {id(p) for layer in freezing.layers(encoder) for p in layer.parameters} == whole


def test_layers_are_freed_from_the_top():
    config = LearnConfig(frozen_epochs=2, unfreeze_every_epochs=3, frozen_layers=1)
    assert [freezing.frozen_count(e, 5, config) for e in range(12)] == [5, 5, 4, 4, 4, 3, 3, 3, 2, 2, 2, 1]
    assert freezing.frozen_count(40, 5, config) == 1


def test_a_frozen_layer_keeps_weights_and_statistics(run, study, tmp_path):
    torch.manual_seed(0)
    config = SMALL.model_copy(update={"frozen_layers": 1})
    from phewas.learning.model import build_encoder

    before = build_encoder(SPEC, weights=None, seed=0).state_dict()
    after = fitted(run, study, tmp_path, SPEC, config)[1]
    for name, tensor in before.items():
        held = name.startswith(("first_conv", "first_bn"))
        assert torch.equal(after[f"encoder.{name}"], tensor) or not held, name
    assert not torch.equal(after["encoder.stage_list.0.block_list.0.conv1.conv.weight"],
                           before["stage_list.0.block_list.0.conv1.conv.weight"])  # fmt: skip


# --- augmentation and precision -------------------------------------------------------------------------------------


def changed(x, **options):
    return augment.augmented(x, LearnConfig(**options), generator=torch.Generator().manual_seed(5))


def test_augmentation_is_off_by_default_and_a_function_of_its_seed():
    x = torch.randn(4, 2, 100)
    assert changed(x) is x
    options = {"augment_crop": 0.3, "augment_scale": 0.2, "augment_noise": 0.1, "augment_warp": 0.4}
    assert torch.equal(changed(x, **options), changed(x, **options))
    assert changed(x, **options).shape == x.shape


def test_crop_and_warp_bend_time_alike_in_all_channels():
    ramp = torch.linspace(0, 1, 400).expand(8, 2, 400).contiguous()
    cropped = changed(ramp, augment_crop=0.5)
    assert torch.equal(cropped[:, 0], cropped[:, 1])
    steps = cropped[:, 0].diff()
    torch.testing.assert_close(steps, steps[:, :1].expand_as(steps), rtol=1e-3, atol=1e-5)
    kept = cropped[:, 0, -1] - cropped[:, 0, 0]
    assert ((kept >= 0.5) & (kept <= 1)).all()
    warped = changed(ramp, augment_warp=0.6)[:, 0]
    assert (warped.diff() > 0).all()
    torch.testing.assert_close(warped[:, [0, -1]], torch.tensor([0.0, 1.0]).expand(8, 2), atol=1e-4, rtol=0)


def test_scale_and_noise_have_the_size_asked_for():
    x = torch.ones(3000, 1, 20)
    scale = changed(x, augment_scale=0.2)
    assert 0.8 <= scale.min() < 0.82
    assert 1.18 < scale.max() <= 1.2
    noise = changed(torch.zeros(3000, 1, 200), augment_noise=0.5).std(-1)
    assert noise.max() < 0.6
    assert noise.mean() == pytest.approx(0.25, abs=0.02)


def test_bf16_is_near_float32_and_the_heads_stay_exact(run, study, tmp_path, plain_spec):
    coarse = fitted(run, study, tmp_path / "b", plain_spec, SMALL.model_copy(update={"precision": "bf16"}))[1]
    fine = fitted(run, study, tmp_path / "f", plain_spec, SMALL)[1]
    assert not torch.equal(coarse["head.weight"], fine["head.weight"])
    torch.testing.assert_close(coarse["head.weight"], fine["head.weight"], atol=0.02, rtol=0.2)


# --- what it says ---------------------------------------------------------------------------------------------------


def test_a_loss_that_is_no_number_names_the_encounters_aside(run, study, tmp_path, plain_spec, monkeypatch):
    real = finetune.Fit.accumulate

    def spoiled(self, part):
        if part.step == 1:
            part.x[0, 0, 0] = float("nan")
        real(self, part)

    monkeypatch.setattr(finetune.Fit, "accumulate", spoiled)
    with pytest.raises(LearningError, match=r"loss is nan in epoch 0, step 1. The losses before were sound") as error:
        fitted(run, study, tmp_path, plain_spec, SMALL)
    import polars as pl

    aside = pl.read_parquet(tmp_path / "diverged.parquet")
    order = data.shuffled_order(study, study.where("train"), 0, 0)
    steps = -(-len(order) // 16)
    assert aside["encounter_id"].to_list() == study.encounters["encounter_id"].gather(order[1::steps]).to_list()
    assert not any(e in str(error.value) for e in aside["encounter_id"])


def test_a_rate_that_is_too_high_is_told(run, study, tmp_path, plain_spec):
    from phewas.learning.watch import LearningRateWarning

    wild = SMALL.model_copy(update={"head_lr": 30.0, "epochs": 1, "warmup_share": 0.0})
    with pytest.warns(LearningRateWarning, match="learning rate is too high"):
        fitted(run, study, tmp_path / "a", plain_spec, wild, logs=tmp_path / "logs")
    assert (tmp_path / "logs" / "throughput.csv").read_text().startswith("epoch,segments,seconds,segments_per_s")
