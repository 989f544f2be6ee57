"""A LoRA bundle in peft's layout predicts the same in peft itself."""

import pytest
import torch
from made import sparse_plan, spec_and_model

from tailor import backbones
from tailor.bundle import peft as layout
from tailor.errors import PlanError


def test_peft_loads_the_folder_and_predicts_the_same(tmp_path):
    peft = pytest.importorskip("peft")
    spec, model = spec_and_model("lora-4")
    layout.write(tmp_path / "x.peft", model, spec)
    base = backbones.create("tailor_mini_s")
    backbones.attach_head_(base, 3)
    theirs = peft.PeftModel.from_pretrained(base, tmp_path / "x.peft").eval()
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(theirs(x), model(x), rtol=1e-5, atol=1e-5)


def test_other_plans_are_refused(tmp_path):
    spec, model = spec_and_model(plan=sparse_plan())
    with pytest.raises(PlanError, match="LoRA on whole layers"):
        layout.write(tmp_path / "x.peft", model, spec)
