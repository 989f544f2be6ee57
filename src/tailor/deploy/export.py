"""Writes a model as one file that runs without tailor: `.pt2` (torch.export) or `.onnx`, with a dynamic batch.

The file is read back and compared with the eager model on batches other than the exported one, and only then gets its
name. Callers pass merged models (`tailor merge`): a custom autograd Function is traced into the plain operators of its
forward, and where that cannot be done the error says so; unmerged adapters would be exported as extra operators.
"""

import importlib.util
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

from tailor.errors import ModelError, TailorError, UsageError
from tailor.measure.count import ImageSize
from tailor.measure.memory import held_bytes
from tailor.measure.speed import first_forward, images, prepared

EXPORT_BATCH = 2  # 1 would be taken for a constant
CHECKED_BATCHES = (3, 1)
OPSET = 20
PROTOBUF_LIMIT = 2_000_000_000  # bytes in one ONNX file
METADATA = "tailor.json"  # pt2: extra file; ONNX: metadata property

Run = Callable[[Tensor], list[Tensor]]  # what a written file computes


@dataclass(frozen=True)
class Exported:
    """A checked file: its size, and its largest deviation from eager as a share of eager's largest output."""

    path: Path
    bytes: int
    difference: float


def export(
    model: nn.Module,
    image_size: ImageSize,
    out: Path | str,
    *,
    classes: Sequence[str] = (),
    preprocessing: Mapping[str, Any] | None = None,
    tolerance: float = 1e-4,
    overwrite: bool = False,
    output: str = "logits",
    accept: Callable[[Run], None] | None = None,
) -> Exported:
    """Writes `out` (its suffix chooses the format) from images `(B, C, H, W)` in float32 to what the model returns.

    Class names and preprocessing (JSON-able) go inside; `read_metadata` finds them. In ONNX the input is `images`, a
    single one is called `output`, and the first dimension of both is `batch`. Beside `out` nothing stays, and on
    any error `out` is as it was. `accept` is given what the file computes and raises where that will not do. Raises
    `UsageError` for the path, `ModelError` where the model cannot be exported or the file computes something else by
    more than `tolerance`, `TailorError` where a package is missing.
    """
    path = Path(out)
    write = _writer(path, overwrite)
    note = json.dumps(
        {
            "classes": list(classes),
            "preprocessing": dict(preprocessing or {}),
            "image_size": list(image_size),
            "output": output,
        }
    )
    beside = path.with_name(f".{path.name}.{os.getpid()}.partial")  # a folder: it goes with all a writer left
    partial = beside / path.name
    try:
        beside.mkdir(parents=True)
        with prepared(model, torch.device("cpu"), torch.float32) as ready, torch.no_grad():
            first_forward(ready, images(EXPORT_BATCH, image_size, torch.device("cpu"), torch.float32))
            run = _written(write, ready, image_size, partial, note)
            difference = _difference(ready, run, image_size)
            if accept is not None:
                accept(run)
        if not difference <= tolerance:
            raise ModelError(
                f"the exported file computes something else than the model: difference {difference:.2g} of the largest "
                f"output, at most {tolerance:.2g} is accepted; nothing was kept",
                hint="merge the model first with `tailor merge`, or export to the other format",
            )
        _flush(partial)
        os.replace(partial, path)
        _flush(path.parent)
    except OSError as error:
        raise UsageError(
            f"cannot write `{path}`: {error.strerror or error}", hint="give a path in a writable folder"
        ) from None
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    return Exported(path=path, bytes=path.stat().st_size, difference=difference)


def read_metadata(path: Path | str) -> dict[str, Any]:
    """What `export` put inside a file: `classes`, `preprocessing`, `image_size`; empty for a file of another origin."""
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
    _need("onnx")
    import onnx
    from google.protobuf.message import DecodeError

    try:
        model = onnx.load(path, load_external_data=False)
    except DecodeError as error:
        raise ValueError(error) from None
    return {prop.key: prop.value for prop in model.metadata_props}.get(METADATA, "{}")


def _writer(path: Path, overwrite: bool) -> "Callable[[nn.Module, Tensor, Path, str], Run]":
    writers = {".pt2": _write_pt2, ".onnx": _write_onnx}
    if path.suffix not in writers:
        raise UsageError(
            f"cannot export to `{path.name}`: its suffix names no format", hint="end it in `.onnx`, `.pt2` or `.peft`"
        )
    if path.exists() and not overwrite:
        raise UsageError(f"there is a file already: `{path}`", hint="add `--overwrite`, or give another name")
    if path.suffix == ".onnx":
        _need("onnx", "onnxruntime", "onnxscript")
    return writers[path.suffix]


def _need(*packages: str) -> None:
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if missing:
        names = ", ".join(f"`{name}`" for name in missing)
        hint = "pip install 'tailor-models[export]'"
        raise TailorError(f"ONNX needs packages that are not installed: {names}", hint=hint)


def _written(
    write: Callable[[nn.Module, Tensor, Path, str], Run],
    model: nn.Module,
    image_size: ImageSize,
    partial: Path,
    note: str,
) -> Run:
    example = images(EXPORT_BATCH, image_size, torch.device("cpu"), torch.float32)
    try:
        with _quiet():
            return write(model, example, partial, note)
    except (TailorError, OSError):
        raise
    except Exception as error:  # whatever a tracer, a converter or a runtime raises: the class is theirs and many
        reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise ModelError(
            f"the model cannot be exported to `{partial.suffix}`: {reason[:300]}",
            hint="merge the model first with `tailor merge`, or export to the other format",
        ) from error


def _traced(model: nn.Module, example: Tensor) -> torch.export.ExportedProgram:
    return torch.export.export(model, (example,), dynamic_shapes=({0: torch.export.Dim("batch")},), strict=False)


def _write_pt2(model: nn.Module, example: Tensor, path: Path, note: str) -> Run:
    whole = BytesIO()  # torch's own writer ends the process where the disk is full
    torch.export.save(_traced(model, example), whole, extra_files={METADATA: note})
    path.write_bytes(whole.getbuffer())
    del whole
    module = torch.export.load(path).module()
    return lambda batch: _tensors(module(batch))


def _write_onnx(model: nn.Module, example: Tensor, path: Path, note: str) -> Run:
    import onnxruntime

    if held_bytes(model) > PROTOBUF_LIMIT:
        raise ModelError(
            f"the model has {held_bytes(model) / 1e9:.1f} GB of weights and one ONNX file holds at most 2 GB",
            hint="export to `.pt2`",
        )
    program = torch.onnx.export(
        _traced(model, example), (), dynamo=True, opset_version=OPSET, input_names=["images"], verbose=False
    )
    assert program is not None, "the dynamo exporter returns its program"
    program.model.metadata_props[METADATA] = note
    if len(program.model.graph.outputs) == 1:
        program.model.graph.outputs[0].name = json.loads(note)["output"]
    _name_batch(program.model.graph)
    program.save(path, external_data=False)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda batch: [torch.from_numpy(array) for array in session.run(None, {name: batch.numpy()})]


def _name_batch(graph: Any) -> None:
    """Call the dynamic dimension `batch` wherever a shape is that dimension alone: the tracer numbers it."""
    found = graph.inputs[0].shape[0]
    for value in (*graph.inputs, *graph.outputs, *(one for node in graph for one in node.outputs)):
        if value.shape is not None and any(dim == found for dim in value.shape):
            value.shape = type(value.shape)(["batch" if dim == found else dim for dim in value.shape])


def _difference(model: nn.Module, run: Run, image_size: ImageSize) -> float:
    """Largest deviation of the file from eager over `CHECKED_BATCHES`, as a share of eager's largest output."""
    worst = 0.0
    for count in CHECKED_BATCHES:
        batch = images(count, image_size, torch.device("cpu"), torch.float32)
        expected = _tensors(model(batch))
        found = run(batch)
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
