"""A finished model from its folder: the scores of the run that made it, and refusal of what does not fit."""

from __future__ import annotations

import dataclasses
import json
import shutil

import numpy as np
import polars as pl
import pytest
import torch
from safetensors.torch import save_file

from phewas.config import LearnConfig
from phewas.encoders import checkpoint, registry
from phewas.errors import LearningError, SplitError
from phewas.learning.apply import Finished, apply
from phewas.learning.step import Learn, learn
from phewas.learning.stratify import iterative_stratification, patient_labels
from phewas.rundir import write_json, write_npy
from phewas.schema import LOGITS_PATH, Phenotypes, PredictionRows, Splits
from phewas.segments.store import contract_folder

SPEC = registry.get("net1d-small")
CONFIG = LearnConfig(epochs=1, batch_encounters=16, segments_per_encounter=2, segment_predictions=True, l2=20.0)


def describe(run, vocabulary="phecode1.2"):
    names = [{"phenotype": n, "description": n, "chapter": "c", "chapter_order": 1, "sex": "both",
              "vocabulary": vocabulary} for n in ("tone", "noise", "rare")]  # fmt: skip
    Phenotypes.write(Phenotypes.build(names), run)


@pytest.fixture(scope="module", params=["finetune", "probe"])
def made(request, make_run, tmp_path_factory):
    run = make_run(tmp_path_factory.mktemp(request.param) / "run")
    describe(run)
    learn(Learn(run=run, spec=SPEC, weights=None, kind=request.param, config=CONFIG, minimum=10, minimum_tested=2,
                seed=0, device="cpu", fingerprint="f" * 32, about={"cohort": "here"}))  # fmt: skip
    return run


def other(made, folder):
    """Return a copy of the run without its predictions, in which everyone not trained on is held out."""
    shutil.copytree(made, folder, ignore=shutil.ignore_patterns("predictions", "model", "logs"))
    return folder


def given(run, made, **more):
    apply(run, made / "model", spec=SPEC, device="cpu", fingerprint="g" * 32, settings=CONFIG, **more)


def test_the_scores_are_those_of_the_run_that_made_the_model(made, tmp_path):
    run = other(made, tmp_path / "there")
    given(run, made)
    before, after = PredictionRows.read(made).with_row_index("i"), PredictionRows.read(run)
    i = before.filter(pl.col("split") == "held_out")["i"].to_numpy()
    assert set(after["split"]) == {"held_out"}
    np.testing.assert_allclose(np.load(run / LOGITS_PATH), np.load(made / LOGITS_PATH)[i], rtol=1e-4, atol=1e-5)


def test_what_does_not_fit_is_refused(made, tmp_path):
    run = other(made, tmp_path / "there")
    describe(run, "icd10-3")
    with pytest.raises(LearningError, match=r"are of phecode1.2, and the cohort's labels of icd10-3"):
        given(run, made)
    describe(run)
    Splits.write(Splits.read(run).with_columns(pl.lit("excluded").alias("split")), run)
    with pytest.raises(SplitError, match="has met them all"):
        given(run, made)
    folder = contract_folder(run, SPEC.contract)
    for file in (folder / "PPG").glob("*.npy"):
        write_npy(np.load(file)[:, :125], file)
    with pytest.raises(LearningError, match="windows have 125 samples, and the model was fitted on 250"):
        given(run, made)


def test_a_folder_that_is_no_whole_model_is_refused(made, tmp_path):
    with pytest.raises(LearningError, match=r"holds no model.json"):
        Finished.open(tmp_path)
    folder = tmp_path / "model"
    shutil.copytree(made / "model", folder)
    meta = json.loads((folder / "model.json").read_text())
    write_json(meta | {"contract": meta["contract"] | {"fs_hz": 100.0}}, folder / "model.json")
    with pytest.raises(LearningError, match="prepares its input differently"):
        Finished.open(folder)
    write_json({k: v for k, v in meta.items() if k != "contract"}, folder / "model.json")
    with pytest.raises(LearningError, match="lacks 'contract'"):
        Finished.open(folder)
    write_json(meta | {"sha256": "0" * 64}, folder / "model.json")
    with pytest.raises(LearningError, match=r"not the file that model.json describes"):
        Finished.open(folder)
    write_json(meta | {"encoder": "net1d-smal"}, folder / "model.json")
    with pytest.raises(registry.EncoderError, match="Did you mean net1d-small"):
        Finished.open(folder)


def test_the_met_are_named_by_hash_alone(made):
    content = json.loads((made / "model" / "fitted_on.json").read_text())
    sides = Splits.read(made)
    assert content["cohort"] == "here"
    met = sides.filter(pl.col("split").is_in(["train", "tuning"])).height
    assert len(content["patients"]) <= met
    assert len(content["patients"]) >= sides.filter(pl.col("split") == "train").height
    assert not any(p in (made / "model" / "fitted_on.json").read_text() for p in sides["patient_id"])


def test_stratification_spreads_rare_cases_and_keeps_patients_whole():
    rng = np.random.default_rng(0)
    labels = (rng.random((900, 40)) < rng.uniform(0.002, 0.03, 40)).astype(np.int8)
    patients = np.repeat(np.arange(300), 3)
    cases, place = patient_labels(labels, patients)
    part = iterative_stratification(cases, np.full(5, 0.2), seed=0)
    assert np.bincount(part).min() >= 55
    per_part = np.stack([cases[part == k].sum(0) for k in range(5)])
    expected = cases.sum(0) / 5
    ours = np.abs(per_part - expected).mean()
    random = rng.permutation(np.repeat(np.arange(5), 60))
    theirs = np.abs(np.stack([cases[random == k].sum(0) for k in range(5)]) - expected).mean()
    assert ours < 0.6 * theirs
    rarest = int(cases.sum(0).argmin())
    assert np.ptp(per_part[:, rarest]) <= 1
    assert all(len(set(part[place][patients == p])) == 1 for p in range(300))
    np.testing.assert_array_equal(part, iterative_stratification(cases, np.full(5, 0.2), seed=0))


class Packaged(torch.nn.Module):
    """An encoder whose size stands in the folder of its weights, as those of other packages do."""

    def __init__(self, told):
        super().__init__()
        self.model = torch.nn.Conv1d(1, 64, told["kernel"], stride=8)

    def forward(self, x):
        return self.model(x).relu().mean(-1)


def packaged(*, folder=None, config=None):
    return checkpoint.from_folder(Packaged, folder=folder, config=config, published={"kernel": 5}, name="packaged")


@pytest.mark.parametrize("kind", ["probe", "finetune"])
def test_an_encoder_whose_weights_are_a_folder_comes_back_in_its_size(kind, make_run, tmp_path, monkeypatch):
    spec = dataclasses.replace(SPEC, name="packaged", factory=packaged, options={}, weights_are="folder")
    monkeypatch.setattr(registry, "get", lambda _: spec)
    folder = tmp_path / "weights"
    folder.mkdir()
    (folder / "config.json").write_text('{"kernel": 9}')
    torch.manual_seed(3)
    save_file(Packaged({"kernel": 9}).model.state_dict(), folder / "model.safetensors")
    made = make_run(tmp_path / "run", n_patients=30, windows=1)
    describe(made)
    learn(Learn(run=made, spec=spec, weights=str(folder), kind=kind, config=CONFIG, minimum=5, minimum_tested=2,
                seed=0, device="cpu", fingerprint="f" * 32, about={"cohort": "here"}))  # fmt: skip
    shutil.rmtree(folder)  # the finished model does not need it
    run = other(made, tmp_path / "there")
    apply(run, made / "model", spec=spec, device="cpu", fingerprint="g" * 32, settings=CONFIG)
    before, after = PredictionRows.read(made).with_row_index("i"), PredictionRows.read(run)
    i = before.filter(pl.col("split") == "held_out")["i"].to_numpy()
    assert len(after) == len(i)
    np.testing.assert_allclose(np.load(run / LOGITS_PATH), np.load(made / LOGITS_PATH)[i], rtol=1e-4, atol=1e-5)
