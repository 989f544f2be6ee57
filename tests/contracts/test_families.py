"""Every family: parts put together are the model, levels are the maps that timm gives, whatever was done to it."""

import copy

import pytest
import timm
import torch
from timm.layers import PatchEmbed
from torch import nn
from torch.testing import assert_close

import tiny
from tailor import backbones
from tailor.errors import ModelError
from tailor.pruning.layers import LayerPlan, apply_layers_
from tailor.surgery import get_module, set_module_
from tailor.tracing import cut_, half, plan_widths, settle, trace
from tailor.tuning.methods.lora import Lora

FAMILIES = {**tiny.MODELS, "mobilenet": tiny.mobilenet}


def lora_(model):
    """LoRA in place on every site that takes it, moved from its start."""
    for site in backbones.describe(model).layers:
        if site.kind == "linear" and isinstance(get_module(model, site.path), nn.Linear):
            wrapped = Lora(rank=2).wrap(get_module(model, site.path))
            set_module_(model, site.path, tiny.trained_(wrapped).eval())
    return model


def shortened_(model):
    """Without the last block that can go."""
    example, paths = tiny.images(model), [b.path for b in backbones.describe(model).blocks]
    droppable = [p for p in paths if _keeps_shape(model, p, example)]
    if not droppable:
        return model
    gone = droppable[-1]
    kept = tuple(i for i, p in enumerate(paths) if p != gone)
    return apply_layers_(model, LayerPlan(kept, (gone,))) if kept else model


def _keeps_shape(model, path, example):
    shapes = []
    hook = get_module(model, path).register_forward_hook(lambda m, given, y: shapes.append(given[0].shape == y.shape))
    with torch.no_grad():
        model(example)
    hook.remove()
    return shapes == [True]


def narrowed_(model):
    """With half of every width that can be cut."""
    images = tiny.images(model)
    groups = settle(model, trace(model, (images,)), (images,)).groups
    return cut_(model, plan_widths(groups, half(groups)))


CHANGES = {"plain": lambda model: model, "shortened": shortened_, "lora": lora_, "narrowed": narrowed_}
TWINS = {"distilled", "swin2", "convnext_nchw", "convnext2"}
CHANGED = [(change, family) for change in CHANGES for family in FAMILIES if change != "narrowed" or family not in TWINS]
"""Narrowing is slow, so of families that are cut alike one stands for the others."""


@pytest.mark.parametrize(("change", "family"), CHANGED)
def test_parts_put_together_are_the_model(change, family):
    model = CHANGES[change](FAMILIES[family]())
    images = tiny.images(model)
    with torch.no_grad():
        assert_close(backbones.parts(model)(images), model(images), rtol=0, atol=0)


@pytest.mark.parametrize("make", FAMILIES.values(), ids=FAMILIES)
def test_parts_name_every_block_in_order(make):
    model = make()
    blocks = [part.path for part in backbones.parts(model).blocks if part.residual]
    assert blocks == [block.path for block in backbones.describe(model).blocks]
    assert all(get_module(model, part.path) is not None for part in backbones.parts(model).blocks)


@pytest.mark.parametrize(("change", "family"), CHANGED)
def test_levels_are_timms_intermediates(change, family):
    model = CHANGES[change](FAMILIES[family]())
    found, images = backbones.features(model), tiny.images(model)
    first = 1 if found.levels[0].path == "layer1" else 0  # timm counts a residual network's stem
    with torch.no_grad():
        maps = found(images)
        expected = model.forward_intermediates(images, intermediates_only=True)[first:]
    assert_close(maps, tuple(expected), rtol=0, atol=0)
    for given, channels, reduction in zip(maps, found.channels, found.reductions, strict=True):
        sizes = [-(-side // reduction) for side in images.shape[-2:]]
        assert given.shape == (len(images), channels, *sizes)


OWN = {
    "vit_tiny_patch16_224": {"img_size": 64, "embed_dim": 32, "depth": 3, "num_heads": 2},
    "eva02_tiny_patch14_224": {"img_size": 56, "embed_dim": 32, "depth": 3, "num_heads": 2},
    "vit_tiny_patch16_dinov3_qkvb": {"embed_dim": 32, "depth": 3, "num_heads": 2},
    "beit_base_patch16_224": {"img_size": 64, "embed_dim": 32, "depth": 3, "num_heads": 2},
    "swin_tiny_patch4_window7_224": {"img_size": 64, "embed_dim": 16, "depths": (1, 2), "num_heads": (2, 4)},
    "swinv2_tiny_window8_256": {"img_size": 64, "embed_dim": 16, "depths": (1, 2), "num_heads": (2, 4)},
    "convnext_atto": {"depths": (1, 1, 1, 1), "dims": (8, 16, 16, 24)},
    "resnet26d": {"layers": (1, 1, 1, 1), "channels": (4, 8, 8, 16)},
    "tf_mobilenetv3_small_minimal_100": {},
    "mobilenetv2_035": {},
    "regnetx_002": {},
    "mobilevitv2_050": {},
}
"""timm's names with settings that make them small; the last two are described by nobody."""


def _own_levels(name, settings, model):
    """timm's `features_only` with the weights of `model`, and the indices of the levels that it gives."""
    levels = timm.create_model(name, features_only=True, **settings).eval()
    weights = {key.replace(".", "_"): value for key, value in model.state_dict().items()}
    with torch.no_grad():
        for key, value in levels.state_dict().items():
            value.copy_(weights[key.removeprefix("model.").replace(".", "_")])
    return levels, list(levels.feature_info.out_indices)


@pytest.mark.parametrize(("name", "settings"), OWN.items(), ids=OWN)
def test_levels_are_those_of_timms_features_only(name, settings):
    model = tiny.shake_(timm.create_model(name, **settings)).eval()
    levels, indices = _own_levels(name, settings, model)
    wanted = [model.feature_info[i] for i in indices]
    found = backbones.features(model)
    ours = {level.path: position for position, level in enumerate(found.levels)}
    images = torch.randn(1, 3, *backbones.config_of(model).inputs.image[1:], generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        maps, expected = found(images), levels(images)
    if "swin" in name:  # timm leaves these channels last
        expected = [map_.permute(0, 3, 1, 2) for map_ in expected]
    compared = 0
    for info, map_ in zip(wanted, expected, strict=True):
        if info["module"] in ours:
            level = found.levels[ours[info["module"]]]
            assert_close(maps[ours[info["module"]]], map_, rtol=0, atol=0)
            assert (level.width, level.reduction) == (info["num_chs"], info["reduction"])
            compared += 1
    assert compared >= min(len(expected), 4)


@pytest.mark.parametrize("name", ["vit", "distilled", "eva", "swin", "swin2"])
def test_images_of_another_size_are_taken_as_timm_takes_them(name):
    """The reference is the same model made to take any size from the start."""
    model = tiny.MODELS[name]()
    size = (48, 24) if model.patch_embed.patch_size[0] == 8 else (56, 28)
    flexible = copy.deepcopy(model)
    if name.startswith("swin"):
        for module in flexible.modules():
            if hasattr(module, "dynamic_mask"):
                module.dynamic_mask = True
        flexible.patch_embed.strict_img_size = False
    else:
        flexible.dynamic_img_size = True
        if name == "eva":
            flexible.rope._use_cached_embed = False
        flexible.patch_embed = PatchEmbed(None, 8, 3, 32, flatten=False, output_fmt="NHWC", strict_img_size=False)
        flexible.patch_embed.load_state_dict(model.patch_embed.state_dict())
        flexible.patch_embed.grid_size = model.patch_embed.grid_size
    images = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(0))
    before = copy.deepcopy(model.state_dict())
    found = backbones.features(model)
    with torch.no_grad():
        maps, expected = found(images), flexible.forward_intermediates(images, intermediates_only=True)
        assert_close(maps, tuple(expected), rtol=0, atol=0)
        assert_close(backbones.parts(model, size)(images), flexible(images), rtol=0, atol=0)
        assert_close(backbones.parts(model)(tiny.images(model)), model(tiny.images(model)), rtol=0, atol=0)
    assert_close(model.state_dict(), before, rtol=0, atol=0)


def test_an_image_that_patches_do_not_cover_is_refused():
    with pytest.raises(ModelError, match="not made of patches of 8 x 8"):
        backbones.features(tiny.vit())(torch.zeros(1, 3, 36, 32))


def test_a_model_that_nobody_described_is_not_taken_apart():
    model = timm.create_model("regnetx_002")
    with pytest.raises(ModelError, match="where its blocks begin and end is not known"):
        backbones.parts(model)


def test_levels_can_be_chosen_and_wrong_ones_are_refused():
    model = tiny.vit()
    chosen, every = backbones.features(model, at=(0, -1)), backbones.features(model)
    assert chosen.levels == (every.levels[0], every.levels[2])
    images = tiny.images(model)
    with torch.no_grad():
        assert_close(chosen(images), (every(images)[0], every(images)[2]), rtol=0, atol=0)
    with pytest.raises(ModelError, match="has 3 levels"):
        backbones.features(model, at=(3,))
