"""Whole models from a file: TorchScript, torch.export, ONNX, Hugging Face folders; each gives what its module gives."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import pytest
import torch
from torch import nn

from phewas.encoders import checkpoint, inputs, registry, whole
from phewas.errors import EncoderError, WeightsError

X = torch.randn(5, 1, 250, generator=torch.Generator().manual_seed(0))
STATED = 'like = "anyppg"\nwidth = 8\n'

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning")


class Steps(nn.Module):
    """Give the map [batch, 8, steps] and its mean over time."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(1, 8, 5, stride=5)

    def forward(self, x):
        steps = self.conv(x)
        return steps, steps.mean(-1)


class Pooled(Steps):
    def forward(self, x):
        return super().forward(x)[1]


@pytest.fixture(scope="module")
def models():
    torch.manual_seed(1)
    pooled, steps = Pooled().eval(), Steps().eval()
    steps.load_state_dict(pooled.state_dict())
    with torch.no_grad():
        return pooled, steps, pooled(X)


def stated(file: Path, text: str = STATED) -> Path:
    file.with_name(file.name + ".toml").write_text(text)
    return file


def used(name: str, x: torch.Tensor = X) -> torch.Tensor:
    spec = registry.get(name)
    model = checkpoint.build(spec, str(spec.bundle))
    inputs.try_out(spec, model, window_s=x.shape[-1] / spec.contract.fs_hz)
    assert spec.frozen_only
    assert not any(p.requires_grad for p in model.parameters())
    assert not model.train().training
    with torch.inference_mode():
        return model(x)


def test_torchscript_is_run_as_it_is(models, tmp_path):
    pooled, _, wanted = models
    file = stated(tmp_path / "m.pt")
    torch.jit.trace(pooled, X).save(str(file))
    torch.testing.assert_close(used(f"torchscript:{file}"), wanted)
    assert registry.get(f"torchscript:{file}").contract == registry.get("anyppg").contract


def test_an_output_is_chosen_and_pooled(models, tmp_path):
    _, steps, wanted = models
    file = tmp_path / "m.pt"
    torch.jit.trace(steps, X).save(str(file))
    stated(file, STATED + "output = 1\n")
    torch.testing.assert_close(used(f"torchscript:{file}"), wanted)
    stated(file, STATED + 'output = 0\npool = "mean"\nchannels_first = true\n')
    torch.testing.assert_close(used(f"torchscript:{file}"), wanted)
    stated(file, STATED + "output = 2\n")
    with pytest.raises(EncoderError, match="no output 2"):
        used(f"torchscript:{file}")
    stated(file)
    with pytest.raises(EncoderError, match=r"maps \[2, 1, 250\] to \[2, 8, 50\]"):
        used(f"torchscript:{file}")


def test_torch_export_is_run_as_it_is_and_in_its_only_batch_size(models, tmp_path):
    pooled, _, wanted = models
    file = stated(tmp_path / "m.pt2")
    program = torch.export.export(pooled, (X,), dynamic_shapes=({0: torch.export.Dim("windows")},))
    torch.export.save(program, file)
    torch.testing.assert_close(used(f"torchexport:{file}"), wanted)
    torch.export.save(torch.export.export(pooled, (X[:3],)), file)
    stated(file, STATED + "batch = 3\n")
    torch.testing.assert_close(used(f"torchexport:{file}"), wanted)  # 5 windows: 3 and, filled up, 2


def test_an_export_that_would_be_unpickled_or_evaluated_is_refused(models, tmp_path):
    file = stated(tmp_path / "m.pt2")
    torch.export.save(torch.export.export(models[0], (X,)), file)
    bad = tmp_path / "bad.pt2"

    def altered(change):
        with zipfile.ZipFile(file) as old, zipfile.ZipFile(bad, "w") as new:
            for name in old.namelist():
                new.writestr(name, change(name, old.read(name)))

    def pickled(name, content):
        if not name.endswith("weights_config.json"):
            return content
        told = json.loads(content)
        next(iter(told["config"].values()))["use_pickle"] = True
        return json.dumps(told)

    def evaluated(name, content):
        if not name.endswith("models/bad.json") and "/models/" not in name:
            return content
        told = json.loads(content)
        told["sneaked"] = {"expr_str": "__import__('os').mkdir('ran')"}
        return json.dumps(told)

    for change in (pickled, evaluated):
        altered(change)
        with pytest.raises(WeightsError, match="could run code when opened"):
            whole.torchexport(file=bad)
    altered(lambda _, content: content)
    whole.torchexport(file=bad)


@pytest.mark.parametrize("kind", ["torchscript", "torchexport", "onnx"])
def test_any_other_file_is_told(kind, tmp_path):
    if kind == "onnx":
        pytest.importorskip("onnxruntime")
    file = stated(tmp_path / "m.bin")
    file.write_bytes(b"this is no model")
    with pytest.raises(WeightsError, match=r"m\.bin is no|cannot be read"):
        used(f"{kind}:{file}")


def onnx_file(model: Steps, file: Path, *, batch: int | str = "windows") -> Path:
    """Write the graph by hand with onnx's own helpers: a convolution and a mean."""
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    from onnx import TensorProto, helper, numpy_helper

    weight = numpy_helper.from_array(model.conv.weight.detach().numpy(), "w")
    bias = numpy_helper.from_array(model.conv.bias.detach().numpy(), "b")
    nodes = [
        helper.make_node("Conv", ["signal", "w", "b"], ["steps"], kernel_shape=[5], strides=[5]),
        helper.make_node("ReduceMean", ["steps"], ["pooled"], axes=[2], keepdims=0),
    ]
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("signal", TensorProto.FLOAT, [batch, 1, 250])],
        [helper.make_tensor_value_info("steps", TensorProto.FLOAT, [batch, 8, 50]),
         helper.make_tensor_value_info("pooled", TensorProto.FLOAT, [batch, 8])], [weight, bias],
    )  # fmt: skip
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), file)
    return file


def test_onnx_is_run_as_it_is_by_onnxruntime(models, tmp_path):
    pooled, _, wanted = models
    file = onnx_file(pooled, tmp_path / "m.onnx")
    stated(file, STATED + 'output = "pooled"\n')
    torch.testing.assert_close(used(f"onnx:{file}"), wanted, rtol=1e-5, atol=1e-6)
    onnx_file(pooled, file, batch=2)
    stated(file, STATED + "output = 1\nbatch = 2\n")
    torch.testing.assert_close(used(f"onnx:{file}"), wanted, rtol=1e-5, atol=1e-6)


def test_a_hugging_face_folder_is_run_by_transformers(tmp_path):
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.HubertConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, conv_dim=[8, 8],
        conv_kernel=[5, 3], conv_stride=[5, 2], num_feat_extract_layers=2, num_conv_pos_embeddings=4,
    )  # fmt: skip
    model = transformers.HubertModel(config).eval()
    folder = tmp_path / "audio-model"
    model.save_pretrained(folder)
    (folder / "phewas.encoder.toml").write_text('channels = ["PPG"]\nfs_hz = 50\nwidth = 16\n')
    with torch.no_grad():
        wanted = model(X[:, 0]).last_hidden_state.mean(1)
    torch.testing.assert_close(used(f"hf:{folder}"), wanted)
    spec = registry.get(f"hf:{folder}")
    assert spec.name == "audio-model"
    assert len(checkpoint.fingerprint(folder)) == 64
    before = checkpoint.fingerprint(folder)
    (folder / "config.json").write_text((folder / "config.json").read_text() + " ")
    assert checkpoint.fingerprint(folder) != before


def test_a_folder_that_wants_to_run_code_is_refused(tmp_path):
    pytest.importorskip("transformers")
    folder = tmp_path / "evil"
    folder.mkdir()
    (folder / "config.json").write_text(
        json.dumps({"model_type": "evil", "auto_map": {"AutoConfig": "evil.C", "AutoModel": "evil.M"}})
    )
    (folder / "evil.py").write_text(f"import pathlib; pathlib.Path({str(tmp_path / 'ran')!r}).mkdir()\n")
    (folder / "phewas.encoder.toml").write_text(STATED)
    with pytest.raises(WeightsError, match="transformers cannot load"):
        used(f"hf:{folder}")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("widht = 8\n", "Did you mean width"),
        ('like = "anyppg"\n', "does not say the width"),
        ("width = 8\n", "does not state the input contract"),
        ('width = 8\nlike = "anyppg"\nfs_hz = 50\n', "both like and fs_hz"),
        ('width = 8\nlike = "anypgg"\n', "Did you mean anyppg"),
        ('width = "8"\n', "width is '8'"),
        ('width = 8\nchannels = ["PPG"]\nfs_hz = 0\n', "a rate of 0"),
        ('width = 8\nchannels = ["PPG"]\nfs_hz = 50\nfilter = { low_hz = 1 }\n', "not complete"),
        ('width = 8\nchannels = ["PPG"]\nfs_hz = 50\nfilter = { order = 3, low = 1 }\n', "argument 'low'"),
        ('width = 8\nchannels = ["PPG"]\nfs_hz = 50\nnormalise_by = "rank"\n', "normalise_by is 'rank'"),
        ("width = \n", "cannot be read"),
        (STATED + 'pool = "sum"\n', "pool is 'sum'"),
    ],
)
def test_a_wrong_description_is_told(tmp_path, text, told):
    file = tmp_path / "m.pt"
    file.touch()
    stated(file, text)
    with pytest.raises(EncoderError, match=told):
        registry.get(f"torchscript:{file}")


def test_without_a_description_the_one_to_write_is_shown(tmp_path):
    (tmp_path / "m.pt").touch()
    with pytest.raises(EncoderError, match="nothing says what") as caught:
        registry.get(f"torchscript:{tmp_path / 'm.pt'}")
    assert 'like = "anyppg"' in caught.value.cure
    with pytest.raises(EncoderError, match="there is no file"):
        registry.get("onnx:nowhere.onnx")
    with pytest.raises(EncoderError, match="there is no folder"):
        registry.get("hf:./nowhere")


def test_a_model_of_one_length_takes_no_other(models, tmp_path):
    file = stated(tmp_path / "m.pt", STATED + "window_s = 2\n")
    torch.jit.trace(models[0], X).save(str(file))
    spec = registry.get(f"torchscript:{file}")
    with pytest.raises(EncoderError, match="takes windows of 2 s, and 10 s were asked for"):
        inputs.check_length(spec, 1250)


def test_weights_beside_a_whole_model_are_refused(models, tmp_path):
    file = stated(tmp_path / "m.pt")
    torch.jit.trace(models[0], X).save(str(file))
    with pytest.raises(WeightsError, match="holds its own weights"):
        checkpoint.build(registry.get(f"torchscript:{file}"), "other.pth")


@pytest.mark.parametrize(
    ("expression", "plain"),
    [("s0", True), ("2*s0 + 1", True), ("Symbol('s7', positive=True)", True), ("Symbol('a.b')", False),
     ("Max(1, s0//2)", True), ("__import__('os')", False), ("exec(chr(1))", False),
     ("s0.__class__", False), ("open(s0)", False), ("[s0]", False)],
)  # fmt: skip
def test_only_arithmetic_over_sizes_is_evaluated(expression, plain):
    assert whole.is_arithmetic(expression) is plain


def test_a_description_can_state_every_step_of_the_preparation(tmp_path):
    file = tmp_path / "m.pt"
    file.touch()
    stated(file, """
channels = ["PPG", "ECG_II"]
fs_hz = 100
filter = { kind = "cheby2", order = 4, low_hz = 0.5, high_hz = 12, attenuation_db = 20 }
steps = ["notch", "band", "resample", "normalise"]
notch = { hz = 50 }
normalise_by = "minmax"
epsilon = 0
window_s = 5
width = 8
""")
    contract = registry.get(f"torchscript:{file}").contract
    assert contract == registry.InputContract(
        ("PPG", "ECG_II"), 100.0, registry.Band("cheby2", 4, 0.5, 12.0, attenuation_db=20.0), epsilon=0.0,
        steps=("notch", "band", "resample", "normalise"), notch=registry.Notch(50), normalise_by="minmax", window_s=5.0,
    )  # fmt: skip
