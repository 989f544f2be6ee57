"""What a race knows from its start: the dense model, the aim, the clock, and functions that measure."""

import copy
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

from torch import Tensor, nn

from tailor.build import Opened
from tailor.data.images import Split
from tailor.deploy.runtimes import ARRANGED, Runtime, ready
from tailor.inputs import Inputs
from tailor.measure import count
from tailor.measure.speed import throughput
from tailor.plans import AnyPlan
from tailor.pruning.race.aim import MEASURED, Aim
from tailor.pruning.race.candidates import Judge, standard_error
from tailor.pruning.race.clock import Clock
from tailor.pruning.race.settings import Race
from tailor.training import Recipe, evaluate
from tailor.workflow.context import Context, Decision
from tailor.workflow.data import score
from tailor.workflow.recover import recovered
from tailor.workflow.smaller import extended, smaller
from tailor.workflow.teacher import Guide

DENSE = "dense"
SECONDS = 8.0
"""Within which models are timed in turns, unless the race is short."""
CLEARLY = 1.03
"""How many times faster a form of the dense model has to be to be taken."""

Timed = Callable[[Mapping[str, nn.Module], int, float], Mapping[str, tuple[float, float]]]
"""Models, images a batch, seconds -> milliseconds a pass, and how many times faster than the first."""


def in_turns(inputs: Inputs, runtime: Runtime) -> Timed:
    """Timing on this machine, all models in that runtime and in turns, so that drift meets all of them.

    The 10th percentile of few rounds: what else the machine does makes passes slower, never faster.
    """
    known: dict[str, tuple[nn.Module, nn.Module]] = {}  # the dense model comes again and again

    def in_runtime(name: str, model: nn.Module) -> nn.Module:
        return known[name][1] if name in known and known[name][0] is model else ready(model, inputs, runtime)

    def timed(models: Mapping[str, nn.Module], batch: int, seconds: float) -> Mapping[str, tuple[float, float]]:
        made = {name: in_runtime(name, model) for name, model in models.items()}
        dense = next(iter(models))
        known[dense] = models[dense], made[dense]
        found = throughput(made, inputs, batch=batch, seconds=seconds)
        first = next(iter(found.timings.values())).p10
        return {name: (one.p10, first / one.p10) for name, one in found.timings.items()}

    return timed


def arranged(context: Context, name: str, seconds: float) -> Runtime:
    """That runtime in the form in which the dense model runs fastest here, where a form is clearly faster.

    Only a network of convolutions has a choice; folding norms is none: it would take a graph of every candidate.
    """
    plain, model, inputs = Runtime(name), context.opened.model, context.opened.spec.inputs
    if name not in ARRANGED or sum(isinstance(one, nn.Conv2d) for one in model.modules()) < 2:
        return plain
    forms = {str(form): form for form in (plain, Runtime(name, channels_last=True))}
    found = throughput({text: ready(model, inputs, form) for text, form in forms.items()}, inputs, seconds=seconds)
    text = min(forms, key=lambda text: found.timings[text].p10)
    ratio = found.timings[str(plain)].p10 / found.timings[text].p10
    return forms[text] if ratio > CLEARLY else plain


@dataclass(frozen=True)
class Arena:
    """Where a race takes place. `timed` is passed in, as the clock is; `mended` are tensors of repaired candidates."""

    context: Context
    aim: Aim
    settings: Race
    clock: Clock
    timed: Timed
    mended: dict[str, Mapping[str, Tensor]] = field(default_factory=dict)

    @property
    def opened(self) -> Opened:
        """The dense model, its tunes folded in."""
        return self.context.opened

    @property
    def val(self) -> Split:
        """What decides."""
        return self.context.split("val")

    @cached_property
    def seconds(self) -> float:
        """Of one timing."""
        return min(SECONDS, max(2.0, 0.04 * self.clock.limit))

    @cached_property
    def affordable(self) -> int:
        """How many models may be timed for a pace: a runtime that compiles or exports takes its time for each."""
        began = time.perf_counter()
        self.timed({"again": self.opened.model}, 1, 0.0)
        return max(4, int(0.1 * self.clock.limit / (time.perf_counter() - began)))

    @cached_property
    def batch(self) -> int:
        """Images a pass: those of the aim, halved until a pass of the dense model takes a tenth of a timing."""
        wanted = MEASURED.get(self.aim.quantity, MEASURED["speed"])
        if wanted > 1:
            each = self.timed({DENSE: self.opened.model}, 2, self.seconds / 4)[DENSE][0] / 2
            while wanted > 1 and each * wanted > 1000 * self.seconds / 10:
                wanted //= 2
        return wanted

    @cached_property
    def judge(self) -> Judge:
        """The dense model's score on val, and how far a score may be below it."""
        task = self.context.task
        found = self.scored(self.opened.model)
        error = standard_error(found, len(self.val), getattr(task, "groups", False))
        return Judge(found, task.larger, error)

    @cached_property
    def guide(self) -> Guide | None:
        """Whom candidates learn from: the teacher that was named, else the dense model; None where a task cannot."""
        if not hasattr(self.context.task, "learn"):
            return None
        spec = self.opened.spec
        own = Guide(
            replace(self.opened, spec=replace(spec, plans=spec.pruning), model=copy.deepcopy(self.opened.model))
        )
        return self.context.teacher or own

    @cached_property
    def augment(self) -> str:
        """How images are drawn in training: as the recipe says, or, where it says nothing, mirrored at random if the
        dense model does not mind that on val: what it says to a mirrored image is learnt as well."""
        wanted = self.context.recipe.augment
        if wanted != "none" or self.guide is None:
            return wanted
        mirrored = (b._replace(images=b.images.flip(-1)) for b in self.context.batches(self.val))
        spec, task = self.opened.spec, self.context.task
        found = evaluate(self.opened.model, mirrored, task, spec.head)[task.metric]
        return "flip" if self.judge.equal(float(found)) else "none"

    def recipe(self, epochs: int) -> Recipe:
        """The recipe of a race's training: that of the run, so many passes, no paths dropped, few checkpoints."""
        every = max(1, epochs // 12)
        return replace(
            self.context.recipe,
            epochs=epochs,
            warmup_epochs=None,
            drop_path=0.0,
            augment=self.augment,
            evaluate_every=every,
            checkpoint_every=every,
        )

    def scored(self, model: nn.Module) -> float:
        """The leading metric on val."""
        spec = self.opened.spec
        return float(score(model, spec.head, self.val, spec.preprocessing)[self.context.task.metric])

    def cut(self, plans: Sequence[AnyPlan]) -> Opened:
        """The model that plans lead to, with the tensors that they leave."""
        chosen = tuple(plans)
        return smaller(self.opened, extended(self.opened, chosen), Decision(chosen)) if chosen else self.opened

    def repaired(self, name: str, plans: Sequence[AnyPlan]) -> Opened:
        """The candidate's model, its layers repaired in closed form on images of train; once for each name."""
        if name not in self.mended:
            done = recovered(self.context, Decision(tuple(plans)), "ridge", self.settings.samples)
            self.mended[name] = done.tensors or {}
        opened = self.cut(plans)
        opened.model.load_state_dict(dict(self.mended[name]))
        return opened

    def macs(self, model: nn.Module) -> int:
        """Multiply-accumulates of an image."""
        return count.macs(model, self.opened.spec.inputs)


def stored(model: nn.Module) -> int:
    """Bytes of a model's tensors, as a bundle that holds all of them stores them."""
    return sum(tensor.nbytes for tensor in model.state_dict().values())
