"""The report of a plan against counts by hand."""

import pytest
import spt_models

from tailor.surgery import get_parameter
from tailor.tuning.methods.lora import Lora
from tailor.tuning.plan import Entries, Tune, TunePlan
from tailor.tuning.spt.allocate import allocate
from tailor.tuning.spt.candidates import candidates
from tailor.tuning.spt.report import summary
from tailor.tuning.spt.settings import Spt

BIAS = "blocks.0.attn.qkv.bias"


def test_a_plan_made_by_hand():
    _, anatomy = spt_models.shaken("vit")
    plan = TunePlan(
        "spt-lora",
        full=("cls_token", "norm.weight", "blocks.1.norm2.bias", f"{BIAS}[16:32]"),
        tunes=(
            Tune("blocks.0.attn.qkv[v]", Lora(rank=2), (32, 48)),
            Tune("blocks.1.mlp.fc1", Lora(rank=2)),
        ),
        # q of block 0: rows 0 and 2, columns 0, 3, 5; k: one entry, at the row after q's last
        entries=(Entries("blocks.0.attn.qkv.weight", (0, 3, 5, 35, 256)), Entries(BIAS, (1, 40))),
        cost=16 + 16 + 16 + 16 + 64 + 160 + 5 + 2,
    )
    made = summary(plan, anatomy)
    assert (made.structured, made.matrices, made.whole, made.vectors, made.scalars) == (2, 12, 3, 22, 7)
    assert made.per_operation == (("q", 0, 2), ("k", 0, 2), ("v", 1, 2), ("proj", 0, 2), ("fc1", 1, 2), ("fc2", 0, 2))
    assert made.per_block == (1, 1)
    assert made.operations == ("q", "k", "v", "proj", "fc1", "fc2", "norm1", "norm2")
    expected = ((4 + 1, 1 + 16, 64 + 1, 0, 0, 0, 0, 0), (0, 0, 0, 0, 160, 0, 0, 16))
    assert made.shares == tuple(tuple(n / plan.cost for n in row) for row in expected)
    assert made.rest == pytest.approx((16 + 16) / plan.cost)
    masks = [(m.site, m.entries, m.rows, m.columns, m.hull) for m in made.masks]
    assert masks == [("blocks.0.attn.qkv[q]", 4, 2, 3, 6 / 256), ("blocks.0.attn.qkv[k]", 1, 1, 1, 1 / 256)]
    text = "\n".join(made.lines())
    assert "2 of 12" in text and "v 1/2" in text and "entries mean 2, median 2, max 4" in text


@pytest.mark.parametrize("family", spt_models.FAMILIES)
@pytest.mark.parametrize("structured", ["lora", "site-adapter"])
def test_the_shares_and_the_rest_make_up_the_whole_plan(family, structured):
    model, anatomy = spt_models.shaken(family)
    plan = allocate(spt_models.synthetic(model, anatomy), anatomy, model, Spt(structured=structured, rank=2), 900)
    made = summary(plan, anatomy)
    outside = sum(get_parameter(model, name).numel() for name in anatomy.tokens)
    beside = [c for c in candidates(anatomy) if c.block < 0]
    outside += sum(c.size for c in beside if c.site is None and c.name in plan.full)
    outside += sum(
        sum(c.start <= i < c.start + c.size for i in e.indices)
        for e in plan.entries
        for c in beside
        if c.tensor == e.tensor
    )
    for tune in plan.tunes:
        if tune.site in {c.name for c in beside}:
            outside += tune.method.cost(model.get_submodule(tune.path), tune.rows)
    assert made.rest * plan.cost == pytest.approx(outside)
    assert made.structured == len(plan.tunes) and made.structured == sum(n for _, n, _ in made.per_operation)
