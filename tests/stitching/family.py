"""Small shaken families for every test of stitching: two or three anchors of each kind."""

import torch

import tiny
from tailor import backbones
from tailor.stitching.adapt import Adapt, adapt_, bias_plan, tune_plan
from tailor.stitching.join import shape_of
from tailor.stitching.routed import Routed
from tailor.stitching.space import Space, stitch_plan


def vits():
    return [tiny.vit(seed=i, embed_dim=16 * (i + 2), num_heads=2, depth=3) for i in range(3)]


def swins():
    return [tiny.swin(seed=0), tiny.swin(seed=1)]


def convnexts():
    return [tiny.convnext(seed=i, depths=(2, 2, 2 + i, 1), dims=(8 + 4 * i, 16, 16, 24)) for i in range(2)]


def resnets():
    return [tiny.resnet(seed=i, layers=(1, 2, 2 + 2 * i, 1), channels=(4, 8 + 4 * i, 8, 16)) for i in range(2)]


def efficientnets():
    return [tiny.efficientnet(seed=i) for i in range(2)]


FAMILIES = {"vit": vits, "swin": swins, "convnext": convnexts, "resnet": resnets, "efficientnet": efficientnets}


def routed(anchors, space=None):
    """The anchors and all routes through them, nothing wrapped, the layers at a shaken start."""
    anatomies = [backbones.describe(anchor) for anchor in anchors]
    shapes = [shape_of(anchor, anatomy) for anchor, anatomy in zip(anchors, anatomies, strict=True)]
    model = Routed(anchors, anatomies, stitch_plan(shapes, space or Space()))
    tiny.shake_(model.layers, seed=9)
    return model.eval()


def adapted(anchors, settings=None, space=None, trained=True):
    """The routed model with what trains, moved as if trained, and the tune plan."""
    model = routed(anchors, space)
    settings = settings or Adapt(ranks=(2,) * len(anchors))
    tune, bias = tune_plan(model, settings), bias_plan(model, settings)
    adapt_(model, tune, bias)
    if trained:
        tiny.trained_(model, seed=3)
    return model.eval(), tune


def images(model, batch=2, dtype=torch.float32):
    return tiny.images(model.anchors[0], batch).to(dtype)
