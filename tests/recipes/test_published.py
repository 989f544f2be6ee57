"""The published configurations: sizes against the published procedure on random weights, uniform ones to the digit.

Nothing has values: models live on the meta device. The papers' counter adds norms, activations and the softmax to the
matrix products that we count; a test counts them likewise before it compares.
"""

import copy
from functools import cache

import pytest
import timm
import torch
from torch import nn

from tailor import backbones, recipes
from tailor.events import silent
from tailor.inputs import Inputs
from tailor.measure.count import macs, parameters
from tailor.pruning.blocks import keep_blocks
from tailor.pruning.layers import apply_layers_
from tailor.pruning.settings import Shares, Widths
from tailor.pruning.width import kept, random_scores, widths
from tailor.tracing import as_published, cut_, mac_cost, parameter_cost, plan_widths, trace
from tailor.training import read_recipe
from tailor.workflow import planners
from tailor.workflow.counts import ScoredUnits, counts_for
from tailor.workflow.goal import Goal

IMAGES = Inputs.images(3, 224, 224)
FLAGS = ("emb", "heads", "dim", "mlp", "macs")
slow = pytest.mark.slow

TABLE = {
    "deit-4.2g": (4.107, 20.577),
    "deit-2.6g": (2.603, 13.055),
    "deit-1.2g": (1.206, 5.723),
    "deit-0.6g": (0.621, 3.074),
    "swin-4.5g": (4.438, 24.301),
    "convnext-8.5g": (8.425, 48.776),
    "convnext-4.2g": (4.468, 28.530),
    "resnet50-2.0g": (2.280, 14.283),
    "resnet101-4.5g": (4.781, 27.40),
    "resnet101-3.8g": (4.072, 23.44),
    "resnet152-4.0g": (4.189, 22.07),
    "mobilenetv2-0.15g": (0.177, 2.134),
}
"""G MACs and M parameters of the published code on random weights, by the papers' counter."""

DENSE = {
    "deit_base_distilled_patch16_224": 17.6791,
    "resnet50": 4.1219,
    "mobilenetv2_100": 0.3202,
    "convnext_base": 15.3603,
    "swin_base_patch4_window7_224": 15.4789,
}
"""G MACs by the papers' counter, nothing removed."""

UNIFORM = {"deit-4.2g": (384, 6, 48, 1536), "deit-1.2g": (192, 3, 56, 768)}
"""Embedding, heads, head dim and hidden width where every layer loses the same share."""

QUICK = ("deit", "mobilenet", "resnet50")


def rows(table):
    return [pytest.param(name, marks=() if name.startswith(QUICK) else slow) for name in table]


@cache
def traced(name):
    with torch.device("meta"):
        model = timm.create_model(name).eval()
    return model, trace(model, (torch.empty(2, *IMAGES.image, device="meta"),))


def papers_macs(model):
    """Matrix products, twice every element of an affine norm, every element of an activation and of the scores."""
    extra = 0

    def add(module, given, output):
        nonlocal extra
        extra += output.numel() * (2 if getattr(module, "weight", None) is not None else 1)

    def add_scores(module, given, output):
        nonlocal extra
        extra += given[0].shape[0] * module.num_heads * given[0].shape[1] ** 2

    kinds = (nn.ReLU, nn.ReLU6, nn.GELU, nn.LayerNorm, nn.modules.batchnorm._BatchNorm)
    hooks = [m.register_forward_hook(add) for m in model.modules() if isinstance(m, kinds)]
    hooks += [
        m.register_forward_hook(add_scores) for m in model.modules() if hasattr(m, "num_heads") and hasattr(m, "qkv")
    ]
    with torch.no_grad():
        model(torch.empty(1, *IMAGES.image, device="meta"))
    for hook in hooks:
        hook.remove()
    return extra + macs(model, IMAGES)


@pytest.mark.parametrize("name", rows(DENSE))
def test_the_papers_counter_is_understood(name):
    model, _ = traced(name)
    assert papers_macs(model) / 1e9 == pytest.approx(DENSE[name], rel=0.005)


def settings_of(method, widths):
    """How units are chosen with this section of a recipe."""
    return planners.named("prune", method, {"widths": widths}).settings


def made(name, method="isomorphic", **changes):
    """The model that a configuration leaves with random scores, and its counts."""
    settings = recipes.read(f"isomorphic/{name}")
    model, found = traced(settings["name"].split(".")[0])
    options = settings_of(method, {**settings["widths"], **changes})
    groups = as_published(found)
    scores = random_scores(groups, 0)
    goal = Goal(**{flag: settings.get(flag) for flag in FLAGS})
    scored = ScoredUnits(model, found, scores, options, IMAGES)
    counts = counts_for(scored, goal.given(), goal.target(), silent)
    cut = cut_(copy.deepcopy(model), plan_widths(groups, kept(groups, scores, counts)))
    if options.blocks:
        blocks = [block.path for block in backbones.describe(model).blocks]
        apply_layers_(cut, keep_blocks(blocks, dict.fromkeys(blocks, 0.0), options.blocks))
    return cut, counts


@pytest.mark.parametrize("name", rows(TABLE))
def test_a_published_configuration_has_the_published_size(name):
    cut, _ = made(name)
    giga, millions = TABLE[name]
    assert papers_macs(cut) / 1e9 == pytest.approx(giga, rel=0.03)
    assert parameters(cut) / 1e6 == pytest.approx(millions, rel=0.03)


def closed_form(E, H, D, M, *, blocks=12, prefix=2, heads=2):
    """MACs and parameters of a ViT at 224 pixels with this many tokens in front and classifiers of 1000 classes."""
    N, A = 196 + prefix, H * D
    products = 196 * E * 768 + blocks * (N * E * 3 * A + 2 * N * N * A + N * A * E + 2 * N * E * M) + heads * E * 1000
    block = 4 * E + 3 * A * E + 3 * A + A * E + E + 2 * E * M + M + E
    return products, 769 * E + prefix * E + N * E + blocks * block + 2 * E + heads * (1000 * E + 1000)


@pytest.mark.parametrize("name", UNIFORM)
def test_uniform_configurations_are_exact(name):
    cut, _ = made(name, "uniform", attention="layer")
    assert (macs(cut, IMAGES), parameters(cut)) == closed_form(*UNIFORM[name])


def test_the_closed_form_of_deit_s_is_the_published_size():
    assert closed_form(*UNIFORM["deit-4.2g"])[1] == 20663504


@pytest.mark.parametrize(("share", "size"), [("26%", 14.306)])
def test_a_uniform_resnet_has_the_parameters_of_local_pruning(share, size):
    model, found = traced("resnet50")
    asked = Shares(**Goal(emb=share, mlp=share).given())
    counts = widths(found.groups, random_scores(found.groups, 0), asked, Widths("uniform", 2, "down"))
    assert parameter_cost(model, found).at(counts) / 1e6 == pytest.approx(size, abs=0.0005)


@slow
def test_a_target_is_met_in_the_paper_s_parts():
    cut, counts = made("swin-6g")
    model, found = traced("swin_base_patch4_window7_224")
    assert 0.995 * 6e9 < mac_cost(found).at(counts) <= 6e9
    assert macs(cut, IMAGES) == mac_cost(found).at(counts)
    assert all(counts[g.id] == g.size for g in found.groups.groups if g.label == "heads")
    assert parameters(cut) < parameters(model)


@pytest.mark.parametrize("name", [n for n in recipes.names() if n.startswith("isomorphic/")])
def test_a_configuration_is_complete_and_every_key_is_known(name):
    settings = recipes.read(name)
    flags = {"name", "classifier", "method", "criterion", "samples", "widths", "retrain", "repair", "teacher", "recipe"}
    flags |= set(FLAGS)
    assert settings.keys() <= flags
    assert timm.is_model(settings["name"].split(".")[0])
    assert settings_of(settings["method"], settings["widths"]).strict == "paper"
    Goal(**{flag: settings.get(flag) for flag in FLAGS}).target()
    recipe = read_recipe(settings["recipe"])
    assert recipe.warmup == 0 and recipe.epochs in (100, 300)
    assert (recipe.distil.kind == "two-heads") == ("teacher" in settings) == ("deit" in name)
