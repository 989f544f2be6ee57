"""Scores for tasks without classes: any loss by the sample, any inputs, any targets, against one backward a sample."""

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

import tiny
from tailor.backbones import describe
from tailor.criteria.squared_gradient import squared_gradients
from tailor.errors import ModelError
from tailor.pruning.elements import element_scores
from tailor.pruning.salience import head_saliences
from tailor.tracing import trace
from tailor.tuning.apply import apply_
from tailor.tuning.noah.search import evaluator, full, plan
from tailor.tuning.noah.settings import Noah
from tailor.tuning.spt.scores import sensitivity


def squared_error(output: Tensor, targets: Tensor) -> Tensor:
    return (output[:, 0] - targets).square()


class Reader(nn.Module):
    """Tokens and their mask in, a number for each token out, as a language model's or a decoder's."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(11, 6)
        self.mix = nn.Linear(6, 6)
        self.head = nn.Linear(6, 3)

    def forward(self, tokens: Tensor, mask: Tensor) -> dict[str, Tensor]:
        x = self.table(tokens) * mask.unsqueeze(-1)
        return {"scores": self.head(x + self.mix(x).tanh())}


def regions(output: dict[str, Tensor], targets: list[dict[str, Tensor]]) -> Tensor:
    """A loss over as many positions as each sample's targets name."""
    scores = output["scores"]
    each = [(scores[i, t["at"]] - t["value"].unsqueeze(-1)).square().sum() for i, t in enumerate(targets)]
    return torch.stack(each)


def read(count: int = 5) -> tuple[nn.Module, dict[str, Tensor], list[dict[str, Tensor]]]:
    model = tiny.shake_(Reader()).double()
    generator = torch.Generator().manual_seed(1)
    inputs = {
        "tokens": torch.randint(11, (count, 7), generator=generator),
        "mask": (torch.rand(count, 7, generator=generator) > 0.3).double(),
    }
    at = [torch.randint(7, (i % 3 + 1,), generator=generator) for i in range(count)]
    targets = [{"at": a, "value": torch.randn(len(a), generator=generator, dtype=torch.float64)} for a in at]
    return model, inputs, targets


def sliced(inputs: dict[str, Tensor], start: int, stop: int) -> dict[str, Tensor]:
    return {name: part[start:stop] for name, part in inputs.items()}


def slopes(model: nn.Module, inputs: dict[str, Tensor], targets: list) -> list[dict[str, Tensor]]:
    """The gradients of each sample's loss, by parameter."""
    found = []
    for i in range(len(targets)):
        loss = regions(model(**sliced(inputs, i, i + 1)), targets[i : i + 1]).sum()
        grads = torch.autograd.grad(loss, list(model.parameters()))
        found.append(dict(zip(dict(model.named_parameters()), grads, strict=True)))
    return found


@pytest.mark.parametrize("by_position", [False, True])
def test_arguments_and_targets_of_any_kind_score_as_in_a_loop(by_position):
    model, inputs, targets = read()
    halves = [(sliced(inputs, 0, 3), targets[:3]), (sliced(inputs, 3, 5), targets[3:])]
    batches = [(tuple(x.values()), t) for x, t in halves] if by_position else halves
    each = slopes(model, inputs, targets)
    ours = squared_gradients(model, batches, parameters=None, loss=regions)
    taylor = element_scores(model, ours, "taylor", batches, regions)
    second = element_scores(model, ours, "hessian", batches, regions)
    for name, weight in model.named_parameters():
        squares = torch.stack([g[name].square() for g in each])
        assert_close(ours[name], squares.sum(0), rtol=1e-10, atol=1e-14)
        assert_close(taylor[name], (weight * sum(g[name] for g in each)).abs().detach(), rtol=1e-10, atol=1e-14)
        assert_close(second[name], weight.detach().square() * squares.sum(0), rtol=1e-10, atol=1e-14)


def test_a_backbone_with_a_regression_loss_scores_as_in_a_loop():
    model = tiny.vit(depth=1).double()
    x, y = tiny.images(model, 4), torch.linspace(-1, 1, 4, dtype=torch.float64)
    found = sensitivity(model, describe(model), [(x[:3], y[:3]), (x[3:], y[3:])], loss=squared_error).tensors
    names = list(found)
    expected = dict.fromkeys(names, 0)
    for i in range(4):
        loss = squared_error(model(x[i : i + 1]), y[i : i + 1]).sum()
        grads = torch.autograd.grad(loss, [model.get_parameter(name) for name in names])
        expected = {name: expected[name] + g.square() for name, g in zip(names, grads, strict=True)}
    for name in names:
        assert_close(found[name].double(), expected[name], rtol=1e-5, atol=1e-9 * float(expected[name].max()))


def test_heads_are_ranked_by_the_loss_that_is_given():
    model = tiny.vit(depth=1)
    x, y = tiny.images(model, 3), torch.linspace(-1, 1, 3)
    groups = trace(model, (x,)).groups
    heads = [group for group in groups.groups if group.label == "heads"]
    (found,) = head_saliences(model, groups, heads, [(x, y)], squared_error).values()
    given = {}
    proj = model.blocks[0].attn.proj
    handle = proj.register_forward_pre_hook(lambda m, a: given.__setitem__("x", a[0]))
    loss = squared_error(model(x.requires_grad_()), y).sum()
    (grad,) = torch.autograd.grad(loss, given["x"])
    handle.remove()
    expected = (given["x"] * grad).detach().reshape(3, -1, 2, 16).sum((1, 3)).abs().mean(0)
    assert_close(found.float(), expected, rtol=1e-4, atol=1e-6)


def test_a_sub_net_is_valued_by_what_is_given():
    model = tiny.vit()
    anatomy, settings = describe(model), Noah(widths=(1, 2), depths=(1, 2))
    widths = full(anatomy, settings)
    net = apply_(copy.deepcopy(model), plan(model, anatomy, widths), anatomy.heads).eval()
    x, y = tiny.images(model, 3), torch.linspace(-1, 1, 3)
    value = evaluator(net, anatomy, [(x[:2], y[:2]), (x[2:], y[2:])], lambda o, t: -squared_error(o, t))(widths)
    with torch.no_grad():
        assert value == pytest.approx(-float(squared_error(net(x), y).mean()), rel=1e-5)


def test_a_loss_without_a_value_for_each_sample_is_refused():
    model, inputs, targets = read()
    mean = lambda output, given: regions(output, given).mean()  # noqa: E731
    with pytest.raises(ModelError, match=r"the loss gives shape \(\) for 5 samples, expected \(5,\)"):
        squared_gradients(model, [(inputs, targets)], parameters=None, loss=mean)
    with pytest.raises(ModelError, match="one number a sample"):
        element_scores(model, ["mix.weight"], "taylor", [(inputs, targets)], mean)
