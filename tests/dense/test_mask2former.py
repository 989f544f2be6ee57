"""Mask2Former against transformers': the same weights give the same numbers; sizes are the published ones."""

from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

import tiny
from tailor.anatomy import Feature
from tailor.dense.faseg import FaSeg
from tailor.dense.high_resolution import HighResolution
from tailor.dense.mask2former import Mask2Former
from tailor.dense.weights import from_transformers

R50, SWIN_T, SWIN_B, SWIN_L = (256, 512, 1024, 2048), (96, 192, 384, 768), (128, 256, 512, 1024), (192, 384, 768, 1536)
BACKBONE = {R50: 23_508_032, SWIN_T: 27_519_354, SWIN_B: 86_878_584, SWIN_L: 195_198_516}
"""Parameters without a classifier, as timm counts them: the layer norm of each map is the decoder's."""


def features(widths):
    return [Feature(f"stage{i}", width, 4 * 2**i) for i, width in enumerate(widths)]


def count(module):
    return sum(p.numel() for p in module.parameters())


def built(settings, widths=R50, classes=150):
    """On the meta device; a ResNet's maps need no norm, Swin's have one each."""
    settings = replace(settings, norm=widths != R50)
    with torch.device("meta"):
        chosen = settings.select(features(widths))
        return settings.build(chosen, classes)


@pytest.mark.parametrize(
    ("widths", "mask2former", "faseg"),
    [
        (R50, 44_041_367, 50_564_759),
        (SWIN_T, 47_441_169, 53_923_601),
        (SWIN_B, 106_924_239, 113_414_863),
        (SWIN_L, 215_491_851, 221_998_859),
    ],
    ids=["r50", "swin-t", "swin-b", "swin-l"],
)
def test_sizes_are_the_published_ones(widths, mask2former, faseg):
    assert BACKBONE[widths] + count(built(Mask2Former(), widths)) == mask2former
    assert BACKBONE[widths] + count(built(FaSeg(), widths)) == faseg


def test_sizes_of_the_parts():
    head = built(Mask2Former())
    assert count(head.pixels) == 6_035_904
    assert count(head.decoder) == 14_497_431
    assert count(head.decoder.blocks[0]) == 1_578_752
    assert count(head.pixels.encoder[0]) == 732_192
    assert count(head.decoder.masks) == 197_376
    assert count(head.decoder.classes) == 38_807
    assert BACKBONE[R50] + count(built(Mask2Former(), classes=19)) == 44_007_700
    assert BACKBONE[R50] + count(built(FaSeg(), classes=19)) == 50_531_092


def test_each_part_of_faseg_costs_what_the_ablation_says():
    none = HighResolution(kind="none")
    assert BACKBONE[R50] + count(built(FaSeg(blocks=9, fine=none))) == 44_180_631
    assert BACKBONE[R50] + count(built(FaSeg(blocks=12))) == 48_986_007
    assert BACKBONE[R50] + count(built(FaSeg(positions="sine", focus="learned"))) == 50_356_631
    plain = FaSeg(blocks=9, positions="sine", focus="learned", fine=none)
    assert count(built(plain)) == count(built(Mask2Former()))


@pytest.fixture(scope="module")
def theirs():
    import transformers

    backbone = transformers.SwinConfig(
        image_size=64,
        embed_dim=16,
        depths=[1, 1, 1, 1],
        num_heads=[1, 1, 2, 2],
        window_size=2,
        out_features=["stage1", "stage2", "stage3", "stage4"],
    )
    config = transformers.Mask2FormerConfig(
        backbone_config=backbone,
        feature_size=256,
        mask_feature_size=256,
        hidden_dim=256,
        encoder_feedforward_dim=48,
        dim_feedforward=64,
        num_attention_heads=8,
        encoder_layers=2,
        decoder_layers=5,
        num_queries=7,
        num_labels=5,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = transformers.Mask2FormerForUniversalSegmentation(config)
    return tiny.shake_(model.double()).eval()


def ours_of(theirs):
    config = theirs.config
    settings = Mask2Former(
        norm=False,  # theirs are in the backbone
        width=config.hidden_dim,
        queries=config.num_queries,
        blocks=config.decoder_layers - 1,
        heads=config.num_attention_heads,
        hidden=config.dim_feedforward,
        encoder_layers=config.encoder_layers,
        encoder_hidden=config.encoder_feedforward_dim,
    )
    head = settings.build(features((16, 32, 64, 128)), config.num_labels).double()
    missing = head.load_state_dict(from_transformers(theirs.state_dict()), strict=True)
    assert not missing.missing_keys and not missing.unexpected_keys
    return head.eval()


def test_weights_of_transformers_give_its_outputs(theirs):
    head = ours_of(theirs)
    images = torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    with torch.no_grad():
        wanted = theirs(images, output_auxiliary_logits=True)
        found = head(theirs.model.pixel_level_module.encoder(images).feature_maps)
    assert_close(found.classes[-1], wanted.class_queries_logits, rtol=0, atol=1e-4)
    assert_close(found.masks(), wanted.masks_queries_logits, rtol=0, atol=1e-4)
    for depth, other in enumerate(wanted.auxiliary_logits):
        assert_close(found.classes[depth], other["class_queries_logits"], rtol=0, atol=1e-4)


def test_single_precision_agrees_to_a_ten_thousandth(theirs):
    head = ours_of(theirs).float()
    model = theirs.float()
    images = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        wanted = model(images)
        found = head(model.model.pixel_level_module.encoder(images).feature_maps)
    theirs.double()
    assert_close(found.masks(), wanted.masks_queries_logits, rtol=0, atol=1e-4)
    assert_close(found.classes[-1], wanted.class_queries_logits, rtol=0, atol=1e-4)
