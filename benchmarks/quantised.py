"""INT8 by ONNX Runtime: static quantisation (QDQ, per channel), and how fast the file runs beside its float32 one."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import tailor

ROUNDS = 30


class Quantised(nn.Module):
    """A session as a module, so that it is scored as any model is."""

    def __init__(self, session: Any) -> None:
        super().__init__()
        self.session = session

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, K)."""
        return torch.from_numpy(self.session.run(None, {"images": images.numpy()})[0])


def quantised(source: Path, out: Path, calibration: Tensor) -> tuple[Path, nn.Module, float, float]:
    """The INT8 file, a module that runs it, and how many times faster than float32 it is, in batches of 64 and 1."""
    import onnxruntime
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.batches: Iterator[Tensor] = iter(calibration.split(64))

        def get_next(self) -> dict[str, np.ndarray] | None:
            batch = next(self.batches, None)
            return None if batch is None else {"images": batch.numpy()}

    out.mkdir(parents=True, exist_ok=True)
    plain, ready, file = (out / f"{name}.onnx" for name in ("float32", "ready", "int8"))
    tailor.export(source, out=plain, overwrite=True, progress=None)
    quant_pre_process(str(plain), str(ready), skip_symbolic_shape=True)
    quantize_static(
        str(ready), str(file), Reader(), quant_format=QuantFormat.QDQ, per_channel=True,
        activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8,
    )  # fmt: skip
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    sessions = [onnxruntime.InferenceSession(str(f), options, ["CPUExecutionProvider"]) for f in (plain, file)]
    ratios = [_ratio(sessions, calibration[:count].numpy()) for count in (64, 1)]
    return file, Quantised(sessions[1]), *ratios


def _ratio(sessions: list[Any], images: np.ndarray) -> float:
    """Median, over rounds in turns, of the first session's time over the second's."""
    found = []
    for turn in range(ROUNDS + 3):
        took = []
        for session in sessions:
            began = time.perf_counter()
            session.run(None, {"images": images})
            took.append(time.perf_counter() - began)
        if turn >= 3:
            found.append(took[0] / took[1])
    return float(np.median(found))
