"""SPT's sensitivity: the squared gradient of every weight, exact for each sample, at about the cost of one backward.

Thesis ch. 2 (ICCV 2023, arXiv 2303.08566): s_n = sum_i g_in^2. `unit="batch"` squares the gradient of the batch mean,
as the released code does. Deviations from that code: evaluation mode (no stochastic depth), exact for fused and
convolutional weights, norms and raw parameters too.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from contextlib import contextmanager, nullcontext
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import CheckpointError

from tailor.criteria.capture import Capture, Probe, unseen
from tailor.criteria.factors import Factor, add_mean_squared_, add_squares_
from tailor.criteria.samples import Loss, called, count, cross_entropy, placed, summed, take
from tailor.errors import ModelError, PlanError, nearest
from tailor.surgery import eval_mode, forget_

# Elements of the one dense scratch tensor. On a CPU 8 MB a thread: a quarter of that would suit the cache by a few per
# cent, but threads meet four times as often, which is slow on a busy machine. Else enough to keep the device busy.
_SCRATCH_THREAD = 1 << 21
_SCRATCH_DEVICE = 1 << 26
_FLAGS = ("grad_checkpointing", "gradient_checkpointing")


def squared_gradients(
    model: nn.Module,
    batches: Iterable[tuple[Any, Any]],
    *,
    parameters: Sequence[str] | None,
    loss: Loss = cross_entropy,
    unit: Literal["sample", "batch"] = "sample",
    autocast: torch.dtype | None = None,
    progress: Callable[[int, int], None] | None = None,
    enough: Callable[[Mapping[str, Tensor]], bool] | None = None,
) -> dict[str, Tensor]:
    """Squared gradients of the loss for each element of the named parameters (None: all), summed over the samples.

    `batches` gives (inputs, targets) as in `samples`; `loss(output, targets)` is one number a sample, (B,).
    `unit="batch"` squares the mean over a batch instead and sums over the batches. The forward runs in evaluation mode,
    under `autocast` where a half precision is given. `progress` hears (batches done, batches in all or 0 if not known).
    `enough` sees the sums so far, up to one factor, after each batch, and ends the pass where it says so.
    The result is fp32 (fp64 for fp64 parameters), on the model's device, in the order asked for. The model is left as
    found. Gradients computed on the way never reach `.grad`.

    Raises `ModelError` for a parameter that is missing or whose use cannot be separated into samples, `PlanError` where
    all scores are zero (a zero head), one is not finite, or there is no batch.
    """
    wanted = _find(model, parameters)
    sums = _Sums(wanted, unit)
    scale = 1.0
    total = len(batches) if isinstance(batches, Sized) else 0
    done = 0
    with _prepared(model, wanted):
        run = _Run(model, wanted, sums, loss, autocast)
        for inputs, targets in batches:
            inputs, targets = placed(inputs, run.device), placed(targets, run.device)
            if done == 0:
                run.survey(inputs)
                scale = run.calibrate(inputs, targets) if autocast == torch.float16 else 1.0
            run.add(inputs, targets, scale)
            done += 1
            last = enough is not None and enough(sums.totals)
            if progress is not None:
                progress(done, done if last else total)
            if last:
                break
    if done == 0:
        raise PlanError("there is no batch to score the parameters on", hint="give at least one image")
    for score in sums.totals.values():
        score.mul_(scale**-2)
    _check(sums.totals, autocast)
    return sums.totals


class _Sums:
    """The accumulators, and the factors of the batch at hand until all uses of a parameter have arrived."""

    def __init__(self, wanted: dict[str, nn.Parameter], unit: str) -> None:
        self.totals = {
            name: torch.zeros_like(p, dtype=torch.promote_types(p.dtype, torch.float32), requires_grad=False)
            for name, p in wanted.items()
        }
        self.samples = 0
        self._add = {"sample": add_squares_, "batch": add_mean_squared_}[unit]
        self._due: dict[str, int] = {}
        self._factors: dict[str, list[Factor]] = {}
        self._scratch: dict[tuple[torch.device, torch.dtype], Tensor] = {}

    def begin(self, samples: int) -> None:
        """Forget what is pending, and expect a batch of `samples`."""
        self.samples = samples
        self._due.clear()
        self._factors.clear()

    def expect(self, name: str) -> None:
        """See `Sink`."""
        self._due[name] = self._due.get(name, 0) + 1

    def receive(self, name: str, factor: Factor) -> None:
        """See `Sink`."""
        self._factors.setdefault(name, []).append(factor)
        self._due[name] -= 1
        if self._due[name] == 0:
            self._flush(name)

    def finish(self) -> None:
        """Add what waited for a use that got no gradient."""
        for name in list(self._factors):
            self._flush(name)

    def _flush(self, name: str) -> None:
        total = self.totals[name]
        key = (total.device, total.dtype)
        if key not in self._scratch:
            size = _SCRATCH_THREAD * torch.get_num_threads() if total.device.type == "cpu" else _SCRATCH_DEVICE
            self._scratch[key] = torch.empty(size, dtype=total.dtype, device=total.device)
        self._add(total, self._factors.pop(name), self.samples, self._scratch[key])


class _Run:
    """Forward and backward of batch after batch, with what was learnt on the first."""

    def __init__(
        self, model: nn.Module, wanted: dict[str, nn.Parameter], sums: _Sums, loss: Loss, autocast: torch.dtype | None
    ) -> None:
        self.model, self.wanted, self.sums, self.loss, self.autocast = model, wanted, sums, loss, autocast
        ids = {id(p) for p in wanted.values()}
        self.constants = [t for t in (*model.parameters(), *model.buffers()) if id(t) not in ids]
        self.device = next(iter(wanted.values())).device
        self.copies: frozenset[int] = frozenset()
        self.reference: list[Probe] | None = None

    def survey(self, inputs: Any) -> None:
        """Forward the first sample alone, to compare with its rows in the batch."""
        if count(inputs) > 1:
            capture = Capture(self.wanted, self.constants, 1, sink=None)
            with torch.enable_grad(), self._casting(), capture:
                called(self.model, take(inputs, 1))
            self.reference = capture.probes

    def calibrate(self, inputs: Any, targets: Any) -> float:
        """A loss scale under which fp16 gradients of the first sample are far from overflow."""
        reference, self.reference = self.reference, None
        scale = 2.0**20
        finite = False
        while not finite and scale > 1:
            scale /= 4
            self.add(take(inputs, 1), take(targets, 1), scale)
            finite = all(bool(t.isfinite().all()) for t in self.sums.totals.values())
            for t in self.sums.totals.values():
                t.zero_()
        self.reference = reference
        return max(1.0, scale / 16)

    def add(self, inputs: Any, targets: Any, scale: float) -> None:
        """Add one batch to the sums."""
        samples = count(inputs)
        while True:
            forget_(self.model)
            self.sums.begin(samples)
            with torch.enable_grad(), self._casting():
                with self._capture(samples) as capture:
                    output = called(self.model, inputs)
                value = summed(self.loss, output, targets, samples)
            stale = capture.stale() - self.copies
            self.reference = None
            if not stale:
                break
            self.copies |= stale  # a call whose input the model overwrote: once more, with copies of those
        if value.requires_grad:
            try:
                torch.autograd.backward(value * scale)
            except CheckpointError:
                raise ModelError(
                    "the model recomputes activations (gradient checkpointing)",
                    hint="switch checkpointing off to score it",
                ) from None
        self.sums.finish()

    def _capture(self, samples: int) -> Capture:
        return Capture(self.wanted, self.constants, samples, self.sums, self.copies, self.reference)

    def _casting(self) -> torch.autocast | nullcontext[None]:
        return nullcontext() if self.autocast is None else torch.autocast(self.device.type, dtype=self.autocast)


def _find(model: nn.Module, parameters: Sequence[str] | None) -> dict[str, nn.Parameter]:
    known = dict(model.named_parameters(remove_duplicate=parameters is None))
    names = list(known) if parameters is None else list(parameters)
    wanted: dict[str, nn.Parameter] = {}
    for name in names:
        if name not in known:
            raise ModelError(f"the model has no parameter `{name}`", hint=nearest(name, list(known)))
        wanted[name] = known[name]
    if not wanted:
        raise PlanError("there is no parameter to score", hint="name at least one parameter of the model")
    if len({id(p) for p in wanted.values()}) < len(wanted):
        raise ModelError("two of the parameters to score are one tensor", hint="name a shared parameter once")
    return wanted


@contextmanager
def _prepared(model: nn.Module, wanted: dict[str, nn.Parameter]) -> Iterator[None]:
    """Evaluation mode, only the wanted parameters require gradients, no checkpointing; afterwards all as before."""
    flags = [(m, f) for m in model.modules() for f in _FLAGS if vars(m).get(f) is True]
    needs = [(p, p.requires_grad) for p in model.parameters()]
    hooks = []
    try:
        for m, f in flags:
            setattr(m, f, False)
        for p, _ in needs:
            p.requires_grad_(False)
        for name, p in wanted.items():
            p.requires_grad_(True)  # its gradient is never computed, unless by a way that `Capture` did not see
            hooks.append(p.register_hook(lambda _, name=name: unseen(name)))
        with eval_mode(model):
            yield
    finally:
        for hook in hooks:
            hook.remove()
        for p, need in needs:
            p.requires_grad_(need)
        for m, f in flags:
            setattr(m, f, True)


def _check(totals: dict[str, Tensor], autocast: torch.dtype | None) -> None:
    hint = "score in fp32" if autocast else "look for broken weights or images; the scores are of the unchanged model"
    # scores are not negative, so one pass for the largest also meets every NaN and infinity
    largest = {name: float(score.amax()) for name, score in totals.items() if score.numel()}
    for name, value in largest.items():
        if not math.isfinite(value):
            raise PlanError(f"the score of `{name}` is not finite", hint=hint)
    if not any(largest.values()):
        raise PlanError(
            "every score is zero: no gradient reaches the parameters",
            hint="the head is zero; initialise it at random or with class means before scoring",
        )
