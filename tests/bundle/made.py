"""A spec and a trained-looking model for the bundle tests."""

import torch

from tailor import build as builder
from tailor.spec import BackboneRef
from tailor.surgery import trainable, write_through_
from tailor.tasks.classification import ClassifierHead
from tailor.tuning import planner
from tailor.tuning.plan import Entries, TunePlan

CLASSES = ("ash", "birch", "cedar")


def spec_and_model(method="lora", weights="pretrained", plan=None):
    head = ClassifierHead(CLASSES)
    made = builder.base(BackboneRef("tailor_mini_s", weights), head)
    plan = plan or planner.plan(made.model, made.anatomy, planner.parse(method))
    tuned = builder.apply_plans_(made, (plan,))
    model = tuned.model.eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in trainable(model).values():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.05)
    write_through_(model)
    return tuned.spec, model


def sparse_plan(count=1500):
    entries = (Entries("blocks.0.mlp.fc1.weight", tuple(range(0, 3 * count, 3))),)
    return TunePlan("by-hand", full=("blocks.1.attn.qkv.bias[192:288]",), entries=entries, cost=count + 96)
