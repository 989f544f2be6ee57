"""Decoders for masks: one file each, one row in `DECODERS`."""

from tailor.dense.faseg import FaSeg
from tailor.dense.mask2former import Mask2Former

DECODERS = {
    "mask2former": Mask2Former,
    "faseg": FaSeg,
}
"""Kind to settings; `select` says which features are read, `build(features, classes)` makes the module."""
