"""A bundle's ONNX file in 8-bit integers, and how fast it runs beside its float32 one, both in ONNX Runtime."""

from pathlib import Path

from torch import nn

import tailor
from tailor.deploy.runtimes.onnx import Session
from tailor.inputs import Inputs
from tailor.measure.speed import throughput

SECONDS = 12.0


def quantised(source: Path, data: str, out: Path, inputs: Inputs) -> tuple[Path, nn.Module, float, float]:
    """The INT8 file of `tailor export --int8`, a module that runs it, and how many times faster than float32 it is, in
    batches of 64 and 1. Whatever it loses is tolerated: the row says what that is.
    """
    out.mkdir(parents=True, exist_ok=True)
    plain, file = out / "float32.onnx", out / "int8.onnx"
    tailor.export(source, out=plain, overwrite=True, progress=None)
    tailor.export(source, out=file, int8=True, tolerance=1.0, data=data, overwrite=True, progress=None)
    models = {"float32": Session(plain), "int8": Session(file)}
    together, alone = (throughput(models, inputs, batch=count, seconds=SECONDS) for count in (64, 1))
    return file, models["int8"], together.ratios["int8"].median, alone.ratios["int8"].median
