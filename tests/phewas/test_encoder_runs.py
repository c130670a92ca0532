"""Every family of encoders from its published form of weights to embeddings of a cohort; one of them to the report.

The cohort is a made-up ward of the layout `tables`: one WFDB record per patient with the pulse and twelve ECG leads
at 500 Hz. Weights are random, in the nesting and under the names of the published files.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
import wfdb
from typer.testing import CliRunner

from phewas.cli import app
from phewas.encoders import registry
from phewas.encoders.contract import LEADS
from phewas.schema import PhenotypeResults

FS_HZ, SECONDS, FEW, MANY = 500, 11, 3, 96
CARD = """
title = "A ward"
[encounters]
file = "stays.csv"
columns = {encounter_id = "stay", patient_id = "who", start = "came", end = "went", age = "years", sex = "sex"}
[diagnoses]
file = "codes.csv"
code_system = "ICD10CM"
columns = {patient_id = "who", code = "code", recorded = "day"}
[recordings]
file = "signals.csv"
columns = {encounter_id = "stay", path = "file", start = "began", channel = "name", signal = "name"}
"""
SETTINGS = 'fit = "probe"\nheldout = "random:0.5"\n[segments]\nn_segments = 1\n'


def ward(root: Path, people: int, channels: tuple[str, ...]) -> Path:
    """Write a ward in which every second patient has heart failure and a faster pulse."""
    rng = np.random.default_rng(0)
    t = np.arange(FS_HZ * SECONDS) / FS_HZ
    stays, codes, signals = ["stay,who,came,went,years,sex"], ["who,code,day"], ["stay,file,began,name"]
    (root / "waves").mkdir(parents=True)
    for k in range(people):
        came = dt.datetime(2150, 1, 1, 8) + dt.timedelta(days=k)
        ill = k % 2 == 0
        phase = ((1.6 if ill else 1.1) + 0.1 * rng.standard_normal()) * t
        spike = np.exp(-0.5 * (((phase + 0.5) % 1 - 0.5) / 0.03) ** 2)
        pulse = np.sin(2 * np.pi * phase) + 0.4 * np.sin(4 * np.pi * phase + 1)
        rows = [pulse if name == "PPG" else (0.4 + 0.1 * j) * spike for j, name in enumerate(channels)]
        values = np.stack(rows, 1) + 0.02 * rng.standard_normal((len(t), len(channels)))
        wfdb.wrsamp(f"r{k}", fs=FS_HZ, units=["mV"] * len(channels), sig_name=list(channels), p_signal=values,
                    fmt=["16"] * len(channels), write_dir=str(root / "waves"))  # fmt: skip
        stays.append(f"s{k},w{k},{came},{came + dt.timedelta(hours=8)},{int(rng.integers(30, 80))},{'FM'[k // 2 % 2]}")
        codes.append(f"w{k},{'I509' if ill else 'K219'},{came:%Y-%m-%d}")
        signals += [f"s{k},waves/r{k}.hea,{came},{name}" for name in channels]
    for name, lines in (("stays", stays), ("codes", codes), ("signals", signals)):
        (root / f"{name}.csv").write_text("\n".join(lines) + "\n")
    (root / "cohort.toml").write_text(CARD)
    (root.parent / "small.toml").write_text(SETTINGS)
    return root


@pytest.fixture(scope="module")
def few(tmp_path_factory):
    return ward(tmp_path_factory.mktemp("few") / "data", FEW, ("PPG", *LEADS))


def published(name: str, folder: Path) -> list[str]:
    """Write random weights as the encoder's authors publish them; return the words that name encoder and weights."""
    torch.manual_seed(1)
    if name.partition(":")[0] in registry.BUNDLES:
        return ["--encoder", whole(name, folder)]
    spec = registry.get(name)
    if not spec.pretrained:
        return ["--encoder", name]
    if spec.weights_are == "folder":
        return ["--encoder", name, "--weights", str(wrapped(name, folder / name))]
    state = spec.build().state_dict()
    if "module." in spec.nesting:
        state = {f"module.{key}": tensor for key, tensor in state.items()}
    for nest in ("state_dict", "net"):
        if spec.nesting.startswith(f"under {nest}"):
            state = {nest: state, "epoch": 3, "optimizer": {"state": {}}}
    file = folder / (spec.file or "weights.pth")
    torch.save(state, file)
    return ["--encoder", name, "--weights", str(file)]


def whole(kind: str, folder: Path) -> str:
    """Save a small network as a finished program or a Hugging Face folder, with its description beside it."""
    if kind == "hf:":
        at = folder / "wav2vec"
        transformers = pytest.importorskip("transformers")
        config = transformers.Wav2Vec2Config(hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
                                             intermediate_size=16, conv_dim=[8] * 2, conv_kernel=[10, 3],
                                             conv_stride=[5, 2], num_conv_pos_embeddings=4,
                                             num_conv_pos_embedding_groups=2)  # fmt: skip
        transformers.Wav2Vec2Model(config).save_pretrained(at)
        (at / "phewas.encoder.toml").write_text('like = "anyppg"\nwidth = 16\n')
        return f"hf:{at}"
    net = torch.nn.Sequential(torch.nn.Conv1d(1, 8, 9, stride=4), torch.nn.ReLU(), torch.nn.AdaptiveAvgPool1d(1),
                              torch.nn.Flatten()).eval()  # fmt: skip
    x = torch.zeros(2, 1, 1250)
    file = folder / {"onnx:": "model.onnx", "torchexport:": "model.pt2"}.get(kind, "model.pt")
    if kind == "onnx:":
        pytest.importorskip("onnxruntime")
        pytest.importorskip("onnx")
        axes = {"x": {0: "batch"}, "out": {0: "batch"}}
        torch.onnx.export(net, (x,), str(file), input_names=["x"], output_names=["out"], dynamic_axes=axes,
                          dynamo=False)  # fmt: skip
    elif kind == "torchexport:":
        open_size = {0: torch.export.Dim("batch", min=1, max=4096)}
        torch.export.save(torch.export.export(net, (x,), dynamic_shapes=(open_size,)), file)
    else:
        torch.jit.trace(net, x).save(str(file))
    file.with_name(file.name + ".toml").write_text('like = "anyppg"\nwidth = 8\nwindow_s = 10.0\n')
    return f"{kind}{file}"


TINY = {"num_layers": 1, "num_heads": 2, "d_kv": 8, "d_ff": 16, "d_model": 16}


def wrapped(name: str, folder: Path) -> Path:
    """Save a small model of another package in its Hugging Face form."""
    folder.mkdir()
    if name == "chronos-2":
        pytest.importorskip("chronos.chronos2")
        from phewas.encoders import chronos2

        chronos2.build(config={**chronos2.PUBLISHED, **TINY}).model.save_pretrained(folder)
    elif name.startswith("moment"):
        pytest.importorskip("momentfm")
        from safetensors.torch import save_file

        from phewas.encoders import moment

        config = moment.published(name.removeprefix("moment-"))
        config |= {"d_model": 16, "t5_config": {**config["t5_config"], **TINY}}
        save_file({k: v.clone() for k, v in moment.build(config=config).model.state_dict().items()},
                  folder / "model.safetensors")  # fmt: skip
        (folder / "config.json").write_text(json.dumps(config))
    else:
        pytest.importorskip("transformers")
        from phewas.encoders import hubert_ecg

        config = hubert_ecg.published(name.removeprefix("hubert-ecg-"))
        config |= {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16,
                   "conv_dim": [16] * 5}  # fmt: skip
        hubert_ecg.build(config=config).model.save_pretrained(folder)
    return folder


@pytest.fixture
def narrow(monkeypatch):
    """Let the small stand-ins of the large wrapped models pass for them: their embeddings have 16 numbers."""
    known = registry.get

    def get(name):
        spec = known(name)
        return dataclasses.replace(spec, width=16) if spec.weights_are == "folder" else spec

    monkeypatch.setattr(registry, "get", get)


def call(*words: object) -> str:
    done = CliRunner().invoke(app, [str(word) for word in words])
    assert done.exit_code == 0, f"{done.output}\n{done.exception!r}"
    return done.output


@pytest.mark.usefixtures("narrow")
@pytest.mark.parametrize(
    "name",
    ["anyppg", "papagei-s", "papagei-s-svri", "pulse-ppg", "ecgfounder-1lead", "ecgfounder-12lead", "chronos-2",
     "moment-small", "moment-base", "moment-large", "hubert-ecg-small", "hubert-ecg-base", "torchscript:",
     "torchexport:", "onnx:", "hf:"],
)  # fmt: skip
def test_weights_as_published_give_embeddings_of_a_cohort(name, few, tmp_path):
    words = published(name, tmp_path)
    call("embed", "--cohort", "tables", "--data", few, *words, "--config", few.parent / "small.toml", "--out",
         tmp_path / "run", "--workers", 1)  # fmt: skip
    people = pl.read_parquet(tmp_path / "run" / "embeddings" / "encounters.parquet")
    values = people["embedding"].to_numpy()
    assert values.shape == (FEW, registry.get(words[1]).width)
    assert np.isfinite(values).all()
    assert (values.std(0) > 0).any(), "patients with other signals have the same embedding"
    assert people["n_segments"].to_list() == [1] * FEW


def to_the_report(name: str, folder: Path, channels: tuple[str, ...]) -> None:
    data = ward(folder / "data", MANY, channels)
    call("run", "--cohort", "tables", "--data", data, *published(name, folder), "--config", folder / "small.toml",
         "--out", folder / "run", "--workers", 1)  # fmt: skip
    tested = PhenotypeResults.read(folder / "run").filter(pl.col("status") == "tested")
    assert {"428.1", "530.11"} & set(tested["phenotype"])
    assert tested["auc"].is_not_null().all()


def test_an_encoder_of_two_signals_goes_to_the_report_which_shows_its_card(tmp_path):
    spec = registry.get("m2ae")
    to_the_report("m2ae", tmp_path, spec.contract.channels)
    page = (tmp_path / "run" / "report" / "index.html").read_text(encoding="utf-8")
    assert spec.tensor in page
    assert spec.pooling in page
