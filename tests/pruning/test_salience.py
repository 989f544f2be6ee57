"""Salience against the slow way: one image at a time, a gate on every head; and plain sums for hidden units."""

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

import tiny
from tailor.errors import PlanError
from tailor.pruning.salience import head_saliences, salience_scores
from tailor.pruning.settings import Shares, Widths
from tailor.pruning.width import widths
from tailor.tracing import cut_, plan_widths, settle, trace
from tailor.tracing.trial.settle import uneven
from tailor.tracing.widths.replay import Replayed


@pytest.fixture(scope="module", params=["vit", "swin"])
def subject(request):
    model = tiny.MODELS[request.param]().double()
    return model, trace(model, (tiny.images(model),)).groups


class Pairs:
    def __init__(self, model):
        self.batches = [(tiny.images(model, 3, seed=i), tiny.labels(3)) for i in range(2)]

    def __iter__(self):
        return iter(self.batches)


def by_gates(model, path, heads):
    """Mean over images of |dL/dgate| where each gate multiplies one head's output in front of the projection."""
    gates = torch.ones(heads, dtype=torch.float64, requires_grad=True)
    layer = model.get_submodule(path)
    hook = layer.register_forward_pre_hook(
        lambda module, args: (args[0] * gates.repeat_interleave(args[0].shape[-1] // heads),)
    )
    found = []
    for images, labels in Pairs(model):
        for image, label in zip(images, labels):
            loss = F.cross_entropy(model(image[None]), label[None])
            found.append(torch.autograd.grad(loss, gates)[0].abs())
    hook.remove()
    return torch.stack(found).mean(0)


def test_the_salience_of_heads_is_the_mean_size_of_their_gates_gradients(subject):
    model, groups = subject
    model.train()
    heads = [group for group in groups.groups if group.label == "heads"]
    found = head_saliences(model, groups, heads, Pairs(model))
    assert model.training and all(p.requires_grad and p.grad is None for p in model.parameters())
    model.eval()
    for group in heads:
        assert group.size > 1
        assert_close(found[group.id], by_gates(model, group.id.replace(".heads", ".proj"), group.size))
        assert float(found[group.id].min()) > 0


def test_hidden_units_rank_by_the_norms_of_their_weights(subject):
    model, groups = subject
    scores = salience_scores(model, groups, Pairs(model), "none")
    for group in groups.groups:
        if group.label == "hidden":
            mlp = model.get_submodule(group.id.replace(".hidden", ""))
            first, second = mlp.fc1.weight.detach(), mlp.fc2.weight.detach()
            slow = torch.stack([first[i].abs().sum() + second[:, i].abs().sum() for i in range(group.size)])
            assert_close(2 * scores[group.id], slow)


def test_with_the_uniform_ranking_every_layer_keeps_the_same_rate(subject):
    model, groups = subject
    scores = salience_scores(model, groups, Pairs(model))
    counts = widths(groups, scores, Shares(heads=0.5, hidden=0.5), Widths("uniform", 1))
    for group in groups.groups:
        if group.label in ("heads", "hidden"):
            assert counts[group.id] == group.size // 2


def test_heads_in_a_recorded_module_are_refused():
    model = tiny.swin2()
    x = tiny.images(model)
    once = settle(model, trace(model, (x,)), (x,))
    cut = cut_(model, plan_widths(once.groups, uneven(once.groups)))
    groups = settle(cut, trace(cut, (x,)), (x,)).groups
    assert any(isinstance(module, Replayed) for module in cut.modules())
    with pytest.raises(PlanError, match=r"heads `layers.* have no salience: .* recorded") as raised:
        salience_scores(cut, groups, [(x, tiny.labels(2))])
    assert "--criterion taylor" in raised.value.hint


def test_no_image_no_salience(subject):
    model, groups = subject
    heads = [group for group in groups.groups if group.label == "heads"]
    with pytest.raises(PlanError, match="no image"):
        head_saliences(model, groups, heads, [])
