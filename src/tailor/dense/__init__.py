"""Decoders for masks and boxes: one file each, one row in `DECODERS`."""

from typing import Any

from tailor.settings import Rows

DECODERS: Rows[Any] = Rows(
    {
        "masks": "tailor.dense.masks.Masks",
        "linear": "tailor.dense.linear.LinearDecoder",
        "mlp": "tailor.dense.mlp.MlpDecoder",
        "mask2former": "tailor.dense.mask2former.Mask2Former",
        "faseg": "tailor.dense.faseg.FaSeg",
        "setr-pup": "tailor.dense.setr_pup.SetrPup",
        "fcos": "tailor.dense.fcos.Fcos",
        "faster-rcnn": "tailor.dense.faster_rcnn.FasterRcnn",
    }
)
"""Kind to settings, the default first; `select` says which features are read, `build(features, classes)` makes the
module, `recipe`, where there is one, how it is trained where nothing else is asked for."""
