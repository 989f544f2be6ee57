"""Small models and batches that use what the engine must take care of: dropout, batch norms, deltas written through."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from tailor.tasks.classification import Classification, ClassifierHead
from tailor.training import evaluate

CLASSES, COUNT, SIZE = 3, 50, 6
TASK, HEAD = Classification(), ClassifierHead(("low", "middle", "high"))


class Images(NamedTuple):
    images: Tensor
    targets: Tensor
    indices: Tensor
    sources: tuple[str, ...]


class Data:
    """`COUNT` images of which a threshold on the mean tells the class; the factory of the engine's contract."""

    def __init__(self, batch_size=16, count=COUNT):
        generator = torch.Generator().manual_seed(7)
        self.images = torch.randn(count, 3, SIZE, SIZE, generator=generator)
        means = self.images.mean(dim=(1, 2, 3))
        self.labels = torch.bucketize(means, torch.quantile(means, torch.tensor([1 / 3, 2 / 3])))
        self.batch_size, self.count = batch_size, count
        self.steps = -(-count // batch_size)

    def __call__(self, epoch, start=0, process=0, processes=1):
        order = torch.randperm(self.count, generator=torch.Generator().manual_seed(epoch))
        for step in range(start, self.steps):
            batch = order[step * self.batch_size : (step + 1) * self.batch_size]
            n = len(batch)
            yield self.take(batch[process * n // processes : (process + 1) * n // processes])

    def take(self, indices):
        names = tuple(f"{int(i):03}.png" for i in indices)
        return Images(self.images[indices], self.labels[indices], indices, names)

    def everything(self):
        return [self.take(torch.arange(at, min(at + 20, self.count))) for at in range(0, self.count, 20)]


class Delta(nn.Module):
    """A frozen linear layer, some entries of which are tuned as a 1-D delta that is written into the weight."""

    def __init__(self, inputs, outputs, entries=20):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs) / inputs**0.5, requires_grad=False)
        self.delta = nn.Parameter(torch.zeros(entries))
        self.register_buffer("where", torch.randperm(inputs * outputs)[:entries])
        self.register_buffer("start", self.weight.detach().flatten()[self.where].clone())

    def forward(self, x):
        # The value is the weight's alone; the delta only brings its gradient.
        change = self.delta - self.delta.detach()
        extra = torch.zeros_like(self.weight).flatten().index_add(0, self.where, change).view_as(self.weight)
        return nn.functional.linear(x, self.weight + extra)

    @torch.no_grad()
    def write_through_(self):
        self.weight.view(-1)[self.where] = self.start + self.delta


def model(dropout=0.2, norm=True, seed=0):
    """Image to logits: a frozen convolution, a trained and a frozen batch norm, a delta, dropout, a head."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        made = nn.Sequential(
            nn.Conv2d(3, 8, 3),
            nn.BatchNorm2d(8) if norm else nn.GroupNorm(2, 8),
            nn.ReLU(),
            nn.BatchNorm2d(8) if norm else nn.Identity(),
            nn.Flatten(),
            Delta(8 * (SIZE - 2) ** 2, 12),
            nn.Dropout(dropout),
            nn.Linear(12, CLASSES),
        )
        for module in made.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_(std=0.3)
                module.running_var.uniform_(0.5, 2)
                nn.init.uniform_(module.weight, 0.5, 1.5)
    for module in (made[0], made[3]):
        module.requires_grad_(False)
    return made


def validator(data, task=TASK, head=HEAD):
    """The task's metric over all images, as the engine wants it: top-1 accuracy."""
    return lambda made: {task.metric: evaluate(made, data.everything(), task, head)[task.metric]}


def everything(made):
    """Every tensor of a model, copied."""
    return {name: tensor.detach().clone() for name, tensor in made.state_dict().items()}


def equal(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def furthest(first, second):
    """The largest difference of any entry."""
    assert first.keys() == second.keys()
    return max(float((first[name].double() - second[name].double()).abs().max()) for name in first)
