"""Closed-form recovery: after a cut, weights that best give back what the dense layers computed, without training."""

from tailor.pruning.recover.norms import estimate_
from tailor.pruning.recover.repair import Repaired, RepairedLayer, repair_

__all__ = ["Repaired", "RepairedLayer", "estimate_", "repair_"]
