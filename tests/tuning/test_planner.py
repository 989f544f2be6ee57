"""Methods by their names on the command line."""

import pytest

import tiny
from tailor.backbones import describe
from tailor.errors import PlanError, UsageError
from tailor.tuning import planner
from tailor.tuning.methods import MODULES, SELECTIONS

METHODS = {**SELECTIONS, **MODULES}


@pytest.mark.parametrize("kind", METHODS)
def test_a_name_is_the_method_s_own_kind(kind):
    method = planner.parse(kind)
    assert method == METHODS[kind]() and method.kind == kind
    if method.knob:
        assert planner.label(planner.parse(f"{kind}-4")) == f"{kind}-4"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("loar", "unknown method `loar`\nhint: did you mean `lora`"),
        ("adapt-8", "unknown method `adapt-8`\nhint: did you mean `adapter`"),
        ("bias-3", "`bias` takes no number, found `bias-3`\nhint: write `--method bias`"),
        ("lora-0", "the number in `lora-0` must lie between 1 and 65536"),
    ],
)
def test_a_misspelt_method_is_explained(name, message):
    with pytest.raises(UsageError, match=message):
        planner.parse(name)


def test_more_blocks_than_there_are():
    model = tiny.vit()
    with pytest.raises(PlanError, match="`partial-4` needs 4 blocks, the backbone has 3"):
        planner.plan(model, describe(model), planner.parse("partial-4"))


def test_a_method_without_knob_fits_a_budget_or_does_not():
    model = tiny.vit()
    anatomy, method = describe(model), planner.parse("bias")
    assert planner.plan(model, anatomy, method, 1_120).cost == 1_120
    with pytest.raises(PlanError, match="a budget of 1,119 parameters is too small for `bias`"):
        planner.plan(model, anatomy, method, 1_119)


def test_biases_beside_a_layer_count_as_biases():
    model = tiny.eva()
    names = planner.plan(model, describe(model), planner.parse("bias")).full
    assert {"blocks.0.attn.q_bias", "blocks.0.attn.v_bias", "blocks.0.attn.proj.bias", "fc_norm.bias"} <= set(names)
    assert not any(name.startswith("head.") for name in names)


def test_modules_on_sites_leave_depthwise_convolutions_alone():
    model = tiny.convnext()
    paths = {tune.path for tune in planner.plan(model, describe(model), planner.parse("site-adapter")).tunes}
    assert "stages.1.downsample.1" in paths and not any(path.endswith("conv_dw") for path in paths)
