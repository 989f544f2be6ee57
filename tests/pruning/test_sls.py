"""Features of all blocks in one pass, and a curve measured only as far down as the decision needs."""

from typing import NamedTuple

import pytest
import torch
from torch.testing import assert_close

import tiny
from tailor.backbones import describe
from tailor.criteria.silhouette import silhouette
from tailor.errors import PlanError
from tailor.pruning import sls
from tailor.pruning.layers import choose
from tailor.pruning.settings import Sls
from tailor.pruning.sls import BlockFeatures, again, collect, measure


class Batch(NamedTuple):
    images: torch.Tensor
    targets: torch.Tensor
    sources: tuple[str, ...]


def batches(model, count=3, size=2):
    for i in range(count):
        yield Batch(tiny.images(model, size, seed=i), tiny.labels(size), tuple(f"{i}-{j}.png" for j in range(size)))


def outputs(model, x, paths):
    """What each module returns, one pass a module: the slow way."""
    found = []
    for path in paths:
        kept = []
        handle = model.get_submodule(path).register_forward_hook(
            lambda m, given, output, kept=kept: kept.append(output)
        )
        with torch.no_grad():
            model(x)
        handle.remove()
        found.append(kept[0])
    return found


def feature(model, family, path, output):
    if family in ("vit", "distilled", "eva"):
        return output[:, 0]
    if family in ("swin", "swin2"):
        if path.startswith("layers.0"):  # the merging after its stage, even in the middle of it
            output = model.layers[1].downsample(output)
        return output.flatten(1, 2).mean(1)
    return output.flatten(2).mean(2)


@pytest.mark.parametrize("family", ["vit", "distilled", "eva", "swin", "swin2", "convnext", "resnet"])
def test_one_pass_collects_what_a_pass_for_each_block_would(family):
    model = tiny.MODELS[family]()
    anatomy = describe(model)
    found = collect(model, anatomy, batches(model))
    x = torch.cat([batch.images for batch in batches(model)])
    assert found.blocks == tuple(block.path for block in anatomy.blocks)
    assert found.labels.tolist() == [0, 1] * 3
    with torch.no_grad():
        for path, values, output in zip(found.blocks, found.values, outputs(model, x, found.blocks), strict=True):
            assert_close(values, feature(model, family, path, output))
    assert not any(module._forward_hooks for module in model.modules())


def test_blocks_that_resize_their_map_are_told():
    assert collect(tiny.resnet(), describe(tiny.resnet()), batches(tiny.resnet())).fixed == (0, 1, 2, 3)
    assert collect(tiny.swin(), describe(tiny.swin()), batches(tiny.swin())).fixed == ()


def test_without_a_class_token_the_patches_are_averaged():
    model = tiny.vit(class_token=False, global_pool="avg", reg_tokens=2)
    anatomy = describe(model)
    assert anatomy.prefix == 2
    x = torch.cat([batch.images for batch in batches(model)])
    (last,) = outputs(model, x, ["blocks.2"])
    assert_close(collect(model, anatomy, batches(model)).values[-1], last[:, 2:].mean(1))


def test_a_training_model_is_read_in_eval_mode_and_left_as_it_was():
    model = tiny.vit(proj_drop_rate=0.5).train()
    anatomy = describe(model)
    first, second = (collect(model, anatomy, batches(model)).values[-1] for _ in range(2))
    assert torch.equal(first, second) and model.training


def test_a_backbone_without_known_blocks_is_refused():
    import dataclasses

    model = tiny.vit()
    with pytest.raises(PlanError, match="blocks are not known") as refusal:
        collect(model, dataclasses.replace(describe(model), blocks=(), family="generic"), batches(model))
    assert "isomorphic" in refusal.value.hint


def test_a_feature_that_is_not_finite_names_block_and_image():
    model = tiny.vit()
    broken = [batch._replace(images=batch.images.clone()) for batch in batches(model)]
    broken[1].images[1, 0, 0, 0] = float("nan")
    with pytest.raises(PlanError, match=r"block `blocks\.0` is not finite for image `1-1\.png`"):
        collect(model, describe(model), broken)
    assert not any(module._forward_hooks for module in model.modules())


def made(distances, n=60, classes=3):
    """Features of blocks whose classes lie so far apart."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(n) % classes
    centres = torch.randn(classes, 8, generator=generator)
    values = tuple(distance * centres[labels] + torch.randn(n, 8, generator=generator) for distance in distances)
    return BlockFeatures(tuple(f"blocks.{i}" for i in range(len(distances))), values, labels)


def test_nothing_below_the_end_of_the_walk_is_scored(monkeypatch):
    scored = []
    monkeypatch.setattr(sls, "separation", lambda v, y, layer, seed: scored.append(layer) or real(v, y, layer=layer))
    features = made((0.0, 9.0, 0.0, 9.0, 9.0))
    curve = measure(features, Sls(0.5), processes=1)
    assert scored == ["blocks.4", "blocks.3", "blocks.2"]
    assert curve.scores[:2] == (None, None) and set(curve.planes) == {2, 3, 4}
    assert choose(curve.scores, Sls(0.5), features.blocks).kept == (0, 1, 2, 3)


real = sls.separation


def test_the_curve_is_the_silhouette_of_each_block_whatever_the_processes():
    features = made((0.5, 2.0))
    slow = [silhouette(v, features.labels, layer="x", seed=3) for v in features.values]
    for processes in (1, 2):
        curve = measure(features, Sls(), seed=3, processes=processes, whole=True)
        assert list(curve.scores) == slow
    assert again(features, 1, (3,), processes=1) == slow[1:]


def test_a_constant_feature_scores_minus_one_and_ends_the_walk():
    features = made((9.0, 9.0, 9.0))
    features.values[1][:] = 0.7
    curve = measure(features, Sls(0.5), processes=1)
    assert curve.scores[1] == -1.0
    assert choose(curve.scores, Sls(0.5), features.blocks).kept == (0, 1, 2)


@pytest.mark.parametrize(("n", "classes", "message"), [(9, 3, "too few"), (20, 1, "1 classes"), (20, 20, "20 classes")])
def test_counts_without_a_silhouette_are_named(n, classes, message):
    with pytest.raises(PlanError, match=message):
        measure(made((1.0, 1.0), n=n, classes=classes), Sls(), processes=1)


def test_classes_of_a_few_images_are_warned_of():
    assert made((1.0,), n=60, classes=15).warning == ""
    assert "half of the 30 classes have 2 images" in made((1.0,), n=60, classes=30).warning
