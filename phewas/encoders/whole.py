"""Whole models in a file, for frozen use: TorchScript, torch.export, ONNX, and Hugging Face folders.

Such a file brings its own arithmetic, so that any encoder of any library can be used without its code. Each function
returns an ``nn.Module`` from float32 [batch, channels, samples] to float32 [batch, width].

What is opened is checked first: TorchScript is read by torch's own reader, which knows no Python objects; parts of a
torch.export archive that Python's pickle would have to read, or expressions that are more than arithmetic, are
refused; ONNX and safetensors hold no code; a Hugging Face folder that wants to bring Python code of its own is refused.
"""

from __future__ import annotations

import builtins
import io
import json
import re
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor, nn

from phewas.errors import EncoderError, WeightsError

# The letters of an expression over symbolic sizes, such as 2*s0 + 1 or Max(1, s0//2).
_EXPRESSION = re.compile(r"[\w\s+\-*/%(),<>=&|~]*")


class Whole(nn.Module):
    """A model from a file, run as it is.

    Parameters
    ----------
    run
        Maps float32 [batch, channels, samples] to a tensor, or several of them, alone, in a sequence or by name.
    output
        Which of several: its place or its name.
    pool
        ``mean`` or ``max`` over all axes between the first and the last or, with ``channels first``, after the second;
        ``none`` where the model gives [batch, width] itself.
    channels_first
        Whether an unpooled output is [batch, width, steps] instead of [batch, steps, width].
    batch
        The only batch size that the file takes; 0 where any will do.
    inner
        The module behind `run`, where there is one that follows ``.to(device)``.
    """

    def __init__(
        self,
        run: Callable[[Tensor], Any],
        *,
        output: int | str = 0,
        pool: str = "none",
        channels_first: bool = False,
        batch: int = 0,
        inner: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.run, self.output, self.pool, self.channels_first, self.batch = run, output, pool, channels_first, batch
        self.inner = inner
        for parameter in self.parameters():
            parameter.requires_grad = False

    def train(self, mode: bool = True) -> Whole:  # noqa: FBT001, FBT002 - torch's own signature
        """Stay in evaluation mode: a frozen model has no other."""
        del mode
        super().train(mode=False)
        return self

    def forward(self, x: Tensor) -> Tensor:
        """Map float32 [batch, channels, samples] to float32 [batch, width]."""
        if not self.batch:
            return self._pooled(self.run(x))
        parts = []
        for at in range(0, len(x), self.batch):
            part = x[at : at + self.batch]
            lacking = self.batch - len(part)
            full = torch.cat([part, part[-1:].expand(lacking, *part.shape[1:])]) if lacking else part
            parts.append(self._pooled(self.run(full))[: len(part)])
        return torch.cat(parts)

    def _pooled(self, out: Any) -> Tensor:
        """Choose the output and pool it over time."""
        if not isinstance(out, Tensor):
            try:
                out = out[self.output] if isinstance(self.output, int) or hasattr(out, "keys") else None
            except (KeyError, IndexError) as error:
                raise EncoderError(
                    f"the model has no output {self.output!r}",
                    expected=", ".join(map(str, out)) if hasattr(out, "keys") else f"a place below {len(out)}",
                    cure="set `output` in the TOML file beside the model",
                ) from error
        if not isinstance(out, Tensor):
            told = f"output {self.output!r} of the model is no tensor"
            raise EncoderError(told, cure="set `output` in the TOML file beside the model")
        rows: Tensor = out.float()
        if self.pool == "none" or rows.ndim < 3:
            return rows
        axes = tuple(range(2, rows.ndim)) if self.channels_first else tuple(range(1, rows.ndim - 1))
        return rows.mean(axes) if self.pool == "mean" else rows.amax(axes)


def torchscript(*, file: Path, **pooling: Any) -> Whole:
    """Return a TorchScript program (``torch.jit.save``) as an encoder.

    Parameters
    ----------
    file
        The program. It is read by torch's own reader and runs torch's operators only.
    pooling
        Of `Whole`.

    Raises
    ------
    WeightsError
        It is no TorchScript program.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            program = torch.jit.load(str(file), map_location="cpu").eval()  # type: ignore[no-untyped-call]
    except (RuntimeError, ValueError, OSError) as error:
        raise WeightsError(
            f"{file.name} is no TorchScript program",
            expected="a file of torch.jit.save",
            cure="save it with torch.jit.trace(model.eval(), x).save(FILE)",
        ) from error
    return Whole(lambda x: program(x), inner=program, **pooling)


class _Exported:
    """A program of torch.export, moved to wherever its input is."""

    def __init__(self, program: torch.export.ExportedProgram) -> None:
        self.program, self.device, self.call = program, torch.device("cpu"), program.module()

    def __call__(self, x: Tensor) -> Any:
        if x.device != self.device:
            from torch.export.passes import move_to_device_pass

            self.program = move_to_device_pass(self.program, x.device)
            self.device, self.call = x.device, self.program.module()
        return self.call(x)


def torchexport(*, file: Path, **pooling: Any) -> Whole:
    """Return a program of ``torch.export.save`` as an encoder; parameters as in `torchscript`.

    Raises
    ------
    WeightsError
        It is no such program, or holds parts that could run code when opened.
    """
    _no_code_in(file)
    try:
        program = torch.export.load(file)
    except Exception as error:
        raise WeightsError(
            f"{file.name} cannot be read by torch {torch.__version__}: {str(error).splitlines()[0][:200]}",
            expected="a file of torch.export.save, of this or an older version of torch",
            cure="export it anew with this version",
        ) from error
    return Whole(_Exported(program), **pooling)


def _no_code_in(file: Path) -> None:
    """Refuse a torch.export archive that torch would read with pickle, or whose sizes are more than arithmetic."""
    try:
        with zipfile.ZipFile(file) as archive:
            names = archive.namelist()
            inside = [name.partition("/")[2] for name in names]
            programs = [n for n in names if re.fullmatch(r"[^/]*/models/[^/]+\.json", n)]
            if not programs:
                raise WeightsError(f"{file.name} is no archive of torch.export", expected="a .pt2 file")
            told = [n for n in inside if "custom_obj" in n or "aotinductor" in n or n.endswith((".so", ".pkl"))]
            for name in names:
                if name.endswith("_config.json"):
                    entries = json.loads(archive.read(name)).get("config", {}).values()
                    told += [e["path_name"] for e in entries if e.get("use_pickle")]
                if "/sample_inputs/" in name:
                    try:
                        torch.load(io.BytesIO(archive.read(name)), weights_only=True)
                    except (UnpicklingError, RuntimeError):
                        told.append(name)
            for name in programs:
                told += [e for e in _expressions(json.loads(archive.read(name))) if not is_arithmetic(e)]
    except (zipfile.BadZipFile, OSError, ValueError, AttributeError, KeyError) as error:
        raise WeightsError(f"{file.name} is no archive of torch.export", expected="a .pt2 file") from error
    if told:
        raise WeightsError(
            f"{file.name} holds parts that could run code when opened ({told[0][:60]}); it was not opened",
            expected="plain tensors and a graph",
            cure="export the model anew, or use ONNX: --encoder onnx:FILE",
        )


def _expressions(node: Any) -> list[str]:
    """Return every expression over symbolic sizes of a serialised graph."""
    if isinstance(node, dict):
        own = [v for k, v in node.items() if k in ("expr_str", "as_expr_str") and isinstance(v, str)]
        return own + [e for value in node.values() for e in _expressions(value)]
    return [e for value in node for e in _expressions(value)] if isinstance(node, list) else []


def is_arithmetic(expression: str) -> bool:
    """Tell whether an expression holds numbers, symbols and functions only; torch evaluates it as Python.

    Examples
    --------
    >>> is_arithmetic("Max(1, 2*s0 + 1)"), is_arithmetic("__import__('os')")
    (True, False)
    """
    expression = re.sub(r"\bSymbol\('(\w+)'", r"Symbol(\1", expression)  # how torch writes a size that is open
    words = set(re.findall(r"[A-Za-z_]\w*", expression))
    plain = _EXPRESSION.fullmatch(expression) is not None and "__" not in expression
    return plain and not words & (set(dir(builtins)) - {"max", "min", "abs", "True", "False"})


def onnx(*, file: Path, **pooling: Any) -> Whole:
    """Return an ONNX graph as an encoder, run by onnxruntime on the processor; parameters as in `torchscript`.

    Raises
    ------
    EncoderError
        onnxruntime is not installed.
    WeightsError
        It is no ONNX graph that onnxruntime can run.
    """
    from phewas.encoders.extras import need

    runtime = need("onnxruntime", extra="onnx")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    try:
        session = runtime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise WeightsError(
            f"{file.name} is no graph that onnxruntime can run: {str(error).splitlines()[0][:200]}",
            expected="an ONNX file",
            cure="export it again, and give the files with external data beside it",
        ) from error
    inputs, outputs = session.get_inputs(), [out.name for out in session.get_outputs()]
    if len(inputs) != 1:
        raise WeightsError(f"{file.name} has {len(inputs)} inputs", expected="one: float32 [batch, channels, samples]")

    def run(x: Tensor) -> dict[int | str, Tensor]:
        values = session.run(outputs, {inputs[0].name: x.detach().float().cpu().numpy()})
        tensors = [torch.from_numpy(value).to(x.device) for value in values]
        return {**dict(enumerate(tensors)), **dict(zip(outputs, tensors, strict=True))}

    return Whole(run, **pooling)


def huggingface(*, file: Path, argument: str = "", layout: str = "", **pooling: Any) -> Whole:
    """Return a Hugging Face folder (config.json, safetensors) as an encoder, run by transformers.

    Parameters
    ----------
    file
        The folder. Python code in it is never run, and pickled weights are not opened.
    argument
        Name of the model's input; empty for the one that the model calls its main input.
    layout
        ``samples`` for [batch, samples] (one channel), ``samples-channels`` for [batch, samples, channels],
        ``channels-samples``; empty for what goes with the argument: ``input_values`` and ``past_values``.
    pooling
        Of `Whole`.

    Raises
    ------
    EncoderError
        transformers is not installed.
    WeightsError
        transformers cannot build the model, or wants to run code from the folder.
    """
    from phewas.encoders.extras import need

    transformers = need("transformers", extra="transformers")
    try:
        model = transformers.AutoModel.from_pretrained(
            str(file), local_files_only=True, trust_remote_code=False, use_safetensors=True, dtype=torch.float32
        ).eval()
    except (OSError, ValueError, KeyError, RuntimeError, ImportError) as error:
        raise WeightsError(
            f"transformers cannot load {file}: {str(error).strip().splitlines()[0][:200]}",
            expected="a folder with config.json and model.safetensors of an architecture that transformers knows",
            cure="a model that needs code of its own: export it (ONNX, torch.export), or wrap it as in "
            "examples/own_encoder.py",
        ) from error
    name = argument or str(model.main_input_name)
    form = layout or {"input_values": "samples", "past_values": "samples-channels"}.get(name, "channels-samples")

    def run(x: Tensor) -> Any:
        shaped = x.flatten(1) if form == "samples" else x.transpose(1, 2) if form == "samples-channels" else x
        return model(**{name: shaped}, return_dict=True)

    return Whole(run, inner=model, **pooling)
