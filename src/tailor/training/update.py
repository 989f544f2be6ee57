"""One update: from a share of a batch to changed tensors, and all the state that an update leaves behind.

The random state is a function of (seed, update, process): torch's default generator is seeded before every update, so
nothing drawn elsewhere (validation, callbacks) shifts a run; what a loss draws is a function of (seed, update) alone,
so that an image is compared at the same points in whatever process it is. Processes come from Accelerate (`accelerate
launch`, `torchrun`); precision is torch's autocast, since an `Accelerator` fixes one for the whole process. Data
parallel only.
"""

import math
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from tailor.errors import TrainingError
from tailor.recipe import Recipe
from tailor.surgery import changed, load_changed_, running_statistics, trainable
from tailor.training.checkpoint import load_optimizer_, optimizer_tensors
from tailor.training.objective import BatchLike, Share, Step, mix, place
from tailor.training.optimizer import Average, ParameterGroups, make_optimizer, make_schedule
from tailor.training.processes import mean_, seed_, stream, sum_gradients_, total

UPDATE, MIX, LOSS = 2, 3, 4  # what a random stream is for
NAMED = 8  # file names in a message


@dataclass
class Updater:
    """The model with what changes it: optimiser, schedule, loss scale, average."""

    model: nn.Module
    recipe: Recipe
    processes: PartialState
    steps_per_epoch: int
    step: Step
    seed: int
    groups: ParameterGroups
    weigh: Callable[[Any], int]

    def __post_init__(self) -> None:
        self.parameters = trainable(self.model)
        self.statistics = [buffer for _, buffer in running_statistics(self.model)]
        self.writers = [m for m in self.model.modules() if callable(getattr(m, "write_through_", None))]
        self.optimizer = make_optimizer(self.recipe, self.groups)
        self.schedule = make_schedule(self.recipe, self.optimizer, self.steps_per_epoch)
        self.scaler = torch.amp.GradScaler(self.processes.device.type, enabled=self.recipe.precision == "fp16")
        self.average = None if self.recipe.ema is None else Average(self.parameters, self.recipe.ema)
        self.dtype = next(p.dtype for p in self.model.parameters() if p.is_floating_point())

    def update(self, batch: BatchLike, number: int, stop: bool) -> tuple[float, int, bool]:
        """One optimiser step, the `number`th from 0, on the global batch of which this process has `batch`.

        The mean loss over the global batch, its images, and whether any process was told to stop. TrainingError where
        the loss or the gradient is not finite; then nothing has changed.
        """
        device, process = self.processes.device, self.processes.process_index
        share = place(batch, device, self.dtype, stream(LOSS, self.seed, number))
        share = mix(share, self.recipe, np.random.default_rng([MIX, self.seed, number, process]))
        count, weight, stops = total(self.processes, len(share), self.weigh(share.targets) if len(share) else 0, stop)
        if not weight:  # every image was unreadable, or nothing in them is to be learnt
            return 0.0, 0, stops > 0
        self.schedule.step_update(number)
        self.optimizer.zero_grad(set_to_none=True)
        seed_(device, UPDATE, self.seed, number, process)
        (loss,) = total(self.processes, self.backward(share, weight))
        self.check("loss", loss, number, share)
        sum_gradients_(self.processes, list(self.parameters.values()))
        self.scaler.unscale_(self.optimizer)
        limit = math.inf if self.recipe.clip_norm is None else self.recipe.clip_norm
        norm = nn.utils.clip_grad_norm_(self.parameters.values(), limit)
        if not self.scaler.is_enabled():  # a scaler skips such an update and lowers its scale
            self.check("gradient", float(norm), number, share)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.follow(number)
        return loss, int(count), stops > 0

    def backward(self, share: Share, weight: float) -> float:
        """Add the gradient of this share's part in the mean over all that weighs `weight`; that part of the loss."""
        size, loss = max(1, math.ceil(len(share) / self.recipe.accumulate)), 0.0
        for start in range(0, len(share), size):
            piece = share.part(start, start + size)
            with self.autocast():
                mean = self.step(self.model, piece)
            weighted = mean * (self.weigh(piece.targets) / weight)
            self.scaler.scale(weighted).backward()
            loss += float(weighted.detach())
        return loss

    def follow(self, number: int) -> None:
        """What comes after an optimiser step."""
        if number == 0:
            optimizer_tensors(self.optimizer)  # an optimiser whose state cannot be stored shows now, not later
        mean_(self.processes, self.statistics)
        self.write_through()
        if self.average is not None:
            self.average.update(self.parameters, number)

    def check(self, what: str, value: float, number: int, share: Share) -> None:
        """TrainingError with the file names of the global batch unless `value` is finite."""
        if math.isfinite(value):
            return
        names = list(gather_object(list(share.sources)))
        more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
        epoch = number // self.steps_per_epoch + 1
        raise TrainingError(
            f"the {what} is {value} at update {number + 1} (epoch {epoch}) on the images "
            + ", ".join(f"`{name}`" for name in names[:NAMED])
            + more,
            hint="look at these images, or lower `lr` or set `clip_norm` in the recipe",
        )

    def swap(self) -> None:
        """Exchange the weights and their average, where there is one; a second call undoes it."""
        if self.average is not None:
            self.average.swap_(self.parameters)
            self.write_through()

    def train_mode(self) -> None:
        """Train mode, but for batch norms none of whose parameters train."""
        self.model.train()
        for module in self.model.modules():
            if isinstance(module, _BatchNorm) and not any(p.requires_grad for p in module.parameters(recurse=False)):
                module.eval()

    def write_through(self) -> None:
        """Let modules that keep a delta beside a frozen weight write it into that weight."""
        for module in self.writers:
            module.write_through_()  # type: ignore[operator]

    @property
    def rate(self) -> float:
        """The learning rate of the last update, the largest of the groups'."""
        return max(group["lr"] for group in self.optimizer.param_groups)

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """All that updates have changed: tensors (not copied) and plain values."""
        tensors, plain = optimizer_tensors(self.optimizer)
        tensors |= {f"model/{name}": tensor for name, tensor in changed(self.model).items()}
        if self.average is not None:
            tensors |= {f"average/{name}": tensor for name, tensor in self.average.tensors.items()}
        return tensors, {"optimizer": plain, "scaler": self.scaler.state_dict()}

    def load(self, tensors: dict[str, Tensor], plain: dict[str, Any]) -> None:
        """Undo `state`."""
        load_changed_(self.model, _under("model/", tensors))
        load_optimizer_(self.optimizer, _under("optimizer/", tensors), plain["optimizer"])
        self.scaler.load_state_dict(plain["scaler"])
        if self.average is not None:
            for name, tensor in _under("average/", tensors).items():
                self.average.tensors[name].copy_(tensor)

    def autocast(self) -> AbstractContextManager[object]:
        """The recipe's precision."""
        dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(self.recipe.precision)
        return torch.autocast(self.processes.device.type, dtype=dtype, enabled=dtype is not None)


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
