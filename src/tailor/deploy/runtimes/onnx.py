"""ONNX Runtime: the file that `tailor export` writes, in a session on the CPU."""

import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tailor.deploy.export import export, opened
from tailor.errors import ModelError
from tailor.inputs import Inputs
from tailor.measure.speed import home


class Session(nn.Module):
    """What an ONNX file computes, called as the model that it was made from."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self.run = opened(file)

    def forward(self, *example: Tensor) -> Any:
        """The one output, or several of them."""
        found = self.run(example)
        return found[0] if len(found) == 1 else tuple(found)


def session(model: nn.Module, inputs: Inputs) -> nn.Module:
    """The model in ONNX Runtime, held against it; ModelError where it cannot be exported, or is not on the CPU."""
    place = home(model)[0]
    if place.type != "cpu":
        raise ModelError(f"`onnx` runs on the CPU here, and the model is on `{place.type}`", hint="add `--device cpu`")
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode(False):
        return Session(export(model, inputs, Path(folder) / "model.onnx").path)
