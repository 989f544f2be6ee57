"""Writes a model as one file that runs without tailor: `.pt2` (torch.export) or `.onnx`, with a dynamic batch.

The file is read back and compared with the eager model on batches other than the exported one, and only then gets its
name. Callers pass merged models (`tailor merge`): a custom autograd Function is traced into the plain operators of its
forward, and where that cannot be done the error says so; unmerged adapters would be exported as extra operators.
"""

import glob
import json
import math
import os
import shutil
import warnings
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from io import BytesIO, StringIO
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from tailor.bundle.files import alive
from tailor.deploy.packages import ONNX, check_installed
from tailor.errors import ModelError, TailorError, UsageError
from tailor.inputs import Example, Inputs
from tailor.measure.memory import held_bytes
from tailor.measure.speed import first_forward, prepared

CHECKED_BATCHES = (3, 1)
OPSET = 20
PROTOBUF_LIMIT = 2_000_000_000  # bytes in one ONNX file
METADATA = "tailor.json"  # pt2: extra file; ONNX: metadata property

RunFile = Callable[[Example], list[Tensor]]  # what a written file computes


@dataclass(frozen=True)
class CheckedFile:
    """A checked file: its size, and its largest deviation from eager as a share of eager's largest output."""

    path: Path
    bytes: int
    difference: float


def export(
    model: nn.Module,
    inputs: Inputs,
    out: Path | str,
    *,
    classes: Sequence[str] = (),
    preprocessing: Mapping[str, Any] | None = None,
    tolerance: float = 1e-4,
    overwrite: bool = False,
    output: str = "logits",
    accept: Callable[[RunFile], None] | None = None,
    last: Callable[[Path, RunFile], Path] | None = None,
) -> CheckedFile:
    """Writes `out` (its suffix chooses the format) from the inputs, in float32, to what the model returns.

    Class names and preprocessing (JSON-able) go inside; `read_metadata` finds them. In ONNX the inputs and their open
    axes have the names of `inputs`, and a single result is called `output`. Beside `out` nothing stays, and on any
    error `out` is as it was. `accept` is given what the file computes and raises where that will not do; `last` is
    given the file that was held against the model, and makes, beside it, the one to keep. Raises
    `UsageError` for the path, `ModelError` where the model cannot be exported or the file computes something else by
    more than `tolerance`, `TailorError` where a package is missing.
    """
    path = Path(out)
    write = _writer(path, overwrite)
    note = json.dumps(
        {
            "classes": list(classes),
            "preprocessing": dict(preprocessing or {}),
            **inputs.as_json(),
            "output": output,
        }
    )
    beside = path.with_name(f".{path.name}.{os.getpid()}.partial")  # a folder: it goes with all a writer left
    partial = beside / path.name
    try:
        _sweep(path)
        beside.mkdir(parents=True)
        with prepared(model, torch.device("cpu"), torch.float32) as ready, torch.no_grad():
            first_forward(ready, inputs.example())
            run = _written(write, ready, inputs, partial, note)
            difference = _difference(ready, run, inputs)
            if accept is not None:
                accept(run)
        if not difference <= tolerance:
            raise ModelError(
                f"the exported file computes something else than the model: difference {difference:.2g} of the largest "
                f"output, at most {tolerance:.2g} is accepted; nothing was kept",
                hint="merge the model first with `tailor merge`, or export to the other format",
            )
        kept = partial if last is None else last(partial, run)
        _flush(kept)
        os.replace(kept, path)
        _flush(path.parent)
    except OSError as error:
        raise UsageError(
            f"cannot write `{path}`: {error.strerror or error}", hint="give a path in a writable folder"
        ) from None
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    return CheckedFile(path=path, bytes=path.stat().st_size, difference=difference)


def _sweep(path: Path) -> None:
    """Remove what exports to this file left beside it when they were killed."""
    for left in path.parent.glob(f".{glob.escape(path.name)}.*.partial"):
        number = left.name.removeprefix(f".{path.name}.").removesuffix(".partial")
        if number.isdigit() and not alive(int(number)):
            shutil.rmtree(left, ignore_errors=True)


def read_metadata(path: Path | str) -> dict[str, Any]:
    """What `export` put inside a file: `classes`, `preprocessing`, its inputs; empty for a file of another origin."""
    path = Path(path)
    try:
        if path.suffix == ".onnx":
            return dict(json.loads(_onnx_note(path)))
        with zipfile.ZipFile(path) as archive:  # without loading, so that nothing of a foreign file is run
            names = [name for name in archive.namelist() if name.endswith(f"/extra/{METADATA}")]
            return dict(json.loads(archive.read(names[0]))) if names else {}
    except OSError as error:
        raise UsageError(f"cannot read `{path}`: {error.strerror or error}", hint="check the path") from None
    except (zipfile.BadZipFile, ValueError) as error:
        raise UsageError(f"`{path}` is no exported model: {error}", hint="make one with `tailor export`") from None


def _onnx_note(path: Path) -> str:
    check_installed("onnx")
    import onnx
    from google.protobuf.message import DecodeError

    try:
        model = onnx.load(path, load_external_data=False)
    except DecodeError as error:
        raise ValueError(error) from None
    return {prop.key: prop.value for prop in model.metadata_props}.get(METADATA, "{}")


def _writer(path: Path, overwrite: bool) -> "Callable[[nn.Module, Inputs, Path, str], RunFile]":
    writers = {".pt2": _write_pt2, ".onnx": _write_onnx}
    if path.suffix not in writers:
        raise UsageError(
            f"cannot export to `{path.name}`: its suffix names no format", hint="end it in `.onnx`, `.pt2` or `.peft`"
        )
    if path.exists() and not overwrite:
        raise UsageError(f"there is a file already: `{path}`", hint="add `--overwrite`, or give another name")
    if path.suffix == ".onnx":
        check_installed(*ONNX)
    return writers[path.suffix]


def _written(
    write: Callable[[nn.Module, Inputs, Path, str], RunFile],
    model: nn.Module,
    inputs: Inputs,
    partial: Path,
    note: str,
) -> RunFile:
    try:
        with _quiet():
            return write(model, inputs, partial, note)
    except (TailorError, OSError):
        raise
    except Exception as error:  # whatever a tracer, a converter or a runtime raises: the class is theirs and many
        reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise ModelError(
            f"the model cannot be exported to `{partial.suffix}`: {reason[:300]}",
            hint="merge the model first with `tailor merge`, or export to the other format",
        ) from error


def _traced(model: nn.Module, inputs: Inputs) -> torch.export.ExportedProgram:
    names = dict.fromkeys(name for axes in inputs.axes for name in axes.values())
    dims = {name: torch.export.Dim(name) for name in names}
    shapes = tuple({axis: dims[name] for axis, name in axes.items()} for axes in inputs.axes)
    return torch.export.export(model, inputs.example(), dynamic_shapes=shapes, strict=False)


def _write_pt2(model: nn.Module, inputs: Inputs, path: Path, note: str) -> RunFile:
    whole = BytesIO()  # torch's own writer ends the process where the disk is full
    torch.export.save(_traced(model, inputs), whole, extra_files={METADATA: note})
    path.write_bytes(whole.getbuffer())
    del whole
    module = torch.export.load(path).module()
    return lambda example: _tensors(module(*example))


def _write_onnx(model: nn.Module, inputs: Inputs, path: Path, note: str) -> RunFile:
    if held_bytes(model) > PROTOBUF_LIMIT:
        raise ModelError(
            f"the model has {held_bytes(model) / 1e9:.1f} GB of weights and one ONNX file holds at most 2 GB",
            hint="export to `.pt2`",
        )
    program = torch.onnx.export(
        _traced(model, inputs), (), dynamo=True, opset_version=OPSET, input_names=list(inputs.names), verbose=False
    )
    assert program is not None, "the dynamo exporter returns its program"
    program.model.metadata_props[METADATA] = note
    if len(program.model.graph.outputs) == 1:
        program.model.graph.outputs[0].name = json.loads(note)["output"]
    _name_axes(program.model.graph, inputs)
    program.save(path, external_data=False)
    return opened(path)


def opened(path: Path) -> RunFile:
    """What an ONNX file computes, on the CPU, with as many threads as torch has here."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    names = [one.name for one in session.get_inputs()]

    def run(example: Example) -> list[Tensor]:
        given = {name: one.numpy() for name, one in zip(names, example, strict=True)}
        return [torch.from_numpy(array) for array in session.run(None, given)]

    return run


def _name_axes(graph: Any, inputs: Inputs) -> None:
    """Give the open axes their names wherever a shape is one of them alone: the tracer numbers them."""
    found = {given.shape[axis]: name for given, axes in zip(graph.inputs, inputs.axes) for axis, name in axes.items()}
    for value in (*graph.inputs, *graph.outputs, *(one for node in graph for one in node.outputs)):
        if value.shape is not None and any(dim in found for dim in value.shape):
            value.shape = type(value.shape)([found.get(dim, dim) for dim in value.shape])


def _difference(model: nn.Module, run: RunFile, inputs: Inputs) -> float:
    """Largest deviation of the file from eager over `CHECKED_BATCHES`, as a share of eager's largest output."""
    worst = 0.0
    for count in CHECKED_BATCHES:
        example = inputs.example(count)
        expected = _tensors(model(*example))
        found = run(example)
        shapes, wanted = [tuple(t.shape) for t in found], [tuple(t.shape) for t in expected]
        if shapes != wanted:
            raise ModelError(
                f"the exported file returns shapes {shapes} instead of {wanted}; nothing was kept",
                hint="try another ending: `-o FILE.onnx` or `-o FILE.pt2`",
            )
        for ours, theirs in zip(expected, found, strict=True):
            scale = max(float(ours.abs().max()), 1e-6)
            deviation = float((ours - theirs).abs().max()) / scale
            if math.isnan(deviation):
                return deviation
            worst = max(worst, deviation)
    return worst


def _tensors(output: Any) -> list[Tensor]:
    return [leaf.detach() for leaf in tree_leaves(output) if isinstance(leaf, Tensor)]


@contextmanager
def _quiet() -> Iterator[None]:
    """The exporters print, warn and log; what matters of it comes back as an exception."""
    with redirect_stdout(StringIO()), redirect_stderr(StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
