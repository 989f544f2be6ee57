"""Sensitivity of every competing weight, and the file that keeps it, so that another budget costs no second pass.

The scores are those of `tailor.criteria.squared_gradient`. `head="ncm"` scores with class means as the classifier
instead of the model's own (random) head: a cheap head that knows the classes (our own offer).
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from tailor.anatomy import Anatomy
from tailor.criteria.samples import Loss, called, count, cross_entropy, placed, take
from tailor.criteria.squared_gradient import squared_gradients
from tailor.errors import PlanError
from tailor.surgery import eval_mode, get_module
from tailor.tuning.spt.candidates import candidates

LabelledBatches = Iterable[Sequence[Any]]
"""Batches that begin with inputs and targets, of any kind (`criteria.samples`); may be iterated more than once."""

_FORMAT = "tailor-scores-1"


@dataclass(frozen=True)
class Scores:
    """Summed squared gradients by parameter (fp32, the parameter's shape) and how they came about."""

    tensors: dict[str, Tensor]
    facts: dict[str, str | int | float]

    def save(self, path: Path) -> None:
        """Write safetensors with the facts in the metadata: as one entry, since chance orders several."""
        tensors = {name: t.detach().cpu().contiguous() for name, t in self.tensors.items()}
        save_file(tensors, path, metadata={_FORMAT: json.dumps(self.facts)})


def load(path: Path) -> Scores:
    """What `save` wrote; PlanError for a file that is no such thing. Whether it fits a model `allocate` checks."""
    hint = "score again by leaving the scores file out"
    try:
        with safe_open(path, framework="pt") as file:
            facts = (file.metadata() or {}).get(_FORMAT)
            if facts is None:
                raise PlanError(f"`{path}` holds no scores", hint=hint)
            return Scores({name: file.get_tensor(name) for name in file.keys()}, json.loads(facts))  # noqa: SIM118
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise PlanError(f"scores `{path}` cannot be read: {reason}", hint=hint) from None


def sensitivity(
    model: nn.Module,
    anatomy: Anatomy,
    batches: LabelledBatches,
    *,
    loss: Loss = cross_entropy,
    head: Literal["own", "ncm"] = "own",
    head_seed: int = 0,
    unit: Literal["sample", "batch"] = "sample",
    samples: int | None = 800,
    autocast: torch.dtype | None = None,
    progress: Callable[[int, int], None] | None = None,
    enough: Callable[["Scores"], bool] | None = None,
    every: int = 80,
) -> Scores:
    """Score every candidate on the first `samples` of `batches` (None: all of them). The model stays as it is.

    `loss` is the task's, one number a sample. `head_seed` is what the model's head was drawn from, recorded only;
    `progress` hears (batches done, batches in all). `enough` sees the scores so far, up to one factor, after each
    `every` samples, and ends the pass where it says so. PlanError for a zero head, ModelError for a parameter whose
    gradient cannot be told apart by samples.
    """
    if head == "ncm" and iter(batches) is batches:
        raise PlanError("class means need a second pass over the batches", hint="give a list or a loader of batches")
    names = tuple(dict.fromkeys(c.tensor for c in candidates(anatomy)))
    taken = _First(batches, samples)
    facts: dict[str, str | int | float] = {"unit": unit, "samples": 0, "batch": 0, "head": head}
    looked = 0

    def stops(sums: Mapping[str, Tensor]) -> bool:
        nonlocal looked
        if enough is None or taken.seen // every == looked:
            return False
        looked = taken.seen // every
        return enough(Scores({name: t.float() for name, t in sums.items()}, facts))

    def heard(done: int, total: int) -> None:
        if progress is not None:
            progress(done, min(total, len(taken)))  # how many the samples take is known once the first has come

    with class_means(model, anatomy, taken) if head == "ncm" else nullcontext():
        found = squared_gradients(
            model, taken, parameters=names, loss=loss, unit=unit, autocast=autocast, progress=heard, enough=stops
        )
    facts |= {"samples": taken.seen, "batch": taken.batch}
    if head == "own":
        facts["head_seed"] = head_seed
    return Scores({name: t.float() for name, t in found.items()}, facts)


class _First:
    """The first `samples` of some batches, as (inputs, targets); remembers how many there were."""

    def __init__(self, batches: LabelledBatches, samples: int | None) -> None:
        self.batches, self.samples = batches, samples
        self.seen = self.batch = 0

    def __len__(self) -> int:
        """Batches, as far as it is known; else 0."""
        total = len(self.batches) if isinstance(self.batches, Sized) else 0
        return min(total, -(-self.samples // self.batch)) if self.samples and self.batch else total

    def __iter__(self) -> Iterator[tuple[Any, Any]]:
        self.seen = 0
        for inputs, targets, *_ in self.batches:
            size = count(inputs)
            self.batch = self.batch or size
            room = size if self.samples is None else min(size, self.samples - self.seen)
            self.seen += room
            yield take(inputs, room), take(targets, room)
            if self.seen == self.samples:
                return


@contextmanager
def class_means(model: nn.Module, anatomy: Anatomy, batches: Iterable[tuple[Any, Tensor]]) -> Iterator[None]:
    """While inside, each classifier layer compares features with the class means of `batches`.

    Row c of the weight is the direction from the mean of all classes to that of class c, of length one, and the bias
    measures from the mean of all classes, so what every image shares does not count. Afterwards all is as before.
    """
    layers = [get_module(model, path) for path in anatomy.heads]
    linear = [layer for layer in layers if isinstance(layer, nn.Linear)]
    if not linear or len(linear) < len(layers):
        raise PlanError("class means need a linear classifier", hint="score with the model's own head")
    kept = [{name: p.detach().clone() for name, p in layer.named_parameters()} for layer in linear]
    try:
        for layer, sums, counts in _sums(model, linear, batches):
            present = counts > 0
            means = sums[present] / counts[present, None]
            centre = means.mean(0)
            with torch.no_grad():
                layer.weight.zero_()
                layer.weight[present] = nn.functional.normalize(means - centre, dim=1).to(layer.weight.dtype)
                if layer.bias is not None:
                    layer.bias.copy_(-(layer.weight @ centre.to(layer.weight.dtype)))
        yield
    finally:
        with torch.no_grad():
            for layer, before in zip(linear, kept, strict=True):
                for name, parameter in layer.named_parameters():
                    parameter.copy_(before[name])


def _sums(
    model: nn.Module, layers: list[nn.Linear], batches: Iterable[tuple[Any, Tensor]]
) -> list[tuple[nn.Linear, Tensor, Tensor]]:
    """For each layer the summed input of each class (K, D) and the number of images (K,)."""
    found = [
        (layer, layer.weight.new_zeros(layer.weight.shape), layer.weight.new_zeros(layer.out_features))
        for layer in layers
    ]
    seen: dict[int, Tensor] = {}
    hooks = [layer.register_forward_pre_hook(lambda m, x: seen.__setitem__(id(m), x[0].detach())) for layer in layers]
    try:
        with eval_mode(model), torch.no_grad():
            for inputs, labels in batches:
                device = layers[0].weight.device
                called(model, placed(inputs, device))
                for layer, sums, counts in found:
                    features = seen[id(layer)]
                    sums.index_add_(0, labels.to(device), features.to(sums.dtype))
                    counts.index_add_(0, labels.to(device), torch.ones_like(features[:, 0]).to(counts.dtype))
    finally:
        for hook in hooks:
            hook.remove()
    return found
