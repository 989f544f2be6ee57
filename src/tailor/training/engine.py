"""The training loop: epochs, validation, checkpoints; what a step minimises and what a batch is come in.

A run is a function of (recipe, seed, batches): the random state follows from the position (`update.py`), so a
checkpoint holds none. `Result`, `TrainingProgress` and metrics.jsonl count epochs and updates from 1, callbacks from 0.
"""

import json
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from accelerate import PartialState
from torch import Tensor, nn

from tailor.errors import TrainingError
from tailor.recipe import Recipe
from tailor.surgery import changed, load_changed_, trainable
from tailor.tasks import Task
from tailor.training import checkpoint
from tailor.training.objective import BatchLike, Step, supervised
from tailor.training.optimizer import ParameterGroups, decayed
from tailor.training.processes import Interrupted, Stop, first, processes_here, same_, seed_, stopping
from tailor.training.teacher import Teacher
from tailor.training.update import Updater

MakeBatches = Callable[[int, int, int, int], Iterable[BatchLike]]  # (epoch, first step, process, processes), all from 0
Validate = Callable[[nn.Module], Mapping[str, float]]
EPOCH = 1  # the random stream that a factory may draw from
POSITION = ("epoch", "done", "loss", "counted", "images", "seconds", "rows", "best")  # what a checkpoint says of a loop

COMPANION = "companion/"  # names of a companion's tensors in a checkpoint


class Companion(Protocol):
    """What goes along with a run and changes with it: the scores of a sampler, the course of a search."""

    def before(self, update: int) -> None:
        """Called before the update, on every process."""

    def after(self, update: int) -> None:
        """Called after the update, on every process."""

    def state(self) -> dict[str, Tensor]:
        """What updates have changed, not copied."""
        ...

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Undo `state`."""


@dataclass(frozen=True)
class TrainingProgress:
    """Where a run is after `update` of `updates`, in `epoch` of `epochs`: the loss and the rate of that update.

    `value` is what the last validation found, `best` the best of all.
    """

    epoch: int
    epochs: int
    update: int
    updates: int
    loss: float
    lr: float
    images_per_second: float
    seconds_left: float
    value: float | None = None
    best: float | None = None


@dataclass(frozen=True)
class Result:
    """What a run came to; `chosen` is the epoch whose weights the model now has.

    `epochs` holds a row per epoch, as metrics.jsonl does: epoch, update, lr, loss, and the metrics where it was
    validated. `seconds` and `images` count the whole run, resumed parts included. `stopped` is `finished`, or `already
    finished` where there was nothing left to do.
    """

    chosen: int
    epochs: tuple[Mapping[str, float], ...]
    seconds: float
    images: int
    stopped: str

    @property
    def metrics(self) -> Mapping[str, float]:
        """The row of the chosen epoch."""
        return self.epochs[self.chosen - 1]


def fit(
    model: nn.Module,
    recipe: Recipe,
    task: Task,
    *,
    batches: MakeBatches,
    steps_per_epoch: int,
    run: Path,
    step: Step | None = None,
    validate: Validate | None = None,
    resume: bool = False,
    report: Callable[[TrainingProgress], None] | None = None,
    seed: int | None = None,
    teacher: Teacher | None = None,
    groups: ParameterGroups | None = None,
    before: Callable[[int], None] | None = None,
    companion: Companion | None = None,
) -> Result:
    """Train the tensors of `model` that require a gradient, in place, on the device that Accelerate chooses.

    `batches(epoch, start, process, processes)` gives this process's shares of the global batches from `start` to
    `steps_per_epoch` of an epoch, the same whenever asked; a share may be empty. `step(model, share)` is the mean loss
    over a share, by default the task's (with a `teacher`, distilled); it and the modules may draw from torch's default
    generator, which is seeded for each update. A share counts for what the task weighs it by. `before(update)` is
    called before each update, also the first after a resume. `validate(model)` is called in eval mode on every process;
    of the main one's numbers the first chooses the epoch, the largest or, as the task says, the smallest. `groups`
    replaces the optimiser groups, `seed` the recipe's seed. Modules with a `write_through_` have it called after each
    update. Batch norms none of whose parameters train are held in eval mode, so their statistics stay.

    A `companion` is told before and after every update, and its state is part of every checkpoint.

    Writes `run`/metrics.jsonl and `run`/checkpoints; without `resume` those of an earlier run are removed. With it, the
    run goes on from the newest whole checkpoint, and on a CPU ends bit for bit as if never stopped.

    Raises TrainingError where nothing trains, the folder cannot take the checkpoints, a loss or gradient is not finite
    (with the file names), or a checkpoint is of another recipe or model; Interrupted, after a whole update and a
    checkpoint, on Ctrl-C or SIGTERM.
    """
    processes = processes_here()
    _check(model, recipe, processes, steps_per_epoch)
    modules = [*model.modules(), *(teacher.modules() if teacher is not None else ())]
    modes = {module: module.training for module in modules}
    cuda = [processes.device] if processes.device.type == "cuda" else []
    with torch.random.fork_rng(devices=cuda), stopping() as stop, ExitStack() as stack:
        try:
            if teacher is not None:
                teacher.to(processes.device).eval()
            stack.enter_context(recomputing(model, recipe.recompute))
            model.to(processes.device)
            same_(processes, [*model.parameters(), *model.buffers()])
            updater = Updater(
                model=model,
                recipe=recipe,
                processes=processes,
                steps_per_epoch=steps_per_epoch,
                step=step or supervised(task, recipe, teacher),
                weigh=task.weight,
                seed=recipe.seed if seed is None else seed,
                groups=decayed(model) if groups is None else groups,
            )
            loop = _Loop(updater, batches, steps_per_epoch, run, validate, report, before, companion, stop, task.larger)
            return loop.start(resume)
        finally:
            for module, mode in modes.items():
                module.training = mode


@dataclass
class _Loop:
    """A run and where it is: `epoch` epochs and `done` updates of the next one are done."""

    updater: Updater
    batches: MakeBatches
    steps: int
    run: Path
    validate: Validate | None
    report: Callable[[TrainingProgress], None] | None
    before: Callable[[int], None] | None
    companion: Companion | None
    stop: Stop
    larger: bool
    epoch: int = 0
    done: int = 0
    loss: float = 0.0  # of the open epoch, summed over `counted` images
    counted: int = 0
    images: int = 0
    seconds: float = 0.0
    rows: list[Mapping[str, float]] = field(default_factory=list)
    best: tuple[int, float] | None = None  # the epoch and its value
    best_tensors: dict[str, Tensor] = field(default_factory=dict)
    best_stored: checkpoint.Stored | None = None
    metric: str = ""

    def __post_init__(self) -> None:
        self.model, self.recipe = self.updater.model, self.updater.recipe
        self.processes = self.updater.processes
        self.folder, self.log = self.run / "checkpoints", self.run / "metrics.jsonl"

    def start(self, resume: bool) -> Result:
        """Go on from the newest checkpoint, or from the beginning."""
        found = checkpoint.read(self.folder) if resume else None
        if found is not None:
            self.restore(found)
        if self.processes.is_main_process:
            size = sum(tensor.nbytes for tensor in changed(self.model).values())
            checkpoint.prepare(self.folder, size * (3 if self.recipe.ema is None else 4), size)
            if found is None:
                checkpoint.clear(self.folder)
            checkpoint.rewrite(self.log, self.rows)
        self.processes.wait_for_everyone()
        self.updater.write_through()
        stopped = "finished" if self.epoch < self.recipe.epochs else "already finished"
        self.began, self.seen = time.monotonic() - self.seconds, (self.seconds, self.images)
        while self.epoch < self.recipe.epochs:
            self.run_epoch()
        return Result(self.settle(), tuple(self.rows), self.seconds, self.images, stopped)

    def run_epoch(self) -> None:
        """The rest of an epoch, its validation, and the checkpoints due."""
        seed_(self.processes.device, EPOCH, self.updater.seed, self.epoch)
        self.updater.train_mode()
        if self.done < self.steps:  # else it was stopped between its last update and its validation
            shares = self.batches(self.epoch, self.done, self.processes.process_index, self.processes.num_processes)
            for batch in shares:
                if self.done == self.steps:
                    break
                stop = self.run_update(batch)
                if stop or (self.recipe.checkpoint_steps and self.done % self.recipe.checkpoint_steps == 0):
                    self.save()
                if stop:
                    self.interrupt()
        if self.done < self.steps:
            raise TrainingError(
                f"the data gave {self.done} batches in epoch {self.epoch + 1}, {self.steps} were expected",
                hint="`steps_per_epoch` must be the number of batches that the factory gives",
            )
        self.close_epoch()
        if self.epoch % self.recipe.checkpoint_every == 0 or self.epoch == self.recipe.epochs:
            self.save()

    def run_update(self, batch: BatchLike) -> bool:
        """One update; whether the run shall stop after it."""
        if self.before is not None:
            self.before(self.number)
        if self.companion is not None:
            self.companion.before(self.number)
        loss, count, stop = self.updater.update(batch, self.number, bool(self.stop.signal))
        if self.companion is not None:
            self.companion.after(self.number)
        self.done += 1
        self.loss += loss * count
        self.counted += count
        self.images += count
        self.seconds = time.monotonic() - self.began
        if self.report is not None and self.processes.is_main_process:
            updates = self.recipe.epochs * self.steps
            speed = (self.images - self.seen[1]) / max(self.seconds - self.seen[0], 1e-9)
            left = (updates - self.number) * self.images / self.number / max(speed, 1e-9)
            epoch, rate = self.epoch + 1, self.updater.rate
            known = [row[self.metric] for row in self.rows if self.metric in row]
            value, best = known[-1] if known else None, self.best[1] if self.best else None
            self.report(
                TrainingProgress(epoch, self.recipe.epochs, self.number, updates, loss, rate, speed, left, value, best)
            )
        return stop

    def close_epoch(self) -> None:
        """Validate where due, note the row, and move to the next epoch."""
        self.epoch, self.done = self.epoch + 1, 0
        row: dict[str, float] = {"epoch": self.epoch, "update": self.number, "lr": self.updater.rate}
        row["loss"] = self.loss / max(self.counted, 1)
        due = self.epoch % self.recipe.evaluate_every == 0 or self.epoch == self.recipe.epochs
        if self.validate is not None and due:
            row |= self.validated(self.validate)
        self.loss, self.counted = 0.0, 0
        self.rows.append(row)
        self.seconds = time.monotonic() - self.began
        if self.processes.is_main_process:
            checkpoint.append(self.log, row)

    def validated(self, validate: Validate) -> dict[str, float]:
        """The metrics of the weights as they would be handed over; kept where they are the best so far."""
        self.updater.swap()
        self.model.eval()
        found = validate(self.model)
        metrics = dict(zip(found, first(self.processes, [float(v) for v in found.values()]), strict=True))
        self.metric = next(iter(metrics), "")
        value = metrics.get(self.metric, math.nan)
        better = self.best is None or (value > self.best[1] if self.larger else value < self.best[1])
        if better and not math.isnan(value):
            self.best, self.best_stored = (self.epoch, value), None
            self.best_tensors = {name: t.detach().cpu().clone() for name, t in changed(self.model).items()}
        self.updater.swap()
        return metrics

    def settle(self) -> int:
        """Leave the chosen weights in the model; the epoch they are from."""
        if self.recipe.select == "best" and self.best is not None:
            load_changed_(self.model, self.best_tensors)
            return self.best[0]
        self.updater.swap()
        return self.epoch

    def save(self) -> None:
        """A checkpoint of the position reached."""
        if self.processes.is_main_process:
            if self.best is not None and self.best_stored is None:
                self.best_stored = checkpoint.write_best(self.folder, self.number, self.best_tensors)
            tensors, plain = self.updater.state()
            if self.companion is not None:
                tensors |= {COMPANION + name: tensor for name, tensor in self.companion.state().items()}
            state = {name: getattr(self, name) for name in POSITION} | {"identity": self.identity(), "updater": plain}
            checkpoint.write(self.folder, self.number, tensors, state, self.best_stored)
        self.processes.wait_for_everyone()

    def restore(self, found: checkpoint.Checkpoint) -> None:
        """Undo `save`; TrainingError where the checkpoint is of another recipe or model."""
        self.compare(found.state["identity"])
        for name in POSITION:
            setattr(self, name, found.state[name])
        self.best = None if self.best is None else (self.best[0], self.best[1])
        self.best_tensors, self.best_stored = found.best, found.best_stored
        self.updater.load(found.tensors, found.state["updater"])
        if self.companion is not None:
            kept = {n.removeprefix(COMPANION): t for n, t in found.tensors.items() if n.startswith(COMPANION)}
            self.companion.load(kept)

    def identity(self) -> dict[str, Any]:
        """What two runs must share for one to go on where the other stopped: settings, and what trains."""
        settings = {key: v for key, v in asdict(self.recipe).items() if not key.startswith("checkpoint_")}
        tensors = {name: [str(t.dtype), *t.shape] for name, t in changed(self.model).items()}
        plain = {"recipe": settings, "seed": self.updater.seed, "steps_per_epoch": self.steps, "tensors": tensors}
        return json.loads(json.dumps(plain))

    def compare(self, theirs: Mapping[str, Any]) -> None:
        """TrainingError naming the first thing that differs from this run."""
        for what, mine in self.identity().items():
            other = theirs.get(what)
            if mine == other:
                continue
            name = what
            if isinstance(mine, dict) and isinstance(other, dict):
                name = next(key for key in [*mine, *other] if mine.get(key) != other.get(key))
                mine, other = mine.get(name, "none"), other.get(name, "none")
            raise TrainingError(
                f"the checkpoint in `{self.folder}` is of another run: its `{name}` is {other}, here it is {mine}",
                hint="resume with the settings it was started with, or start again with `--overwrite`",
            )

    def interrupt(self) -> None:
        """Say how to go on."""
        raise Interrupted(
            f"stopped by {self.stop.signal or 'another process'} after update {self.number} of "
            f"{self.recipe.epochs * self.steps}; the checkpoint is in `{self.folder}`",
            hint="run the same command with `--resume` to go on",
        )

    @property
    def number(self) -> int:
        """Updates done."""
        return self.epoch * self.steps + self.done


@contextmanager
def recomputing(model: nn.Module, wanted: bool) -> Iterator[None]:
    """While open, blocks are run again in the backward pass, which keeps no more than what goes into them.

    TrainingError where the model has no way to.
    """
    switch = getattr(model, "set_grad_checkpointing", None)
    if not wanted or isinstance(model, nn.Linear):  # of a head alone nothing is kept
        yield
        return
    try:
        if switch is None:
            raise AssertionError
        switch(True)
    except AssertionError:
        raise TrainingError(
            f"`{type(model).__name__}` cannot compute its blocks again", hint="leave `recompute` out of the recipe"
        ) from None
    try:
        yield
    finally:
        switch(False)


def _check(model: nn.Module, recipe: Recipe, processes: PartialState, steps_per_epoch: int) -> None:
    """What can be refused before anything is written."""
    if not trainable(model):
        raise TrainingError("no tensor of the model trains", hint="apply a tuning plan, or thaw some parameters")
    if steps_per_epoch < 1:
        raise TrainingError(f"an epoch needs at least 1 step, found: {steps_per_epoch}", hint="give it images")
    if recipe.precision == "fp16" and processes.device.type != "cuda":
        raise TrainingError(
            f"`precision: fp16` needs a GPU, the device is: {processes.device.type}", hint="take `bf16` or `fp32`"
        )
