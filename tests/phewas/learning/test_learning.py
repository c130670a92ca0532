"""Fine-tuning and probes: the loss by hand, scikit-learn's coefficients, resume without a trace."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise

import numpy as np
import polars as pl
import pytest
import torch

from phewas.config import LearnConfig
from phewas.encoders import registry
from phewas.errors import LearningError
from phewas.learning import finetune, probe
from phewas.learning.labels import Study, count_patients, fittable, load, macro_auc
from phewas.learning.step import Frozen, Learn, learn, shuffled
from phewas.schema import (
    LABELS_PATH,
    LOGITS_PATH,
    LabelColumns,
    LabelRows,
    PredictionColumns,
    PredictionRows,
)
from phewas.segments.store import SegmentStore

SPEC = registry.get("net1d-small")
CONFIG = LearnConfig(epochs=3, batch_encounters=8, segments_per_encounter=3, head_lr=3e-3, save_every_steps=2)
DEVICE = torch.device("cpu")


@pytest.fixture(scope="module", autouse=True)
def _writer(make_run):
    global write_run
    write_run = make_run


def job(run, **more):
    base = {"run": run, "spec": SPEC, "weights": None, "kind": "finetune", "config": CONFIG, "minimum": 10,
            "minimum_tested": 2, "seed": 0, "device": "cpu", "fingerprint": "f" * 32}  # fmt: skip
    return Learn(**(base | more))


def held_out_auc(run, phenotype="tone"):
    from sklearn.metrics import roc_auc_score

    rows = PredictionRows.read(run).with_row_index("i").filter(pl.col("split").is_in(["held_out", "crossfit"]))
    place = LabelRows.read(run).with_row_index("j")
    both = rows.join(place, on="encounter_id", maintain_order="left")
    column = LabelColumns.read(run)["phenotype"].to_list().index(phenotype)
    y = np.load(run / LABELS_PATH)[both["j"].to_numpy(), column]
    scored = PredictionColumns.read(run)["phenotype"].to_list().index(phenotype)
    s = np.load(run / LOGITS_PATH)[both["i"].to_numpy(), scored]
    return roc_auc_score(y[y >= 0], s[y >= 0])


# --- the loss -------------------------------------------------------------------------------------------------------


def test_the_masked_loss_is_that_of_a_loop_over_phenotypes():
    torch.manual_seed(0)
    logits, labels = torch.randn(40, 7), torch.randint(-1, 2, (40, 7), dtype=torch.int8)
    by_hand = [
        torch.nn.functional.binary_cross_entropy_with_logits(logits[k, p], labels[k, p].float())
        for p in range(7)
        for k in range(40)
        if labels[k, p] >= 0
    ]
    ours = finetune.masked_loss(logits, labels, torch.ones(40))
    torch.testing.assert_close(ours, torch.stack(by_hand).mean())


def test_excluded_labels_have_no_gradient():
    logits = torch.randn(6, 4, requires_grad=True)
    labels = torch.tensor([[-1, 0, 1, -1]] * 6, dtype=torch.int8)
    finetune.masked_loss(logits, labels, torch.ones(6)).backward()
    assert (logits.grad[:, [0, 3]] == 0).all()
    assert (logits.grad[:, [1, 2]] != 0).all()


def test_an_encounter_counts_once_however_many_windows_it_has():
    torch.manual_seed(1)
    logits, labels = torch.randn(2, 3), torch.tensor([[1, 0, 1], [0, 0, -1]], dtype=torch.int8)
    plain = finetune.masked_loss(logits, labels, torch.ones(2))
    repeated = finetune.masked_loss(
        logits[[0, 1, 1, 1, 1]], labels[[0, 1, 1, 1, 1]], torch.tensor([1, 0.25, 0.25, 0.25, 0.25])
    )
    torch.testing.assert_close(plain, repeated)


def test_the_learning_rate_rises_and_falls():
    factors = [finetune.learning_rate_factor(s, total=100, warmup=10) for s in range(100)]
    assert factors[9] == 1.0
    assert all(a < b for a, b in pairwise(factors[:10]))
    assert all(a > b for a, b in pairwise(factors[10:]))
    assert factors[-1] < 0.01


def test_a_batch_grows_with_the_cohort_within_bounds():
    assert [finetune.batch_for(n) for n in (1, 600, 25_000, 59_265, 10**6)] == [32, 32, 100, 237, 256]


# --- fine-tuning ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    run = write_run(tmp_path_factory.mktemp("fine"))
    learn(job(run))
    return run


def files_of(run):
    return {f.relative_to(run).as_posix(): f.read_bytes() for part in ("model", "predictions")
            for f in (run / part).rglob("*") if f.is_file()}  # fmt: skip


def test_fine_tuning_hears_the_tone_and_not_the_noise(finished):
    assert held_out_auc(finished) > 0.9
    assert PredictionColumns.read(finished)["phenotype"].to_list() == ["tone", "noise"]  # rare has too few cases
    rows = PredictionRows.read(finished)
    assert set(rows["split"]) == {"held_out", "tuning"}
    assert rows["n_segments"].to_list() == [5] * rows.height
    assert json.loads((finished / "model" / "model.json").read_text())["phenotypes"] == ["tone", "noise"]
    assert not list((finished / "model").glob(".work-*"))


@pytest.mark.parametrize("stop_at", [1, 3, 7, 9])
def test_a_killed_fit_goes_on_as_if_undisturbed(tmp_path, monkeypatch, finished, stop_at):
    run = write_run(tmp_path / "killed")
    real, calls = finetune.Fit.update, []

    def dies(*args):
        calls.append(1)
        if len(calls) == stop_at:
            raise KeyboardInterrupt
        return real(*args)

    monkeypatch.setattr(finetune.Fit, "update", dies)
    with pytest.raises(KeyboardInterrupt):
        learn(job(run))
    monkeypatch.setattr(finetune.Fit, "update", real)
    learn(job(run))
    assert files_of(run) == files_of(finished)


def test_the_order_of_rows_in_a_side_changes_nothing(tmp_path, finished):
    run = write_run(tmp_path / "again")
    learn(job(run))
    assert files_of(run) == files_of(finished)


def test_another_seed_is_another_fit(tmp_path, finished):
    run = write_run(tmp_path / "other")
    learn(job(run, seed=1))
    assert files_of(run)["predictions/logits.npy"] != files_of(finished)["predictions/logits.npy"]


def test_the_prediction_is_the_mean_logit_of_the_windows(finished):
    from phewas.learning.model import PhenomeModel, load_tensors

    store = SegmentStore.open(finished, SPEC.contract)
    model = PhenomeModel(SPEC.build(), SPEC.width, 2)
    model.load_state_dict(load_tensors(finished / "model" / "model.safetensors"))
    model.eval()
    rows, logits = PredictionRows.read(finished), np.load(finished / LOGITS_PATH)
    for i in (0, 5, rows.height - 1):
        own = store.index.with_row_index("r").filter(pl.col("encounter_id") == rows["encounter_id"][i])["r"].to_numpy()
        with torch.no_grad():
            expected = model(torch.from_numpy(store.gather(own.astype(np.int64))).float()).mean(0).numpy()
        np.testing.assert_allclose(logits[i], expected, rtol=1e-4, atol=1e-5)


def test_a_patient_on_both_sides_stops_the_fit(tmp_path):
    run = write_run(tmp_path / "leak")
    store = SegmentStore.open(run, SPEC.contract)
    study = load(run, store)
    with pytest.raises(LearningError, match="training and on the tuning side"):
        finetune.fit(
            store, study, train=np.array([0, 2, 4]), tuning=np.array([1]), columns=np.array([0]), spec=SPEC,
            weights=None, config=CONFIG, seed=0, device=DEVICE, folder=tmp_path / "w",
        )  # fmt: skip


def test_a_loss_that_is_no_number_stops_the_fit(tmp_path, monkeypatch):
    run = write_run(tmp_path / "nan")
    real = finetune.Fit.accumulate

    def spoiled(self, part):
        part.x[0, 0, 0] = float("nan")
        real(self, part)

    monkeypatch.setattr(finetune.Fit, "accumulate", spoiled)
    with pytest.raises(LearningError, match="training loss is nan"):
        learn(job(run))


def test_cross_fitted_fine_tuning_scores_everyone_by_others(tmp_path):
    run = write_run(tmp_path / "cross", crossfit=True)
    assert learn(job(run, config=CONFIG.model_copy(update={"epochs": 2}))) is None
    rows = PredictionRows.read(run)
    assert rows.height == 120
    assert rows["model_id"].to_list() == [f"finetune-fold-{f}" for f in rows["fold"]]
    assert held_out_auc(run) > 0.6
    assert not (run / "predictions" / "permutation_null.parquet").exists()


def test_too_few_cases_everywhere_is_told(tmp_path):
    run = write_run(tmp_path / "few")
    with pytest.raises(LearningError, match="no phenotype has 50 case patients"):
        learn(job(run, minimum=50))
    with pytest.raises(LearningError, match="has 40 case patients with usable recordings on the test side"):
        learn(job(run, minimum_tested=40))
    assert not (run / "predictions").exists()


# --- frozen use -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("n", "width", "share"), [(400, 40, 0.1), (120, 300, 0.1), (400, 40, 0.003)])
def test_heads_are_those_of_scikit_learn(n, width, share):
    from sklearn.linear_model import LogisticRegression

    rng = np.random.default_rng(0)
    x = rng.standard_normal((n, width)).astype(np.float32) * rng.uniform(0.1, 9, width).astype(np.float32) + 3
    y = (rng.random((n, 6)) < 1 / (1 + np.exp(-(x[:, :1] - 3) + np.arange(6) * 0.5))).astype(np.int8)
    y[rng.random(y.shape) < 0.15] = -1
    heads = probe.fit_heads(x, y, l2=share * n)
    z = (x - x.mean(0, dtype=np.float64)) / x.std(0, dtype=np.float64)
    for p in range(6):
        kept = y[:, p] >= 0
        theirs = LogisticRegression(C=1 / (share * n), tol=1e-9, max_iter=10_000).fit(z[kept], y[kept, p])
        np.testing.assert_allclose(heads.weight[:, p], theirs.coef_[0], atol=1e-3)
        np.testing.assert_allclose(heads.bias[p], theirs.intercept_[0], atol=1e-3)
        np.testing.assert_allclose(heads(x)[:, p], theirs.decision_function(z), atol=5e-3)


def test_a_constant_feature_and_one_class_are_met():
    x = np.ones((50, 3), dtype=np.float32)
    x[:, 0] = np.arange(50)
    y = (np.arange(50) > 25).astype(np.int8)[:, None]
    assert np.isfinite(probe.fit_heads(x, y, l2=1.0)(x)).all()
    with pytest.raises(LearningError, match="without cases or without controls"):
        probe.fit_heads(x, np.ones((50, 1), np.int8), l2=1.0)


def test_the_probe_on_a_split(tmp_path):
    run = write_run(tmp_path / "probe")
    assert learn(job(run, kind="probe")) is None
    assert held_out_auc(run) > 0.8
    assert set(PredictionRows.read(run)["model_id"]) == {"probe"}


def test_cross_fitting_never_shows_a_fold_its_own_labels(tmp_path):
    run = write_run(tmp_path / "probe-cross", crossfit=True)
    frozen = learn(job(run, kind="probe"))
    assert isinstance(frozen, Frozen)
    assert held_out_auc(run) > 0.8
    labels = frozen.labels.copy()
    labels[frozen.folds == 1] = 1 - labels[frozen.folds == 1].clip(0)
    changed = frozen.scores(labels)
    np.testing.assert_array_equal(changed[frozen.folds == 1], frozen.scores(frozen.labels)[frozen.folds == 1])
    assert not np.array_equal(changed[frozen.folds == 0], frozen.scores(frozen.labels)[frozen.folds == 0])


def test_permutations_together_are_permutations_one_by_one():
    rng = np.random.default_rng(3)
    folds = np.repeat(np.arange(3, dtype=np.int8), 30)
    labels = rng.integers(-1, 2, (90, 2)).astype(np.int8)
    frozen = Frozen(rng.standard_normal((90, 8)).astype(np.float32), labels, folds, np.arange(90), ("a", "b"), 0.1)

    def permute(number):
        return labels[np.random.default_rng(number).permutation(90)]

    blocks = {n: (s, y) for n, s, y in shuffled(frozen, permute, permutations=7, block=3)}
    assert sorted(blocks) == list(range(7))
    for number, (scores, y) in blocks.items():
        np.testing.assert_array_equal(y, permute(number))
        np.testing.assert_allclose(scores, frozen.scores(y), atol=1e-4)


# --- small parts ----------------------------------------------------------------------------------------------------


def test_macro_auc_is_scikit_learns():
    from sklearn.metrics import roc_auc_score

    rng = np.random.default_rng(0)
    scores = rng.integers(0, 9, (80, 3)).astype(np.float32)
    labels = rng.integers(-1, 2, (80, 3)).astype(np.int8)
    labels[:, 2] = 0
    labels[:3, 2] = 1  # three case patients: not enough
    expected = [roc_auc_score(labels[labels[:, p] >= 0, p], scores[labels[:, p] >= 0, p]) for p in range(2)]
    assert macro_auc(scores, labels, np.arange(80)) == pytest.approx(np.mean(expected))
    assert np.isnan(macro_auc(scores[:, 2:], labels[:, 2:], np.arange(80)))


def test_patients_are_counted_once():
    labels = np.array([[1, 0], [1, 0], [0, 1], [-1, 0]], dtype=np.int8)
    patients = np.array([7, 7, 3, 7])
    assert count_patients(labels, patients, 1).tolist() == [1, 1]
    assert count_patients(labels, patients, 0).tolist() == [1, 1]


def test_windows_are_drawn_anew_each_epoch_and_by_encounter_alone(finished):
    study = load(finished, SegmentStore.open(finished, SPEC.contract))
    one = finetune.draw_windows(study, np.array([4, 9]), 3, 0, 0)
    two = finetune.draw_windows(study, np.array([9, 4]), 3, 0, 0)
    assert one[0][one[1] == 0].tolist() == two[0][two[1] == 1].tolist()
    assert one[0].tolist() != finetune.draw_windows(study, np.array([4, 9]), 3, 0, 1)[0].tolist()
    everything = finetune.draw_windows(study, np.array([4]), 20, 0, 0)[0]
    assert everything.tolist() == [20, 21, 22, 23, 24]


def test_fittable_needs_cases_and_controls():
    frame = pl.DataFrame({"patient_id": [str(i) for i in range(30)]})
    labels = np.zeros((30, 3), np.int8)
    labels[:12, 0] = 1
    labels[:5, 1] = 1
    labels[:25, 2] = 1
    study = Study(frame, labels, ("a", "b", "c"))
    assert fittable(study, np.arange(30), minimum=10).tolist() == [0]


def test_pretrained_weights_are_the_start(tmp_path):
    from phewas.learning.model import build_encoder

    spec = replace(SPEC, pretrained=True)
    torch.manual_seed(9)
    model = SPEC.build()
    torch.save(model.state_dict(), tmp_path / "w.pth")
    built = build_encoder(spec, weights=str(tmp_path / "w.pth"), seed=0)
    assert all(torch.equal(a, b) for a, b in zip(built.state_dict().values(), model.state_dict().values(), strict=True))
    assert not torch.equal(
        build_encoder(SPEC, weights=None, seed=0).first_conv.conv.weight, model.first_conv.conv.weight
    )


def test_tensorboard_is_given_what_the_history_holds(tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    run = write_run(tmp_path / "board")
    learn(job(run, config=CONFIG.model_copy(update={"tensorboard": True})))
    board = accumulator.EventAccumulator(str(run / "logs" / "learn" / "tensorboard"))
    board.Reload()
    history = pl.read_csv(run / "model" / "history.csv")
    for name in ("train_loss", "tuning_loss", "learning_rate"):
        events = board.Scalars(name)
        assert [e.step for e in events] == history["epoch"].to_list()
        np.testing.assert_allclose([e.value for e in events], history[name], rtol=1e-5)
