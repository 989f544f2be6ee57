"""Ways to hold less: blocks computed again, frozen weights in half precision, texts that share rows."""

from dataclasses import replace

import family
import pytest
import test_training as palettes
import torch
from torch import nn
from torch.testing import assert_close

import tiny
from tailor.errors import PlanError, TrainingError, UsageError
from tailor.recipe import Recipe, read_recipe
from tailor.surgery import as_held, changed, hold_, trainable
from tailor.training.engine import recomputing


def gradients(model, x):
    return torch.autograd.grad(model(x).square().mean(), list(trainable(model).values()), allow_unused=True)


def test_blocks_that_run_again_have_the_same_gradients_and_keep_less():
    model, _ = family.adapted(family.vits())
    model.train()
    x = family.images(model)
    for route in (2, 5):
        kept = []
        for wanted in (False, True):
            sizes = [0]
            with (
                recomputing(model, wanted),
                torch.autograd.graph.saved_tensors_hooks(
                    lambda t, sizes=sizes: (sizes.append(t.numel()), t)[1], lambda t: t
                ),
            ):
                kept.append((gradients(model.set_route_(route), x), sum(sizes)))
        for one, other in zip(kept[0][0], kept[1][0], strict=True):
            assert (one is None) == (other is None)
            if one is not None:
                assert_close(one, other, rtol=0, atol=0)
        assert kept[1][1] < kept[0][1] / 2
    assert not getattr(model.view(2), "grad_checkpointing", False)
    with pytest.raises(TrainingError, match="cannot compute its blocks again"), recomputing(nn.Sequential(), True):
        pass


def test_half_precision_of_what_is_frozen_changes_nothing_that_computes_in_it(tmp_path):
    recipe = {"precision": "bf16"}
    whole, course = palettes.made()
    palettes.run(tmp_path / "whole", course, recipe=recipe)
    half, other = palettes.made()
    hold_(half, torch.bfloat16)
    frozen = [p for p in half.parameters() if p.dim() > 1 and not p.requires_grad]
    assert sum(p.dtype == torch.bfloat16 for p in frozen) > len(frozen) / 2
    assert all(p.dtype == torch.float32 for p in trainable(half).values())
    palettes.run(tmp_path / "half", other, recipe=recipe)
    for name, tensor in changed(whole).items():
        assert_close(changed(half)[name], tensor, rtol=0, atol=0)
    x = family.images(half)
    with torch.no_grad(), as_held(half), torch.autocast("cpu", torch.bfloat16):
        assert_close(half.eval()(x), whole.eval()(x), rtol=0, atol=0)


def test_settings_that_need_each_other():
    with pytest.raises(UsageError, match="for computing in half precision"):
        read_recipe({"frozen": "bf16"})
    assert replace(Recipe(), frozen="bf16", precision="bf16").frozen == "bf16"

    class Writes(nn.Linear):
        def write_through_(self):
            pass

    with pytest.raises(PlanError, match="writes into its frozen weight"):
        hold_(nn.Sequential(Writes(2, 2)), torch.bfloat16)
    assert tiny.CLASSES
