"""Checkpoint files of every layout end in the same backbone; code hidden in one is never run."""

import os
import pickle

import numpy
import pytest
import torch
from safetensors.torch import save_file

from tailor import backbones
from tailor.errors import ModelError

NAME = "tailor_mini_s"


@pytest.fixture(scope="module")
def source():
    model = backbones.create(NAME, "random", seed=5)
    return {k: v.clone() for k, v in model.state_dict().items()}


def same(model, source):
    own = model.state_dict()
    return all(torch.equal(own[k], v) for k, v in source.items() if not k.startswith("head."))


def without_head(source):
    return {k: v for k, v in source.items() if not k.startswith("head.")}


def moco(source):
    wrapped = {f"module.base_encoder.{k}": v for k, v in without_head(source).items()}
    wrapped |= {"module.base_encoder.head.0.weight": torch.zeros(2, 2)}
    wrapped |= {f"module.momentum_encoder.{k}": v * 0 for k, v in without_head(source).items()}
    return {"epoch": 3, "state_dict": wrapped | {"module.predictor.0.weight": torch.zeros(2, 2)}}


LAYOUTS = {
    "plain": lambda s: s,
    "mae": lambda s: {"model": without_head(s) | {"mask_token": torch.zeros(1), "decoder_pos_embed": torch.zeros(1)}},
    "moco-v3": moco,
    "data-parallel": lambda s: {"state_dict": {f"module.{k}": v for k, v in s.items()}},
}


@pytest.mark.parametrize("layout", list(LAYOUTS))
def test_torch_files_of_every_layout(tmp_path, source, layout):
    torch.save(LAYOUTS[layout](source), tmp_path / "w.pth")
    assert same(backbones.create(NAME, str(tmp_path / "w.pth")), source)


def test_safetensors(tmp_path, source):
    save_file(source, tmp_path / "w.safetensors")
    assert same(backbones.create(NAME, str(tmp_path / "w.safetensors")), source)


def test_the_position_embedding_follows_the_image_size(tmp_path, source):
    save_file(source, tmp_path / "w.safetensors")
    model = backbones.create(NAME, str(tmp_path / "w.safetensors"), image_size=96)
    assert model.pos_embed.shape == (1, 145, 96)
    assert model(torch.zeros(1, 3, 96, 96)).shape == (1, 200)


def test_a_file_of_another_model_is_refused(tmp_path, source):
    save_file({k: v for k, v in source.items() if "blocks.11" not in k}, tmp_path / "w.safetensors")
    with pytest.raises(ModelError, match=r"lacks `blocks.11"):
        backbones.create(NAME, str(tmp_path / "w.safetensors"))


def test_a_pickle_is_never_executed(tmp_path):
    marker = tmp_path / "executed"

    class Hostile:
        def __reduce__(self):
            return (os.mkdir, (str(marker),))

    (tmp_path / "w.pth").write_bytes(pickle.dumps(Hostile()))
    with pytest.raises(ModelError, match="without unpickling"):
        backbones.create(NAME, str(tmp_path / "w.pth"))
    assert not marker.exists()


def test_the_digest_sees_the_backbone_and_not_the_head(source):
    one = backbones.create(NAME, "random", seed=5)
    before = backbones.digest(one)
    backbones.attach_head_(one, 3)
    assert backbones.digest(one) == before
    with torch.no_grad():
        one.norm.bias[0] += 1e-6
    assert backbones.digest(one) != before


def test_a_local_directory_in_the_hubs_layout(tmp_path, source):
    import json

    save_file(source, tmp_path / "model.safetensors")
    config = {
        "architecture": "vit_tiny_patch16_224",
        "num_classes": 200,
        "model_args": {"img_size": 64, "patch_size": 8, "embed_dim": 96, "depth": 12, "num_heads": 3},
        "pretrained_cfg": {
            "input_size": [3, 64, 64],
            "mean": [0.5] * 3,
            "std": [0.5] * 3,
            "classifier": "head",
            "num_classes": 200,
        },
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    model = backbones.create(f"local-dir:{tmp_path}")
    assert same(model, source)
    assert backbones.config_of(model).mean == (0.5, 0.5, 0.5)


def test_without_a_hub_a_bare_name_says_what_to_do(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ModelError) as caught:
        backbones.create("vit_tiny_patch16_224")
    assert "--weights random" in caught.value.hint
    assert "the hub cannot be reached" in caught.value.message


def released(source, heads=3):
    """The tensors in the names and layouts of the first ViT release (JAX)."""
    width = source["cls_token"].shape[-1]
    wide = {"query": 0, "key": 1, "value": 2}
    made = {
        "embedding/kernel": source["patch_embed.proj.weight"].permute(2, 3, 1, 0),
        "embedding/bias": source["patch_embed.proj.bias"],
        "cls": source["cls_token"],
        "Transformer/posembed_input/pos_embedding": source["pos_embed"],
        "Transformer/encoder_norm/scale": source["norm.weight"],
        "Transformer/encoder_norm/bias": source["norm.bias"],
    }
    for i in range(12):
        block, theirs = f"blocks.{i}.", f"Transformer/encoderblock_{i}/"
        attention = theirs + "MultiHeadDotProductAttention_1/"
        for name, part in wide.items():
            rows = slice(part * width, (part + 1) * width)
            made[f"{attention}{name}/kernel"] = source[block + "attn.qkv.weight"][rows].t().reshape(width, heads, -1)
            made[f"{attention}{name}/bias"] = source[block + "attn.qkv.bias"][rows].reshape(heads, -1)
        made[attention + "out/kernel"] = source[block + "attn.proj.weight"].t().reshape(heads, -1, width)
        made[attention + "out/bias"] = source[block + "attn.proj.bias"]
        for norm, number in (("norm1", 0), ("norm2", 2)):
            made[f"{theirs}LayerNorm_{number}/scale"] = source[f"{block}{norm}.weight"]
            made[f"{theirs}LayerNorm_{number}/bias"] = source[f"{block}{norm}.bias"]
        for layer, number in (("fc1", 0), ("fc2", 1)):
            made[f"{theirs}MlpBlock_3/Dense_{number}/kernel"] = source[f"{block}mlp.{layer}.weight"].t()
            made[f"{theirs}MlpBlock_3/Dense_{number}/bias"] = source[f"{block}mlp.{layer}.bias"]
    return {name: tensor.numpy() for name, tensor in made.items()}


def test_the_npz_of_the_first_release(tmp_path, source):
    numpy.savez(tmp_path / "w.npz", **released(source))
    assert same(backbones.create(NAME, str(tmp_path / "w.npz")), source)


def test_a_damaged_npz_is_said(tmp_path):
    (tmp_path / "w.npz").write_bytes(b"PK not really")
    with pytest.raises(ModelError, match=r"`w.npz` cannot be read"):
        backbones.create(NAME, str(tmp_path / "w.npz"))


def test_a_norm_inside_the_head_is_no_classifier(tmp_path):
    source = backbones.create("test_convnext", "random", seed=1)
    torch.nn.init.normal_(source.head.norm.weight)
    save_file(dict(source.state_dict()), tmp_path / "w.safetensors")
    made = backbones.create("test_convnext", str(tmp_path / "w.safetensors"))
    assert torch.equal(made.head.norm.weight, source.head.norm.weight)
    assert not torch.equal(made.head.fc.weight, source.head.fc.weight)


@pytest.mark.parametrize(("name", "size"), [("tailor_mini_ti", 1), ("tailor_mini_ti", 7)])
def test_a_size_that_the_backbone_does_not_take_is_refused_when_it_is_made(name, size):
    with pytest.raises(ModelError, match=f"does not take images of {size} pixels") as caught:
        backbones.create(name, "random", size)
    assert "--image-size" in caught.value.hint


@pytest.mark.parametrize("source", ["pretrained", "file"])
def test_a_size_without_a_patch_is_refused_before_weights_are_fitted_to_it(source):
    file = source if source == "pretrained" else str(backbones.bundled.weights("tailor_mini_ti"))
    with pytest.raises(ModelError, match="does not take images of 1 pixels"):
        backbones.create("tailor_mini_ti", file, 1)


def test_a_size_that_it_takes_is_no_reason_to_draw():
    before = torch.get_rng_state()
    backbones.create("tailor_mini_ti", "random", 32)
    assert torch.equal(before, torch.get_rng_state())
