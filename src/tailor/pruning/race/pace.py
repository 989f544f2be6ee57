"""How long a pass of a cut model takes, from counts alone: a sum over its blocks, fitted to a few measurements.

milliseconds = rest + blocks * (a block's own) + channels * (elementwise work) + MACs * (products), none below zero.
Channels are the lengths of all biases and norms: what passes through them is read and written once.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import nnls


@dataclass(frozen=True)
class Load:
    """What a model is and does: products for an image, parameters, channels that pass elementwise, blocks."""

    macs: float
    params: float
    channels: float
    blocks: float

    def times(self, share: float) -> "Load":
        """As if so much of the model were left, all of its blocks being alike."""
        return Load(self.macs * share, self.params * share, self.channels * share, self.blocks * share)


@dataclass(frozen=True)
class Pace:
    """Milliseconds by load; `error` is the largest relative error on what it was fitted to."""

    rest: float
    block: float
    channel: float
    mac: float
    error: float = 0.0

    def __call__(self, load: Load) -> float:
        """Milliseconds of a pass."""
        return self.rest + self.block * load.blocks + self.channel * load.channels + self.mac * load.macs


def fitted(loads: Sequence[Load], milliseconds: Sequence[float]) -> Pace:
    """The pace that errs least, relatively, on what was measured (non-negative least squares)."""
    table = np.array([[1.0, one.blocks, one.channels, one.macs] for one in loads])
    times = np.asarray(milliseconds, dtype=float)
    scale = np.maximum(table.max(0), 1e-12)
    found, _ = nnls(table / scale / times[:, None], np.ones(len(times)))
    weights = found / scale
    errors = np.abs(table @ weights / times - 1)
    rest, block, channel, mac = map(float, weights)
    return Pace(rest, block, channel, mac, float(errors.max()))
