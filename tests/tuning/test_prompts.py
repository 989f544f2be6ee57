"""Prompts: the paper's semantics on a plain ViT, windows with extra keys on Swin, and where they are refused."""

import copy

import pytest
import timm
import torch
from torch.testing import assert_close

import tiny
from tailor.backbones import describe
from tailor.backbones.windows import attend
from tailor.errors import PlanError
from tailor.tuning import planner
from tailor.tuning.apply import apply_
from tailor.tuning.methods.vpt_deep import VptDeep, fresh
from tailor.tuning.methods.vpt_shallow import VptShallow


def _tuned(model, method):
    anatomy = describe(model)
    return tiny.trained_(apply_(model, planner.plan(model, anatomy, method), anatomy.heads)).eval()


def _embedded(model, x):
    return model.norm_pre(model.patch_drop(model._pos_embed(model.patch_embed(x))))


@pytest.mark.parametrize("settings", [{}, {"reg_tokens": 3}, {"class_token": False, "global_pool": "avg"}])
def test_deep_prompts_overwrite_their_places_at_every_block(settings):
    plain = tiny.vit(**settings).double()
    tuned = _tuned(copy.deepcopy(plain), VptDeep(prompts=4))
    image, prefix = tiny.images(plain), plain.num_prefix_tokens
    with torch.no_grad():
        x = _embedded(plain, image)
        x = torch.cat([x[:, :prefix], torch.zeros(2, 4, 32), x[:, prefix:]], 1)
        for index, block in enumerate(plain.blocks):
            x[:, prefix : prefix + 4] = tuned.blocks[index].prompts
            x = block(x)
        x = torch.cat([x[:, :prefix], x[:, prefix + 4 :]], 1)
        plain.head.load_state_dict(tuned.head.state_dict())
        assert_close(tuned(image), plain.forward_head(plain.norm(x)), rtol=1e-10, atol=1e-12)


def test_shallow_prompts_travel_and_leave_before_the_pooling():
    plain = tiny.vit(class_token=False, global_pool="avg").double()
    tuned = _tuned(copy.deepcopy(plain), VptShallow(prompts=4))
    image = tiny.images(plain)
    with torch.no_grad():
        x = _embedded(plain, image)
        x = torch.cat([tuned.blocks[0].prompts.expand(2, -1, -1), x], 1)
        for block in plain.blocks:
            x = block(x)
        plain.head.load_state_dict(tuned.head.state_dict())
        assert_close(tuned(image), plain.forward_head(plain.norm(x[:, 4:])), rtol=1e-10, atol=1e-12)
        assert tuned.forward_features(image).shape == plain.forward_features(image).shape


def test_on_one_block_shallow_and_deep_are_the_same():
    one, two = (_tuned(tiny.vit(depth=1), method) for method in (VptShallow(), VptDeep()))
    x = tiny.images(one)
    with torch.no_grad():
        assert_close(one(x), two(x), rtol=0, atol=0)


@pytest.mark.parametrize("family", [tiny.swin, tiny.swin2])
@pytest.mark.parametrize("block", [0, 1], ids=["plain", "shifted"])
def test_without_extra_tokens_windows_attend_as_timm_s_do(family, block):
    model = family().double()
    attention, mask = model.layers[0].blocks[block].attn, model.layers[0].blocks[block].attn_mask
    mask = None if mask is None else mask.double()
    assert (mask is not None) == bool(block)
    x = tiny.tokens(16, 16, 18).double()  # two images of nine windows
    with torch.no_grad():
        assert_close(attend(attention, x, x.new_zeros(0, 16), mask), attention(x, mask=mask), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("family", [tiny.swin, tiny.swin2])
def test_an_extra_token_is_a_key_and_a_value_without_bias_or_mask(family):
    """Against one window and one head at a time."""
    block = family().double().layers[0].blocks[1]
    attention, mask = block.attn, block.attn_mask.double()
    x, extra = tiny.tokens(16, 16, 9).double(), tiny.tokens(16, 3, 1, seed=2)[0].double()
    with torch.no_grad():
        found = attend(attention, x, extra, mask)
        seen = []
        for window in range(9):
            both = torch.cat([extra, x[window]])
            qkv = attention.qkv(both)
            if getattr(attention, "q_bias", None) is not None:
                qkv = qkv + torch.cat([attention.q_bias, attention.k_bias, attention.v_bias])
            heads = []
            for head in range(2):
                q, k, v = (qkv[:, part * 16 + head * 8 : part * 16 + head * 8 + 8] for part in range(3))
                if hasattr(attention, "cpb_mlp"):
                    q, k = q / q.norm(dim=1, keepdim=True), k / k.norm(dim=1, keepdim=True)
                    scores = q @ k.T * attention.logit_scale[head].clamp(max=4.60517).exp()
                    table = 16 * torch.sigmoid(attention.cpb_mlp(attention.relative_coords_table).view(-1, 2))
                else:
                    scores, table = q @ k.T * 8**-0.5, attention.relative_position_bias_table
                scores[3:, 3:] += table[attention.relative_position_index][..., head] + mask[window]
                heads.append((scores.softmax(-1) @ v)[3:])
            seen.append(attention.proj(torch.cat(heads, 1)))
        assert_close(found, torch.stack(seen), rtol=1e-6, atol=1e-8)


def test_the_small_swin_really_pads():
    model, sizes = tiny.swin(), []
    for layer in model.layers:
        layer.blocks[0].attn.register_forward_pre_hook(lambda _, args: sizes.append(args[0].shape[0] * 16))
    with torch.no_grad():
        model(tiny.images(model, 1))
    assert sizes == [144, 64] and sizes != [100, 25]


def test_the_start_is_the_paper_s():
    prompts = fresh(200, 768, torch.empty(0)).detach()
    assert 0.062 < prompts.abs().max() <= 0.0625 and abs(float(prompts.mean())) < 1e-3


@pytest.mark.parametrize("method", [VptShallow(), VptDeep()])
def test_a_table_of_position_biases_refuses_prompts(method):
    model = timm.create_model(
        "beit_base_patch16_224", img_size=32, patch_size=8, embed_dim=32, depth=2, num_heads=2, num_classes=5
    )
    with pytest.raises(PlanError, match="a table for exactly its tokens"):
        _tuned(model, method)
