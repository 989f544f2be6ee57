"""From a recipe to timm's optimiser and schedule over the tensors that train, and the average of those tensors."""

from collections.abc import Collection
from typing import Any

import torch
from timm.optim import create_optimizer_v2
from timm.scheduler import create_scheduler_v2
from timm.scheduler.scheduler import Scheduler
from torch import Tensor, nn
from torch.optim import Optimizer

from tailor.errors import TrainingError
from tailor.recipe import Recipe
from tailor.surgery import trainable

ParameterGroups = list[dict[str, Any]]


def decayed(model: nn.Module) -> ParameterGroups:
    """Two optimiser groups: with weight decay, and without.

    Without are 1-D tensors (norms, biases, sparse deltas, where decay would pull the weight, not the change), other
    biases, tokens (1, N, D), and what a module's own `no_weight_decay()` names, as timm's do.
    """
    exempt = set()
    for path, module in model.named_modules():
        names = getattr(module, "no_weight_decay", None)
        if callable(names):
            exempt |= {f"{path}.{name}" if path else name for name in names()}
    with_decay: list[nn.Parameter] = []
    without: list[nn.Parameter] = []
    for name, parameter in trainable(model).items():
        token = parameter.ndim == 3 and parameter.shape[0] == 1
        free = parameter.ndim <= 1 or token or name.endswith("bias") or name in exempt
        (without if free else with_decay).append(parameter)
    groups: ParameterGroups = [{"params": with_decay}, {"params": without, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]


def slowed(groups: ParameterGroups, slow: Collection[nn.Parameter], factor: float) -> ParameterGroups:
    """The groups, each parted into what is in `slow`, whose rate is `factor` times that of the rest, and the rest."""
    ids = {id(parameter) for parameter in slow}
    parts: ParameterGroups = []
    for group in groups:
        for inside, more in ((False, {}), (True, {"lr_scale": factor})):
            chosen = [p for p in group["params"] if (id(p) in ids) == inside]
            if chosen:
                parts.append({**group, **more, "params": chosen})
    return parts


def make_optimizer(recipe: Recipe, groups: ParameterGroups) -> Optimizer:
    """The optimiser of that name in timm; a group may bring `weight_decay` and `lr_scale`, a factor on the rate."""
    settings: dict[str, Any] = {}
    if recipe.betas is not None:
        settings["betas"] = recipe.betas
    if recipe.eps is not None:
        settings["eps"] = recipe.eps
    try:
        return create_optimizer_v2(
            groups,
            opt=recipe.optimizer,
            lr=recipe.lr,
            weight_decay=recipe.weight_decay,
            momentum=recipe.momentum,
            **settings,
        )
    except (AssertionError, ImportError, TypeError, ValueError, RuntimeError) as error:
        # Some need a GPU or a package of their own (apex, bitsandbytes), or other betas than given.
        reason = " ".join(str(error).split()) or type(error).__name__
        raise TrainingError(
            f"the optimiser `{recipe.optimizer}` cannot be made: {reason}",
            hint="take `optimizer: adamw`, or leave `betas`, `eps` and `momentum` as they were",
        ) from None


def make_schedule(recipe: Recipe, optimizer: Optimizer, steps_per_epoch: int) -> Scheduler:
    """The rate of update k (from 0) is what `step_update(k)` sets; the peak is reached where the warm-up ends.

    Counted in updates throughout, so that a run of a few steps has a whole warm-up and a whole descent.
    """
    total = recipe.epochs * steps_per_epoch
    warmup = min(round(recipe.warmup * steps_per_epoch), total - 1)
    constant = recipe.schedule == "constant"  # as a step that does not fall: timm's own name for it is recent
    scheduler, _ = create_scheduler_v2(
        optimizer,
        sched="step" if constant else recipe.schedule,
        num_epochs=max(total - warmup, 2),  # timm logs a warning about a descent of one step
        warmup_epochs=warmup,
        warmup_prefix=True,
        warmup_lr=min(recipe.warmup_lr, recipe.lr),
        min_lr=recipe.min_lr,
        decay_epochs=recipe.decay_epochs * steps_per_epoch,
        decay_milestones=[round(m * total) - warmup for m in sorted(recipe.milestones)],  # counted from the peak
        decay_rate=1.0 if constant else recipe.decay_rate,
        step_on_epochs=False,
        updates_per_epoch=1,
    )
    assert scheduler is not None
    return scheduler


class Average:
    """The exponential moving average of the tensors that train.

    Early on it forgets faster, `min(decay, (1 + k) / (10 + k))` at update k, or a short run would keep its start.
    """

    def __init__(self, parameters: dict[str, nn.Parameter], decay: float) -> None:
        self.decay = decay
        self.tensors = {name: p.detach().clone() for name, p in parameters.items()}

    @torch.no_grad()
    def update(self, parameters: dict[str, nn.Parameter], update: int) -> None:
        """Take in the tensors after update `update`."""
        weight = 1 - min(self.decay, (1 + update) / (10 + update))
        for name, tensor in self.tensors.items():
            tensor.lerp_(parameters[name].detach(), weight)

    @torch.no_grad()
    def swap_(self, parameters: dict[str, nn.Parameter]) -> None:
        """Exchange the average and the parameters; a second call undoes it."""
        for name, tensor in self.tensors.items():
            kept: Tensor = tensor.clone()
            tensor.copy_(parameters[name])
            parameters[name].data.copy_(kept)
