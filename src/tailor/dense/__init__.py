"""Decoders for masks: one file each, one row in `DECODERS`."""

from tailor.dense.faseg import FaSeg
from tailor.dense.linear import Linear
from tailor.dense.mask2former import Mask2Former
from tailor.dense.masks import Masks
from tailor.dense.mlp import Mlp
from tailor.dense.setr_pup import SetrPup

DECODERS = {
    "masks": Masks,
    "linear": Linear,
    "mlp": Mlp,
    "mask2former": Mask2Former,
    "faseg": FaSeg,
    "setr-pup": SetrPup,
}
"""Kind to settings, the default first; `select` says which features are read, `build(features, classes)` makes the
module."""
