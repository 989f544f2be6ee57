"""An ONNX file in 8-bit integers: static quantisation by ONNX Runtime (QDQ, weights by output channel).

Activations get the range that calibration images give them. What is kept decides the caller, on scores and times.
"""

import io
import logging
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path

import numpy as np

from tailor.deploy.packages import check_installed
from tailor.errors import ModelError
from tailor.inputs import Example

WAYS: Mapping[str, tuple[str, ...]] = {"products": ("Conv", "Gemm", "MatMul"), "all": ()}
"""Which operators compute in integers: convolutions and products alone, or all that ONNX Runtime knows."""


def quantised(file: Path, out: Path, batches: Iterable[Example], way: str) -> Path:
    """`out`: the float file in integers, its metadata kept, calibrated on the batches; ModelError where that fails."""
    check_installed("onnx", "onnxruntime")
    import onnx
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    model = onnx.load(file, load_external_data=False)
    names = [one.name for one in model.graph.input]

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.left: Iterator[Example] = iter(batches)

        def get_next(self) -> dict[str, np.ndarray] | None:
            example = next(self.left, None)
            return None if example is None else {n: one.numpy() for n, one in zip(names, example, strict=True)}

    ready = out.with_name(f"{out.stem}-ready.onnx")
    try:
        with _quiet():
            quant_pre_process(str(file), str(ready), skip_symbolic_shape=True)
            quantize_static(
                str(ready),
                str(out),
                Reader(),
                quant_format=QuantFormat.QDQ,
                per_channel=True,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                op_types_to_quantize=list(WAYS[way]) or None,
            )
    except OSError:
        raise
    except Exception as error:  # whatever ONNX Runtime raises for an operator that it cannot quantise
        reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise ModelError(f"the model cannot be quantised: {reason[:300]}", hint="export without `--int8`") from error
    made = onnx.load(out)
    del made.metadata_props[:]
    made.metadata_props.extend(model.metadata_props)
    onnx.save(made, out)
    return out


@contextmanager
def _quiet() -> Iterator[None]:
    """It prints, warns and logs, and its first line of log would set up logging for the whole process."""
    handlers, off = logging.root.handlers[:], logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(off)
        logging.root.handlers[:] = handlers
